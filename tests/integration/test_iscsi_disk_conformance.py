"""A LUN of another target holds to the contract of all disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration.iscsi_store import IscsiStore
from tests.unit.storage.disk_stores import Store
from tests.unit.storage.disk_suite import KeepingSuite
from tests.unit.storage.fencing_suite import FencingSuite


class TestIscsiDisks(KeepingSuite):
    """Over a target of csvd, with blocks of either length."""

    @pytest.fixture(params=[512, 4096])
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> Store:
        return IscsiStore(tmp_path, block_bytes=request.param)


class TestIscsiFence(FencingSuite):
    """Nodes are kept off it by persistent reservations."""

    @pytest.fixture
    def store(self, tmp_path: Path) -> Store:
        return IscsiStore(tmp_path)
