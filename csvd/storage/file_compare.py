"""Comparing and writing a block of a file in one step, by a lock that all who do so take. It blocks: use a thread."""

from __future__ import annotations

import errno
import os
import time
from mmap import mmap
from typing import Final

from csvd.storage import file_locks
from csvd.storage.disk import StorageError, differs
from csvd.storage.ranges import read_range, write_range

_TRIES: Final = 100
_PAUSE_S: Final = 0.01


def compare_and_write(fd: int, offset_bytes: int, expected: bytes, new: bytes, url: str) -> None:
    """Write a block if it holds another one. It is not durable yet.

    Who is stopped in the middle of it has the lock, and keeps all others off until it has gone on, or has ended: what
    it would write later is what it has compared now.

    Args:
        fd: open for reading and writing; where for direct I/O, the block is one of those that the store goes by.

    Raises:
        StorageError: DIFFERS; EBUSY: another process has the lock all the time.
    """
    _lock(fd, offset_bytes, url)
    try:
        # Aligned memory, and no bytes: direct I/O takes nothing else.
        with mmap(-1, len(new)) as memory, memoryview(memory) as block:
            read_range(fd, block, offset_bytes, url)
            if block != expected:
                raise differs(url, offset_bytes)
            block[:] = new
            write_range(fd, (block,), offset_bytes, url)
    finally:
        file_locks.let_go(fd, file_locks.COMPARING)


def _lock(fd: int, offset_bytes: int, url: str) -> None:
    try:
        for _ in range(_TRIES):
            if file_locks.take(fd, file_locks.COMPARING):
                return
            time.sleep(_PAUSE_S)
    except OSError as error:
        number = error.errno or errno.EIO
        why = f"its file system has no locks by open file description: {os.strerror(number)}"
        raise StorageError("compare and write", number, where=url, offset_bytes=offset_bytes, why=why) from error
    pid = file_locks.holder_of(fd, file_locks.COMPARING)
    why = f"{f'the process {pid}' if pid else 'a process elsewhere'} has the lock for it, and does not let it go"
    raise StorageError("compare and write", errno.EBUSY, where=url, offset_bytes=offset_bytes, why=why)
