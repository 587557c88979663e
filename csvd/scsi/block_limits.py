"""The limits of the block commands, which VPD page B0h reports and the commands hold to (SBC-3 6.5.3, SBC-4 6.6.4)."""

from __future__ import annotations

from typing import Final, NamedTuple

from csvd.scsi.logical_unit import LogicalUnit

COMPARE_AND_WRITE_BLOCKS: Final = 128
ATOMIC_BYTES: Final = 1 << 20
"""What one write request to a disk takes, and what may be held twice to put it back."""
UNMAP_BLOCKS: Final = 1 << 20
UNMAP_DESCRIPTORS: Final = 256
WRITE_SAME_BLOCKS: Final = 0xFFFF
"""As much as WRITE SAME(10) can say: what it takes to write them stays within a host's timeout."""


class BlockLimits(NamedTuple):
    """Limits of one logical unit, in logical blocks; zero: the command is not offered.

    Attributes:
        granularity: OPTIMAL TRANSFER LENGTH GRANULARITY: blocks of a physical block.
        write_same_non_zero: WSNZ: a WRITE SAME of no blocks is refused, not taken to the end. So it is on a thin
            logical unit, where a length of zero that was computed wrong would discard the rest of the disk.
        unmap_descriptors: how many, not blocks.
    """

    granularity: int
    transfer: int
    prefetch: int
    compare_and_write: int
    write_same: int
    write_same_non_zero: bool
    atomic: int
    unmap: int
    unmap_descriptors: int


def limits_of(unit: LogicalUnit) -> BlockLimits:
    """The limits of a logical unit."""
    transfer = unit.maximum_transfer_blocks
    return BlockLimits(
        granularity=unit.physical_block_bytes // unit.block_bytes,
        transfer=transfer,
        prefetch=transfer,
        compare_and_write=min(COMPARE_AND_WRITE_BLOCKS, transfer),
        write_same=WRITE_SAME_BLOCKS,
        write_same_non_zero=unit.thin,
        atomic=max(1, min(ATOMIC_BYTES // unit.block_bytes, transfer, 0xFFFF)),
        unmap=UNMAP_BLOCKS if unit.thin else 0,
        unmap_descriptors=UNMAP_DESCRIPTORS if unit.thin else 0,
    )
