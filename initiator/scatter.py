"""Scatter lists: the buffers of one range of blocks, put together into what single commands move."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Final, NamedTuple

DIRECT_BYTES: Final = 64 << 10
"""A buffer with so much left moves without a copy, in commands of its own; smaller ones share a command."""


class Piece(NamedTuple):
    """The blocks of one command, and the parts of the buffers that hold them, in order."""

    lba: int
    blocks: int
    views: list[memoryview]


def pieces(lba: int, buffers: Sequence[memoryview], block_bytes: int, limit: Callable[[int], int]) -> Iterator[Piece]:
    """Cut buffers, which together are of whole blocks, into pieces; a border may be inside a block.

    ``limit(lba)`` gives the most blocks of a piece that begins there. The memory of a piece that has more than one view
    has to be copied, and is at most of that many blocks.
    """
    left = [view for view in buffers if len(view)]
    left.reverse()
    while left:
        most_bytes = limit(lba) * block_bytes
        views: list[memoryview] = []
        size_bytes = 0
        while left and size_bytes < most_bytes:
            view = left.pop()
            whole_bytes = len(view) // block_bytes * block_bytes
            direct = len(view) >= max(DIRECT_BYTES, block_bytes)
            if views and direct and size_bytes % block_bytes == 0:
                left.append(view)  # what is gathered goes first, and this one by itself
                break
            take = min(len(view), most_bytes - size_bytes)
            if direct:
                # Of a long buffer: all whole blocks at once, or only what completes the block before it.
                take = min(whole_bytes, most_bytes) if not views else -size_bytes % block_bytes
            views.append(view[:take])
            size_bytes += take
            if take < len(view):
                left.append(view[take:])
            if direct:
                break
        yield Piece(lba, size_bytes // block_bytes, views)
        lba += size_bytes // block_bytes
