"""The watchdog with real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from csvd.node_cluster import NOTICE_NAME, _watchdog
from csvd.watchdog import NoWatchdog, Watchdog, take_notice


def run(what: str) -> tuple[int, list[str], float]:
    """The exit status, what it told, and how long after its deadline it was over."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.watched_process", what], stdout=subprocess.PIPE, text=True
    )
    with process:
        told, _ = process.communicate(timeout=60)
        ended_s = time.clock_gettime(time.CLOCK_BOOTTIME)
    lines = told.splitlines()
    return process.returncode, lines, ended_s - float(lines[0].split()[1])


@pytest.mark.parametrize("what", ["stop", "hold"])
def test_a_process_that_can_do_nothing_any_more_is_killed_and_not_before_its_time(what: str) -> None:
    status, lines, late_s = run(what)
    assert status == -signal.SIGKILL
    assert len(lines) == 1
    assert late_s >= 0


@pytest.mark.parametrize("what", ["beat", "close"])
def test_one_that_arms_it_anew_in_time_and_one_that_gives_it_back_live(what: str) -> None:
    status, lines, _ = run(what)
    assert (status, lines[1:]) == (0, ["alive"])


def test_a_deadline_that_is_over_kills_at_once() -> None:
    program = "from csvd.watchdog import Watchdog; Watchdog().arm(-1.0); import time; time.sleep(60)"
    assert subprocess.run([sys.executable, "-c", program], timeout=30, check=False).returncode == -signal.SIGKILL


def test_a_fork_has_no_watchdog() -> None:
    program = """if True:
        import os, time
        from csvd.watchdog import Watchdog
        Watchdog().arm(time.clock_gettime(time.CLOCK_BOOTTIME) + 1)
        if not os.fork():
            time.sleep(1.5)
            print("the child lives", flush=True)
        time.sleep(60)
    """
    process = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True)
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "the child lives\n"
        # The kernel had its time: it is over, and nobody waits here for it.
        assert process.wait(timeout=30) == -signal.SIGKILL


def test_what_the_process_was_at_is_known_at_the_next_start(tmp_path: Path) -> None:
    """Also of one that held the interpreter, which could say nothing itself."""
    notice, kept = tmp_path / "notice", tmp_path / "kept"
    program = f"""if True:
        import ctypes, pathlib, threading, time
        from csvd.watchdog import Watchdog
        threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
        watchdog = Watchdog(pathlib.Path({str(notice)!r}))
        def stuck_here():
            while True:  # The signal of the notice wakes it once.
                ctypes.PyDLL(None).sleep(60)
        watchdog.arm(time.clock_gettime(time.CLOCK_BOOTTIME) + 1.0)
        stuck_here()
    """
    ended = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert ended.returncode == -signal.SIGKILL
    was_at = take_notice(notice, kept)
    assert was_at is not None
    assert "in stuck_here" in was_at
    assert kept.read_text().count("File ") > 2
    assert take_notice(notice, kept) is None


@pytest.mark.parametrize("then", ["arm(now() + 60)", "disarm()", "close()"])
def test_a_notice_is_taken_back_when_the_process_was_in_time_after_all(tmp_path: Path, then: str) -> None:
    notice = tmp_path / "notice"
    program = f"""if True:
        import pathlib, time
        from csvd.watchdog import NOTICE_S, Watchdog
        def now():
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        notice = pathlib.Path({str(notice)!r})
        watchdog = Watchdog(notice)
        watchdog._start(watchdog._notice_timer, 1)
        while not notice.stat().st_size:
            time.sleep(0.01)
        watchdog.{then}
        assert not notice.stat().st_size
    """
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
    assert take_notice(notice, tmp_path / "kept") is None


def test_a_notice_that_can_not_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(NoWatchdog, match="notice can not be written"):
        Watchdog(tmp_path / "none" / "notice")


def test_what_is_closed_says_so() -> None:
    watchdog = Watchdog()
    watchdog.close()
    with pytest.raises(NoWatchdog, match="it is closed"):
        watchdog.arm(1e9)


def test_the_first_process_of_a_container_is_told_that_nobody_would_kill_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.getpid", lambda: 1)
    with pytest.raises(NoWatchdog, match="first process of a container"):
        Watchdog()


def test_a_kernel_without_the_timer_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csvd.watchdog._CLOCK_BOOTTIME", 99)
    with pytest.raises(NoWatchdog, match="no timer that kills this process: Invalid argument"):
        Watchdog()


def test_a_node_tells_at_its_start_that_its_last_run_was_ended_so_and_where_it_was(tmp_path: Path) -> None:
    told: list[tuple[str, str, str]] = []
    (tmp_path / NOTICE_NAME).write_text(
        'Thread 0x01 (most recent call first):\n  File "a.py", line 1 in waits\n\n'
        'Current thread 0x02 (most recent call first):\n  File "b.py", line 3 in stuck\n  File "b.py", line 9 in main\n'
    )
    for _ in range(2):
        watchdog = _watchdog(lambda *event: told.append(event), tmp_path)
        assert isinstance(watchdog, Watchdog)
        watchdog.close()
    ((kind, text, _),) = told
    assert kind == "watchdog"
    assert 'it was at File "b.py", line 3 in stuck; File "b.py", line 9 in main; more is in' in text
