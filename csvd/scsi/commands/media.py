"""READ and WRITE 6, 10, 12 and 16 (SBC-3).

The hot path: one unpack, four comparisons, one `Transfer`. Everything else is in `_refuse_or_empty`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int16ub, Int32ub, Int64ub

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.outcome import GOOD, READ, WRITE, Outcome, Reply, Transfer
from csvd.scsi.sense import Asc, CheckCondition, SenseKey, illegal_request, invalid_field_in_cdb

if TYPE_CHECKING:
    from collections.abc import Callable

    from csvd.scsi.device_server import DeviceServer, ItlNexus
    from csvd.scsi.logical_unit import LogicalUnit

PROTECT: Final = 0xE0
"""RDPROTECT and WRPROTECT: without protection information, every value but zero is refused (SBC-3)."""
DPO: Final = 0x10
FUA: Final = 0x08
_LBA_HIGH: Final = 0x1F

_OPERATION_CODE: Final = CdbField("operation_code", Int8ub)
# There are no groups to count for (GROUP_SUP is zero), so the field is ignored (SBC-3 4.22).
_GROUP: Final = CdbField("group_number", Int8ub)
_CONTROL: Final = CdbField("control", Int8ub, NACA)

TRANSFER_6: Final = CdbLayout(
    _OPERATION_CODE,
    CdbField("logical_block_address_high", Int8ub, _LBA_HIGH),
    CdbField("logical_block_address", Int16ub, 0xFFFF),
    CdbField("transfer_length", Int8ub, 0xFF),
    _CONTROL,
)


def transfer_10(flags: int, length: str = "transfer_length") -> CdbLayout:
    """The layout that most ten-byte block commands share.

    Args:
        flags: mask of the bits of byte 1 that are evaluated.
        length: the standard's name of the number of blocks.
    """
    return CdbLayout(
        _OPERATION_CODE,
        CdbField("flags", Int8ub, flags),
        CdbField("logical_block_address", Int32ub, 0xFFFF_FFFF),
        _GROUP,
        CdbField(length, Int16ub, 0xFFFF),
        _CONTROL,
    )


def transfer_12(flags: int, length: str = "transfer_length") -> CdbLayout:
    """The layout that the twelve-byte block commands share; see `transfer_10`."""
    return CdbLayout(
        _OPERATION_CODE,
        CdbField("flags", Int8ub, flags),
        CdbField("logical_block_address", Int32ub, 0xFFFF_FFFF),
        CdbField(length, Int32ub, 0xFFFF_FFFF),
        _GROUP,
        _CONTROL,
    )


def transfer_16(flags: int, length: str = "transfer_length") -> CdbLayout:
    """The layout that most sixteen-byte block commands share; see `transfer_10`."""
    return CdbLayout(
        _OPERATION_CODE,
        CdbField("flags", Int8ub, flags),
        CdbField("logical_block_address", Int64ub, 0xFFFF_FFFF_FFFF_FFFF),
        CdbField(length, Int32ub, 0xFFFF_FFFF),
        _GROUP,
        _CONTROL,
    )


TRANSFER_10: Final = transfer_10(PROTECT | DPO | FUA)
TRANSFER_12: Final = transfer_12(PROTECT | DPO | FUA)
TRANSFER_16: Final = transfer_16(PROTECT | DPO | FUA)


def check_range(
    layout: CdbLayout,
    unit: LogicalUnit,
    lba: int,
    blocks: int,
    *,
    most: int | None = None,
    length: str = "transfer_length",
) -> None:
    """Whether a transfer is within the logical unit and its limit.

    Args:
        most: the limit; MAXIMUM TRANSFER LENGTH by default.
        length: the field that says how many blocks.

    Raises:
        CheckCondition: LOGICAL BLOCK ADDRESS OUT OF RANGE, also for no blocks at an address that does not exist;
            INVALID FIELD IN CDB for a transfer that is too long (SBC-3, Block Limits VPD page).
    """
    if lba + (blocks or 1) > unit.block_count:
        raise illegal_request(Asc.LOGICAL_BLOCK_ADDRESS_OUT_OF_RANGE, layout.pointer("logical_block_address"))
    if blocks > (unit.maximum_transfer_blocks if most is None else most):
        raise invalid_field_in_cdb(layout.pointer(length))


def check_no_protection(layout: CdbLayout, flags: int) -> None:
    """Raises:
    CheckCondition: INVALID FIELD IN CDB for any RDPROTECT, WRPROTECT or VRPROTECT but zero.
    """
    if flags & PROTECT:
        raise invalid_field_in_cdb(layout.pointer("flags", PROTECT))


def check_writable(server: DeviceServer) -> None:
    """Raises:
    CheckCondition: DATA PROTECT, WRITE PROTECTED or, by SWP alone, SOFTWARE WRITE PROTECTED.
    """
    if server.write_protected:
        asc = Asc.WRITE_PROTECTED if server.unit.read_only else Asc.SOFTWARE_WRITE_PROTECTED
        raise CheckCondition(SenseKey.DATA_PROTECT, asc)


def _refuse_or_empty(layout: CdbLayout, unit: LogicalUnit, flags: int, lba: int, blocks: int) -> Reply:
    check_no_protection(layout, flags)
    check_range(layout, unit, lba, blocks)
    return GOOD


def _read(layout: CdbLayout) -> Handler:
    unpack = layout.unpacker("flags", "logical_block_address", "transfer_length").unpack_from

    def read(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
        flags, lba, blocks = unpack(cdb)
        unit = nexus.unit
        if not 0 < blocks <= unit.maximum_transfer_blocks or lba + blocks > unit.block_count or flags & PROTECT:
            return _refuse_or_empty(layout, unit, flags, lba, blocks)
        block_bytes = unit.block_bytes
        return Transfer(READ, unit, lba * block_bytes, blocks * block_bytes, flags & FUA != 0)

    return read


def _write(layout: CdbLayout) -> Handler:
    unpack = layout.unpacker("flags", "logical_block_address", "transfer_length").unpack_from

    def write(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
        flags, lba, blocks = unpack(cdb)
        unit, server = nexus.unit, nexus.server
        if server.write_protected:
            check_writable(server)
        if not 0 < blocks <= unit.maximum_transfer_blocks or lba + blocks > unit.block_count or flags & PROTECT:
            return _refuse_or_empty(layout, unit, flags, lba, blocks)
        block_bytes = unit.block_bytes
        return Transfer(WRITE, unit, lba * block_bytes, blocks * block_bytes, flags & FUA != 0 or server.write_through)

    return write


def _write_length(layout: CdbLayout) -> Callable[[DeviceServer, bytes], int]:
    unpack = layout.unpacker("flags", "logical_block_address", "transfer_length").unpack_from

    def write_length(server: DeviceServer, cdb: bytes) -> int:
        flags, lba, blocks = unpack(cdb)
        unit = server.unit
        if blocks > unit.maximum_transfer_blocks or lba + blocks > unit.block_count or flags & PROTECT:
            return 0
        return 0 if server.write_protected else int(blocks * unit.block_bytes)

    return write_length


_unpack_6 = TRANSFER_6.unpacker("logical_block_address_high", "logical_block_address", "transfer_length").unpack_from


def _range_6(cdb: bytes) -> tuple[int, int]:
    high, low, blocks = _unpack_6(cdb)
    # A transfer length of zero is 256 blocks in the six-byte commands only (SBC-3).
    return (high & _LBA_HIGH) << 16 | low, blocks or 256


def _transfer_6(nexus: ItlNexus, cdb: bytes, operation: int, *, fua: bool = False) -> Transfer:
    lba, blocks = _range_6(cdb)
    unit = nexus.unit
    check_range(TRANSFER_6, unit, lba, blocks)
    return Transfer(operation, unit, lba * unit.block_bytes, blocks * unit.block_bytes, fua)


def _read_6(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    return _transfer_6(nexus, cdb, READ)


def _write_6(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    check_writable(nexus.server)
    return _transfer_6(nexus, cdb, WRITE, fua=nexus.server.write_through)


def _write_length_6(server: DeviceServer, cdb: bytes) -> int:
    lba, blocks = _range_6(cdb)
    unit = server.unit
    if blocks > unit.maximum_transfer_blocks or lba + blocks > unit.block_count or server.write_protected:
        return 0
    return blocks * unit.block_bytes


def _reading(name: str, operation_code: int, layout: CdbLayout, handler: Handler) -> Command:
    return Command(
        name=name,
        operation_code=operation_code,
        layout=layout,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS,
        handler=handler,
    )


def _writing(
    name: str,
    operation_code: int,
    layout: CdbLayout,
    handler: Handler,
    data_out_length: Callable[[DeviceServer, bytes], int],
) -> Command:
    return Command(
        name=name,
        operation_code=operation_code,
        layout=layout,
        direction=DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS,
        handler=handler,
        data_out_length=data_out_length,
    )


COMMANDS: Final = (
    _reading("READ(6)", 0x08, TRANSFER_6, _read_6),
    _reading("READ(10)", 0x28, TRANSFER_10, _read(TRANSFER_10)),
    _reading("READ(12)", 0xA8, TRANSFER_12, _read(TRANSFER_12)),
    _reading("READ(16)", 0x88, TRANSFER_16, _read(TRANSFER_16)),
    _writing("WRITE(6)", 0x0A, TRANSFER_6, _write_6, _write_length_6),
    _writing("WRITE(10)", 0x2A, TRANSFER_10, _write(TRANSFER_10), _write_length(TRANSFER_10)),
    _writing("WRITE(12)", 0xAA, TRANSFER_12, _write(TRANSFER_12), _write_length(TRANSFER_12)),
    _writing("WRITE(16)", 0x8A, TRANSFER_16, _write(TRANSFER_16), _write_length(TRANSFER_16)),
)
