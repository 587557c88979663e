"""The parameter lists of POPULATE TOKEN and WRITE USING TOKEN (SBC-3 5.7 and 5.41)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from construct import Bytes, Int8ub, Int16ub, Int32ub, Int64ub, Padding, Struct

from csvd.scsi.rod_tokens import (
    ACCESS_UPON_REFERENCE,
    DEFAULT_INACTIVITY_TIMEOUT_S,
    MAXIMUM_INACTIVITY_TIMEOUT_S,
    MAXIMUM_RANGES,
    MAXIMUM_TOKEN_BYTES,
    TOKEN_BYTES,
    BlockRange,
)
from csvd.scsi.sense import Asc, FieldPointer, illegal_request, wrong_in_list

if TYPE_CHECKING:
    from csvd.scsi.logical_unit import LogicalUnit

POPULATE_TOKEN_HEADER: Final = Struct(
    "populate_token_data_length" / Int16ub,
    "rtv_and_immed" / Int8ub,
    Padding(1),
    "inactivity_timeout" / Int32ub,
    "rod_type" / Int32ub,
    Padding(2),
    "block_device_range_descriptor_length" / Int16ub,
)
WRITE_USING_TOKEN_HEADER: Final = Struct(
    "write_using_token_data_length" / Int16ub,
    "del_tkn_and_immed" / Int8ub,
    Padding(5),
    "offset_into_rod" / Int64ub,
    "rod_token" / Bytes(TOKEN_BYTES),
    Padding(6),
    "block_device_range_descriptor_length" / Int16ub,
)
BLOCK_DEVICE_RANGE_DESCRIPTOR: Final = Struct(
    "logical_block_address" / Int64ub, "number_of_logical_blocks" / Int32ub, Padding(4)
)
LONGEST_LIST_BYTES: Final = int(WRITE_USING_TOKEN_HEADER.sizeof()) + MAXIMUM_RANGES * int(
    BLOCK_DEVICE_RANGE_DESCRIPTOR.sizeof()
)

_RANGE_BYTES: Final = int(BLOCK_DEVICE_RANGE_DESCRIPTOR.sizeof())
_RTV: Final = 0x02
_DEL_TKN: Final = 0x02
_IMMED: Final = 0x01


class PopulateList(NamedTuple):
    """What a POPULATE TOKEN asks for."""

    inactivity_timeout_s: int
    ranges: tuple[BlockRange, ...]


class WriteList(NamedTuple):
    """What a WRITE USING TOKEN asks for."""

    immediate: bool
    delete_token: bool
    offset_blocks: int
    token: bytes
    ranges: tuple[BlockRange, ...]


def parse_populate(parameters: bytes, unit: LogicalUnit) -> PopulateList:
    """Read the parameter list of POPULATE TOKEN.

    Raises:
        CheckCondition: ILLEGAL REQUEST, with what is wrong.
    """
    header_bytes = POPULATE_TOKEN_HEADER.sizeof()
    if len(parameters) < header_bytes:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    header = POPULATE_TOKEN_HEADER.parse(parameters)
    if header.rtv_and_immed & _RTV and header.rod_type != ACCESS_UPON_REFERENCE:
        raise wrong_in_list(8)
    if header.inactivity_timeout > MAXIMUM_INACTIVITY_TIMEOUT_S:
        raise wrong_in_list(4)
    ranges = _ranges(
        parameters,
        header.populate_token_data_length,
        header_bytes,
        header.block_device_range_descriptor_length,
        unit,
    )
    return PopulateList(header.inactivity_timeout or DEFAULT_INACTIVITY_TIMEOUT_S, ranges)


def parse_write(parameters: bytes, unit: LogicalUnit) -> WriteList:
    """Read the parameter list of WRITE USING TOKEN.

    Raises:
        CheckCondition: ILLEGAL REQUEST, with what is wrong.
    """
    header_bytes = WRITE_USING_TOKEN_HEADER.sizeof()
    if len(parameters) < header_bytes:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    header = WRITE_USING_TOKEN_HEADER.parse(parameters)
    ranges = _ranges(
        parameters,
        header.write_using_token_data_length,
        header_bytes,
        header.block_device_range_descriptor_length,
        unit,
    )
    flags = header.del_tkn_and_immed
    return WriteList(bool(flags & _IMMED), bool(flags & _DEL_TKN), header.offset_into_rod, header.rod_token, ranges)


def _ranges(
    parameters: bytes, data_length: int, header_bytes: int, list_bytes: int, unit: LogicalUnit
) -> tuple[BlockRange, ...]:
    """The block device range descriptors behind a header, all of them within the logical unit and apart."""
    if list_bytes < _RANGE_BYTES or list_bytes % _RANGE_BYTES:
        raise wrong_in_list(header_bytes - 2)
    if data_length < header_bytes - 2 + list_bytes:
        raise wrong_in_list(0)
    if list_bytes > MAXIMUM_RANGES * _RANGE_BYTES:
        raise illegal_request(Asc.TOO_MANY_SEGMENT_DESCRIPTORS, FieldPointer(header_bytes - 2, in_cdb=False))
    end = header_bytes + list_bytes
    if len(parameters) < end:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    found = []
    for offset in range(header_bytes, end, _RANGE_BYTES):
        descriptor = BLOCK_DEVICE_RANGE_DESCRIPTOR.parse(parameters[offset : offset + _RANGE_BYTES])
        one = BlockRange(descriptor.logical_block_address, descriptor.number_of_logical_blocks)
        if one.lba + (one.blocks or 1) > unit.block_count:
            raise illegal_request(Asc.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, FieldPointer(offset, in_cdb=False))
        found.append(one)
    last = 0
    for one in sorted(one for one in found if one.blocks):
        if one.lba < last:
            raise wrong_in_list(header_bytes)
        last = one.lba + one.blocks
    if sum(one.blocks for one in found) * unit.block_bytes > MAXIMUM_TOKEN_BYTES:
        raise wrong_in_list(header_bytes)
    return tuple(found)
