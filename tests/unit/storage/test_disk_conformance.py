"""The disks of this process hold to the contract of all disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.storage.comparing_suite import ComparingSuite
from tests.unit.storage.disk_stores import DirectStore, FileStore, MemoryStore, NullStore, Store
from tests.unit.storage.disk_suite import DiskSuite, KeepingSuite


class TestKeepingDisks(KeepingSuite):
    """Files, and memory."""

    @pytest.fixture(params=[FileStore, DirectStore, MemoryStore])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        made: Store = request.param(tmp_path)
        return made


class TestComparingDisks(ComparingSuite):
    """The same."""

    @pytest.fixture(params=[FileStore, DirectStore, MemoryStore])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        made: Store = request.param(tmp_path)
        return made


class TestNullDisks(DiskSuite):
    """The disk that keeps nothing."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return NullStore(tmp_path)
