"""Moving data between logical units in steps: bounded pieces, overlaps done right, errors with their segment."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from csvd.scsi.block_steps import Part
from csvd.scsi.faults import fault_condition
from csvd.scsi.outcome import GOOD, Reply, Status
from csvd.scsi.procedure import DiskFault, Flush, Read, Request, Steps, Write, WriteZeroes
from csvd.scsi.range_locks import Claim, RangeLocks
from csvd.scsi.sense import Asc, CheckCondition, SegmentPointer, SenseKey
from csvd.scsi.third_party_copy import CopyOperation, CopyStatus

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer
    from csvd.scsi.logical_unit import LogicalUnit

PIECE_BYTES: Final = 1 << 20
"""What is read, held and written at once."""
MOST_RANGES_CLAIMED: Final = 8
"""Of one disk, read or written; of more, the span is claimed."""
ZEROES_BYTES: Final = 64 << 20
"""What is made zeros at once."""


class Movement(NamedTuple):
    """Data to move, in bytes. Without a source it is zeros.

    Args:
        segment: the number of the segment descriptor that asks for it.
        padding_bytes: zeros behind it, to the end of the last destination block.
    """

    segment: int
    source: LogicalUnit | None
    source_offset_bytes: int
    destination: LogicalUnit
    destination_offset_bytes: int
    length_bytes: int
    padding_bytes: int = 0

    def claimed(self) -> Iterator[Claim]:
        """The source shared with readers, the destination for itself; whole blocks of both."""
        if self.source is not None and self.length_bytes:
            blocks = _blocks_around(self.source, self.source_offset_bytes, self.length_bytes)
            yield Claim(self.source.locks, *blocks, exclusive=False)
        written = self.length_bytes + self.padding_bytes
        if written:
            blocks = _blocks_around(self.destination, self.destination_offset_bytes, written)
            yield Claim(self.destination.locks, *blocks, exclusive=True)


def claims_of(movements: Sequence[Movement]) -> list[Claim]:
    """What all movements claim: ranges that touch are one, and of a disk with many the whole span is claimed, so that
    nobody can make others wait by claims without number."""
    by_kind: dict[tuple[RangeLocks, bool], list[tuple[int, int]]] = {}
    for movement in movements:
        for claim in movement.claimed():
            end_bytes = claim.offset_bytes + claim.length_bytes
            by_kind.setdefault((claim.locks, claim.exclusive), []).append((claim.offset_bytes, end_bytes))
    claims = []
    for (locks, exclusive), ranges in by_kind.items():
        joined = _joined(sorted(ranges))
        if len(joined) > MOST_RANGES_CLAIMED:
            joined = [(joined[0][0], joined[-1][1])]
        claims += [Claim(locks, begin, end - begin, exclusive) for begin, end in joined]
    return claims


def _joined(ranges: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    joined: list[tuple[int, int]] = []
    for begin, end in ranges:
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined


def copy_aborted(asc: Asc, segment: int, field: SegmentPointer | None = None) -> CheckCondition:
    """COPY ABORTED, with the number of the segment in the COMMAND-SPECIFIC INFORMATION field (SPC-4 5.17.7.3)."""
    return CheckCondition(SenseKey.COPY_ABORTED, asc, field=field, command_specific=segment)


def carried_out(server: DeviceServer, operation: CopyOperation, movements: Sequence[Movement]) -> Steps:
    """Move all, one after the other; what becomes of it is told to the operation, whatever ends it."""
    try:
        for movement in movements:
            yield from _move(operation, movement)
            operation.segments_processed = movement.segment + 1
        if operation.status is CopyStatus.IN_BACKGROUND:
            yield from _written_through(server, movements)
        operation.end(CopyStatus.COMPLETED)
    except _AbortAskedError:
        return Reply(Status.TASK_ABORTED)
    except CheckCondition as condition:
        reply = server.refuse(condition)
        operation.end(CopyStatus.FAILED, reply)
        return reply
    finally:
        # Also where the task was aborted, and the steps are closed.
        if operation.under_way:
            operation.end(CopyStatus.TERMINATED)
    return GOOD


def _written_through(server: DeviceServer, movements: Sequence[Movement]) -> Steps:
    """WCE 0 for what goes on behind its answer; the rest is flushed by whoever runs a command's steps."""
    if server.write_through:
        for number, unit in enumerate(dict.fromkeys(movement.destination for movement in movements)):
            try:
                yield Flush(unit)
            except DiskFault as fault:
                raise copy_aborted(fault_condition(fault).asc, number) from fault
    return GOOD


class _AbortAskedError(Exception):
    """The operation shall go no further."""


def _move(operation: CopyOperation, movement: Movement) -> Steps:
    try:
        for begin, size in _pieces(movement):
            if operation.abort_asked:
                raise _AbortAskedError
            offset_bytes = movement.destination_offset_bytes + begin
            if movement.source is None:
                yield WriteZeroes(movement.destination, offset_bytes, size)
            else:
                data = yield from _read(movement.source, movement.source_offset_bytes + begin, size)
                yield from _write(movement.destination, offset_bytes, data)
            operation.advance(size)
        if movement.padding_bytes:
            end_bytes = movement.destination_offset_bytes + movement.length_bytes
            yield from _write(movement.destination, end_bytes, memoryview(bytes(movement.padding_bytes)))
    except DiskFault as fault:
        raise copy_aborted(fault_condition(fault).asc, movement.segment) from fault
    return GOOD


def _blocks_around(unit: LogicalUnit, offset_bytes: int, length_bytes: int) -> tuple[int, int]:
    """Offset and length of the whole blocks that a range of bytes touches."""
    begin = offset_bytes - offset_bytes % unit.block_bytes
    end = offset_bytes + length_bytes
    return begin, end + -end % unit.block_bytes - begin


def _read(unit: LogicalUnit, offset_bytes: int, length_bytes: int) -> Generator[Request, Any, memoryview]:
    """Any bytes of a disk: it is asked for whole blocks, for some disks have nothing else."""
    begin, whole_bytes = _blocks_around(unit, offset_bytes, length_bytes)
    blocks = yield Read(unit, begin, whole_bytes)
    return memoryview(blocks)[offset_bytes - begin :][:length_bytes]


def _write(unit: LogicalUnit, offset_bytes: int, data: memoryview) -> Part:
    """Any bytes of a disk, as whole blocks; the rest of the first and the last one stays as it is."""
    begin, whole_bytes = _blocks_around(unit, offset_bytes, len(data))
    if whole_bytes == len(data):
        yield Write(unit, begin, data)
        return
    found = yield Read(unit, begin, whole_bytes)
    blocks = bytearray(found)
    at = offset_bytes - begin
    blocks[at : at + len(data)] = data
    yield Write(unit, begin, blocks)


def _pieces(movement: Movement) -> Iterator[tuple[int, int]]:
    """Offset and length of each piece, from the end where the destination overlaps what is still to be read."""
    source = movement.source
    piece_bytes = ZEROES_BYTES if source is None else PIECE_BYTES
    begins = range(0, movement.length_bytes, piece_bytes)
    ahead_bytes = movement.destination_offset_bytes - movement.source_offset_bytes
    overlaps = source is not None and source.locks is movement.destination.locks
    if overlaps and 0 < ahead_bytes < movement.length_bytes:
        begins = begins[::-1]
    for begin in begins:
        yield begin, min(piece_bytes, movement.length_bytes - begin)
