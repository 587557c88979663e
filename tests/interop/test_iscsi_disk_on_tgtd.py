"""A LUN of tgtd, a target that is not ours, holds to the contract of all disks, and keeps nodes off as ours does."""

from __future__ import annotations

import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from twisted.internet.defer import Deferred

from csvd.errors import CsvdError
from csvd.storage.cluster_disk.formatting import format_disk
from csvd.storage.disk import Disk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from tests.bench.targets import Export, start_tgtd
from tests.unit.storage.disk_stores import Opener, Store
from tests.unit.storage.disk_suite import KeepingSuite, on_a_store, read
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


class TestSharingOfTgtd:
    """It has no COMPARE AND WRITE."""

    @pytest.fixture
    def store(self, scratch: Path) -> Store:
        made = TgtdStore(scratch)
        made.size_bytes = 32 << 20
        return made

    @on_a_store
    async def test_nodes_can_not_share_it_and_nothing_of_it_is_lost(self, opener: Opener) -> None:
        disk = await opener()
        await disk.write_from((b"x" * 4096,), 8192)
        for force, said in ((False, "data that csvd does not know"), (True, "the target has no COMPARE AND WRITE")):
            with pytest.raises(CsvdError, match=said):
                await format_disk(disk, name="shared", uuid=uuid4(), force=force)
        assert await read(disk, 8192, 4096) == b"x" * 4096


class TestFenceOfTgtd(FencingSuite):
    """tgtd has WRITE EXCLUSIVE - REGISTRANTS ONLY, and forgets all reservations when it ends."""

    @pytest.fixture
    def store(self, scratch: Path) -> Store:
        return TgtdStore(scratch)
