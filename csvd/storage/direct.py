"""Direct I/O (O_DIRECT): past the page cache, by way of aligned buffers where the caller's are not. Use a thread.

The kernel wants offset, length and address to be multiples of a unit of the store. Offset and length are whole logical
blocks, which `open_disk` holds to the unit; an address rarely is one, so most transfers are copied once.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from mmap import PAGESIZE, mmap
from queue import SimpleQueue
from typing import Final

from csvd.storage.disk import Buffer
from csvd.storage.ranges import read_range, write_range

_UNITS: Final = (512, 4096)
_BOUNCE_BYTES: Final = 1 << 20
_BOUNCE_BUFFERS: Final = 8


class BounceBuffers:
    """Page-aligned buffers of a mebibyte that the threads of one disk share. Who finds none waits for one.

    Args:
        count, length_bytes: how many, and how long each of them is.
    """

    def __init__(self, count: int = _BOUNCE_BUFFERS, length_bytes: int = _BOUNCE_BYTES) -> None:
        self.length_bytes = length_bytes
        self._free: SimpleQueue[memoryview] = SimpleQueue()
        for _ in range(count):
            # Anonymous memory takes no page before it is used.
            self._free.put(memoryview(mmap(-1, length_bytes)))

    @contextmanager
    def one(self) -> Iterator[memoryview]:
        """Have one for a while."""
        buffer = self._free.get()
        try:
            yield buffer
        finally:
            self._free.put(buffer)


def direct_unit_bytes(fd: int) -> int | None:
    """The unit of direct I/O of an open file, found out by reading: 512 or 4096 bytes; None where it can not be done.

    Args:
        fd: opened with O_DIRECT, of at least 4096 bytes.
    """
    with mmap(-1, PAGESIZE) as page:
        for unit_bytes in _UNITS:
            try:
                os.preadv(fd, (memoryview(page)[:unit_bytes],), 0)
                # Some stores take a short length, and not the offset that follows it.
                os.preadv(fd, (memoryview(page)[:unit_bytes],), unit_bytes)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
            else:
                return unit_bytes
    return None


def is_aligned(buffer: Buffer) -> bool:
    """Whether direct I/O can use a buffer as it is; one that can not be written to is taken for unaligned."""
    view = memoryview(buffer)
    if view.readonly or not view.nbytes:
        return False
    return ctypes.addressof(ctypes.c_char.from_buffer(view)) % PAGESIZE == 0


def read_direct(fd: int, buffer: memoryview, offset_bytes: int, url: str, bounce: BounceBuffers) -> None:
    """Fill the buffer from the file.

    Raises:
        StorageError: as `read_range`.
    """
    if is_aligned(buffer):
        read_range(fd, buffer, offset_bytes, url)
        return
    with bounce.one() as aligned:
        for at in range(0, buffer.nbytes, len(aligned)):
            length_bytes = min(len(aligned), buffer.nbytes - at)
            read_range(fd, aligned[:length_bytes], offset_bytes + at, url)
            buffer[at : at + length_bytes] = aligned[:length_bytes]


def write_direct(fd: int, buffers: Sequence[Buffer], offset_bytes: int, url: str, bounce: BounceBuffers) -> None:
    """Write all buffers one after the other.

    Raises:
        StorageError: as `write_range`.
    """
    if len(buffers) == 1 and is_aligned(buffers[0]):
        write_range(fd, buffers, offset_bytes, url)
        return
    with bounce.one() as aligned:
        filled = 0
        for buffer in buffers:
            rest = memoryview(buffer)
            while rest.nbytes:
                taken = min(rest.nbytes, len(aligned) - filled)
                aligned[filled : filled + taken] = rest[:taken]
                filled += taken
                rest = rest[taken:]
                if filled == len(aligned):
                    write_range(fd, (aligned,), offset_bytes, url)
                    offset_bytes += filled
                    filled = 0
        if filled:
            write_range(fd, (aligned[:filled],), offset_bytes, url)
