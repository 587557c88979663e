"""A disk as the bytes of a file: any offset, any length, and errors as errno has them."""

from __future__ import annotations

import errno

from initiator.disk import Disk
from initiator.errors import (
    ReservationConflict,
    SpaceExhausted,
    UnsupportedCommand,
    WriteProtected,
)
from initiator.fuse.block_ranges import BlockRanges

_ERRNO = (
    (SpaceExhausted, errno.ENOSPC),  # a kind of WriteProtected: it goes first
    (WriteProtected, errno.EROFS),
    (ReservationConflict, errno.EBADE),  # as Linux has it for its own SCSI disks
    (UnsupportedCommand, errno.EOPNOTSUPP),
)


def errno_of(error: BaseException) -> int:
    """Give the errno of a failure: EROFS, ENOSPC, EBADE (a reservation), EOPNOTSUPP, and EIO for all else."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    return next((number for kind, number in _ERRNO if isinstance(error, kind)), errno.EIO)


class DiskFile:
    """Reads and writes of bytes. A write that begins or ends within a block reads that block first; nothing else is
    written to the blocks of such a write meanwhile, so that of two that meet in a block both are kept."""

    def __init__(self, disk: Disk, *, read_only: bool = False) -> None:
        self.disk = disk
        self.read_only = read_only
        self._ranges = BlockRanges()

    @property
    def size_bytes(self) -> int:
        """The length of the file."""
        return self.disk.size_bytes

    async def read_into(self, offset: int, view: memoryview) -> int:
        """Fill a buffer; give how many bytes there are, which at the end of the disk are fewer."""
        count = min(len(view), max(self.size_bytes - offset, 0))
        first, head = divmod(offset, self.disk.block_bytes)
        tail = (head + count) % self.disk.block_bytes
        if not count:
            return 0
        if not head and not tail:
            await self.disk.read_into(first, view[:count])
            return count
        blocks = bytearray(-(-(head + count) // self.disk.block_bytes) * self.disk.block_bytes)
        await self.disk.read_into(first, blocks)
        view[:count] = memoryview(blocks)[head : head + count]
        return count

    async def write(self, offset: int, data: memoryview) -> int:
        """Write bytes; give how many, which at the end of the disk are fewer.

        Raises:
            OSError: ENOSPC behind the end of the disk, EROFS.
        """
        self._check_writable()
        count = min(len(data), max(self.size_bytes - offset, 0))
        if not count:
            if not len(data):
                return 0
            raise OSError(errno.ENOSPC, "behind the end of the disk")
        first, head = divmod(offset, self.disk.block_bytes)
        end, tail = divmod(offset + count, self.disk.block_bytes)
        claim = await self._ranges.claim(first, end + bool(tail), alone=bool(head or tail))
        try:
            if claim.alone:
                await self._write_parts(claim.first, claim.end, head, data[:count])
            else:
                await self.disk.write(first, data[:count])
        finally:
            self._ranges.release(claim)
        return count

    async def zero(self, offset: int, length: int) -> None:
        """Have bytes read as zeros; whole blocks are unmapped, where the target has that.

        Raises:
            OSError: EROFS.
        """
        self._check_writable()
        stop = min(offset + length, self.size_bytes)
        block = self.disk.block_bytes
        first, end = -(-offset // block), stop // block
        if first >= end:  # within a block, or over the border of two
            await self.write(offset, memoryview(bytes(max(stop - offset, 0))))
            return
        await self.write(offset, memoryview(bytes(first * block - offset)))
        claim = await self._ranges.claim(first, end, alone=True)
        try:
            await self.disk.write_zeroes(first, end - first)
        finally:
            self._ranges.release(claim)
        await self.write(end * block, memoryview(bytes(stop - end * block)))

    async def flush(self) -> None:
        """Have on stable storage what was written."""
        await self.disk.flush()

    async def _write_parts(self, first: int, end: int, head: int, data: memoryview) -> None:
        block = self.disk.block_bytes
        blocks = bytearray((end - first) * block)
        view = memoryview(blocks)
        if head:
            await self.disk.read_into(first, view[:block])
        if (head + len(data)) % block and (end - first > 1 or not head):
            await self.disk.read_into(end - 1, view[-block:])
        view[head : head + len(data)] = data
        await self.disk.write(first, view)

    def _check_writable(self) -> None:
        if self.read_only:
            raise OSError(errno.EROFS, "attached to be read only")
