"""MODE SELECT(6) and (10) (SPC-4 6.11 and 6.12): check the whole parameter list, then change the mode pages at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int16ub, Int24ub, Int32ub, Struct

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.commands.mode_sense import LONG_LBA_BLOCK_DESCRIPTOR
from csvd.scsi.mode_pages import PAGE_0_HEADER, SPF, SUBPAGE_HEADER, ModePage
from csvd.scsi.mode_parameters import KEPT, ModeParameters
from csvd.scsi.outcome import GOOD, Outcome
from csvd.scsi.procedure import Flush, Keep, Procedure, Steps, Until
from csvd.scsi.sense import Asc, CheckCondition, illegal_request, invalid_field_in_cdb, wrong_in_list

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus

_PF: Final = 0x10
_RTD: Final = 0x02
_SP: Final = 0x01
_PAGE_CODE: Final = 0x3F
_LONGLBA: Final = 0x01

MODE_SELECT_6: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, _PF | _RTD | _SP),
    CdbField("reserved", Int16ub),
    CdbField("parameter_list_length", Int8ub, 0xFF),
    CdbField("control", Int8ub, NACA),
)
MODE_SELECT_10: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, _PF | _RTD | _SP),
    CdbField("reserved", Int8ub),
    CdbField("reserved_2", Int32ub),
    CdbField("parameter_list_length", Int16ub, 0xFFFF),
    CdbField("control", Int8ub, NACA),
)
# The mode data length is reserved here, and so are WP and DPOFUA: what MODE SENSE returned may be sent back.
PARAMETER_HEADER_6: Final = Struct(
    "mode_data_length" / Int8ub,
    "medium_type" / Int8ub,
    "device_specific_parameter" / Int8ub,
    "block_descriptor_length" / Int8ub,
)
PARAMETER_HEADER_10: Final = Struct(
    "mode_data_length" / Int16ub,
    "medium_type" / Int8ub,
    "device_specific_parameter" / Int8ub,
    "longlba" / Int8ub,
    "reserved" / Int8ub,
    "block_descriptor_length" / Int16ub,
)
SHORT_LBA_BLOCK_DESCRIPTOR: Final = Struct(
    "number_of_logical_blocks" / Int32ub,
    # Reserved here, a density code elsewhere.
    "reserved" / Int8ub,
    "logical_block_length" / Int24ub,
)


def _too_short() -> CheckCondition:
    return illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)


class _ParameterList:
    """One parameter list, taken from its beginning to its end (SPC-4 7.5.4).

    Attributes:
        values: the new values of the pages in it.
    """

    def __init__(self, mode: ModeParameters, before: dict[ModePage, bytes], data: bytes, *, is_six: bool) -> None:
        self._mode = mode
        self._data = data
        self.values = before
        offset = self._pages_offset(PARAMETER_HEADER_6 if is_six else PARAMETER_HEADER_10)
        while offset < len(data):
            offset = self._page(offset)

    def _pages_offset(self, layout: Struct) -> int:
        if len(self._data) < layout.sizeof():
            raise _too_short()
        header = layout.parse(self._data)
        is_six = layout is PARAMETER_HEADER_6
        if header.medium_type:
            raise wrong_in_list(1 if is_six else 2)
        long_lba = not is_six and bool(header.longlba & _LONGLBA)
        descriptor = LONG_LBA_BLOCK_DESCRIPTOR if long_lba else SHORT_LBA_BLOCK_DESCRIPTOR
        length = header.block_descriptor_length
        if length not in (0, descriptor.sizeof()):
            raise wrong_in_list(3 if is_six else 6)
        end: int = layout.sizeof() + length
        if len(self._data) < end:
            raise _too_short()
        if length:
            self._check_descriptor(descriptor, layout.sizeof())
        return end

    def _check_descriptor(self, layout: Struct, offset: int) -> None:
        """Neither size nor block length can be changed: FORMAT UNIT would have to follow (SBC-3 6.4.2)."""
        unit = self._mode.unit
        long_lba = layout is LONG_LBA_BLOCK_DESCRIPTOR
        descriptor = layout.parse(self._data[offset:])
        all_ones = (1 << 64) - 1 if long_lba else 0xFFFF_FFFF
        if descriptor.number_of_logical_blocks not in (0, all_ones, min(unit.block_count, all_ones)):
            raise wrong_in_list(offset)
        if descriptor.logical_block_length != unit.block_bytes:
            raise wrong_in_list(offset + (12 if long_lba else 5))

    def _page(self, offset: int) -> int:
        """Take one page; give the offset behind it."""
        rest = self._data[offset:]
        header_layout = SUBPAGE_HEADER if rest[0] & SPF else PAGE_0_HEADER
        if len(rest) < header_layout.sizeof():
            raise _too_short()
        header = header_layout.parse(rest)
        page = self._find(offset, header.page_code & _PAGE_CODE, header.subpage_code if rest[0] & SPF else 0)
        body_offset = offset + page.header_bytes
        current = self.values.get(page) or self._mode.current(page)
        if header.page_length != len(current):
            raise wrong_in_list(body_offset - (2 if page.subpage else 1))
        body = self._data[body_offset : body_offset + len(current)]
        if len(body) < len(current):
            raise _too_short()
        mask = self._mode.changeable(page)
        for index, (new, old, bits) in enumerate(zip(body, current, mask, strict=True)):
            wrong = (new ^ old) & ~bits & 0xFF
            if wrong:
                raise wrong_in_list(body_offset + index, wrong.bit_length() - 1)
        self.values[page] = body
        return body_offset + len(body)

    def _find(self, offset: int, code: int, subpage: int) -> ModePage:
        for page in self._mode.pages:
            if (page.code, page.subpage) == (code, subpage):
                return page
        known = any(page.code == code for page in self._mode.pages)
        raise wrong_in_list(offset + 1) if known and subpage else wrong_in_list(offset, 5)


def longest_list(mode: ModeParameters) -> int:
    """The length of a list that has each page once: a longer one says nothing more, and would take long to read."""
    headers = PARAMETER_HEADER_10.sizeof() + LONG_LBA_BLOCK_DESCRIPTOR.sizeof()
    return int(headers) + sum(page.header_bytes + len(mode.default(page)) for page in mode.pages)


def _mode_select(layout: CdbLayout) -> Handler:
    unpack = layout.unpacker("flags", "parameter_list_length").unpack_from

    def mode_select(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
        flags, length = unpack(cdb)
        mode = nexus.server.mode
        if flags & _SP and not mode.unit.keeps:
            raise invalid_field_in_cdb(layout.pointer("flags", _SP))
        if length and not flags & _PF:
            # Without PF the pages are of the vendor's format, and there is none.
            raise invalid_field_in_cdb(layout.pointer("flags", _PF))
        if length > longest_list(mode) or len(data_out) < length:
            raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
        values = {page: mode.default(page) for page in mode.pages} if flags & _RTD else {}
        if length:
            data = bytes(data_out[:length])
            values = _ParameterList(mode, values, data, is_six=layout is MODE_SELECT_6).values
        if not values and not flags & _SP:
            return GOOD
        return Procedure(_change(nexus, values, saved=bool(flags & _SP)))

    return mode_select


def _change(nexus: ItlNexus, values: dict[ModePage, bytes], *, saved: bool) -> Steps:
    server, unit = nexus.server, nexus.unit
    if unit.cluster is not None:
        yield from unit.cluster.select_mode(server.mode.codes(values), saves=saved, by=nexus.nexus.registrant)
        return GOOD
    try:
        yield Until(server.keeping.take)
        if saved:
            kept = server.mode.to_keep(values)
            try:
                yield Keep(unit, KEPT, kept)
            except GeneratorExit:
                # The command was aborted meanwhile. What is kept and what is in force stay the same.
                if unit.kept.get(KEPT) == kept:
                    server.change_mode(values, saved=True, by_nexus=nexus.nexus.name)
                raise
        must_flush = server.change_mode(values, saved=saved, by_nexus=nexus.nexus.name)
    finally:
        server.keeping.pass_on()
    if must_flush:
        # What was GOOD before the write cache went off, or the medium became write protected, is made durable.
        yield Flush(unit)
    return GOOD


def _data_out_length(layout: CdbLayout) -> Callable[[DeviceServer, bytes], int]:
    unpack = layout.unpacker("parameter_list_length").unpack_from

    def data_out_length(server: DeviceServer, cdb: bytes) -> int:
        (length,) = unpack(cdb)
        return length if length <= longest_list(server.mode) else 0

    return data_out_length


def _row(name: str, operation_code: int, layout: CdbLayout) -> Command:
    return Command(
        name=name,
        operation_code=operation_code,
        layout=layout,
        direction=DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS,
        handler=_mode_select(layout),
        data_out_length=_data_out_length(layout),
    )


COMMANDS: Final = (
    _row("MODE SELECT(6)", 0x15, MODE_SELECT_6),
    _row("MODE SELECT(10)", 0x55, MODE_SELECT_10),
)
