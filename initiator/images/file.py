"""A file or a block device as an end of a copy. What may block is done in threads."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections import deque
from contextlib import suppress
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import deferToThreadPool

from initiator.errors import InitiatorError
from initiator.images.end import Identity
from initiator.images.plan import Run
from initiator.parallel import in_thread

CHUNK_BYTES: Final = 1 << 20
MOST_RUNS: Final = 1024
"""Runs of one answer of :meth:`FileEnd.runs`."""

PAGE_BYTES: Final = 4096
DIRECT_WRITERS: Final = 8
"""Writes past the page cache that a file has under way."""

_PUNCH_HOLE_KEEP_SIZE: Final = 0x02 | 0x01
_ZERO_RANGE: Final = 0x10
_UNSUPPORTED: Final = (errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL, errno.ENODEV)
_ZEROS: Final = memoryview(bytes(CHUNK_BYTES))

# The os module has posix_fallocate only, which can neither punch nor zero.
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int

_Result = TypeVar("_Result")
_Write = tuple[int, memoryview, Deferred[None]]


class FileEnd:
    """An open file or block device. Made by :func:`open_source` and :func:`open_target`."""

    align_bytes = 1
    ordered = False
    chunk_bytes = CHUNK_BYTES

    def __init__(self, path: str, fd: int, reactor: Any, *, is_new: bool = False) -> None:
        status = os.fstat(fd)
        self.name = path
        self.is_device = stat.S_ISBLK(status.st_mode)
        self.size_bytes: int | None = os.lseek(fd, 0, os.SEEK_END) if self.is_device else status.st_size
        self.grows = not self.is_device
        self.reads_zero = is_new
        self.zeroes_fast = True
        self._fd = fd
        self._reactor = reactor
        self._reads_cached = True
        self._name_is_durable = False
        self._to_write: deque[_Write] = deque()
        self._writing = 0
        self._direct_fd = -1

    @property
    def identity(self) -> Identity:
        """Device and inode, size and the time of the last change."""
        status = os.fstat(self._fd)
        if self.is_device:
            return {"kind": "device", "number": status.st_rdev, "size": self.size_bytes}
        return {
            "kind": "file",
            "device": status.st_dev,
            "inode": status.st_ino,
            "size": status.st_size,
            "modified_ns": status.st_mtime_ns,
        }

    async def runs(self, offset: int, length: int) -> list[Run]:
        """Holes and data, by SEEK_DATA and SEEK_HOLE."""
        return await in_thread(self._reactor, file_runs, self._fd, offset, length)

    async def read_into(self, offset: int, view: memoryview) -> int:
        """Fill the view: at once with what the page cache has, the rest in a thread."""
        count = 0
        if self._reads_cached:
            try:
                count = os.preadv(self._fd, [view], offset, os.RWF_NOWAIT)
            except BlockingIOError:
                count = 0
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self._reads_cached = False
        if count < len(view):
            await in_thread(self._reactor, self._read_all, offset + count, view[count:])
        return len(view)

    async def write(self, offset: int, view: memoryview) -> None:
        """Write, past the page cache where that can be; of what goes there one write at a time, for more would spin on
        the lock of the file."""
        written: Deferred[None] = Deferred()
        self._to_write.append((offset, view, written))
        self._write_next()
        await written

    def _write_next(self) -> None:
        if self._to_write and self._writing < (DIRECT_WRITERS if self._direct_fd >= 0 else 1):
            self._writing += 1
            offset, view, written = self._to_write.popleft()
            pool = self._reactor.getThreadPool()
            done: Deferred[None] = deferToThreadPool(self._reactor, pool, self._write_all, offset, view)
            done.addBoth(self._was_written, written)

    def _was_written(self, outcome: Any, written: Deferred[None]) -> None:
        self._writing -= 1
        self._write_next()
        if not written.called:  # else its caller has been cancelled
            written.callback(outcome)

    async def zero(self, offset: int, length: int) -> None:
        """Punch a hole; on a device zero it; where neither can be done, write zeros."""
        await in_thread(self._reactor, self._zero, offset, length)

    async def ends_at(self, size: int) -> None:
        """Make a file so long, if it is shorter: zeros at its end were not written."""
        if not self.is_device and os.fstat(self._fd).st_size < size:
            os.ftruncate(self._fd, size)

    async def flush(self) -> None:
        """fdatasync; of a new file the name, too."""
        await in_thread(self._reactor, self._flush)

    async def close(self) -> None:
        """Close the descriptor. Threads that still use it have ended: every call is awaited."""
        for fd in (self._fd, self._direct_fd):
            if fd >= 0:
                os.close(fd)
        self._fd = self._direct_fd = -1

    def write_directly(self) -> None:
        """From now on whole pages are written past the page cache, where the file system can. It saves a copy, and the
        drive has work from the first write on."""
        with suppress(OSError):
            self._direct_fd = os.open(f"/proc/self/fd/{self._fd}", os.O_WRONLY | os.O_CLOEXEC | os.O_DIRECT)

    # --- in threads

    def _flush(self) -> None:
        os.fdatasync(self._fd)
        if self.reads_zero and not self._name_is_durable:
            folder = os.open(os.path.dirname(os.path.abspath(self.name)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)
            self._name_is_durable = True

    def _read_all(self, offset: int, view: memoryview) -> None:
        while view:
            count = os.preadv(self._fd, [view], offset)
            if not count:
                raise InitiatorError("the file has become shorter while it was read", where=self.name)
            view, offset = view[count:], offset + count

    def _write_all(self, offset: int, view: memoryview) -> None:
        if self._direct_fd >= 0 and not (offset | len(view)) % PAGE_BYTES:
            view, offset = self._write_direct(offset, view)
        while view:
            count = os.pwritev(self._fd, [view], offset)
            view, offset = view[count:], offset + count

    def _write_direct(self, offset: int, view: memoryview) -> tuple[memoryview, int]:
        """Write past the page cache; give what the file system would not take that way."""
        try:
            while view and not len(view) % PAGE_BYTES:
                count = os.pwritev(self._direct_fd, [view], offset)
                view, offset = view[count:], offset + count
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
        return view, offset

    def _zero(self, offset: int, length: int) -> None:
        if self.zeroes_fast:
            try:
                _do_fallocate(self._fd, _ZERO_RANGE if self.is_device else _PUNCH_HOLE_KEEP_SIZE, offset, length)
                return
            except OSError as error:
                if error.errno not in _UNSUPPORTED:
                    raise
                self.zeroes_fast = False
        end = offset + length
        while offset < end:
            part = _ZEROS[: min(len(_ZEROS), end - offset)]
            self._write_all(offset, part)
            offset += len(part)


def file_runs(fd: int, offset: int, length: int) -> list[Run]:
    """Give the runs of a range of a file, at most about MOST_RUNS. On a file system without holes all is data."""
    found: list[Run] = []
    at, end = offset, offset + length
    while at < end and len(found) < MOST_RUNS:
        try:
            data = min(os.lseek(fd, at, os.SEEK_DATA), end)
        except OSError as error:
            if error.errno != errno.ENXIO:
                found.append(Run(at, end - at, zero=False))
                break
            data = end
        if data > at:
            found.append(Run(at, data - at, zero=True))
        if data < end:
            hole = min(os.lseek(fd, data, os.SEEK_HOLE), end)
            found.append(Run(data, hole - data, zero=False))
            data = hole
        at = data
    return found


def open_source(path: str, reactor: Any) -> FileEnd:
    """Open a file or a block device to read it.

    Raises:
        OSError: it can not be opened.
        InitiatorError: it is neither.
    """
    # O_NONBLOCK: a pipe in its place must not hang the program.
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        _check_kind(path, fd)
        end = FileEnd(path, fd, reactor)
        if not end.is_device:
            os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        return end
    except BaseException:
        os.close(fd)
        raise


def open_target(path: str, reactor: Any, *, size_bytes: int, keep: bool, avoid: Identity | None) -> FileEnd:
    """Open a file or a block device to write it; a file that is not there is made.

    Args:
        size_bytes: a file gets this size, or is made longer to have it where it is kept.
        keep: what the file holds beside this copy stays: it is not cut to nothing first.
        avoid: the identity of the source, which must not be what is written.

    Raises:
        OSError: it can not be opened, or there is no room.
        InitiatorError: it is neither, it is a device and too small, or it is the source.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    try:
        _check_kind(path, fd)
        end = FileEnd(path, fd, reactor)
        if avoid is not None and same_place(end.identity, avoid):
            raise InitiatorError("source and target are the same", where=path)
        if end.is_device:
            end.write_directly()
            return end
        if not keep:
            os.ftruncate(fd, 0)
        if os.fstat(fd).st_size < size_bytes:
            os.ftruncate(fd, size_bytes)
        end = FileEnd(path, fd, reactor, is_new=not keep)
        end.write_directly()
        return end
    except BaseException:
        os.close(fd)
        raise


def same_place(one: Identity, other: Identity) -> bool:
    """Whether two identities are of one file or one device, whatever it holds."""
    return all(one.get(key) == other.get(key) for key in ("kind", "device", "inode", "number", "unit"))


def _check_kind(path: str, fd: int) -> None:
    mode = os.fstat(fd).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        raise InitiatorError("this is neither a file nor a block device", where=path, hint="a pipe is given as -")


def _do_fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    while _fallocate(fd, mode, offset, length):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))
