"""The guest program: its commands, its events, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csvd.vm.guest import Guest
from csvd.vm.layout import PAGE_BYTES
from tests.readable import wait_readable

MEMORY = 64 * PAGE_BYTES
ROOT = Path(__file__).parents[3]


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    fd = os.open(tmp_path / "guest.ram", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, MEMORY)
    yield Guest(fd, MEMORY, 31, 1000.0)
    os.close(fd)


def said(guest: Guest, command: str, **more: Any) -> list[dict[str, Any]]:
    return guest.execute(json.dumps({"execute": command, **more}).encode())


def test_a_paused_guest_has_not_looked_at_its_image(guest: Guest) -> None:
    (reply,) = said(guest, "query-status", id=5)
    assert reply == {
        "return": {
            "status": "prelaunch",
            "running": False,
            "counter": None,
            "pages-rewritten": None,
            "filled-pages": None,
            "working-set-pages": None,
        },
        "id": 5,
    }
    assert guest.wait_s() is None


def test_cont_and_stop_are_told_by_events_with_the_time(guest: Guest) -> None:
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    event, reply = said(guest, "cont", id="a")
    assert (event["event"], reply) == ("RESUME", {"return": {}, "id": "a"})
    assert before_ns <= event["data"]["boottime-ns"] <= time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    assert set(event["timestamp"]) == {"seconds", "microseconds"}
    assert said(guest, "cont") == [{"return": {}}]
    event, reply = said(guest, "stop")
    assert (event["event"], reply) == ("STOP", {"return": {}})
    assert said(guest, "stop") == [{"return": {}}]
    assert said(guest, "query-status")[0]["return"]["status"] == "paused"


def test_it_counts_and_rewrites_at_the_rate(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [100.0]
    monkeypatch.setattr("csvd.vm.guest.time.monotonic", lambda: now_s[0])
    said(guest, "cont")
    assert guest.wait_s() == 0.0
    guest.tick()
    for _ in range(100):
        now_s[0] += 0.01
        guest.tick()
    status = said(guest, "query-status")[0]["return"]
    assert status["counter"] == 101
    assert status["pages-rewritten"] == pytest.approx(1000, abs=1)
    # Held up for long, it does not make up for all of it.
    now_s[0] += 60
    guest.tick()
    assert said(guest, "query-status")[0]["return"]["pages-rewritten"] == pytest.approx(1100, abs=1)
    assert guest.wait_s() == pytest.approx(0.01)
    assert said(guest, "verify")[0]["return"] == {
        "pages-checked": 31,
        "pages-bad": 0,
        "missing-rewrites": 0,
        "stray-pages": 0,
        "counter": 102,
    }


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        (b"", "GenericError"),
        (b"[]", "GenericError"),
        (b'{"id": 1}', "GenericError"),
        (b"\xff", "GenericError"),
        (b'{"execute": "explode"}', "CommandNotFound"),
        (b'{"execute": ["stop"]}', "CommandNotFound"),
    ],
)
def test_what_is_no_command_is_answered_by_an_error(guest: Guest, line: bytes, kind: str) -> None:
    (reply,) = guest.execute(line)
    assert reply["error"]["class"] == kind
    assert guest.status == "prelaunch"


def test_an_image_that_is_not_its_own_is_refused_at_cont(guest: Guest, tmp_path: Path) -> None:
    (tmp_path / "guest.ram").open("r+b").write(b"something else")
    (reply,) = said(guest, "cont", id=1)
    assert "not the header" in reply["error"]["desc"]
    assert reply["id"] == 1
    assert guest.status == "prelaunch"


class Program:
    """The guest as a process."""

    def __init__(self, image: Path, *more: str) -> None:
        arguments = ["--image", str(image), "--memory-bytes", str(MEMORY), "--pages-per-s", "1000", *more]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "csvd.vm.guest", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=ROOT,
        )

    def line(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def execute(self, command: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"execute": command, "id": command}).encode() + b"\n")
        self.process.stdin.flush()

    def ended(self) -> tuple[int, str]:
        assert self.process.stdin is not None
        _, errors = self.process.communicate(timeout=10)
        return self.process.returncode, errors.decode()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return tmp_path / "guest.ram"


def test_it_greets_runs_answers_and_quits(image: Path) -> None:
    program = Program(image)
    assert "QMP" in program.line()
    assert program.line()["event"] == "RESUME"
    program.execute("verify")
    assert program.line()["return"]["pages-bad"] == 0
    program.execute("quit")
    assert program.line() == {"return": {}, "id": "quit"}
    assert program.ended() == (0, "")
    assert image.stat().st_mode & 0o777 == 0o600
    assert image.stat().st_size == MEMORY


def test_it_goes_on_where_its_image_stopped(image: Path) -> None:
    counters = []
    for _ in range(2):
        program = Program(image)
        program.line(), program.line()
        while True:
            program.execute("query-status")
            status = program.line()["return"]
            if status["counter"] and status["counter"] > 3:
                break
        counters.append(status["counter"])
        program.execute("stop")
        assert program.line()["event"] == "STOP"
        assert program.line() == {"return": {}, "id": "stop"}
        program.execute("verify")
        found = program.line()["return"]
        assert (found["pages-bad"], found["missing-rewrites"]) == (0, 0)
        counters.append(found["counter"])
        program.execute("quit")
        program.ended()
    assert counters == sorted(counters)
    assert counters[2] >= counters[1]


def test_it_ends_at_once_with_its_stdin(image: Path) -> None:
    program = Program(image, "--paused")
    program.line()
    assert program.ended() == (0, "")


def test_it_ignores_an_interrupt_which_is_for_the_daemon(image: Path) -> None:
    program = Program(image, "--paused")
    program.line()
    program.process.send_signal(signal.SIGINT)
    program.execute("query-status")
    assert program.line()["return"]["status"] == "prelaunch"
    program.execute("quit")
    assert program.ended()[0] == 0


def test_it_dies_with_its_parent_even_when_its_stdin_stays_open(image: Path) -> None:
    """A parent starts it on a pipe that this test holds open, and is killed."""
    reading, writing = os.pipe()
    code = (
        "import subprocess, sys, time\n"
        f"p = subprocess.Popen([sys.executable, '-m', 'csvd.vm.guest', '--image', {str(image)!r}, '--memory-bytes',"
        f" '{MEMORY}', '--pages-per-s', '1', '--paused'], stdin={reading}, stdout=subprocess.PIPE)\n"
        "p.stdout.readline()\nprint(p.pid, flush=True)\ntime.sleep(60)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, pass_fds=[reading], cwd=ROOT)
    try:
        assert parent.stdout is not None
        process_id = int(parent.stdout.readline())
        descriptor = os.pidfd_open(process_id)
        parent.kill()
        parent.communicate(timeout=10)
        assert wait_readable(descriptor, 10), "the guest outlives its parent"
        os.close(descriptor)
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--memory-bytes", "4097"], "multiple of 4096"),
        (["--memory-bytes", "4096"], "at least 65536"),
        (["--pages-per-s", "-1"], "between 0 and"),
        (["--working-set-bytes", "0"], "one page at least"),
        (["--working-set-bytes", str(MEMORY)], "room for the header"),
    ],
)
def test_wrong_arguments_are_refused_by_one_line(image: Path, arguments: list[str], complaint: str) -> None:
    status, errors = Program(image, *arguments).ended()
    assert status == 2
    assert complaint in errors.splitlines()[-1]


def test_an_image_of_the_wrong_size_is_refused(image: Path) -> None:
    image.write_bytes(b"x")
    assert Program(image).ended() == (1, f"csvd guest: {image}: the image has 1 bytes, the guest {MEMORY}\n")


def test_an_image_that_cannot_be_opened_is_refused(image: Path) -> None:
    image.mkdir()
    assert Program(image).ended() == (1, f"csvd guest: {image}: Is a directory\n")


def test_an_endless_line_ends_it(image: Path) -> None:
    program = Program(image, "--paused")
    program.line()
    assert program.process.stdin is not None
    program.process.stdin.write(b"x" * 65_600)
    program.process.stdin.flush()
    assert program.ended() == (1, "csvd guest: a control line is longer than 65536 bytes\n")
