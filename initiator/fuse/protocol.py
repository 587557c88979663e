"""The layouts of the FUSE protocol, version 7 (Linux: include/uapi/linux/fuse.h), in host order. PURE."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from struct import Struct
from typing import Final

MAJOR: Final = 7
MINOR: Final = 31
"""What is spoken here; the kernel speaks the lower of its own and this."""

OLDEST_MINOR: Final = 28
"""The first that has max_pages, and so requests of 1 MiB."""


class Operation(IntEnum):
    """Operation codes that are answered here; all others are ENOSYS."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    CREATE = 35
    INTERRUPT = 36
    DESTROY = 38
    BATCH_FORGET = 42
    FALLOCATE = 43
    RENAME2 = 45


class InitFlag(IntFlag):
    """Flags of FUSE_INIT that are asked for where the kernel has them."""

    ASYNC_READ = 1 << 0
    BIG_WRITES = 1 << 5
    AUTO_INVAL_DATA = 1 << 12
    ASYNC_DIO = 1 << 15
    MAX_PAGES = 1 << 22


class OpenFlag(IntFlag):
    """What an open file is like."""

    DIRECT_IO = 1 << 0
    KEEP_CACHE = 1 << 1
    PARALLEL_DIRECT_WRITES = 1 << 6


class FallocateMode(IntFlag):
    """The mode of fallocate(2)."""

    KEEP_SIZE = 0x01
    PUNCH_HOLE = 0x02
    ZERO_RANGE = 0x10


SIZE_VALID: Final = 1 << 3
"""In ``valid`` of FUSE_SETATTR: the size is to be set."""

IN_HEADER: Final = Struct("=IIQQIIIHH")
"""len, opcode, unique, nodeid, uid, gid, pid, total_extlen, padding."""

OUT_HEADER: Final = Struct("=IiQ")
"""len, error (a negative errno), unique."""

INIT_IN: Final = Struct("=IIII")
"""major, minor, max_readahead, flags."""

INIT_OUT: Final = Struct("=IIIIHHIIHHI28x")
"""major, minor, max_readahead, flags, max_background, congestion_threshold, max_write, time_gran, max_pages,
map_alignment, flags2."""

OPEN_IN: Final = Struct("=II")
"""flags, open_flags."""

OPEN_OUT: Final = Struct("=QII")
"""fh, open_flags, backing_id."""

MOVE_IN: Final = Struct("=QQI")
"""The head of FUSE_READ, FUSE_WRITE and FUSE_READDIR: fh, offset, size."""

MOVE_IN_BYTES: Final = 40
"""Its whole length; the data of FUSE_WRITE stand behind."""

WRITE_OUT: Final = Struct("=II")
"""size, padding."""

SETATTR_IN: Final = Struct("=IIQQ")
"""The head: valid, padding, fh, size."""

FALLOCATE_IN: Final = Struct("=QQQII")
"""fh, offset, length, mode, padding."""

_ATTR: Final = Struct("=QQQQQQIIIIIIIIII")
_ENTRY: Final = Struct("=QQQQII")
_ATTR_OUT: Final = Struct("=QII")
_STATFS: Final = Struct("=QQQQQIIII24x")
_DIRENT: Final = Struct("=QQII")

REQUEST_HEAD_BYTES: Final = IN_HEADER.size + MOVE_IN_BYTES
"""So much of a request is received by itself; what is more, is the data of a write, or the end of a long name."""

ROOT: Final = 1
FILE: Final = 2
"""Node numbers: the directory, and the file in it."""

_DIRECTORY_TYPE: Final = 0o040000
_FILE_TYPE: Final = 0o100000


@dataclass(frozen=True, slots=True)
class Owner:
    """To whom the file belongs, since when, and who may do what."""

    user_id: int
    group_id: int
    mode: int
    """Permission bits of the file; the directory has those of reading, and of searching with each."""
    since_s: int


def attributes(node: int, size_bytes: int, owner: Owner) -> bytes:
    """Give a struct fuse_attr: of the file, or of the directory."""
    search = (owner.mode & 0o444) >> 2
    mode = _FILE_TYPE | owner.mode if node == FILE else _DIRECTORY_TYPE | owner.mode & 0o444 | search
    size = size_bytes if node == FILE else 0
    times = (owner.since_s,) * 3
    return _ATTR.pack(
        node, size, -(-size // 512), *times, 0, 0, 0, mode, 1 if node == FILE else 2, owner.user_id, owner.group_id,
        0, 4096, 0,
    )  # fmt: skip


def entry(node: int, valid_s: int, attr: bytes) -> bytes:
    """Give the answer to FUSE_LOOKUP."""
    return _ENTRY.pack(node, 1, valid_s, valid_s, 0, 0) + attr


def attr_out(valid_s: int, attr: bytes) -> bytes:
    """Give the answer to FUSE_GETATTR and FUSE_SETATTR."""
    return _ATTR_OUT.pack(valid_s, 0, 0) + attr


def statfs(size_bytes: int) -> bytes:
    """Give the answer to FUSE_STATFS: a file system that is full with one file."""
    return _STATFS.pack(-(-size_bytes // 4096), 0, 0, 1, 0, 4096, 255, 4096, 0)


def directory(names: Iterable[tuple[bytes, int]], offset: int, room_bytes: int) -> bytes:
    """Give the entries of the directory from the one with the number ``offset`` on, as many as there is room for.

    Args:
        names: name and node of each.
        offset: how many the kernel has already.
        room_bytes: the most that it takes.
    """
    out = bytearray()
    for number, (name, node) in enumerate(names, 1):
        if number <= offset:
            continue
        kind = (_FILE_TYPE if node == FILE else _DIRECTORY_TYPE) >> 12
        one = _DIRENT.pack(node, number, len(name), kind) + name
        one += bytes(-len(one) % 8)
        if len(out) + len(one) > room_bytes:
            break
        out += one
    return bytes(out)
