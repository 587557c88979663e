"""The parameter lists of EXTENDED COPY(LID1) and (LID4): headers, CSCD descriptors, segment descriptors (SPC-4 6.4)."""

from __future__ import annotations

from typing import Any, Final, NamedTuple

from construct import Bytes, Int8ub, Int16ub, Int24ub, Int32ub, Int64ub, Padding, Struct

from csvd.scsi.sense import Asc, illegal_request, wrong_in_list
from csvd.scsi.third_party_copy import (
    MAXIMUM_DESCRIPTOR_LIST_BYTES,
    MAXIMUM_SEGMENT_DESCRIPTORS,
    MAXIMUM_TARGET_DESCRIPTORS,
)

LID1_HEADER: Final = Struct(
    "list_identifier" / Int8ub,
    "flags" / Int8ub,
    "cscd_descriptor_list_length" / Int16ub,
    Padding(4),
    "segment_descriptor_list_length" / Int32ub,
    "inline_data_length" / Int32ub,
)
LID4_HEADER: Final = Struct(
    "parameter_list_format" / Int8ub,
    "flags" / Int8ub,
    "header_cscd_descriptor_list_length" / Int16ub,
    Padding(11),
    "immed_and_g_sense" / Int8ub,
    "header_cscd_descriptor_type_code" / Int8ub,
    Padding(3),
    "list_identifier" / Int32ub,
    Padding(18),
    "cscd_descriptor_list_length" / Int16ub,
    "segment_descriptor_list_length" / Int16ub,
    "inline_data_length" / Int16ub,
)
IDENTIFICATION_DESCRIPTOR: Final = Struct(
    "descriptor_type_code" / Int8ub,
    "lu_id_type_and_peripheral_device_type" / Int8ub,
    "relative_initiator_port_identifier" / Int16ub,
    "code_set" / Int8ub,
    "association_and_designator_type" / Int8ub,
    Padding(1),
    "designator_length" / Int8ub,
    "designator" / Bytes(20),
    "pad" / Int8ub,
    "disk_block_length" / Int24ub,
)
BLOCK_TO_BLOCK: Final = Struct(
    "descriptor_type_code" / Int8ub,
    "dc_and_cat" / Int8ub,
    "descriptor_length" / Int16ub,
    "source_cscd_descriptor_id" / Int16ub,
    "destination_cscd_descriptor_id" / Int16ub,
    Padding(2),
    "block_device_number_of_blocks" / Int16ub,
    "source_logical_block_address" / Int64ub,
    "destination_logical_block_address" / Int64ub,
)
BLOCK_TO_BLOCK_WITH_OFFSETS: Final = Struct(
    "descriptor_type_code" / Int8ub,
    "cat" / Int8ub,
    "descriptor_length" / Int16ub,
    "source_cscd_descriptor_id" / Int16ub,
    "destination_cscd_descriptor_id" / Int16ub,
    "number_of_bytes" / Int32ub,
    "source_logical_block_address" / Int64ub,
    "destination_logical_block_address" / Int64ub,
    "source_byte_offset" / Int16ub,
    "destination_byte_offset" / Int16ub,
)

BLOCKS_TO_BLOCKS: Final = 0x02
BYTES_TO_BYTES: Final = 0x0A
IDENTIFICATION: Final = 0xE4
IMPLEMENTED_DESCRIPTORS: Final = bytes((BLOCKS_TO_BLOCKS, BYTES_TO_BYTES, IDENTIFICATION))
THIS_LOGICAL_UNIT: Final = 0xFFFF
"""CSCD descriptor ID of the logical unit that the command is addressed to (SPC-4 6.4.5.2)."""

_SEGMENTS: Final = {BLOCKS_TO_BLOCKS: BLOCK_TO_BLOCK, BYTES_TO_BYTES: BLOCK_TO_BLOCK_WITH_OFFSETS}
_SEGMENT_HEADER_BYTES: Final = 4
_CSCD_BYTES: Final = 32
_LID4_FORMAT: Final = 0x01
_LID4_CSCD_TYPE: Final = 0xFF
_LIST_ID_USAGE: Final = 0x18
_UNUSED: Final = 0x18
_RESERVED_USAGE: Final = 0x08
_IMMED: Final = 0x02
_DESIGNATOR_BYTES: Final = 20


class Cscd(NamedTuple):
    """What an identification descriptor names: a copy source or copy destination.

    Args:
        designator: code set, designator type and designator, as VPD page 83h has them.
        peripheral_device_type: what the application client takes it for.
        block_bytes: its block length, 0 where the application client does not say.
        pad: PAD.
    """

    designator: tuple[int, int, bytes]
    peripheral_device_type: int
    block_bytes: int
    pad: bool


class CopyList(NamedTuple):
    """A parameter list without a fault in its form.

    Args:
        list_identifier: None where it says that it is not used.
        immediate: IMMED.
        segments: construct containers of `BLOCK_TO_BLOCK` or `BLOCK_TO_BLOCK_WITH_OFFSETS`.
    """

    list_identifier: int | None
    immediate: bool
    cscds: list[Cscd]
    segments: list[Any]


def parse_lid1(parameters: bytes) -> CopyList:
    """Read the parameter list of EXTENDED COPY(LID1).

    Raises:
        CheckCondition: ILLEGAL REQUEST, with what is wrong.
    """
    if len(parameters) < LID1_HEADER.sizeof():
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    header = LID1_HEADER.parse(parameters)
    return _parse(parameters, header, LID1_HEADER.sizeof(), immediate=False, identifier_offset=0)


def parse_lid4(parameters: bytes) -> CopyList:
    """Read the parameter list of EXTENDED COPY(LID4).

    Raises:
        CheckCondition: ILLEGAL REQUEST, with what is wrong.
    """
    if len(parameters) < LID4_HEADER.sizeof():
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    header = LID4_HEADER.parse(parameters)
    if header.parameter_list_format != _LID4_FORMAT:
        raise wrong_in_list(0)
    if header.header_cscd_descriptor_list_length != _CSCD_BYTES:
        raise wrong_in_list(2)
    if header.header_cscd_descriptor_type_code != _LID4_CSCD_TYPE:
        raise wrong_in_list(16)
    immediate = bool(header.immed_and_g_sense & _IMMED)
    return _parse(parameters, header, LID4_HEADER.sizeof(), immediate=immediate, identifier_offset=20)


def _parse(parameters: bytes, header: Any, begin: int, *, immediate: bool, identifier_offset: int) -> CopyList:
    usage = header.flags & _LIST_ID_USAGE
    if usage == _RESERVED_USAGE:
        raise wrong_in_list(1)
    if usage == _UNUSED and header.list_identifier:
        raise wrong_in_list(identifier_offset)
    if usage == _UNUSED and immediate:
        # Nobody could ask for what became of it.
        raise wrong_in_list(15)
    cscd_bytes, segment_bytes = header.cscd_descriptor_list_length, header.segment_descriptor_list_length
    if cscd_bytes + segment_bytes > MAXIMUM_DESCRIPTOR_LIST_BYTES:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    if header.inline_data_length:
        raise illegal_request(Asc.INLINE_DATA_LENGTH_EXCEEDED)
    if cscd_bytes > MAXIMUM_TARGET_DESCRIPTORS * _CSCD_BYTES:
        raise illegal_request(Asc.TOO_MANY_TARGET_DESCRIPTORS)
    middle = begin + cscd_bytes
    end = middle + segment_bytes
    if cscd_bytes % _CSCD_BYTES or len(parameters) < end:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    cscds = [_cscd(parameters, offset) for offset in range(begin, middle, _CSCD_BYTES)]
    segments = _segments(parameters[:end], middle)
    return CopyList(None if usage == _UNUSED else header.list_identifier, immediate, cscds, segments)


def _cscd(parameters: bytes, offset: int) -> Cscd:
    if parameters[offset] != IDENTIFICATION:
        raise wrong_in_list(offset, asc=Asc.UNSUPPORTED_TARGET_DESCRIPTOR_TYPE_CODE)
    descriptor = IDENTIFICATION_DESCRIPTOR.parse(parameters[offset : offset + _CSCD_BYTES])
    if descriptor.designator_length > _DESIGNATOR_BYTES:
        raise wrong_in_list(offset + 7)
    return Cscd(
        (
            descriptor.code_set & 0x0F,
            # With the association: zero is the logical unit, and only that can be a copy source or destination.
            descriptor.association_and_designator_type & 0x3F,
            descriptor.designator[: descriptor.designator_length],
        ),
        descriptor.lu_id_type_and_peripheral_device_type & 0x1F,
        descriptor.disk_block_length,
        bool(descriptor.pad & 0x04),
    )


def _segments(parameters: bytes, offset: int) -> list[Any]:
    found: list[Any] = []
    while offset < len(parameters):
        if len(found) == MAXIMUM_SEGMENT_DESCRIPTORS:
            raise illegal_request(Asc.TOO_MANY_SEGMENT_DESCRIPTORS)
        layout = _SEGMENTS.get(parameters[offset])
        if layout is None:
            raise wrong_in_list(offset, asc=Asc.UNSUPPORTED_SEGMENT_DESCRIPTOR_TYPE_CODE)
        if len(parameters) - offset < layout.sizeof():
            raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
        segment = layout.parse(parameters[offset:])
        if segment.descriptor_length != layout.sizeof() - _SEGMENT_HEADER_BYTES:
            raise wrong_in_list(offset + 2)
        found.append(segment)
        offset += layout.sizeof()
    return found
