from __future__ import annotations

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import targets
from tests.bench.targets import Chap, Export, Target, TargetFailed, cpu_seconds, parse_cpu_ticks, start_csvd

FakeCsvd = Callable[[str], None]


@pytest.fixture
def fake_csvd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeCsvd:
    """Put a shell script in the place of the csvd that stands beside the running Python."""

    def write(script: str) -> None:
        program = tmp_path / "csvd"
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        monkeypatch.setattr(targets.sys, "executable", str(tmp_path / "python"))  # type: ignore[attr-defined]

    return write


def test_user_and_system_time_are_read_past_a_name_with_blanks_and_brackets() -> None:
    head = "4711 (tgtd) S 3) S 1 4711 4711 0 -1 4194560 100 200 0 0"

    assert parse_cpu_ticks(f"{head} 123 45 7 8 20 0 17 0 1000 0 0\n") == 168


def test_cpu_time_of_a_process_includes_its_children() -> None:
    busy = "import time\nwhile time.process_time() < 0.1: pass\nprint(flush=True); input()"
    child = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {busy!r}])"
    with subprocess.Popen([sys.executable, "-c", child], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        both = cpu_seconds(process.pid)
        own = parse_cpu_ticks(Path(f"/proc/{process.pid}/stat").read_text()) / os.sysconf("SC_CLK_TCK")
        process.communicate(b"\n")

    assert both - own >= 0.09


def test_a_target_is_ready_when_it_has_said_so_for_every_disk(fake_csvd: FakeCsvd, tmp_path: Path) -> None:
    fake_csvd(
        "echo hello; echo ready iscsi://127.0.0.1:5/iqn.a/0; echo ready iscsi://127.0.0.1:5/iqn.a/1; exec sleep 60"
    )

    with start_csvd(Export((tmp_path / "a", tmp_path / "b")), tmp_path) as target:
        assert target.urls == ("iscsi://127.0.0.1:5/iqn.a/0", "iscsi://127.0.0.1:5/iqn.a/1")
        assert target.portal == "127.0.0.1:5"
        assert target.url_for("u", "s", disk=1) == "iscsi://u%s@127.0.0.1:5/iqn.a/1"
        assert target.running
    assert not target.running


def test_options_and_secret_file_reach_the_command_line(fake_csvd: FakeCsvd, tmp_path: Path) -> None:
    fake_csvd('echo "$@" >&2; echo ready iscsi://127.0.0.1:5/iqn.a/0; exec sleep 60')
    export = Export((tmp_path / "a",), create="64M", read_only=True, chap=Chap("u", "secret"), block_bytes=4096, port=7)

    with start_csvd(export, tmp_path) as target:
        secret_file = tmp_path / "chap-secret"
        assert target.log().split() == [
            *("serve", str(tmp_path / "a"), "--portal", "127.0.0.1:7", "--iqn", targets.IQN, "--create", "64M"),
            *("--block-size", "4096", "--read-only", "--chap-user", "u", "--chap-secret-file", str(secret_file)),
        ]
        assert secret_file.read_text() == "secret\n"
        assert stat.S_IMODE(secret_file.stat().st_mode) == 0o600


def test_a_target_that_ends_before_it_is_ready_is_reported_with_its_words(fake_csvd: FakeCsvd, tmp_path: Path) -> None:
    fake_csvd("echo disk.img: no such file >&2; exit 1")

    with pytest.raises(TargetFailed, match=r"csvd ended with 1:\ndisk.img: no such file"):
        start_csvd(Export((tmp_path / "disk.img",)), tmp_path)


def test_a_target_that_never_gets_ready_is_killed(
    fake_csvd: FakeCsvd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "START_TIMEOUT_S", 0.1)
    fake_csvd("exec sleep 60")
    children = Path(f"/proc/{os.getpid()}/task/{threading.get_native_id()}/children")
    before = children.read_text()

    with pytest.raises(TargetFailed, match="was not ready within"):
        start_csvd(Export((tmp_path / "a",)), tmp_path)
    assert children.read_text() == before


def serving(fake_csvd: FakeCsvd, folder: Path, before: str = "") -> Target:
    fake_csvd(f"{before}\necho ready iscsi://127.0.0.1:5/iqn.a/0; while :; do sleep 0.02; done")
    return start_csvd(Export((folder / "a",)), folder)


def test_stopping_gives_the_exit_status(fake_csvd: FakeCsvd, tmp_path: Path) -> None:
    with serving(fake_csvd, tmp_path, "trap 'exit 4' TERM") as target:
        assert target.stop() == 4
        assert target.ended_by_us


def test_stopping_a_target_that_does_not_heed_kills_it(
    fake_csvd: FakeCsvd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(targets, "STOP_TIMEOUT_S", 0.1)
    with serving(fake_csvd, tmp_path, "trap '' TERM") as target:
        with pytest.raises(TargetFailed, match="did not end within"):
            target.stop()
        assert not target.running


def test_stopping_a_target_that_has_ended_by_itself_is_an_error(fake_csvd: FakeCsvd, tmp_path: Path) -> None:
    fake_csvd("echo ready iscsi://127.0.0.1:5/iqn.a/0; echo crash >&2; exit 9")
    with start_csvd(Export((tmp_path / "a",)), tmp_path) as target:
        os.waitid(os.P_PID, target.pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(TargetFailed, match=r"ended by itself with 9:\ncrash"):
            target.stop()
        assert not target.ended_by_us
