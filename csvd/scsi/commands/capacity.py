"""READ CAPACITY(10) and (16) (SBC-3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int16ub, Int32ub, Int64ub, Padding, Struct

from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.outcome import Outcome, Reply, Status
from csvd.scsi.provisioning import provisioning
from csvd.scsi.sense import invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

_PMI: Final = 0x01

READ_CAPACITY_10: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("reserved", Int8ub),
    CdbField("logical_block_address", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved_2", Int16ub),
    CdbField("flags", Int8ub, _PMI),
    CdbField("control", Int8ub, NACA),
)
READ_CAPACITY_16: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("logical_block_address", Int64ub, 0xFFFF_FFFF_FFFF_FFFF),
    CdbField("allocation_length", Int32ub, 0xFFFF_FFFF),
    CdbField("flags", Int8ub, _PMI),
    CdbField("control", Int8ub, NACA),
)

CAPACITY_10_DATA: Final = Struct("returned_logical_block_address" / Int32ub, "block_length" / Int32ub)
CAPACITY_16_DATA: Final = Struct(
    "returned_logical_block_address" / Int64ub,
    "block_length" / Int32ub,
    "protection" / Int8ub,
    "exponents" / Int8ub,
    "provisioning_and_lowest_aligned" / Int16ub,
    Padding(16),
)

_unpack_10 = READ_CAPACITY_10.unpacker("logical_block_address", "flags").unpack_from
_unpack_16 = READ_CAPACITY_16.unpacker("logical_block_address", "allocation_length", "flags").unpack_from


def _check_partial_medium(layout: CdbLayout, lba: int, flags: int) -> None:
    # SBC-2: without PMI the address shall be zero. SBC-3 made both obsolete; with PMI the answer is the same here.
    if lba and not flags & _PMI:
        raise invalid_field_in_cdb(layout.pointer("logical_block_address"))


def _read_capacity_10(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    lba, flags = _unpack_10(cdb)
    _check_partial_medium(READ_CAPACITY_10, lba, flags)
    unit = nexus.unit
    last = min(unit.block_count - 1, 0xFFFF_FFFF)
    data = CAPACITY_10_DATA.build({"returned_logical_block_address": last, "block_length": unit.block_bytes})
    return Reply(Status.GOOD, data)


def _read_capacity_16(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    lba, allocation_length, flags = _unpack_16(cdb)
    _check_partial_medium(READ_CAPACITY_16, lba, flags)
    unit = nexus.unit
    managed = provisioning(unit, nexus.server.commands)
    data = CAPACITY_16_DATA.build(
        {
            "returned_logical_block_address": unit.block_count - 1,
            "block_length": unit.block_bytes,
            "protection": 0,
            "exponents": unit.logical_blocks_per_physical_block_exponent,
            "provisioning_and_lowest_aligned": managed.lbpme << 15 | managed.lbprz << 14,
        }
    )
    return Reply(Status.GOOD, data[:allocation_length])


COMMANDS: Final = (
    Command(
        name="READ CAPACITY(10)",
        operation_code=0x25,
        layout=READ_CAPACITY_10,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.ALLOWED,
        handler=_read_capacity_10,
    ),
    Command(
        name="READ CAPACITY(16)",
        operation_code=0x9E,
        service_action=0x10,
        layout=READ_CAPACITY_16,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.ALLOWED,
        handler=_read_capacity_16,
    ),
)
