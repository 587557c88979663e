"""``csvd demo``: it holds, and Ctrl-C at any moment leaves no process and no file behind."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DEMO = [sys.executable, "-m", "csvd", "demo"]
TIMEOUT_S = 180.0


def folders() -> set[Path]:
    return {path for parent in (Path("/dev/shm"), Path(tempdir())) for path in parent.glob("csvd-demo-*")}


def tempdir() -> str:
    return os.environ.get("TMPDIR", "/tmp")


def processes_of(folder: Path) -> list[str]:
    """Command lines of running processes that name this folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if str(folder) in line:
                found.append(f"{entry.name}: {line}")
    return found


@pytest.fixture
def own_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A temporary folder of its own: what is in it afterwards, the demo has left behind. Short, for socket paths."""
    folder = Path("/tmp") / f"cd{os.getpid()}-{tmp_path.name[-12:]}"
    folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(folder))
    return folder


def assert_nothing_left(own_tmp: Path, shared_memory_before: set[Path]) -> None:
    assert processes_of(own_tmp) == []
    assert list(own_tmp.iterdir()) == []
    assert folders() - shared_memory_before == set()
    own_tmp.rmdir()


def test_the_demo_holds_and_leaves_nothing(own_tmp: Path) -> None:
    before = folders()
    done = subprocess.run([*DEMO, "--json"], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    facts = json.loads(done.stdout)
    assert facts["held"] is True
    assert facts["coordinator"]["epoch"] >= 1
    report = facts["migration"]["report"]
    assert report["state"] == "completed"
    assert report["zero_pages_elided"] > 0
    assert report["downtime_ms"] > 0
    assert report["rounds"][-1]["is_last"]
    assert facts["migration"]["verified"]["pages_bad"] == 0
    assert facts["migration"]["counter_goes_on"] > facts["migration"]["verified"]["counter"]
    assert facts["failover"]["writes"] > 0
    assert facts["failover"]["killed"] != facts["failover"]["coordinator"]
    assert_nothing_left(own_tmp, before)


@pytest.mark.parametrize("after_s", [0.05, 0.5, 1.0, 1.8, 2.5, 3.5, 5.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
def test_a_signal_at_any_moment_leaves_nothing(own_tmp: Path, after_s: float, number: int) -> None:
    before = folders()
    process = subprocess.Popen(DEMO, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True)
    try:
        time.sleep(after_s)
        # At a terminal Ctrl-C reaches everything in the foreground.
        os.killpg(process.pid, number) if number == signal.SIGINT else process.send_signal(number)
        _, errors = process.communicate(timeout=TIMEOUT_S)
    finally:
        if process.poll() is None:
            process.kill()
    if "runpy" in errors:
        # Python itself was not up yet: what it says of a Ctrl-C then is not ours.
        assert process.returncode in (1, -number), errors
    else:
        assert process.returncode in (130, -number, 0), errors
        assert "Traceback" not in errors
    assert_nothing_left(own_tmp, before)
