"""A file that is replaced is the old one or the new one, at whatever call the power goes."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from csvd.durable_file import replace_file, replace_in, sync_directory


class PowerCut(Exception):
    """Nothing after this is done."""


def test_a_file_is_made_and_replaced_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "state"
    for content in (b"old", b"the new one, which is longer", b""):
        replace_file(path, content)
        assert path.read_bytes() == content
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert [each.name for each in tmp_path.iterdir()] == ["state"]


def test_the_content_is_durable_before_it_has_the_name_and_the_name_before_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: list[str] = []
    fsync, rename = os.fsync, os.rename

    def noted_fsync(descriptor: int) -> None:
        done.append("directory" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def noted_rename(*arguments: Any, **options: Any) -> None:
        done.append("rename")
        rename(*arguments, **options)

    monkeypatch.setattr(os, "fsync", noted_fsync)
    monkeypatch.setattr(os, "rename", noted_rename)
    replace_file(tmp_path / "state", b"new")
    assert done == ["file", "rename", "directory"]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "rename"])
@pytest.mark.parametrize("error", [PowerCut(), OSError(errno.ENOSPC, "No space left on device")])
def test_at_every_call_it_is_the_old_or_the_new_one_and_the_next_replacement_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, error: Exception
) -> None:
    path = tmp_path / "state"
    replace_file(path, b"old")
    real: Callable[..., Any] = getattr(os, call)
    for number in range(3):
        left = [number]

        def failing(*arguments: Any, left: list[int] = left, **options: Any) -> Any:
            if left[0] == 0:
                raise error
            left[0] -= 1
            return real(*arguments, **options)

        with monkeypatch.context() as patched:
            patched.setattr(os, call, failing)
            try:
                replace_file(path, b"new")
            except (PowerCut, OSError):
                assert path.read_bytes() == (b"new" if call == "fsync" and number == 1 else b"old")
            else:
                assert path.read_bytes() == b"new"
        replace_file(path, b"old")
        assert path.read_bytes() == b"old"


def test_a_disk_that_takes_a_few_bytes_at_a_time_gets_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, data: write(descriptor, data[:3]))
    replace_file(tmp_path / "state", b"ten bytes.")
    assert (tmp_path / "state").read_bytes() == b"ten bytes."


def test_what_a_crash_has_left_is_not_written_to(tmp_path: Path) -> None:
    left = tmp_path / ".state.part"
    left.write_bytes(b"half")
    left.chmod(0o644)
    with left.open("rb") as reader:
        replace_file(tmp_path / "state", b"secret")
        assert reader.read() == b"half"
    assert stat.S_IMODE((tmp_path / "state").stat().st_mode) == 0o600
    assert not left.exists()


def test_a_directory_that_is_open_is_meant_whatever_it_is_called_by_now(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    directory = os.open(tmp_path / "a", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (tmp_path / "a").rename(tmp_path / "b")
        replace_in(directory, "state", b"here")
    finally:
        os.close(directory)
    assert (tmp_path / "b" / "state").read_bytes() == b"here"
    sync_directory(tmp_path / "b")
    with pytest.raises(FileNotFoundError):
        sync_directory(tmp_path / "a")
    with pytest.raises(FileNotFoundError):
        replace_file(tmp_path / "a" / "state", b"nowhere")
