"""SYNCHRONIZE CACHE(10) and (16) (SBC-3)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int16ub, Int32ub, Int64ub

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.outcome import FLUSH, Outcome, Transfer
from csvd.scsi.sense import Asc, illegal_request

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

# IMMED is not evaluated: the answer comes when the data is durable, which is what a host that sets it waits for later.
SYNCHRONIZE_CACHE_10: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub),
    CdbField("logical_block_address", Int32ub, 0xFFFF_FFFF),
    CdbField("group_number", Int8ub),
    CdbField("number_of_logical_blocks", Int16ub, 0xFFFF),
    CdbField("control", Int8ub, NACA),
)
SYNCHRONIZE_CACHE_16: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub),
    CdbField("logical_block_address", Int64ub, 0xFFFF_FFFF_FFFF_FFFF),
    CdbField("number_of_logical_blocks", Int32ub, 0xFFFF_FFFF),
    CdbField("group_number", Int8ub),
    CdbField("control", Int8ub, NACA),
)


def _synchronize_cache(layout: CdbLayout) -> Handler:
    unpack = layout.unpacker("logical_block_address", "number_of_logical_blocks").unpack_from

    def synchronize_cache(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
        lba, blocks = unpack(cdb)
        unit = nexus.unit
        if lba + (blocks or 1) > unit.block_count:
            raise illegal_request(Asc.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, layout.pointer("logical_block_address"))
        # No blocks means all from the address to the end (SBC-3).
        blocks = blocks or unit.block_count - lba
        return Transfer(FLUSH, unit, lba * unit.block_bytes, blocks * unit.block_bytes, False)

    return synchronize_cache


def _row(name: str, operation_code: int, layout: CdbLayout) -> Command:
    return Command(
        name=name,
        operation_code=operation_code,
        layout=layout,
        direction=DataDirection.NONE,
        reservation=Reservation.CONFLICTS,
        handler=_synchronize_cache(layout),
        recommended_timeout_s=60,
    )


COMMANDS: Final = (
    _row("SYNCHRONIZE CACHE(10)", 0x35, SYNCHRONIZE_CACHE_10),
    _row("SYNCHRONIZE CACHE(16)", 0x91, SYNCHRONIZE_CACHE_16),
)
