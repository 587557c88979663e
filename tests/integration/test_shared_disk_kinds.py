"""Daemons share a file, and a LUN of a target that is none of theirs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.served import serving
from tests.integration.shared_disk_suite import Added, SharedDiskSuite

TARGET = "iqn.2026-11.org.example:shared"


class TestSharedFile(SharedDiskSuite):
    """By locks."""

    @pytest.fixture
    def added(self, tmp_path: Path) -> Added:
        return Added((str(tmp_path / "shared.img"), "--create", "64M"), "file lock", "was free and was taken")


class TestSharedLun(SharedDiskSuite):
    """By persistent reservations, at a target of csvd."""

    @pytest.fixture
    def added(self, tmp_path: Path) -> Iterator[Added]:
        with serving(tmp_path, target=TARGET, create="64M", timeout_s=30.0) as target:
            host, port = target.address
            url = f"iscsi://{host}:{port}/{TARGET}/0"
            yield Added((url,), "persistent reservation", "is not registered, and the LUN is reserved for who is")
