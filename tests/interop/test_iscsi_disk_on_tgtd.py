"""A LUN of tgtd, a target that is not ours, holds to the contract of all disks, and keeps nodes off as ours does."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.storage.disk import Disk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from tests.bench.targets import Export, start_tgtd
from tests.unit.storage.disk_stores import Store
from tests.unit.storage.disk_suite import KeepingSuite
from tests.unit.storage.fencing_suite import FencingSuite

pytestmark = pytest.mark.interop


class TgtdStore(Store):
    """A file behind tgtd, in a process of its own for each test."""

    unit_bytes = 512

    @asynccontextmanager
    async def ready(self, reactor: Any) -> AsyncIterator[None]:
        folder = Path(tempfile.mkdtemp(dir=self.folder))
        with start_tgtd(Export((folder / "disk.img",), create=str(self.size_bytes)), folder) as target:
            self.url = target.url
            yield

    def open(self, pool: DiskPool, *, read_only: bool = False) -> Deferred[Disk]:
        return open_disk(self.url, pool=pool, read_only=read_only)

    def open_as(self, pool: DiskPool, node: str) -> Deferred[Disk]:
        return open_disk(self.url, pool=pool, initiator_name=f"iqn.2026-11.org.example:{node}")


class TestDisksOfTgtd(KeepingSuite):
    """Over its file backend."""

    @pytest.fixture
    def store(self, scratch: Path) -> Store:
        return TgtdStore(scratch)


class TestFenceOfTgtd(FencingSuite):
    """tgtd has WRITE EXCLUSIVE - REGISTRANTS ONLY, and forgets all reservations when it ends."""

    @pytest.fixture
    def store(self, scratch: Path) -> Store:
        return TgtdStore(scratch)
