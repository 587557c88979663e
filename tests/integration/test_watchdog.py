"""The watchdog with real processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from csvd.watchdog import NoWatchdog, Watchdog


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
