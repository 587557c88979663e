"""UNMAP (SBC-3 5.28): a list of ranges that are deallocated, or anchored."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int16ub, Int32ub, Int64ub, Padding, Struct

from csvd.scsi.block_limits import limits_of
from csvd.scsi.block_steps import unmap_steps
from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.commands.media import check_writable
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.outcome import GOOD, Outcome
from csvd.scsi.procedure import Procedure, Steps
from csvd.scsi.range_locks import Claim
from csvd.scsi.sense import Asc, illegal_request, wrong_in_list

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus

_ANCHOR: Final = 0x01

UNMAP: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, _ANCHOR),
    CdbField("reserved", Int32ub),
    CdbField("group_number", Int8ub),
    CdbField("parameter_list_length", Int16ub, 0xFFFF),
    CdbField("control", Int8ub, NACA),
)
PARAMETER_LIST_HEADER: Final = Struct(
    "unmap_data_length" / Int16ub, "unmap_block_descriptor_data_length" / Int16ub, Padding(4)
)
BLOCK_DESCRIPTOR: Final = Struct("logical_block_address" / Int64ub, "number_of_logical_blocks" / Int32ub, Padding(4))

# As BLOCK_DESCRIPTOR: a list of 256 must not hold up the others.
_unpack_descriptor = struct.Struct(">QI4x").unpack_from

_HEADER_BYTES: Final = PARAMETER_LIST_HEADER.sizeof()
_DESCRIPTOR_BYTES: Final = BLOCK_DESCRIPTOR.sizeof()
_AT_DATA_LENGTH: Final = 0
_AT_DESCRIPTOR_DATA_LENGTH: Final = 2
_AT_NUMBER_OF_LOGICAL_BLOCKS: Final = 8

_unpack = UNMAP.unpacker("flags", "parameter_list_length").unpack_from


def ranges_of(unit: LogicalUnit, parameter_list: memoryview) -> list[tuple[int, int]]:
    """The ranges (offset_bytes, length_bytes) of a parameter list; those of no blocks are left out.

    Raises:
        CheckCondition: a length that does not fit the list, more descriptors or blocks than page B0h allows, or a range
            that is not within the logical unit. Nothing has been unmapped then.
    """
    if len(parameter_list) < _HEADER_BYTES:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    header = PARAMETER_LIST_HEADER.parse(parameter_list[:_HEADER_BYTES])
    length = header.unmap_block_descriptor_data_length
    if length > len(parameter_list) - _HEADER_BYTES:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    if header.unmap_data_length < _HEADER_BYTES - 2 + length:
        raise wrong_in_list(_AT_DATA_LENGTH)
    # An incomplete descriptor at the end is ignored.
    count = length // _DESCRIPTOR_BYTES
    limits = limits_of(unit)
    if count > limits.unmap_descriptors:
        raise wrong_in_list(_AT_DESCRIPTOR_DATA_LENGTH)
    ranges: list[tuple[int, int]] = []
    total = 0
    for index in range(count):
        at = _HEADER_BYTES + index * _DESCRIPTOR_BYTES
        lba, blocks = _unpack_descriptor(parameter_list, at)
        if lba + blocks > unit.block_count:
            raise wrong_in_list(at, asc=Asc.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE)
        total += blocks
        if total > limits.unmap:
            raise wrong_in_list(at + _AT_NUMBER_OF_LOGICAL_BLOCKS)
        if blocks:
            ranges.append((lba * unit.block_bytes, blocks * unit.block_bytes))
    return ranges


def _data_out_length(server: DeviceServer, cdb: bytes) -> int:
    _, length = _unpack(cdb)
    return 0 if server.write_protected else int(length)


def _unmap(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
    check_writable(nexus.server)
    flags, length = _unpack(cdb)
    if not length:
        return GOOD
    unit = nexus.unit
    if len(data_out) < length:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    ranges = ranges_of(unit, memoryview(data_out)[:length])
    if not ranges:
        return GOOD
    claims = [Claim(unit.locks, offset_bytes, length_bytes, False) for offset_bytes, length_bytes in ranges]
    return Procedure(_steps(unit, ranges, anchor=flags & _ANCHOR != 0), claims)


def _steps(unit: LogicalUnit, ranges: list[tuple[int, int]], *, anchor: bool) -> Steps:
    for offset_bytes, length_bytes in ranges:
        yield from unmap_steps(unit, offset_bytes, length_bytes, anchor=anchor)
    return GOOD


COMMANDS: Final = (
    Command(
        name="UNMAP",
        operation_code=0x42,
        layout=UNMAP,
        direction=DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS,
        handler=_unmap,
        data_out_length=_data_out_length,
        offered=lambda unit: unit.thin,
        recommended_timeout_s=60,
    ),
)
