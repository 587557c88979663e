"""Persistent reservations: what PERSISTENT RESERVE OUT sends, and IN answers (SPC-4 sections 5.13, 6.15, 6.16)."""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from initiator.errors import InitiatorError, MalformedAnswer
from initiator.scsi import transport_id
from initiator.scsi.transport_id import TransportId

KEY_LIMIT: Final = 1 << 64

_IN: Final = struct.Struct(">BBBBBBBHB")
_OUT: Final = struct.Struct(">BBBBBIB")
_LIST: Final = struct.Struct(">QQIBBH")
_MOVE: Final = struct.Struct(">QQBBHI")
_FULL_STATUS: Final = struct.Struct(">Q4xBB4xHI")
_SCOPE_OF_UNIT: Final = 0


class ReserveIn(IntEnum):
    """Service actions of PERSISTENT RESERVE IN."""

    READ_KEYS = 0x00
    READ_RESERVATION = 0x01
    REPORT_CAPABILITIES = 0x02
    READ_FULL_STATUS = 0x03


class ReserveOut(IntEnum):
    """Service actions of PERSISTENT RESERVE OUT."""

    REGISTER = 0x00
    RESERVE = 0x01
    RELEASE = 0x02
    CLEAR = 0x03
    PREEMPT = 0x04
    PREEMPT_AND_ABORT = 0x05
    REGISTER_AND_IGNORE_EXISTING_KEY = 0x06
    REGISTER_AND_MOVE = 0x07


class ReservationType(IntEnum):
    """What a persistent reservation keeps others from (SPC-4 table 191)."""

    WRITE_EXCLUSIVE = 0x1
    EXCLUSIVE_ACCESS = 0x3
    WRITE_EXCLUSIVE_REGISTRANTS_ONLY = 0x5
    EXCLUSIVE_ACCESS_REGISTRANTS_ONLY = 0x6
    WRITE_EXCLUSIVE_ALL_REGISTRANTS = 0x7
    EXCLUSIVE_ACCESS_ALL_REGISTRANTS = 0x8

    @property
    def text(self) -> str:
        """The name as the tool has it."""
        return self.name.lower().replace("_", "-")


@dataclass(frozen=True, slots=True)
class RegisteredKeys:
    """READ KEYS: the key of every registered I_T nexus; one that several have is there as often."""

    generation: int
    """PRGENERATION: grows by one with every change of registrations or preemption."""
    keys: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Reservation:
    """READ RESERVATION: who holds the disk, if anybody does.

    ``type`` is None where nobody does; ``kind`` is the number of the type, also where the standard does not know it.
    ``key`` is 0 where all registrants hold it.
    """

    generation: int
    held: bool
    key: int = 0
    kind: int = 0

    @property
    def type(self) -> ReservationType | None:
        """The type, where it is one of the standard."""
        return reservation_type(self.kind) if self.held else None


@dataclass(frozen=True, slots=True)
class ReservationCapabilities:
    """REPORT CAPABILITIES: what the target can do (SPC-4 section 6.15.4)."""

    persist_through_power_loss: bool
    """PTPL_C: APTPL can be asked for."""
    persist_through_power_loss_active: bool
    """PTPL_A: the registrations last through a power loss."""
    all_target_ports: bool
    """ATP_C: ALL_TG_PT is taken."""
    specify_initiator_ports: bool
    """SIP_C: SPEC_I_PT is taken."""
    compatible_reservation_handling: bool
    """CRH: RESERVE(6) and RELEASE(6) have their exceptions."""
    allow_commands: int
    types: tuple[ReservationType, ...] | None
    """The types that are taken; None where the target does not tell (TMV is 0)."""


@dataclass(frozen=True, slots=True)
class Registrant:
    """One registered I_T nexus of READ FULL STATUS."""

    key: int
    holder: bool
    kind: int
    """The number of the reservation's type, where it is a holder."""
    all_target_ports: bool
    relative_target_port: int
    initiator: TransportId

    @property
    def type(self) -> ReservationType | None:
        """The type of the reservation that it holds."""
        return reservation_type(self.kind) if self.holder else None


@dataclass(frozen=True, slots=True)
class FullStatus:
    """READ FULL STATUS: every registered I_T nexus."""

    generation: int
    registrants: tuple[Registrant, ...]


def reservation_type(value: int) -> ReservationType | None:
    """Give the type of a number; None where the standard has none."""
    try:
        return ReservationType(value)
    except ValueError:
        return None


# --- what is sent


def reserve_in(action: ReserveIn, allocation_length: int) -> bytes:
    """PERSISTENT RESERVE IN (SPC-4 section 6.15)."""
    return _IN.pack(0x5E, action, 0, 0, 0, 0, 0, allocation_length, 0)


def reserve_out(action: ReserveOut, parameter_list_length: int, kind: ReservationType | None = None) -> bytes:
    """PERSISTENT RESERVE OUT for the whole logical unit (SPC-4 section 6.16)."""
    return _OUT.pack(0x5F, action, _SCOPE_OF_UNIT << 4 | (kind or 0), 0, 0, parameter_list_length, 0)


def parameter_list(
    key: int,
    service_action_key: int = 0,
    *,
    through_power_loss: bool = False,
    all_target_ports: bool = False,
    initiators: Iterable[bytes] | None = None,
) -> bytes:
    """Build the parameter list of every service action but REGISTER AND MOVE (SPC-4 section 6.16.3).

    ``initiators`` are TransportIDs of further initiator ports to be registered (SPEC_I_PT).

    Raises:
        InitiatorError: a key is not of 64 bits.
    """
    flags = all_target_ports << 2 | through_power_loss
    more = b""
    if initiators is not None:
        names = b"".join(initiators)
        more = len(names).to_bytes(4, "big") + names
        flags |= 0x08
    return _LIST.pack(_key(key), _key(service_action_key), 0, flags, 0, 0) + more


def move_list(
    key: int,
    service_action_key: int,
    relative_target_port: int,
    initiator: bytes,
    *,
    unregister: bool = False,
    through_power_loss: bool = False,
) -> bytes:
    """Build the parameter list of REGISTER AND MOVE (SPC-4 section 6.16.4).

    Raises:
        InitiatorError: a key is not of 64 bits.
    """
    flags = unregister << 1 | through_power_loss
    return _MOVE.pack(_key(key), _key(service_action_key), 0, flags, relative_target_port, len(initiator)) + initiator


def _key(key: int) -> int:
    if not 0 <= key < KEY_LIMIT:
        raise InitiatorError(f"{key} is no reservation key", hint="a key has 64 bits")
    return key


# --- what is answered


def whole_length(data: bytes) -> int:
    """Give the bytes that the whole answer would have."""
    return 8 + int.from_bytes(data[4:8], "big") if len(data) >= 8 else 0


def _header(data: bytes, what: str) -> tuple[int, bytes]:
    if len(data) < 8:
        raise MalformedAnswer(f"{what} data of {len(data)} bytes")
    length = int.from_bytes(data[4:8], "big")
    if len(data) < 8 + length:
        raise MalformedAnswer(f"{what} says {length} bytes and has {len(data) - 8}")
    return int.from_bytes(data[0:4], "big"), bytes(data[8 : 8 + length])


def parse_keys(data: bytes) -> RegisteredKeys:
    """Parse READ KEYS.

    Raises:
        MalformedAnswer: it is shorter than it says, or not of whole keys.
    """
    generation, body = _header(data, "READ KEYS")
    if len(body) % 8:
        raise MalformedAnswer(f"a list of keys of {len(body)} bytes")
    return RegisteredKeys(generation, tuple(int.from_bytes(body[at : at + 8], "big") for at in range(0, len(body), 8)))


def parse_reservation(data: bytes) -> Reservation:
    """Parse READ RESERVATION.

    Raises:
        MalformedAnswer: it is shorter than it says, or there is more than one reservation.
    """
    generation, body = _header(data, "READ RESERVATION")
    if not body:
        return Reservation(generation, False)
    if len(body) != 16:
        raise MalformedAnswer(f"a reservation of {len(body)} bytes")
    return Reservation(generation, True, int.from_bytes(body[0:8], "big"), body[13] & 0x0F)


def parse_capabilities(data: bytes) -> ReservationCapabilities:
    """Parse REPORT CAPABILITIES.

    Raises:
        MalformedAnswer: it is shorter than 8 bytes.
    """
    if len(data) < 8:
        raise MalformedAnswer(f"REPORT CAPABILITIES data of {len(data)} bytes")
    flags, more = data[2], data[3]
    mask = data[4] | data[5] << 8
    return ReservationCapabilities(
        persist_through_power_loss=bool(flags & 0x01),
        persist_through_power_loss_active=bool(more & 0x01),
        all_target_ports=bool(flags & 0x04),
        specify_initiator_ports=bool(flags & 0x08),
        compatible_reservation_handling=bool(flags & 0x10),
        allow_commands=more >> 4 & 7,
        types=tuple(kind for kind in ReservationType if mask >> kind & 1) if more & 0x80 else None,
    )


def parse_full_status(data: bytes) -> FullStatus:
    """Parse READ FULL STATUS.

    Raises:
        MalformedAnswer: it is shorter than it says, or a descriptor or its TransportID runs past its end.
    """
    generation, body = _header(data, "READ FULL STATUS")
    found: list[Registrant] = []
    at = 0
    while at < len(body):
        if at + _FULL_STATUS.size > len(body):
            raise MalformedAnswer("a descriptor of READ FULL STATUS runs past its end")
        key, flags, scope_and_type, port, length = _FULL_STATUS.unpack_from(body, at)
        at += _FULL_STATUS.size
        if at + length > len(body):
            raise MalformedAnswer("a TransportID of READ FULL STATUS runs past its end")
        holder = bool(flags & 0x01)
        found.append(
            Registrant(
                key=key,
                holder=holder,
                kind=scope_and_type & 0x0F if holder else 0,
                all_target_ports=bool(flags & 0x02),
                relative_target_port=port,
                initiator=transport_id.parse(body[at : at + length]),
            )
        )
        at += length
    return FullStatus(generation, tuple(found))
