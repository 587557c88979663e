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
    """By persistent reservations, at a target of csvd that demands CHAP."""

    @pytest.fixture
    def added(self, tmp_path: Path) -> Iterator[Added]:
        secret = tmp_path / "shared.secret"
        secret.touch(0o600)
        secret.write_text("0123456789abcdef")
        chap = ("--chap-user", "joe", "--chap-secret-file", str(secret))
        with serving(tmp_path, target=TARGET, create="64M", timeout_s=30.0, options=chap) as target:
            host, port = target.address
            yield Added(
                (f"iscsi://joe@{host}:{port}/{TARGET}/0",),
                "persistent reservation",
                "is not registered, and the LUN is reserved for who is",
                f'disk_secret_file = "{secret}"\n',
            )
