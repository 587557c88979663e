"""What the block commands of several steps have in common: a range, perhaps Data-Out, then steps (SBC-3 5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, NamedTuple, TypeAlias

from csvd.scsi.block_steps import exclusive, shared, whole_data_out
from csvd.scsi.cdb import CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.outcome import GOOD, Outcome
from csvd.scsi.procedure import Procedure, Steps
from csvd.scsi.sense import CheckCondition

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus
    from csvd.scsi.logical_unit import LogicalUnit

VERIFY_TIMEOUT_S: Final = 60


class BlockRange(NamedTuple):
    """What a CDB asks for, checked.

    Attributes:
        unit: whose blocks.
        flags: byte 1.
        offset_bytes, length_bytes: the range on the disk; no length: nothing is done.
        data_out_bytes: Data-Out that it takes.
    """

    unit: LogicalUnit
    flags: int
    offset_bytes: int
    length_bytes: int
    data_out_bytes: int = 0


Parse: TypeAlias = "Callable[[DeviceServer, bytes], BlockRange]"
"""Checks a CDB; raises CheckCondition for what is wrong in it."""
Carry: TypeAlias = Callable[[BlockRange, memoryview], Steps]
"""Makes the steps of a command from what is asked and its Data-Out."""


def block_range(unit: LogicalUnit, flags: int, lba: int, blocks: int, data_out_blocks: int = 0) -> BlockRange:
    """A range given in blocks."""
    size = unit.block_bytes
    return BlockRange(unit, flags, lba * size, blocks * size, data_out_blocks * size)


def data_out_length_of(parse: Parse) -> Callable[[DeviceServer, bytes], int]:
    """`Command.data_out_length` of a command."""

    def data_out_length(server: DeviceServer, cdb: bytes) -> int:
        try:
            return parse(server, cdb).data_out_bytes
        except CheckCondition:
            return 0

    return data_out_length


def handler_of(parse: Parse, carry: Carry, *, alone: bool, exact_data_out: bool = False) -> Handler:
    """The handler of a command.

    Args:
        alone: it has its range for itself while it runs.
        exact_data_out: see `Procedure`.
    """
    claim = exclusive if alone else shared

    def handle(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
        asked = parse(nexus.server, cdb)
        if not asked.length_bytes:
            return Procedure(_nothing(), exact_data_out=True) if exact_data_out else GOOD
        data = whole_data_out(data_out, asked.data_out_bytes)
        claims = claim(asked.unit, asked.offset_bytes, asked.length_bytes)
        return Procedure(carry(asked, data), claims, exact_data_out=exact_data_out)

    return handle


def _nothing() -> Steps:
    yield from ()
    return GOOD


def changing(
    name: str,
    operation_code: int,
    layout: CdbLayout,
    parse: Parse,
    handler: Handler,
    *,
    recommended_timeout_s: int = 60,
) -> Command:
    """The row of a command that changes blocks: it conflicts with any reservation of others (SBC-3 4.17)."""
    return Command(
        name=name,
        operation_code=operation_code,
        layout=layout,
        direction=DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS,
        handler=handler,
        data_out_length=data_out_length_of(parse),
        recommended_timeout_s=recommended_timeout_s,
    )
