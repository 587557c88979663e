"""WRITE SAME(10) and (16) (SBC-3 5.51, 5.52): one block written over and over, or given back where it is zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.scsi.block_limits import limits_of
from csvd.scsi.block_steps import fill_steps, unmap_steps
from csvd.scsi.cdb import CdbLayout
from csvd.scsi.command import Command
from csvd.scsi.commands.block_ranges import BlockRange, Parse, block_range, changing, handler_of
from csvd.scsi.commands.media import (
    PROTECT,
    check_no_protection,
    check_range,
    check_writable,
    transfer_10,
    transfer_16,
)
from csvd.scsi.outcome import GOOD
from csvd.scsi.procedure import Steps
from csvd.scsi.sense import invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer

_ANCHOR: Final = 0x10
_UNMAP: Final = 0x08
_PBDATA_LBDATA: Final = 0x06
"""Obsolete: they asked for addresses in the blocks. Refused, for blocks without them would be wrong to who asks."""
_NDOB: Final = 0x01

_FLAGS_10: Final = PROTECT | _ANCHOR | _UNMAP | _PBDATA_LBDATA
WRITE_SAME_10: Final = transfer_10(_FLAGS_10, "number_of_logical_blocks")
WRITE_SAME_16: Final = transfer_16(_FLAGS_10 | _NDOB, "number_of_logical_blocks")


def _parse(layout: CdbLayout, ndob: int) -> Parse:
    unpack = layout.unpacker("flags", "logical_block_address", "number_of_logical_blocks").unpack_from

    def parse(server: DeviceServer, cdb: bytes) -> BlockRange:
        check_writable(server)
        flags, lba, blocks = unpack(cdb)
        unit = server.unit
        check_no_protection(layout, flags)
        if flags & _PBDATA_LBDATA:
            raise invalid_field_in_cdb(layout.pointer("flags", flags & _PBDATA_LBDATA))
        if flags & _UNMAP and not unit.thin:
            raise invalid_field_in_cdb(layout.pointer("flags", _UNMAP))
        if flags & _ANCHOR and not flags & _UNMAP:
            raise invalid_field_in_cdb(layout.pointer("flags", _ANCHOR))
        limits = limits_of(unit)
        if not blocks and limits.write_same_non_zero:
            raise invalid_field_in_cdb(layout.pointer("number_of_logical_blocks"))
        # No blocks means all from the address to the end.
        blocks = blocks or max(unit.block_count - lba, 0)
        check_range(layout, unit, lba, blocks, most=limits.write_same, length="number_of_logical_blocks")
        return block_range(unit, flags & ~_NDOB | flags & ndob, lba, blocks, 0 if flags & ndob else 1)

    return parse


def _write_same(asked: BlockRange, data: memoryview) -> Steps:
    unit = asked.unit
    block = bytes(unit.block_bytes) if asked.flags & _NDOB else bytes(data)
    # What is unmapped reads as zeros (LBPRZ), so only zeros may be unmapped instead of being written.
    if asked.flags & _UNMAP and not any(block):
        anchor = asked.flags & _ANCHOR != 0
        yield from unmap_steps(unit, asked.offset_bytes, asked.length_bytes, anchor=anchor)
    else:
        yield from fill_steps(unit, asked.offset_bytes, asked.length_bytes, block)
    return GOOD


def _row(name: str, operation_code: int, layout: CdbLayout, ndob: int) -> Command:
    parse = _parse(layout, ndob)
    handler = handler_of(parse, _write_same, alone=False, exact_data_out=True)
    return changing(name, operation_code, layout, parse, handler, recommended_timeout_s=120)


COMMANDS: Final = (
    _row("WRITE SAME(10)", 0x41, WRITE_SAME_10, 0),
    _row("WRITE SAME(16)", 0x93, WRITE_SAME_16, _NDOB),
)
