"""NullDisk: writes vanish and reads bring whatever the buffer has, for measuring the protocol alone."""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from typing import Final, NoReturn

from twisted.internet.defer import Deferred, fail, succeed

from csvd.errors import ConfigError
from csvd.storage.disk import MAX_RUNS, Buffer, Disk, DiskCapabilities, StorageError, check_range
from csvd.storage.kind import Opening, check_size

_SIZE: Final = re.compile(r"(\d{1,19})([KMGTP]?)(?:iB)?", re.IGNORECASE)
_UNITS: Final = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40, "P": 50}


def null_size_bytes(url: str) -> int:
    """The size in a URL as ``null:10G``.

    Raises:
        ConfigError: it is no size.
    """
    size = _SIZE.fullmatch(url.removeprefix("null:"))
    if size is None:
        raise ConfigError("is not the size of a null disk", where=url, hint="null: and a size, as in null:10G")
    return int(size[1]) << _UNITS[size[2].upper()]


def open_disk(opening: Opening) -> Deferred[Disk]:
    """Open a null disk; fires at once.

    Raises:
        ConfigError: its name has no size of whole blocks, or it is to be created.
    """
    if opening.create_bytes is not None:
        create_disk(opening.url, opening.create_bytes, block_bytes=opening.block_bytes, full=opening.full)
    size_bytes = null_size_bytes(opening.url)
    check_size(opening.url, size_bytes, opening.block_bytes)
    return succeed(NullDisk(size_bytes, url=opening.url, read_only=opening.read_only))


def is_there(_url: str) -> bool:
    """There is nothing to make."""
    return False


def create_disk(url: str, _size_bytes: int, *, block_bytes: int, full: bool) -> NoReturn:
    """Refuse.

    Raises:
        ConfigError: always.
    """
    raise ConfigError("a null disk can not be created", where=url, hint="leave out --create: its name has its size")


def place_of(url: str) -> str:
    """Its name: null disks of one name are one."""
    return url


class NullDisk:
    """A disk that keeps nothing; its capabilities say so. Everything is done at once.

    Args:
        size_bytes: its size, at least 1.
        url: its name in errors.
        read_only: writes fail with EROFS.
    """

    def __init__(self, size_bytes: int, *, url: str = "null:", read_only: bool = False) -> None:
        self.url = url
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.capabilities = DiskCapabilities(
            discard=False,
            write_zeroes=True,
            volatile_cache=False,
            fence="none",
            shared_between="processes of a host",
            physical_block_bytes=512,
            keeps_data=False,
        )
        self._closed = False

    def identity(self) -> str:
        """Its name."""
        return self.url

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        """Leave the buffer as it is; False for a range outside the disk."""
        return self._check("read", offset_bytes, buffer.nbytes) is None

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        """Leave the buffer as it is."""
        return _done(self._check("read", offset_bytes, buffer.nbytes))

    def write_from(self, buffers: Sequence[Buffer], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        """Forget the buffers."""
        return _done(self._check_write("write", offset_bytes, sum(map(len, buffers))))

    def cached(self, offset_bytes: int, length_bytes: int) -> bool:
        """False: it has no descriptor."""
        return False

    def write_nowait(self, buffers: Sequence[Buffer], offset_bytes: int) -> bool:
        """Forget the buffers; False for a range outside the disk, or where it can not be written."""
        return self._check_write("write", offset_bytes, sum(map(len, buffers))) is None

    def flush(self) -> Deferred[None]:
        """Nothing to do."""
        return _done(self._check("flush", 0, 0))

    def unmap(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Refuse: there is nothing to give back."""
        return fail(StorageError("unmap", errno.EOPNOTSUPP, where=self.url, offset_bytes=offset_bytes))

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Nothing to do."""
        return _done(self._check_write("write zeroes", offset_bytes, length_bytes))

    def allocation(
        self, offset_bytes: int, length_bytes: int, most_runs: int = MAX_RUNS
    ) -> Deferred[list[tuple[int, int, bool]]]:
        """All of it counts as allocated."""
        refusal = self._check("read", offset_bytes, length_bytes)
        return fail(refusal) if refusal is not None else succeed([(offset_bytes, length_bytes, True)])

    def prefetch(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Nothing is at hand at once."""
        return succeed(None)

    def allocated_bytes(self) -> Deferred[int | None]:
        """None of a store."""
        return succeed(0)

    def close(self) -> Deferred[None]:
        """Refuse new work."""
        self._closed = True
        return succeed(None)

    def _check(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        if self._closed:
            return StorageError(operation, errno.EBADF, where=self.url, why="the disk is closed")
        return check_range(operation, self.url, self.size_bytes, offset_bytes, length_bytes)

    def _check_write(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        if self.read_only:
            return StorageError(operation, errno.EROFS, where=self.url, offset_bytes=offset_bytes)
        return self._check(operation, offset_bytes, length_bytes)


def _done(refusal: StorageError | None) -> Deferred[None]:
    return succeed(None) if refusal is None else fail(refusal)
