"""What of a file is allocated and was never written, by FIEMAP: to SEEK_DATA it is a hole. It blocks: use a thread."""

from __future__ import annotations

import errno
import fcntl
import struct
from typing import Final

_FS_IOC_FIEMAP: Final = 0xC020_660B
_HEADER: Final = struct.Struct("=QQIIII")
"""fm_start, fm_length, fm_flags, fm_mapped_extents, fm_extent_count, reserved."""
_EXTENT: Final = struct.Struct("=QQQ16xI12x")
"""fe_logical, fe_physical, fe_length, fe_flags."""
_UNWRITTEN: Final = 0x0800
_LAST: Final = 0x0001
_EXTENTS: Final = 32
_CANNOT: Final = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EINVAL, errno.ENOSYS)


def unwritten_runs(fd: int, offset_bytes: int, length_bytes: int, most_runs: int) -> list[tuple[int, int]]:
    """Runs (offset_bytes, length_bytes) of a hole that have space allocated, ascending; none where nobody can tell.

    Raises:
        OSError: what the system says.
    """
    runs: list[tuple[int, int]] = []
    at, end = offset_bytes, offset_bytes + length_bytes
    buffer = bytearray(_HEADER.size + _EXTENTS * _EXTENT.size)
    while at < end and len(runs) < most_runs:
        _HEADER.pack_into(buffer, 0, at, end - at, 0, 0, _EXTENTS, 0)
        try:
            fcntl.ioctl(fd, _FS_IOC_FIEMAP, buffer)
        except OSError as error:
            if error.errno in _CANNOT:
                return runs
            raise
        found = _HEADER.unpack_from(buffer)[3]
        if not found:
            break
        flags = 0
        for index in range(found):
            logical, _, extent_bytes, flags = _EXTENT.unpack_from(buffer, _HEADER.size + index * _EXTENT.size)
            begin, at = max(logical, at), min(logical + extent_bytes, end)
            if flags & _UNWRITTEN and begin < at:
                runs.append((begin, at - begin))
        if flags & _LAST:
            break
    return runs[:most_runs]
