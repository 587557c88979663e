"""The state directory on a real file system: modes, lock, errors with the path."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from csvd.cluster.errors import JournalError
from csvd.cluster.journal import Journal
from csvd.cluster.state_directory import StateDirectory
from csvd.errors import ConfigError


def test_files_are_written_renamed_cut_and_read(tmp_path: Path) -> None:
    files = StateDirectory(tmp_path / "state" / "n1")
    assert files.read("a") is None
    files.write("a", 0, b"hello")
    files.write("a", 5, b" world")
    files.sync("a")
    files.write("b", 0, b"old")
    files.rename("a", "b")
    files.sync_names()
    files.truncate("b", 5)
    files.write("b", 5, b"!")
    assert files.read("b") == b"hello!"
    assert files.read("a") is None
    files.remove("b")
    files.remove("b")
    assert files.read("b") is None
    files.close()
    files.close()


def test_nobody_else_may_read_the_state(tmp_path: Path) -> None:
    files = StateDirectory(tmp_path / "n1")
    files.write("a", 0, b"x")
    assert stat.S_IMODE((tmp_path / "n1").stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "n1").iterdir()} == {0o600}
    files.close()


def test_a_directory_in_use_is_refused_until_it_is_closed(tmp_path: Path) -> None:
    first = StateDirectory(tmp_path)
    with pytest.raises(ConfigError, match="another process uses it"):
        StateDirectory(tmp_path)
    first.close()
    StateDirectory(tmp_path).close()


def test_a_path_that_is_a_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state directory can not be used"):
        StateDirectory(tmp_path / "file")


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = set(os.listdir("/proc/self/fd"))
    files = StateDirectory(tmp_path)
    files.write("a", 0, b"x")
    files.write("b", 0, b"x")
    files.rename("a", "b")
    files.close()
    assert set(os.listdir("/proc/self/fd")) == before


def test_an_error_of_the_system_names_the_file_and_the_reason(tmp_path: Path) -> None:
    files = StateDirectory(tmp_path)
    (tmp_path / "directory").mkdir()
    attempts: list[Callable[[], object]] = [
        lambda: files.write("directory", 0, b"x"),
        lambda: files.truncate("directory", 1),
        lambda: files.read("directory"),
        lambda: files.remove("directory"),
        lambda: files.rename("nothing", "something"),
        lambda: files.sync("directory"),
    ]
    for attempt in attempts:
        with pytest.raises(JournalError, match=str(tmp_path)):
            attempt()
    files.close()


def test_a_journal_lives_in_a_real_directory(tmp_path: Path) -> None:
    files = StateDirectory(tmp_path)
    journal = Journal(files, "n1", now_ms=0)
    journal.set_term(4, "n1")
    journal.flush()
    files.close()
    files = StateDirectory(tmp_path)
    assert Journal(files, "n1", now_ms=0).term == 4
    files.close()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["journal", "lock"]
