"""What holds the data of an open file, where its kind matters: by fstatfs(2), which Python's statvfs leaves out."""

from __future__ import annotations

import ctypes
import os
import stat
from enum import Enum
from typing import Final

_EXT4_SUPER_MAGIC: Final = 0xEF53
"""Of ext2 and ext3 too."""
_TMPFS_MAGIC: Final = 0x0102_1994
_NFS_SUPER_MAGIC: Final = 0x6969
_STATFS_BYTES: Final = 256
"""More than any architecture's; it begins with f_type, a long."""

_fstatfs = ctypes.CDLL(None, use_errno=True).fstatfs
_fstatfs.argtypes = (ctypes.c_int, ctypes.c_void_p)
_fstatfs.restype = ctypes.c_int


class Store(Enum):
    """What an open file is kept in."""

    BLOCK_DEVICE = "a block device"
    EXT4 = "ext4, ext3 or ext2"
    MEMORY = "tmpfs"
    NFS = "NFS"
    OTHER = "anything else"


_STORES: Final = {_EXT4_SUPER_MAGIC: Store.EXT4, _TMPFS_MAGIC: Store.MEMORY, _NFS_SUPER_MAGIC: Store.NFS}


def store_of(fd: int) -> Store:
    """What a file is kept in; `OTHER` where the system does not say."""
    # First: of a device node the file system is the one that its name is in.
    if stat.S_ISBLK(os.fstat(fd).st_mode):
        return Store.BLOCK_DEVICE
    status = (ctypes.c_long * (_STATFS_BYTES // ctypes.sizeof(ctypes.c_long)))()
    return Store.OTHER if _fstatfs(fd, status) else _STORES.get(status[0] & 0xFFFF_FFFF, Store.OTHER)
