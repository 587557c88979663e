"""Whole transfers over system calls that may do a part: preadv, pwritev, fallocate. They block: use a thread."""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Sequence
from typing import Final

from csvd.storage.disk import Buffer, StorageError
from csvd.storage.unwritten import unwritten_runs

IOV_MAX: Final = os.sysconf("SC_IOV_MAX")

_FALLOC_FL_KEEP_SIZE: Final = 0x01
_FALLOC_FL_PUNCH_HOLE: Final = 0x02
_FALLOC_FL_ZERO_RANGE: Final = 0x10
_CANNOT: Final = (errno.EOPNOTSUPP, errno.ENOSYS)
_ZEROS: Final = bytes(1 << 20)

# The os module has posix_fallocate only, which can neither punch nor zero.
_fallocate = ctypes.CDLL(None, use_errno=True).fallocate
_fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
_fallocate.restype = ctypes.c_int


def read_range(fd: int, buffer: memoryview, offset_bytes: int, url: str) -> None:
    """Fill the buffer from the file.

    Raises:
        StorageError: errno of the system call; EIO where the file ends first, as one that was truncated does.
    """
    rest = buffer
    while rest.nbytes:
        try:
            count = os.preadv(fd, (rest,), offset_bytes)
        except OSError as error:
            raise _failed("read", error, url, offset_bytes) from error
        if not count:
            why = "the file ends there, it was truncated"
            raise StorageError("read", errno.EIO, where=url, offset_bytes=offset_bytes, why=why)
        offset_bytes += count
        rest = rest[count:]


def write_range(fd: int, buffers: Sequence[Buffer], offset_bytes: int, url: str) -> None:
    """Write all buffers one after the other, `IOV_MAX` at a time.

    Raises:
        StorageError: errno of the system call, with the first byte that was not written.
    """
    views = [memoryview(buffer) for buffer in buffers]
    at = 0
    while at < len(views):
        try:
            count = os.pwritev(fd, views[at : at + IOV_MAX], offset_bytes)
        except OSError as error:
            raise _failed("write", error, url, offset_bytes) from error
        offset_bytes += count
        if not count and any(view.nbytes for view in views[at : at + IOV_MAX]):
            why = "the system took no byte"
            raise StorageError("write", errno.EIO, where=url, offset_bytes=offset_bytes, why=why)
        while at < len(views) and count >= views[at].nbytes:
            count -= views[at].nbytes
            at += 1
        if count:
            views[at] = views[at][count:]


def resize_file(fd: int, size_bytes: int | None, url: str) -> int:
    """Give a regular file this size; what is added reads as zeros. A block device keeps its own; None changes nothing.

    Returns:
        The size, in bytes.

    Raises:
        StorageError: errno of the system call; ENOSPC, EFBIG where there is no room for it.
    """
    try:
        if size_bytes is not None and stat.S_ISREG(os.fstat(fd).st_mode):
            os.ftruncate(fd, size_bytes)
        return os.lseek(fd, 0, os.SEEK_END)
    except OSError as error:
        raise _failed("resize", error, url, 0) from error


def fill_file(fd: int, offset_bytes: int, length_bytes: int, url: str) -> None:
    """Have the file system allocate a range, so that writing there can not run out of space; it reads as it did.

    Raises:
        StorageError: errno of the system call; ENOSPC where there is not so much.
    """
    try:
        os.posix_fallocate(fd, offset_bytes, length_bytes)
    except OSError as error:
        raise _failed("allocate", error, url, offset_bytes) from error


def punch_range(fd: int, offset_bytes: int, length_bytes: int, url: str) -> None:
    """Give the range back to the file system or device; it reads as zeros.

    Raises:
        StorageError: errno of the system call; EOPNOTSUPP where it cannot be done.
    """
    try:
        fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, offset_bytes, length_bytes)
    except OSError as error:
        raise _failed("unmap", error, url, offset_bytes) from error


def zero_range(fd: int, offset_bytes: int, length_bytes: int, url: str) -> None:
    """Make the range read as zeros, by the file system where it can, else by writing them.

    Raises:
        StorageError: errno of the system call.
    """
    try:
        fallocate(fd, _FALLOC_FL_ZERO_RANGE, offset_bytes, length_bytes)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise _failed("write zeroes", error, url, offset_bytes) from error
        for at in range(0, length_bytes, len(_ZEROS)):
            write_range(fd, (memoryview(_ZEROS)[: length_bytes - at],), offset_bytes + at, url)


def allocation_of(
    fd: int, offset_bytes: int, length_bytes: int, most_runs: int, url: str
) -> list[tuple[int, int, bool]]:
    """Runs (offset_bytes, length_bytes, allocated) of a range, by SEEK_DATA and SEEK_HOLE.

    Raises:
        StorageError: errno of the system call. Where a file system knows no holes, all is data.
    """
    runs: list[tuple[int, int, bool]] = []
    at, end = offset_bytes, offset_bytes + length_bytes
    try:
        while at < end and len(runs) < most_runs:
            try:
                data = min(os.lseek(fd, at, os.SEEK_DATA), end)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
                data = end  # a hole to the end of the file
            if data > at:
                runs.extend(_hole(fd, at, data - at, most_runs - len(runs)))
                at = runs[-1][0] + runs[-1][1]
                if at < data:
                    break
            if data < end and len(runs) < most_runs:
                hole = min(os.lseek(fd, data, os.SEEK_HOLE), end)
                runs.append((data, hole - data, True))
                data = hole
            at = data
    except OSError as error:
        if error.errno == errno.EINVAL:  # a block device, or a file system that can not tell
            return [(offset_bytes, length_bytes, True)]
        raise _failed("read", error, url, at) from error
    return runs


def _hole(fd: int, offset_bytes: int, length_bytes: int, most_runs: int) -> list[tuple[int, int, bool]]:
    """A hole, with what of it is allocated all the same: zeros that were asked to have their place."""
    runs: list[tuple[int, int, bool]] = []
    at, end = offset_bytes, offset_bytes + length_bytes
    unwritten = unwritten_runs(fd, offset_bytes, length_bytes, most_runs)
    for begin, run_bytes in unwritten:
        if begin > at:
            runs.append((at, begin - at, False))
        if runs and runs[-1][2] and runs[-1][0] + runs[-1][1] == begin:
            runs[-1] = (runs[-1][0], runs[-1][1] + run_bytes, True)
        else:
            runs.append((begin, run_bytes, True))
        at = begin + run_bytes
    if at < end and len(unwritten) < most_runs:
        runs.append((at, end - at, False))
    return runs[:most_runs]


def fallocate(fd: int, mode: int, offset_bytes: int, length_bytes: int) -> None:
    """fallocate(2).

    Raises:
        OSError: what the system says.
    """
    while _fallocate(fd, mode, offset_bytes, length_bytes):
        number = ctypes.get_errno()
        if number != errno.EINTR:
            raise OSError(number, os.strerror(number))


def can_punch(fd: int, size_bytes: int) -> bool:
    """Whether this file system can punch holes: a hole behind the end of the file changes nothing."""
    try:
        fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, size_bytes, 4096)
    except OSError as error:
        # Of one that is open for reading alone EBADF says nothing; its holes are told by SEEK_HOLE, or there are none.
        return error.errno not in _CANNOT
    return True


def can_zero(fd: int, size_bytes: int) -> bool:
    """Whether this file system can zero ranges: one behind the end of the file, of which it keeps the size."""
    try:
        fallocate(fd, _FALLOC_FL_ZERO_RANGE | _FALLOC_FL_KEEP_SIZE, size_bytes, 4096)
        fallocate(fd, _FALLOC_FL_PUNCH_HOLE | _FALLOC_FL_KEEP_SIZE, size_bytes, 4096)
    except OSError as error:
        return error.errno not in _CANNOT
    return True


def _failed(operation: str, error: OSError, url: str, offset_bytes: int) -> StorageError:
    return StorageError(operation, error.errno or errno.EIO, where=url, offset_bytes=offset_bytes)
