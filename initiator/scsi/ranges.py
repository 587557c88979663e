"""Cutting ranges of blocks into what one command may move, at borders that the disk likes."""

from __future__ import annotations

from collections.abc import Iterator
from math import lcm

from initiator.scsi.answers import Capacity
from initiator.scsi.inquiry import BlockLimits


def cut(lba: int, blocks: int, most: int, granularity: int = 1, alignment: int = 0) -> Iterator[tuple[int, int]]:
    """Cut a range into parts of at most ``most`` blocks; give the address and the length of each.

    Every part but the last ends where ``(LBA - alignment) % granularity`` is 0; where ``most`` is less than the
    granularity it counts for nothing.
    """
    if granularity <= 1 or granularity > most:
        granularity = 1
    whole = most // granularity * granularity
    end = lba + blocks
    while lba < end:
        # As long as it is not at a border a part is shorter, by what it is behind the border.
        count = min(whole - (lba - alignment) % granularity, end - lba)
        yield lba, count
        lba += count


def transfer_granularity(capacity: Capacity, limits: BlockLimits, most: int) -> int:
    """Give the blocks at whose multiples transfers of at most ``most`` are best cut (SBC-3 section 6.5.3).

    It is of whole physical blocks, and a multiple of the OPTIMAL TRANSFER LENGTH GRANULARITY where both fit.
    """
    physical = max(1, capacity.physical_block_bytes // capacity.block_bytes)
    both = lcm(physical, limits.optimal_transfer_length_granularity or 1)
    if both <= most:
        return both
    return physical if physical <= most else 1
