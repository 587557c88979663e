"""VERIFY and WRITE AND VERIFY 10, 12 and 16 (SBC-3 5.31 to 5.34, 5.47 to 5.50).

A disk below has no way to check its medium but reading it, so the byte check field decides what is compared:

- 00b: nothing; the blocks are read. 01b: each block with its own in the Data-Out. 11b (VERIFY only): each block with
  the one in the Data-Out. 10b is reserved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.scsi.block_steps import (
    STEP_BYTES,
    compare_steps,
    exclusive,
    first_difference,
    miscompare,
    read_steps,
    write_steps,
)
from csvd.scsi.cdb import CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.commands.block_ranges import (
    VERIFY_TIMEOUT_S,
    BlockRange,
    Parse,
    block_range,
    changing,
    data_out_length_of,
    handler_of,
)
from csvd.scsi.commands.media import (
    DPO,
    PROTECT,
    check_no_protection,
    check_range,
    check_writable,
    transfer_10,
    transfer_12,
    transfer_16,
)
from csvd.scsi.outcome import GOOD, Outcome
from csvd.scsi.procedure import Flush, Procedure, Read, Steps
from csvd.scsi.sense import invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus

_BYTCHK: Final = 0x06
_NO_COMPARE: Final = 0x00
_COMPARE: Final = 0x02
_RESERVED: Final = 0x04
_COMPARE_ONE: Final = 0x06

_VERIFY_FLAGS: Final = PROTECT | DPO | _BYTCHK
VERIFY_10: Final = transfer_10(_VERIFY_FLAGS, "verification_length")
VERIFY_12: Final = transfer_12(_VERIFY_FLAGS, "verification_length")
VERIFY_16: Final = transfer_16(_VERIFY_FLAGS, "verification_length")
WRITE_AND_VERIFY_10: Final = transfer_10(_VERIFY_FLAGS)
WRITE_AND_VERIFY_12: Final = transfer_12(_VERIFY_FLAGS)
WRITE_AND_VERIFY_16: Final = transfer_16(_VERIFY_FLAGS)


def _parse_verify(layout: CdbLayout) -> Parse:
    unpack = layout.unpacker("flags", "logical_block_address", "verification_length").unpack_from

    def parse(server: DeviceServer, cdb: bytes) -> BlockRange:
        flags, lba, blocks = unpack(cdb)
        check_no_protection(layout, flags)
        if flags & _BYTCHK == _RESERVED:
            raise invalid_field_in_cdb(layout.pointer("flags", _BYTCHK))
        check_range(layout, server.unit, lba, blocks, length="verification_length")
        data_out = {_NO_COMPARE: 0, _COMPARE: blocks, _COMPARE_ONE: min(blocks, 1)}[flags & _BYTCHK]
        return block_range(server.unit, flags, lba, blocks, data_out)

    return parse


def _verify(asked: BlockRange, data: memoryview) -> Steps:
    byte_check = asked.flags & _BYTCHK
    if byte_check == _NO_COMPARE:
        yield from read_steps(asked.unit, asked.offset_bytes, asked.length_bytes)
        return GOOD
    if byte_check == _COMPARE:
        return (yield from _compared(asked, data))
    expected = memoryview(bytes(data) * max(1, min(STEP_BYTES, asked.length_bytes) // len(data)))
    for at in range(0, asked.length_bytes, len(expected)):
        length_bytes = min(len(expected), asked.length_bytes - at)
        found = yield Read(asked.unit, asked.offset_bytes + at, length_bytes)
        difference = first_difference(memoryview(found), expected[:length_bytes])
        if difference is not None:
            raise miscompare((asked.offset_bytes + at + difference) // asked.unit.block_bytes)
    return GOOD


def _compared(asked: BlockRange, data: memoryview) -> Steps:
    difference = yield from compare_steps(asked.unit, asked.offset_bytes, data)
    if difference is not None:
        raise miscompare((asked.offset_bytes + difference) // asked.unit.block_bytes)
    return GOOD


def _parse_write_and_verify(layout: CdbLayout) -> Parse:
    unpack = layout.unpacker("flags", "logical_block_address", "transfer_length").unpack_from

    def parse(server: DeviceServer, cdb: bytes) -> BlockRange:
        check_writable(server)
        flags, lba, blocks = unpack(cdb)
        check_no_protection(layout, flags)
        if flags & _BYTCHK not in (_NO_COMPARE, _COMPARE):
            raise invalid_field_in_cdb(layout.pointer("flags", _BYTCHK))
        check_range(layout, server.unit, lba, blocks)
        return block_range(server.unit, flags, lba, blocks, blocks)

    return parse


def _write_and_verify_handler(parse: Parse) -> Handler:
    def handle(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
        asked = parse(nexus.server, cdb)
        # As with WRITE: an initiator that expects to send less than the CDB says sends whole blocks of it, or nothing.
        kept = min(len(data_out), asked.data_out_bytes)
        data = memoryview(data_out)[: kept - kept % asked.unit.block_bytes]
        if not len(data):
            return GOOD
        # Whoever wrote there between the two would be told of as a miscompare.
        return Procedure(_write_and_verify(asked, data), exclusive(asked.unit, asked.offset_bytes, len(data)))

    return handle


def _write_and_verify(asked: BlockRange, data: memoryview) -> Steps:
    yield from write_steps(asked.unit, asked.offset_bytes, data)
    # What is verified is what the medium has, not a volatile cache.
    yield Flush(asked.unit)
    if asked.flags & _BYTCHK == _COMPARE:
        return (yield from _compared(asked, data))
    yield from read_steps(asked.unit, asked.offset_bytes, len(data))
    return GOOD


def _verifying(name: str, operation_code: int, layout: CdbLayout) -> Command:
    parse = _parse_verify(layout)
    return Command(
        name=name,
        operation_code=operation_code,
        layout=layout,
        direction=DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS,
        handler=handler_of(parse, _verify, alone=False),
        data_out_length=data_out_length_of(parse),
        recommended_timeout_s=VERIFY_TIMEOUT_S,
    )


def _writing(name: str, operation_code: int, layout: CdbLayout) -> Command:
    parse = _parse_write_and_verify(layout)
    return changing(name, operation_code, layout, parse, _write_and_verify_handler(parse))


COMMANDS: Final = (
    _verifying("VERIFY(10)", 0x2F, VERIFY_10),
    _verifying("VERIFY(12)", 0xAF, VERIFY_12),
    _verifying("VERIFY(16)", 0x8F, VERIFY_16),
    _writing("WRITE AND VERIFY(10)", 0x2E, WRITE_AND_VERIFY_10),
    _writing("WRITE AND VERIFY(12)", 0xAE, WRITE_AND_VERIFY_12),
    _writing("WRITE AND VERIFY(16)", 0x8E, WRITE_AND_VERIFY_16),
)
