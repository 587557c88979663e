"""What the segments of an EXTENDED COPY come to: which bytes go where, and whether this nexus may have that done."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from csvd.scsi.commands.media import check_writable
from csvd.scsi.copy_list import (
    BYTES_TO_BYTES,
    IDENTIFICATION,
    IDENTIFICATION_DESCRIPTOR,
    THIS_LOGICAL_UNIT,
    CopyList,
)
from csvd.scsi.copy_steps import Movement, copy_aborted
from csvd.scsi.designators import DESIGNATOR, eui_64_designator, naa_designator
from csvd.scsi.logical_unit import Identity, Peripheral
from csvd.scsi.sense import Asc, CheckCondition, SegmentPointer
from csvd.scsi.third_party_copy import MAXIMUM_SEGMENT_BYTES

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus
    from csvd.scsi.logical_unit import LogicalUnit

_DC: Final = 0x02
_READ_16: Final = 0x88
_WRITE_16: Final = 0x8A
_BINARY: Final = 1
_NAA: Final = 3

# Where the fields are in a segment descriptor.
_SOURCE_ID: Final = 4
_DESTINATION_ID: Final = 6
_COUNT: Final = 8
_SOURCE_LBA: Final = 12
_DESTINATION_LBA: Final = 20
_SOURCE_BYTE_OFFSET: Final = 28
_DESTINATION_BYTE_OFFSET: Final = 30


class _End(NamedTuple):
    """One end of a segment: the I_T_L nexus with the logical unit, and PAD."""

    itl: ItlNexus
    pad: bool


def movements_of(nexus: ItlNexus, asked: CopyList) -> list[Movement]:
    """What all segments come to, with the CSCDs found among the logical units that this nexus may see.

    Raises:
        CheckCondition: COPY ABORTED with the number of the first segment that can not be done.
    """
    device, name = nexus.nexus.device, nexus.nexus.name
    # Of two logical units with one name, as a disk that is exported twice has them, the lower LUN is taken.
    numbers = {
        designator: number
        for number in reversed(nexus.nexus.numbers if asked.cscds else ())
        for designator in _names(device.servers[number].unit.identity)
    }
    ends: dict[int, _End | None] = {}
    for identifier, cscd in enumerate(asked.cscds):
        found = numbers.get(cscd.designator)
        ends[identifier] = None if found is None else _End(device.itl_nexus(name, found), cscd.pad)
    ends[THIS_LOGICAL_UNIT] = _End(nexus, pad=False)
    return [_movement(asked, ends, number) for number in range(len(asked.segments))]


@lru_cache(maxsize=1024)
def _names(identity: Identity) -> frozenset[tuple[int, int, bytes]]:
    """Code set, association with designator type, and designator of the names in page 83h that a descriptor has room
    for; the T10 vendor identification is too long."""
    found = set()
    for encoded in (naa_designator(identity), eui_64_designator(identity)):
        name = DESIGNATOR.parse(encoded)
        found.add((name.protocol_and_code_set, name.association_and_type, name.designator))
    return frozenset(found)


def _movement(asked: CopyList, ends: dict[int, _End | None], number: int) -> Movement:
    segment = asked.segments[number]
    source = _reach(asked, ends, number, segment.source_cscd_descriptor_id, _SOURCE_ID)
    destination = _reach(asked, ends, number, segment.destination_cscd_descriptor_id, _DESTINATION_ID)
    if segment.descriptor_type_code == BYTES_TO_BYTES:
        movement = _bytes_to_bytes(number, segment, source, destination)
    else:
        movement = _blocks_to_blocks(number, segment, source, destination)
    if movement.length_bytes > MAXIMUM_SEGMENT_BYTES:
        raise _wrong(number, _COUNT)
    if movement.length_bytes:
        _check_end(number, source, movement.source_offset_bytes, movement.length_bytes, is_source=True)
        written_bytes = movement.length_bytes + movement.padding_bytes
        _check_end(number, destination, movement.destination_offset_bytes, written_bytes, is_source=False)
    return movement


def _reach(asked: CopyList, ends: dict[int, _End | None], number: int, identifier: int, field: int) -> _End:
    """The end that a segment names.

    Raises:
        CheckCondition: COPY TARGET DEVICE NOT REACHABLE, also for a logical unit that this nexus may not see: nothing
            tells the two apart. INCORRECT COPY TARGET DEVICE TYPE, it is another than the descriptor says.
    """
    end = ends.get(identifier)
    pointer = SegmentPointer(field, in_segment=True)
    if end is None:
        raise copy_aborted(Asc.COPY_TARGET_DEVICE_NOT_REACHABLE, number, pointer)
    if identifier != THIS_LOGICAL_UNIT:
        cscd = asked.cscds[identifier]
        block_bytes = end.itl.unit.block_bytes
        if cscd.peripheral_device_type != Peripheral.DISK or cscd.block_bytes not in (0, block_bytes):
            raise copy_aborted(Asc.INCORRECT_COPY_TARGET_DEVICE_TYPE, number, pointer)
    return end


def _wrong(number: int, field: int, asc: Asc = Asc.INVALID_FIELD_IN_PARAMETER_LIST) -> CheckCondition:
    return copy_aborted(asc, number, SegmentPointer(field, in_segment=True))


def _blocks_to_blocks(number: int, segment: Any, source: _End, destination: _End) -> Movement:
    """Segment descriptor 02h: with DC zero, blocks of the source are counted, with DC one those of the destination."""
    read, written = source.itl.unit, destination.itl.unit
    counted = written if segment.dc_and_cat & _DC else read
    length_bytes = segment.block_device_number_of_blocks * counted.block_bytes
    unread_bytes = -length_bytes % read.block_bytes
    padding_bytes = -length_bytes % written.block_bytes
    if (unread_bytes and not source.pad) or (padding_bytes and not destination.pad):
        raise _wrong(number, _COUNT, Asc.UNEXPECTED_INEXACT_SEGMENT)
    return Movement(
        number,
        read,
        segment.source_logical_block_address * read.block_bytes,
        written,
        segment.destination_logical_block_address * written.block_bytes,
        length_bytes,
        padding_bytes,
    )


def _bytes_to_bytes(number: int, segment: Any, source: _End, destination: _End) -> Movement:
    """Segment descriptor 0Ah: bytes; what else is in the first and last block of the destination stays."""
    read, written = source.itl.unit, destination.itl.unit
    if segment.source_byte_offset >= read.block_bytes:
        raise _wrong(number, _SOURCE_BYTE_OFFSET)
    if segment.destination_byte_offset >= written.block_bytes:
        raise _wrong(number, _DESTINATION_BYTE_OFFSET)
    return Movement(
        number,
        read,
        segment.source_logical_block_address * read.block_bytes + segment.source_byte_offset,
        written,
        segment.destination_logical_block_address * written.block_bytes + segment.destination_byte_offset,
        segment.number_of_bytes,
    )


def _check_end(number: int, end: _End, offset_bytes: int, length_bytes: int, *, is_source: bool) -> None:
    """Whether a READ(16) or WRITE(16) of these blocks by this nexus would be carried out.

    Raises:
        CheckCondition: COPY ABORTED: beyond the last block; write protected; not ready; reserved by another nexus.
    """
    itl = end.itl
    unit, server = itl.unit, itl.server
    lba = offset_bytes // unit.block_bytes
    last = (offset_bytes + length_bytes - 1) // unit.block_bytes
    if last >= unit.block_count:
        raise _wrong(number, _SOURCE_LBA if is_source else _DESTINATION_LBA, Asc.NO_ADDITIONAL_SENSE_INFORMATION)
    pointer = SegmentPointer(_SOURCE_ID if is_source else _DESTINATION_ID, in_segment=True)
    try:
        if not is_source:
            check_writable(server)
        refused = refusal_of_transfer(itl, lba, last - lba + 1, is_read=is_source)
    except CheckCondition as condition:
        raise copy_aborted(condition.asc, number, pointer) from condition
    if refused:
        raise copy_aborted(Asc.THIRD_PARTY_DEVICE_FAILURE, number, pointer)


def refusal_of_transfer(itl: ItlNexus, lba: int, blocks: int, *, is_read: bool) -> bool:
    """Whether a guard, such as a reservation of another nexus, answers a READ(16) or WRITE(16) in place of the disk.

    Raises:
        CheckCondition: a guard refuses it so.
    """
    code = _READ_16 if is_read else _WRITE_16
    cdb = bytes((code, 0)) + lba.to_bytes(8) + blocks.to_bytes(4) + bytes(2)
    return itl.server.check(itl, itl.commands[code], cdb) is not None


def creator_descriptor(unit: LogicalUnit) -> bytes:
    """The identification descriptor of a logical unit, as its ROD tokens hold it."""
    descriptor: bytes = IDENTIFICATION_DESCRIPTOR.build(
        {
            "descriptor_type_code": IDENTIFICATION,
            "lu_id_type_and_peripheral_device_type": Peripheral.DISK,
            "relative_initiator_port_identifier": 0,
            "code_set": _BINARY,
            "association_and_designator_type": _NAA,
            "designator_length": len(unit.identity.naa),
            "designator": unit.identity.naa.ljust(20, b"\0"),
            "pad": 0,
            "disk_block_length": unit.block_bytes & 0xFF_FFFF,
        }
    )
    return descriptor
