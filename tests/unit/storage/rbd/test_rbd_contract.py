"""RbdDisk holds to the contract of all disks, over a cluster in memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from twisted.internet.defer import Deferred, succeed

from csvd.storage.disk import Disk
from csvd.storage.pool import DiskPool
from csvd.storage.rbd.disk import RbdDisk
from csvd.storage.rbd.handle import open_handle
from csvd.storage.rbd.url import parse_rbd_url
from tests.unit.storage.disk_stores import GrowingStore
from tests.unit.storage.disk_suite import KeepingSuite
from tests.unit.storage.rbd.fake_ceph import FakeCluster


class FakeImageStore(GrowingStore):
    """An image of a cluster in memory."""

    def __init__(self, folder: Path, cluster: FakeCluster) -> None:
        super().__init__(folder)
        self._cluster = cluster
        self._stored = cluster.add_image("image", self.size_bytes)

    def open(self, pool: DiskPool, *, read_only: bool = False) -> Deferred[Disk]:
        name = parse_rbd_url("rbd:pool/image")
        handle = open_handle(
            self._cluster.library, name, read_only=read_only, create_bytes=None, block_bytes=self.block_bytes
        )
        return succeed(RbdDisk(handle, pool.reactor, size_bytes=handle.image.size()))

    async def grow(self, size_bytes: int) -> None:
        self._stored.data.extend(bytes(size_bytes - len(self._stored.data)))


class TestImagesInMemory(KeepingSuite):
    """Images of a cluster in memory."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Iterator[FakeImageStore]:
        cluster = FakeCluster()
        yield FakeImageStore(tmp_path, cluster)
        cluster.stop()
        assert cluster.open_things == 0, "something was not closed"
