"""Work on a whole medium, in steps: overwrite it with a pattern, give it back to the store, make it read as zeros."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final, TypeAlias

from csvd.scsi.outcome import GOOD
from csvd.scsi.procedure import Flush, Steps, Unmap, Write, WriteZeroes

if TYPE_CHECKING:
    from csvd.scsi.logical_unit import LogicalUnit

Progress: TypeAlias = Callable[[int, int], None]
"""Called with what is done and the total, in bytes."""

WRITE_BYTES: Final = 1 << 20
ERASE_BYTES: Final = 256 << 20
"""What one step does at most."""


def overwrite(unit: LogicalUnit, pattern: bytes, progress: Progress, *, count: int = 1, invert: bool = False) -> Steps:
    """Write a pattern to every block, and make it durable, so often.

    Args:
        pattern: 1 byte to a block; it begins anew in every block, and is cut at the block's end.
        count: passes.
        invert: every pass but the last writes the inverse of the pass behind it (SBC-3, INVERT).
    """
    total_bytes = unit.block_bytes * unit.block_count
    block = (pattern * -(-unit.block_bytes // len(pattern)))[: unit.block_bytes]
    chunk = block * max(1, WRITE_BYTES // unit.block_bytes)
    inverse = bytes(byte ^ 0xFF for byte in block) * (len(chunk) // len(block)) if invert else chunk
    for number in range(count):
        data = memoryview(inverse if (count - 1 - number) % 2 else chunk)
        for offset_bytes in range(0, total_bytes, len(data)):
            # Durable piece by piece: progress is true, and other disks do not wait behind a cache full of this.
            yield Write(unit, offset_bytes, data[: total_bytes - offset_bytes], fua=True)
            progress(number * total_bytes + offset_bytes, count * total_bytes)
        yield Flush(unit)
    return GOOD


def erase(unit: LogicalUnit, progress: Progress) -> Steps:
    """Give every block back to the store, durably; the medium reads as zeros then."""
    yield from _in_pieces(Unmap, unit, progress)
    return GOOD


def zero(unit: LogicalUnit, progress: Progress) -> Steps:
    """Make the medium read as zeros, durably, in the fastest way it has."""
    yield from _in_pieces(Unmap if unit.thin else WriteZeroes, unit, progress)
    return GOOD


def _in_pieces(request: type[Unmap | WriteZeroes], unit: LogicalUnit, progress: Progress) -> Steps:
    total_bytes = unit.block_bytes * unit.block_count
    for offset_bytes in range(0, total_bytes, ERASE_BYTES):
        yield request(unit, offset_bytes, min(ERASE_BYTES, total_bytes - offset_bytes))
        progress(offset_bytes, total_bytes)
    yield Flush(unit)
    return GOOD
