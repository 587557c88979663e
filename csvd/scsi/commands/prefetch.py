"""PRE-FETCH(10) and (16) (SBC-3 5.10, 5.11).

The answer is GOOD, never CONDITION MET: that would promise that the cache has room for all of the blocks, and the cache
is the kernel's, which takes the wish as a hint.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.scsi.block_limits import limits_of
from csvd.scsi.cdb import CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.commands.block_ranges import BlockRange, Parse, block_range, handler_of
from csvd.scsi.commands.media import check_range, transfer_10, transfer_16
from csvd.scsi.outcome import GOOD
from csvd.scsi.procedure import Prefetch, Steps

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer

# IMMED is not evaluated: no answer waits for the transfer.
PRE_FETCH_10: Final = transfer_10(0, "prefetch_length")
PRE_FETCH_16: Final = transfer_16(0, "prefetch_length")


def _parse(layout: CdbLayout) -> Parse:
    unpack = layout.unpacker("flags", "logical_block_address", "prefetch_length").unpack_from

    def parse(server: DeviceServer, cdb: bytes) -> BlockRange:
        flags, lba, blocks = unpack(cdb)
        unit = server.unit
        # No blocks means all from the address to the end, of which no more is asked for than one command may.
        most = limits_of(unit).prefetch
        wanted = blocks or max(1, min(most, unit.block_count - lba))
        check_range(layout, unit, lba, wanted, most=most, length="prefetch_length")
        return block_range(unit, flags, lba, wanted)

    return parse


def _prefetch(asked: BlockRange, _data: memoryview) -> Steps:
    yield Prefetch(asked.unit, asked.offset_bytes, asked.length_bytes)
    return GOOD


def _row(name: str, operation_code: int, layout: CdbLayout) -> Command:
    return Command(
        name=name,
        operation_code=operation_code,
        layout=layout,
        direction=DataDirection.NONE,
        reservation=Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS,
        handler=handler_of(_parse(layout), _prefetch, alone=False),
    )


COMMANDS: Final = (
    _row("PRE-FETCH(10)", 0x34, PRE_FETCH_10),
    _row("PRE-FETCH(16)", 0x90, PRE_FETCH_16),
)
