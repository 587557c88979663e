"""GET LBA STATUS(16) (SBC-3 5.4): which blocks the disk has allocated.

What is anchored counts as mapped, which the standard's name of the state allows: mapped, or in a state not known.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from construct import Const, Int8ub, Int32ub, Int64ub, Padding, Struct

from csvd.scsi.block_steps import shared
from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.outcome import Outcome, Reply, Status
from csvd.scsi.procedure import Allocation, Extent, Procedure, Steps
from csvd.scsi.sense import Asc, illegal_request

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

GET_LBA_STATUS: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("starting_logical_block_address", Int64ub, 0xFFFF_FFFF_FFFF_FFFF),
    CdbField("allocation_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved", Int8ub),
    CdbField("control", Int8ub, NACA),
)
HEADER: Final = Struct("parameter_data_length" / Int32ub, "reserved" / Const(0, Int32ub))
LBA_STATUS_DESCRIPTOR: Final = Struct(
    "logical_block_address" / Int64ub,
    "number_of_logical_blocks" / Int32ub,
    "provisioning_status" / Int8ub,
    Padding(3),
)

MAPPED: Final = 0x0
DEALLOCATED: Final = 0x1
MAX_DESCRIPTORS: Final = 1024
"""Of one answer: a fragmented disk must not cost more than that; the host asks again where the answer ends."""

_unpack = GET_LBA_STATUS.unpacker("starting_logical_block_address", "allocation_length").unpack_from


def _get_lba_status(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    lba, allocation_length = _unpack(cdb)
    unit = nexus.unit
    if lba >= unit.block_count:
        pointer = GET_LBA_STATUS.pointer("starting_logical_block_address")
        raise illegal_request(Asc.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, pointer)
    if not unit.thin:
        return _reply([(lba, unit.block_count - lba, MAPPED)], allocation_length)
    offset_bytes = lba * unit.block_bytes
    length_bytes = unit.block_count * unit.block_bytes - offset_bytes
    return Procedure(_steps(unit, offset_bytes, length_bytes, allocation_length), shared(unit, offset_bytes, 1))


def _steps(unit: LogicalUnit, offset_bytes: int, length_bytes: int, allocation_length: int) -> Steps:
    room = (allocation_length - HEADER.sizeof()) // LBA_STATUS_DESCRIPTOR.sizeof()
    # Extents of a file may end within a block: two of them make one descriptor at times.
    most_extents = max(1, min(room, MAX_DESCRIPTORS)) + 1
    extents = yield Allocation(unit, offset_bytes, length_bytes, most_extents)
    return _reply(runs_of(unit.block_bytes, extents)[:MAX_DESCRIPTORS], allocation_length)


def runs_of(block_bytes: int, extents: Iterable[Extent]) -> list[tuple[int, int, int]]:
    """Runs (LBA, blocks, provisioning status) of extents; a block that is allocated in part is mapped."""
    runs: list[tuple[int, int, int]] = []
    covered = None
    for offset_bytes, length_bytes, allocated in extents:
        end_bytes = offset_bytes + length_bytes
        if allocated:
            begin, end = offset_bytes // block_bytes, -(-end_bytes // block_bytes)
        else:
            begin, end = -(-offset_bytes // block_bytes), end_bytes // block_bytes
        begin = begin if covered is None else max(begin, covered)
        status = MAPPED if allocated else DEALLOCATED
        while begin < end:
            if runs and runs[-1][2] == status and runs[-1][1] < 0xFFFF_FFFF:
                first, blocks, _ = runs.pop()
            else:
                first, blocks = begin, 0
            blocks = min(end - first, 0xFFFF_FFFF)
            runs.append((first, blocks, status))
            begin = covered = first + blocks
    return runs


def _reply(runs: Iterable[tuple[int, int, int]], allocation_length: int) -> Reply:
    descriptors = b"".join(
        LBA_STATUS_DESCRIPTOR.build(
            {
                "logical_block_address": lba,
                "number_of_logical_blocks": min(blocks, 0xFFFF_FFFF),
                "provisioning_status": status,
            }
        )
        for lba, blocks, status in runs
    )
    # PARAMETER DATA LENGTH counts what follows it.
    header = HEADER.build({"parameter_data_length": 4 + len(descriptors)})
    return Reply(Status.GOOD, (header + descriptors)[:allocation_length])


COMMANDS: Final = (
    Command(
        name="GET LBA STATUS",
        operation_code=0x9E,
        service_action=0x12,
        layout=GET_LBA_STATUS,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS,
        handler=_get_lba_status,
    ),
)
