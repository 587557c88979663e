"""Mode parameters and mode pages: MODE SENSE and MODE SELECT (SPC-4 sections 6.10, 6.13, 7.5; SBC-3 section 6.4)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final, TypeVar

from initiator.errors import InitiatorError, MalformedAnswer

ALL_PAGES: Final = 0x3F
ALL_SUBPAGES: Final = 0xFF

_HEADER_BYTES: Final = 8
_SPF: Final = 0x40
_WP: Final = 0x80
_DPOFUA: Final = 0x10

_Page = TypeVar("_Page", bound="ModePage")


class PageControl(IntEnum):
    """PC: which values of the pages are asked for."""

    CURRENT = 0
    CHANGEABLE = 1
    DEFAULT = 2
    SAVED = 3


class Field:
    """A field of a mode page: some bits of a big-endian number at an offset after the page's header."""

    def __init__(self, offset: int, mask: int = 0, *, length: int = 1) -> None:
        self.offset = offset
        self.length = length
        self.mask = mask or (1 << 8 * length) - 1
        self.shift = (self.mask & -self.mask).bit_length() - 1

    def get(self, body: bytes) -> int:
        """Give its value; 0 where the page is too short to have it."""
        end = self.offset + self.length
        return (int.from_bytes(body[self.offset : end], "big") & self.mask) >> self.shift if len(body) >= end else 0

    def set(self, body: bytes, value: int) -> bytes:
        """Give the page's bytes with another value.

        Raises:
            InitiatorError: the page does not have it, or it can not be that large.
        """
        end = self.offset + self.length
        if len(body) < end or not 0 <= value <= self.mask >> self.shift:
            raise InitiatorError(f"a mode page of {len(body)} bytes takes no {value} at byte {self.offset}")
        number = int.from_bytes(body[self.offset : end], "big") & ~self.mask | value << self.shift
        return body[: self.offset] + number.to_bytes(self.length, "big") + body[end:]


class Flag(Field):
    """A bit of a mode page."""

    def __get__(self, page: ModePage, _owner: Any = None) -> bool:
        return bool(self.get(page.body))


class Number(Field):
    """A number in a mode page."""

    def __get__(self, page: ModePage, _owner: Any = None) -> int:
        return self.get(page.body)


@dataclass(frozen=True, slots=True)
class ModePage:
    """A mode page; where this package does not know its fields, only as bytes."""

    code: int
    subpage: int
    saveable: bool
    """PS: MODE SELECT can have it saved."""
    body: bytes
    """What follows the page's header."""

    def replaced(self: _Page, **fields: int) -> _Page:
        """Give the page with other values of some of its fields.

        Raises:
            InitiatorError: it has no such field, or no such value.
        """
        body = self.body
        for name, value in fields.items():
            field = _field(type(self), name)
            if field is None:
                raise InitiatorError(f"mode page {self.code:02X}h has no field {name}")
            body = field.set(body, int(value))
        return replace(self, body=body)

    def fields(self) -> dict[str, int | bool]:
        """Give the values of all fields that this package knows."""
        return {name: getattr(self, name) for name in vars(type(self)) if _field(type(self), name) is not None}

    def encode(self) -> bytes:
        """Give the bytes for MODE SELECT, where PS is reserved."""
        if self.subpage:
            return struct.pack(">BBH", self.code | _SPF, self.subpage, len(self.body)) + self.body
        return bytes((self.code, len(self.body))) + self.body


def _field(kind: type, name: str) -> Field | None:
    found = vars(kind).get(name)
    return found if isinstance(found, Field) else None


class ReadWriteErrorRecovery(ModePage):
    """Page 01h (SBC-3 section 6.4.7)."""

    __slots__ = ()
    automatic_write_reallocation = Flag(0, 0x80)
    automatic_read_reallocation = Flag(0, 0x40)
    post_error = Flag(0, 0x04)
    read_retry_count = Number(1)
    provisioning_errors = Flag(5, 0x80)
    """LBPERE: a threshold that is reached is told of."""
    write_retry_count = Number(6)
    recovery_time_limit_ms = Number(8, length=2)


class Caching(ModePage):
    """Page 08h (SBC-3 section 6.4.5)."""

    __slots__ = ()
    write_cache_enabled = Flag(0, 0x04)
    """WCE: a write may be answered before it is on stable storage."""
    read_cache_disabled = Flag(0, 0x01)
    multiplication_factor = Flag(0, 0x02)
    disable_prefetch_transfer_length = Number(2, length=2)
    minimum_prefetch = Number(4, length=2)
    maximum_prefetch = Number(6, length=2)
    force_sequential_write = Flag(10, 0x80)
    disable_read_ahead = Flag(10, 0x20)
    non_volatile_cache_disabled = Flag(10, 0x01)


class Control(ModePage):
    """Page 0Ah (SPC-4 section 7.5.8)."""

    __slots__ = ()
    task_set_type = Number(0, 0xE0)
    descriptor_sense = Flag(0, 0x04)
    global_logging_target_save_disable = Flag(0, 0x02)
    queue_algorithm_modifier = Number(1, 0xF0)
    queue_error_management = Number(1, 0x06)
    unit_attention_interlock = Number(2, 0x30)
    software_write_protect = Flag(2, 0x08)
    task_aborted_status = Flag(3, 0x40)
    autoload_mode = Number(3, 0x07)
    busy_timeout_period = Number(6, length=2)
    extended_self_test_completion_time_s = Number(8, length=2)


class ControlExtension(ModePage):
    """Page 0Ah, subpage 01h (SPC-4 section 7.5.9)."""

    __slots__ = ()
    timestamp_changeable = Flag(0, 0x04)
    scsi_commands_precede = Flag(0, 0x02)
    implicit_alua_enabled = Flag(0, 0x01)
    initial_command_priority = Number(1, 0x0F)
    maximum_sense_data_length = Number(2)


class PowerCondition(ModePage):
    """Page 1Ah (SPC-4 section 7.5.13). The timers are in units of 100 ms."""

    __slots__ = ()
    standby_y = Flag(0, 0x01)
    idle_c = Flag(1, 0x08)
    idle_b = Flag(1, 0x04)
    idle_a = Flag(1, 0x02)
    standby_z = Flag(1, 0x01)
    idle_a_timer = Number(2, length=4)
    standby_z_timer = Number(6, length=4)


class InformationalExceptions(ModePage):
    """Page 1Ch (SPC-4 section 7.5.11)."""

    __slots__ = ()
    performance = Flag(0, 0x80)
    enable_warning = Flag(0, 0x10)
    disabled = Flag(0, 0x08)
    """DEXCPT: no failure prediction is reported."""
    test = Flag(0, 0x04)
    log_errors = Flag(0, 0x01)
    method_of_reporting = Number(1, 0x0F)
    interval_timer = Number(2, length=4)
    report_count = Number(6, length=4)


class LogicalBlockProvisioning(ModePage):
    """Page 1Ch, subpage 02h, with its first threshold descriptor (SBC-3 section 6.4.6)."""

    __slots__ = ()
    single_initiator_attention = Flag(0, 0x01)
    """SITUA: the unit attention of a threshold goes to one I_T nexus alone."""
    threshold_enabled = Flag(12, 0x80)
    threshold_type = Number(12, 0x38)
    threshold_arming = Number(12, 0x07)
    threshold_resource = Number(13)
    threshold_count = Number(16, length=4)


KINDS: Final[dict[tuple[int, int], type[ModePage]]] = {
    (0x01, 0x00): ReadWriteErrorRecovery,
    (0x08, 0x00): Caching,
    (0x0A, 0x00): Control,
    (0x0A, 0x01): ControlExtension,
    (0x1A, 0x00): PowerCondition,
    (0x1C, 0x00): InformationalExceptions,
    (0x1C, 0x02): LogicalBlockProvisioning,
}


@dataclass(frozen=True, slots=True)
class ModeParameters:
    """What MODE SENSE gives."""

    medium_type: int
    write_protected: bool
    dpo_and_fua: bool
    """DPOFUA: READ and WRITE take FUA."""
    block_descriptors: bytes
    pages: tuple[ModePage, ...]

    def page(self, code: int, subpage: int = 0) -> ModePage | None:
        """Give a page that is among them."""
        return next((page for page in self.pages if (page.code, page.subpage) == (code, subpage)), None)


def sense_cdb(
    page: int, subpage: int, control: PageControl, allocation_length: int, *, block_descriptors: bool = False
) -> bytes:
    """MODE SENSE(10) (SPC-4 section 6.14)."""
    flags = 0 if block_descriptors else 0x08
    return struct.pack(">BBBBBBBHB", 0x5A, flags, control << 6 | page, subpage, 0, 0, 0, allocation_length, 0)


def select_cdb(parameter_list_length: int, *, save: bool = False) -> bytes:
    """MODE SELECT(10), of pages as the standards have them (SPC-4 section 6.11)."""
    return struct.pack(">BBBBBBBHB", 0x55, 0x10 | save, 0, 0, 0, 0, 0, parameter_list_length, 0)


def select_list(pages: Iterable[ModePage]) -> bytes:
    """Build the parameter list of MODE SELECT(10), without block descriptors."""
    return bytes(_HEADER_BYTES) + b"".join(page.encode() for page in pages)


def parse(data: bytes) -> ModeParameters:
    """Parse MODE SENSE(10).

    Raises:
        MalformedAnswer: it is shorter than it says, or a page runs past its end.
    """
    if len(data) < _HEADER_BYTES:
        raise MalformedAnswer(f"MODE SENSE data of {len(data)} bytes")
    end = 2 + int.from_bytes(data[0:2], "big")
    at = _HEADER_BYTES + int.from_bytes(data[6:8], "big")
    if len(data) < end or end < at:
        raise MalformedAnswer(f"MODE SENSE says {end} bytes, has {len(data)}, and its pages begin at {at}")
    pages: list[ModePage] = []
    begin = at
    while begin < end:
        code, subpage, first = data[begin] & 0x3F, 0, begin + 2
        length = data[begin + 1] if first <= end else 0
        if data[begin] & _SPF:
            subpage, first = length, begin + 4
            length = int.from_bytes(data[begin + 2 : first], "big")
        if first + length > end:
            raise MalformedAnswer(f"mode page {code:02X}h runs past the end of the data")
        kind = KINDS.get((code, subpage), ModePage)
        pages.append(kind(code, subpage, bool(data[begin] & 0x80), bytes(data[first : first + length])))
        begin = first + length
    return ModeParameters(
        medium_type=data[2],
        write_protected=bool(data[3] & _WP),
        dpo_and_fua=bool(data[3] & _DPOFUA),
        block_descriptors=bytes(data[_HEADER_BYTES:at]),
        pages=tuple(pages),
    )
