"""The files that are measured on: made, held by the page cache, written out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

CHUNK_BYTES: Final = 1 << 20
PAGE_BYTES: Final = 4096


def fill(disk: Path, size_mib: int) -> None:
    """Make a file of random data, on the drive."""
    with disk.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(CHUNK_BYTES))
    write_out(disk)


def cache_in_pages(disk: Path) -> None:
    """Have the page cache hold all of a file, in single pages.

    What was written in one go is held in large folios, where file systems with buffer heads may take ten times as long
    for each small write (ext4 in Linux 6.18 does): that would be measured, instead of the targets.
    """
    fd = os.open(disk, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_RANDOM)
        for offset in range(0, os.fstat(fd).st_size, PAGE_BYTES):
            os.pread(fd, PAGE_BYTES, offset)
    finally:
        os.close(fd)


def write_out(disk: Path) -> None:
    """Have all of a file on the drive."""
    with disk.open("rb+") as file:
        os.fdatasync(file.fileno())
