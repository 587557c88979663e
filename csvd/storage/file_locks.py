"""Locks of single bytes by open file description (fcntl(2), F_OFD_SETLK), far behind any data. They may block on a
network file system: use a thread.

Such a lock belongs to an open file description. The kernel lets it go when the last descriptor of that is closed, which
is when the process has ended whatever it was at: a thread inside of a write keeps its descriptors until it is out of
it. So who gets the lock of a process knows that the process, and every write of it, is over.

The byte of the member NUMBER is at 2^62 + NUMBER; that at 2^62 is for comparing and writing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import struct
from typing import Final

FIRST_BYTE: Final = 1 << 62
"""What the kernel takes ends before 2^63, and so does what NFS carries."""
MOST_MEMBERS: Final = 32
COMPARING: Final = 0
"""Not a member: who compares and writes a block has this one."""

_FLOCK: Final = struct.Struct("@hhqqi4x")
"""struct flock: l_type, l_whence, l_start, l_len, l_pid, which has to be 0."""
_HELD: Final = (errno.EAGAIN, errno.EACCES)
_FDINFO_BYTES: Final = 1 << 16


def is_number(number: int) -> bool:
    """Whether a member can have this number."""
    return 1 <= number <= MOST_MEMBERS


def has_locks(fd: int) -> bool:
    """Whether the file system has such locks; what it says may be true of this host alone (NFS mounted with nolock)."""
    try:
        is_taken(fd, 1)
    except OSError:
        return False
    return True


def take(fd: int, number: int) -> bool:
    """Lock the byte of a member for an open file description that is open for writing; False: another one has it. A
    description that has it already keeps it.

    Raises:
        OSError: the file system has no such locks, or can not tell.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_WRLCK, number))
    except OSError as error:
        if error.errno in _HELD:
            return False
        raise
    return True


def let_go(fd: int, number: int) -> None:
    """Unlock the byte of a member, where this description has it.

    Raises:
        OSError: as of `take`.
    """
    fcntl.fcntl(fd, fcntl.F_OFD_SETLK, _flock(fcntl.F_UNLCK, number))


def is_taken(fd: int, number: int) -> bool:
    """Whether another description has the byte of a member.

    Raises:
        OSError: as of `take`.
    """
    found = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, _flock(fcntl.F_WRLCK, number))
    return bool(_FLOCK.unpack(found)[0] != fcntl.F_UNLCK)


def holder_of(fd: int, number: int) -> int | None:
    """The process of this host that has the byte of a member, found in /proc; None where none shows.

    Not seen are processes of other hosts, of other PID namespaces, and those of other users without the right to.
    """
    place = f"{FIRST_BYTE + number} "
    status = os.fstat(fd)
    own = os.getpid()
    for process in os.listdir("/proc"):
        if process.isdecimal() and int(process) != own and _has_lock(process, (status.st_dev, status.st_ino), place):
            return int(process)
    return None


def _has_lock(process: str, inode: tuple[int, int], place: str) -> bool:
    with contextlib.suppress(OSError):
        for name in os.listdir(f"/proc/{process}/fd"):
            with contextlib.suppress(OSError):
                status = os.stat(f"/proc/{process}/fd/{name}")
                if (status.st_dev, status.st_ino) == inode and _tells_lock(f"/proc/{process}/fdinfo/{name}", place):
                    return True
    return False


def _tells_lock(path: str, place: str) -> bool:
    """Whether a descriptor's information (proc_pid_fdinfo(5)) has a lock that begins at a byte."""
    with open(path, encoding="ascii", errors="replace") as file:
        lines = file.read(_FDINFO_BYTES).splitlines()
    return any(line.startswith("lock:") and " OFDLCK " in line and f" {place}" in line for line in lines)


def _flock(kind: int, number: int) -> bytes:
    if number != COMPARING and not is_number(number):
        raise ValueError(f"no member has the number {number}")
    return _FLOCK.pack(kind, os.SEEK_SET, FIRST_BYTE + number, 1, 0)
