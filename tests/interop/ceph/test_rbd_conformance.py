"""An image of a Ceph cluster holds to the contract of all disks."""

from __future__ import annotations

from pathlib import Path

import pytest
from twisted.internet.defer import Deferred

from csvd.storage.disk import Disk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from tests.interop.ceph.cluster import Ceph
from tests.unit.storage.comparing_suite import ComparingSuite
from tests.unit.storage.disk_stores import GrowingStore
from tests.unit.storage.disk_suite import KeepingSuite

pytestmark = pytest.mark.interop


class RbdStore(GrowingStore):
    """An image of its own for each test."""

    def __init__(self, folder: Path, ceph: Ceph) -> None:
        super().__init__(folder)
        self._ceph = ceph
        self._image = ceph.new_image(self.size_bytes)

    def open(self, pool: DiskPool, *, read_only: bool = False) -> Deferred[Disk]:
        return open_disk(self._ceph.url(self._image), pool=pool, read_only=read_only, block_bytes=self.block_bytes)

    async def grow(self, size_bytes: int) -> None:
        self._ceph.resize_image(self._image, size_bytes)


class TestComparingImages(ComparingSuite):
    """By the omap of an object."""

    @pytest.fixture
    def store(self, tmp_path: Path, ceph: Ceph) -> RbdStore:
        return RbdStore(tmp_path, ceph)


class TestImages(KeepingSuite):
    """Images of a cluster."""

    @pytest.fixture
    def store(self, tmp_path: Path, ceph: Ceph) -> RbdStore:
        return RbdStore(tmp_path, ceph)
