"""COMPARE AND WRITE, ORWRITE(16) and WRITE ATOMIC(16) (SBC-3 5.2, 5.8; SBC-4 5.47).

Each has its range for itself while it runs, against every other command of every nexus. A write of theirs that fails
half way is taken back as far as the disk lets it; see `replace_steps` for what a power cut may leave.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int16ub, Int64ub

from csvd.scsi.block_limits import limits_of
from csvd.scsi.block_steps import STEP_BYTES, compare_steps, miscompare, replace_steps
from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.commands.block_ranges import BlockRange, block_range, changing, handler_of
from csvd.scsi.commands.media import (
    DPO,
    FUA,
    PROTECT,
    TRANSFER_16,
    check_no_protection,
    check_range,
    check_writable,
)
from csvd.scsi.outcome import GOOD
from csvd.scsi.procedure import Read, Steps, Write
from csvd.scsi.sense import invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer

COMPARE_AND_WRITE: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, PROTECT | DPO | FUA),
    CdbField("logical_block_address", Int64ub, 0xFFFF_FFFF_FFFF_FFFF),
    CdbField("reserved", Int16ub),
    CdbField("reserved_2", Int8ub),
    CdbField("number_of_logical_blocks", Int8ub, 0xFF),
    CdbField("group_number", Int8ub),
    CdbField("control", Int8ub, NACA),
)
WRITE_ATOMIC_16: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, PROTECT | DPO | FUA),
    CdbField("logical_block_address", Int64ub, 0xFFFF_FFFF_FFFF_FFFF),
    CdbField("atomic_boundary", Int16ub, 0xFFFF),
    CdbField("transfer_length", Int16ub, 0xFFFF),
    CdbField("group_number", Int8ub),
    CdbField("control", Int8ub, NACA),
)

_unpack_compare_and_write = COMPARE_AND_WRITE.unpacker(
    "flags", "logical_block_address", "number_of_logical_blocks"
).unpack_from
_unpack_orwrite = TRANSFER_16.unpacker("flags", "logical_block_address", "transfer_length").unpack_from
_unpack_write_atomic = WRITE_ATOMIC_16.unpacker(
    "flags", "logical_block_address", "atomic_boundary", "transfer_length"
).unpack_from


def _parse_compare_and_write(server: DeviceServer, cdb: bytes) -> BlockRange:
    check_writable(server)
    flags, lba, blocks = _unpack_compare_and_write(cdb)
    unit = server.unit
    check_no_protection(COMPARE_AND_WRITE, flags)
    most = limits_of(unit).compare_and_write
    check_range(COMPARE_AND_WRITE, unit, lba, blocks, most=most, length="number_of_logical_blocks")
    # What is to be there, and what is to be written.
    return block_range(unit, flags, lba, blocks, 2 * blocks)


def _compare_and_write(asked: BlockRange, data: memoryview) -> Steps:
    expected, new = data[: asked.length_bytes], data[asked.length_bytes :]
    difference = yield from compare_steps(asked.unit, asked.offset_bytes, expected)
    if difference is not None:
        raise miscompare(difference)
    yield from replace_steps(asked.unit, asked.offset_bytes, expected, new, fua=asked.flags & FUA != 0)
    return GOOD


def _parse_orwrite(server: DeviceServer, cdb: bytes) -> BlockRange:
    check_writable(server)
    flags, lba, blocks = _unpack_orwrite(cdb)
    check_no_protection(TRANSFER_16, flags)
    check_range(TRANSFER_16, server.unit, lba, blocks)
    return block_range(server.unit, flags, lba, blocks, blocks)


def _orwrite(asked: BlockRange, data: memoryview) -> Steps:
    for at in range(0, len(data), STEP_BYTES):
        part = data[at : at + STEP_BYTES]
        found = yield Read(asked.unit, asked.offset_bytes + at, len(part))
        both = (int.from_bytes(found) | int.from_bytes(part)).to_bytes(len(part))
        yield Write(asked.unit, asked.offset_bytes + at, both, fua=asked.flags & FUA != 0)
    return GOOD


def _parse_write_atomic(server: DeviceServer, cdb: bytes) -> BlockRange:
    check_writable(server)
    flags, lba, boundary, blocks = _unpack_write_atomic(cdb)
    unit = server.unit
    check_no_protection(WRITE_ATOMIC_16, flags)
    check_range(WRITE_ATOMIC_16, unit, lba, blocks, most=limits_of(unit).atomic)
    if boundary:
        # MAXIMUM ATOMIC BOUNDARY SIZE is zero: a write is atomic as a whole or not at all.
        raise invalid_field_in_cdb(WRITE_ATOMIC_16.pointer("atomic_boundary"))
    return block_range(unit, flags, lba, blocks, blocks)


def _write_atomic(asked: BlockRange, data: memoryview) -> Steps:
    old = yield Read(asked.unit, asked.offset_bytes, asked.length_bytes)
    yield from replace_steps(asked.unit, asked.offset_bytes, old, data, fua=asked.flags & FUA != 0)
    return GOOD


COMMANDS: Final = (
    changing(
        "COMPARE AND WRITE",
        0x89,
        COMPARE_AND_WRITE,
        _parse_compare_and_write,
        handler_of(_parse_compare_and_write, _compare_and_write, alone=True, exact_data_out=True),
    ),
    changing(
        "ORWRITE(16)",
        0x8B,
        TRANSFER_16,
        _parse_orwrite,
        handler_of(_parse_orwrite, _orwrite, alone=True),
    ),
    changing(
        "WRITE ATOMIC(16)",
        0x9C,
        WRITE_ATOMIC_16,
        _parse_write_atomic,
        handler_of(_parse_write_atomic, _write_atomic, alone=True),
    ),
)
