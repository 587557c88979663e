"""The blocks of the area over any disk: reading them, writing them durably, comparing and writing the owner's."""

from __future__ import annotations

import errno
from mmap import mmap

from csvd.storage.cluster_disk.layout import OWNER_OFFSET
from csvd.storage.disk import ComparingDisk, Disk, StorageError


async def read_blocks(disk: Disk, offset_bytes: int, length_bytes: int) -> bytes:
    """Read whole blocks.

    Raises:
        StorageError: they can not be read.
    """
    if not length_bytes:
        return b""
    # Aligned, so that direct I/O need not copy it once more. Not closed here: a disk may have a view of it yet.
    memory = mmap(-1, length_bytes)
    await disk.read_into(memoryview(memory), offset_bytes)
    return memory[:]


async def write_blocks(disk: Disk, data: bytes, offset_bytes: int) -> None:
    """Write whole blocks, durably.

    Raises:
        StorageError: it is unknown which of them are written.
    """
    await disk.write_from((data,), offset_bytes)
    await disk.flush()


def comparing(disk: Disk) -> ComparingDisk:
    """The disk, as one that can compare and write.

    Raises:
        StorageError: it can not.
    """
    if isinstance(disk, ComparingDisk):
        return disk
    why = "it can not compare and write a block in one step, and so nodes can not share it"
    raise StorageError("compare and write", errno.EOPNOTSUPP, where=disk.url, why=why)


async def read_owner_block(disk: Disk) -> bytes:
    """The owner block as it is on the disk.

    Raises:
        StorageError: it can not be read.
    """
    return await comparing(disk).read_compared(OWNER_OFFSET)
