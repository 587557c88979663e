"""The frame of every program that serves: the reactor, signals, exit statuses, the log."""

from __future__ import annotations

import io
import logging
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from csvd import runtime
from csvd.errors import ConfigError
from csvd.runtime import MAX_EVENT_CHARACTERS, one_line, start_logging

ROOT = Path(__file__).parents[2]

PROGRAM = """
import sys
if sys.argv[2] == "asyncio":
    sys.modules["uvloop"] = None
import os, signal, time
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import deferLater
from csvd.errors import ConfigError
from csvd.runtime import install_reactor, run_until_signal, start_logging

def say(text):
    print(text, flush=True)

async def start(reactor):
    what = sys.argv[1]
    assert reactor is install_reactor()
    if what == "refuse":
        raise ConfigError("no\\nway", where="here")
    if what == "fault":
        raise ZeroDivisionError("deep inside")
    if what == "slow start":
        say("starting")
        try:
            await deferLater(reactor, 100)
        except CancelledError:
            say("undone")
            raise
    if what == "children":
        for number in range(5):
            ended = Deferred()
            protocol = ProcessProtocol()
            protocol.processEnded = lambda reason: ended.callback(reason.value.exitCode)
            reactor.spawnProcess(protocol, "/bin/sh", ["sh", "-c", f"exit {number}"])
            say(f"child {await ended}")
    if what == "loop":
        say(type(reactor._asyncioEventloop).__module__)
    async def stop():
        say("stopping")
        if what == "slow stop":
            await deferLater(reactor, 100)
        if what == "stuck stop":
            time.sleep(100)
        if what == "refused stop":
            raise ConfigError("could not stop")
        await deferLater(reactor, 0.01)
        say("stopped")
    say("ready")
    return stop

start_logging("info")
sys.exit(run_until_signal(start, program="test"))
"""


class Program:
    started: ClassVar[list[Program]] = []

    def __init__(self, what: str, loop: str) -> None:
        self.started.append(self)
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, what, loop],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )

    def line(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def until(self, wanted: str) -> list[str]:
        lines = []
        while (line := self.line()) != wanted:
            assert line, self.process.communicate()
            lines.append(line)
        return lines

    def send(self, number: int) -> None:
        self.process.send_signal(number)

    def end(self) -> tuple[int, list[str], str]:
        out, err = self.process.communicate(timeout=30)
        return self.process.returncode, out.splitlines(), err


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """A test that fails half way leaves no process behind."""
    yield
    for program in Program.started:
        if program.process.poll() is None:
            program.process.kill()
            program.process.communicate()
    Program.started.clear()


LOOPS = pytest.mark.parametrize("loop", ["uvloop", "asyncio"])


@LOOPS
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_the_work_in_good_order(loop: str, number: int) -> None:
    program = Program("work", loop)
    program.until("ready")
    program.send(number)
    status, out, err = program.end()
    assert (status, out) == (0, ["stopping", "stopped"])
    assert f"{signal.Signals(number).name}: stopping" in err


@LOOPS
def test_the_loop_is_uvloops_where_it_is_installed(loop: str) -> None:
    program = Program("loop", loop)
    assert program.until("ready") == ["uvloop" if loop == "uvloop" else "asyncio.unix_events"]
    program.send(signal.SIGTERM)
    assert program.end()[0] == 0


@LOOPS
def test_children_that_end_are_noticed(loop: str) -> None:
    program = Program("children", loop)
    assert program.until("ready") == [f"child {number}" for number in range(5)]
    program.send(signal.SIGTERM)
    assert program.end()[0] == 0


@LOOPS
def test_a_signal_during_the_start_undoes_it(loop: str) -> None:
    program = Program("slow start", loop)
    program.until("starting")
    program.send(signal.SIGTERM)
    assert program.end()[:2] == (0, ["undone"])


@LOOPS
@pytest.mark.parametrize("what", ["slow stop", "stuck stop"])
def test_a_second_signal_ends_it_at_once_even_when_the_loop_is_stuck(loop: str, what: str) -> None:
    program = Program(what, loop)
    program.until("ready")
    program.send(signal.SIGTERM)
    program.until("stopping")
    began_s = time.monotonic()
    program.send(signal.SIGINT)
    assert program.end()[0] == 130
    assert time.monotonic() - began_s < 25  # and not 100


def test_an_error_at_the_start_is_one_line_and_exit_1() -> None:
    assert Program("refuse", "uvloop").end() == (1, [], "test: here: no\\nway\n")


def test_an_error_at_the_stop_is_one_line_and_exit_1() -> None:
    program = Program("refused stop", "uvloop")
    program.until("ready")
    program.send(signal.SIGTERM)
    status, _, err = program.end()
    assert status == 1
    assert err.splitlines()[-1] == "test: could not stop"


def test_a_fault_is_logged_with_its_traceback_and_told_in_one_line() -> None:
    status, _, err = Program("fault", "uvloop").end()
    assert status == 1
    *log, told = err.splitlines()
    assert told == "test: stopped by a fault of its own: deep inside"
    assert all(" critical csvd: " in line for line in log)
    assert any("ZeroDivisionError" in line for line in log)


def test_another_reactor_is_not_taken_over() -> None:
    code = "from twisted.internet import selectreactor as s; s.install(); import csvd.runtime as r; r.install_reactor()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=30,
    )
    assert "RuntimeError: a reactor was installed before csvd's own" in done.stderr


# The log


def written(*, for_journal: bool = False, **event: Any) -> str:
    output = io.StringIO()
    observer = runtime._LineObserver(output, for_journal=for_journal)
    observer({"log_level": LogLevel.info, "log_namespace": "csvd.target.service", "log_time": 0.0625, **event})
    return output.getvalue()


def test_an_event_is_one_line_with_time_level_and_subject(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    line = written(log_format="{peer}: logged in", peer="10.0.0.1:9")
    assert line == "1970-01-01 00:00:00.062 info  target.service: 10.0.0.1:9: logged in\n"


@pytest.mark.parametrize(
    ("level", "priority"),
    [
        (LogLevel.debug, 7),
        (LogLevel.info, 6),
        (LogLevel.warn, 4),
        (LogLevel.error, 3),
        (LogLevel.critical, 2),
    ],
)
def test_the_journal_gets_the_level_as_a_priority(level: Any, priority: int) -> None:
    line = written(for_journal=True, log_level=level, log_format="x")
    assert line == f"<{priority}>target.service: x\n"


def test_what_a_peer_sends_makes_no_lines_of_its_own() -> None:
    line = written(log_format="{x}", x="a\nb\r\x1b[31m\x85c")
    assert line.endswith(": a\\nb\\r\\x1b[31m\\x85c\n")
    assert line.count("\n") == 1


def test_a_long_event_is_cut() -> None:
    assert len(one_line("x" * 10**6)) == MAX_EVENT_CHARACTERS + 1


def failure() -> Any:
    try:
        raise ZeroDivisionError("here")
    except ZeroDivisionError:
        return Failure()  # type: ignore[no-untyped-call]


def test_every_line_of_a_traceback_carries_the_head() -> None:
    text = written(log_format="it failed\nTraceback of an older call", log_failure=failure(), for_journal=True)
    first, *rest = text.splitlines()
    assert first == "<6>target.service: it failed"
    assert len(rest) >= 3
    assert all(line.startswith("<6>target.service:   ") for line in rest)


def test_a_stderr_that_is_gone_stops_nothing() -> None:
    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    observer = runtime._LineObserver(Gone(), for_journal=False)
    observer({"log_level": LogLevel.info, "log_time": 0.0, "log_format": "x"})


def test_stderr_is_the_journal_only_when_systemd_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "log").open("w") as stream:
        status = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        assert runtime._is_journal(stream)
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino + 1}")
        assert not runtime._is_journal(stream)
    assert not runtime._is_journal(io.StringIO())


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no log level 'loud'"):
        start_logging("loud")


def test_the_logging_modules_records_come_into_the_same_log() -> None:
    code = (
        "import logging; from csvd.runtime import start_logging; start_logging('info')\n"
        "logging.getLogger('asyncio').warning('slow: %d', 5); logging.getLogger('x').debug('not told')"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=30,
    )
    (line,) = done.stderr.splitlines()
    assert line.endswith(" warn  asyncio: slow: 5")


def test_a_level_of_the_logging_module_that_we_do_not_have_is_info() -> None:
    record = logging.LogRecord("x", 25, "f", 1, "m", None, None)
    record.levelname = "NOTICE"
    events: list[Any] = []
    observer: Any = events.append
    globalLogPublisher.addObserver(observer)
    try:
        runtime._ToTwisted().emit(record)
    finally:
        globalLogPublisher.removeObserver(observer)
    assert [(event["log_level"], event["message"]) for event in events] == [(LogLevel.info, "m")]


@pytest.mark.parametrize(("hard", "limit"), [(4096, 4096), (10**6, 65536), (resource.RLIM_INFINITY, 65536)])
def test_the_limit_on_open_files_is_raised_as_far_as_it_may(
    hard: int, limit: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: limits.append(both))
    runtime.raise_descriptor_limit()
    assert limits == [(limit, hard)]


def test_a_limit_on_open_files_that_is_high_enough_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10**5, 10**6))
    monkeypatch.setattr(resource, "setrlimit", lambda _, both: pytest.fail(f"{both}"))
    runtime.raise_descriptor_limit()
