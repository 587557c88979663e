"""What a disk is over in the tests that hold all kinds of disks to one contract; see `disk_suite`."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, succeed

from csvd.storage.disk import Disk, StorageError
from csvd.storage.memory import MemoryDisk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from tests.unit.storage.reactor_loop import run_in_reactor

MIB = 1 << 20
TIME_LIMIT_S = 120.0
"""For a test over a network: what another node has aborted is given up after seconds."""


class Store:
    """Where the bytes of a disk are, and how it is opened. A kind of disk has a subclass.

    Attributes:
        size_bytes: of the disk.
        unit_bytes: what transfers are multiples of: 1 where any byte can be written.
        block_bytes: as it is opened with.
    """

    size_bytes = 8 * MIB
    unit_bytes = 1
    block_bytes = 512

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @asynccontextmanager
    async def ready(self, reactor: Any) -> AsyncIterator[None]:
        """Have the store there, full of zeros the first time."""
        yield

    def open(self, pool: DiskPool, *, read_only: bool = False) -> Deferred[Disk]:
        """Open the disk, once more than it is open."""
        raise NotImplementedError

    def open_as(self, pool: DiskPool, node: str) -> Deferred[Disk]:
        """Open the disk as another node does: from another host, as far as the store can tell."""
        raise NotImplementedError

    def run(self, body: Callable[[Opener], Coroutine[Deferred[Any], Any, None]]) -> None:
        """Run a test on a reactor of its own; whatever it opened is closed in the end."""

        async def main(reactor: Any) -> None:
            pool = DiskPool(reactor)
            opener = Opener(self, pool)
            try:
                async with self.ready(reactor):
                    try:
                        await body(opener)
                    finally:
                        for disk in opener.opened:
                            # One that was fenced can not flush.
                            with suppress(StorageError):
                                await disk.close()
            finally:
                await pool.stop()

        run_in_reactor(main, time_limit_s=TIME_LIMIT_S)


class GrowingStore(Store):
    """A store whose disks can be given another size behind their back."""

    async def grow(self, size_bytes: int) -> None:
        """Give the disk this size."""
        raise NotImplementedError


class Opener:
    """Opens the disk of a store for one test."""

    def __init__(self, store: Store, pool: DiskPool) -> None:
        self.store = store
        self.reactor = pool.reactor
        self.opened: list[Disk] = []
        self._pool = pool

    async def __call__(self, *, read_only: bool = False, node: str = "") -> Disk:
        opening = self.store.open_as(self._pool, node) if node else self.store.open(self._pool, read_only=read_only)
        disk = await opening
        self.opened.append(disk)
        return disk


class FileStore(GrowingStore):
    """A file, through the page cache."""

    direct = False

    @asynccontextmanager
    async def ready(self, reactor: Any) -> AsyncIterator[None]:
        self.path = self.folder / "disk.img"
        if not self.path.exists():
            self.path.touch()
            os.truncate(self.path, self.size_bytes)
        yield

    def open(self, pool: DiskPool, *, read_only: bool = False) -> Deferred[Disk]:
        return open_disk(
            str(self.path), pool=pool, read_only=read_only, block_bytes=self.block_bytes, direct=self.direct
        )

    async def grow(self, size_bytes: int) -> None:
        os.truncate(self.path, size_bytes)


class DirectStore(FileStore):
    """A file, past the page cache."""

    direct = True
    unit_bytes = 4096
    block_bytes = 4096


class MemoryStore(Store):
    """Memory of the process: there is one disk of it."""

    @asynccontextmanager
    async def ready(self, reactor: Any) -> AsyncIterator[None]:
        self.disk = MemoryDisk(self.size_bytes)
        yield

    def open(self, pool: DiskPool, *, read_only: bool = False) -> Deferred[Disk]:
        other = MemoryDisk(self.size_bytes, read_only=read_only)
        other._memory = self.disk._memory
        return succeed(other)


class NullStore(Store):
    """Nothing."""

    def open(self, pool: DiskPool, *, read_only: bool = False) -> Deferred[Disk]:
        return open_disk(f"null:{self.size_bytes}", pool=pool, read_only=read_only)
