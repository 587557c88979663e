"""Secrets come from files that nobody else may read."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from csvd.errors import ConfigError
from csvd.secret_file import read_secret


def secret_in(path: Path, data: bytes, mode: int = 0o600) -> Path:
    path.write_bytes(data)
    path.chmod(mode)
    return path


def test_a_secret_is_read_without_its_line_end(tmp_path: Path) -> None:
    assert read_secret(secret_in(tmp_path / "s", b"twelve bytes and more\r\n")) == b"twelve bytes and more"


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_file_that_others_may_read_is_refused_with_what_to_do(tmp_path: Path, mode: int) -> None:
    with pytest.raises(ConfigError, match="chmod 600"):
        read_secret(secret_in(tmp_path / "s", b"twelve bytes and more", mode))


@pytest.mark.parametrize("data", [b"", b"\n", b"x" * 5000])
def test_an_empty_or_endless_secret_is_refused(tmp_path: Path, data: bytes) -> None:
    with pytest.raises(ConfigError, match="1 to 4096 bytes"):
        read_secret(secret_in(tmp_path / "s", data))


def test_what_is_no_file_is_refused_without_hanging(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigError, match="not in a file"):
        read_secret(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="not in a file"):
        read_secret(tmp_path)
    with pytest.raises(ConfigError, match="No such file"):
        read_secret(tmp_path / "none")
