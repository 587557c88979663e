"""The driver of a guest process, over a reactor that spawns nothing."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessDone, ProcessTerminated
from twisted.internet.protocol import ProcessProtocol
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from csvd.vm.errors import ControlProtocolError, GuestEnded, GuestTimeout, VmError
from csvd.vm.interfaces import GuestStatus, GuestVerification
from csvd.vm.process import GuestProcess, describe_end
from csvd.vm.spec import GuestSpec
from tests.unit.migration.fakes import errors_of, is_fired

SPEC = GuestSpec(1 << 20, 100.0)


class FakeProcess:
    """The process that the reactor would have spawned."""

    pid = 4711

    def __init__(self, protocol: ProcessProtocol) -> None:
        self.protocol: Any = protocol
        self.written: list[dict[str, Any]] = []
        self.signals: list[str] = []

    def write(self, data: bytes) -> None:
        self.written.append(json.loads(data))

    def signalProcess(self, name: str) -> None:
        self.signals.append(name)

    def say(self, *messages: dict[str, Any]) -> None:
        for message in messages:
            self.protocol.outReceived(json.dumps(message).encode() + b"\n")

    def reply(self, **answer: Any) -> None:
        self.say({"return": answer, "id": self.written[-1]["id"]})

    def end(self, *, status: int | None = 0, signal: int | None = None) -> None:
        # Untyped in Twisted.
        done: Any = ProcessDone
        terminated: Any = ProcessTerminated
        failure: Any = Failure
        is_done = status == 0 and signal is None
        self.protocol.processEnded(failure(done(0) if is_done else terminated(status, signal, None)))


class FakeReactor(Clock):
    """A Clock that notes what it is to spawn."""

    def __init__(self) -> None:
        super().__init__()
        self.spawned: list[tuple[Sequence[str], Mapping[str, str]]] = []
        self.fails: OSError | None = None
        self.process: FakeProcess

    def spawnProcess(
        self,
        processProtocol: ProcessProtocol,  # noqa: N803
        executable: str,
        args: Sequence[str],
        env: Mapping[str, str] | None = None,
    ) -> FakeProcess:
        if self.fails is not None:
            raise self.fails
        assert executable == args[0]
        self.spawned.append((args, env or {}))
        self.process = FakeProcess(processProtocol)
        return self.process


class Bench:
    """A driver whose process has greeted."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.driver = GuestProcess(self.reactor, "g", Path("/images/g.ram"), SPEC, timeout_s=10.0)
        self.started = Deferred.fromCoroutine(self.driver.start(paused=True))

    @property
    def process(self) -> FakeProcess:
        return self.reactor.process

    def greeted(self) -> Bench:
        self.process.say({"QMP": {}})
        assert is_fired(self.started)
        return self


@pytest.fixture
def bench() -> Bench:
    return Bench().greeted()


def test_it_starts_the_guest_program_on_its_image() -> None:
    bench = Bench()
    assert not is_fired(bench.started)
    assert bench.driver.process_id == 4711
    ((arguments, environment),) = bench.reactor.spawned
    assert arguments[1:4] == ["-P", "-m", "csvd.vm.guest"]
    assert list(arguments[4:]) == [
        *("--image", "/images/g.ram", "--memory-bytes", str(1 << 20), "--pages-per-s", "100.0", "--paused"),
    ]
    root = environment["PYTHONPATH"].split(":")[0]
    assert Path(root, "csvd", "vm", "guest.py").is_file()
    bench.greeted()


def test_a_process_that_does_not_greet_is_killed() -> None:
    bench = Bench()
    errors = errors_of(bench.started)
    bench.reactor.advance(10.1)
    assert bench.process.signals == ["KILL"]
    assert errors == []
    bench.process.end(status=None, signal=9)
    assert isinstance(errors[0], GuestTimeout)


def test_a_process_that_ends_before_it_greets_says_why() -> None:
    bench = Bench()
    errors = errors_of(bench.started)
    bench.process.protocol.errReceived(b"warning\ncsvd guest: /images/g.ram: Permission denied\n")
    bench.process.end(status=1)
    assert isinstance(errors[0], GuestEnded)
    assert str(errors[0]) == ("guest g: its process ended: exit status 1: csvd guest: /images/g.ram: Permission denied")


def test_a_process_that_cannot_be_spawned_is_an_error() -> None:
    reactor = FakeReactor()
    reactor.fails = OSError(12, "Cannot allocate memory")
    driver = GuestProcess(reactor, "g", Path("/images/g.ram"), SPEC)
    errors = errors_of(Deferred.fromCoroutine(driver.start(paused=False)))
    assert isinstance(errors[0], VmError)
    assert "Cannot allocate memory" in str(errors[0])
    assert not driver.is_alive


def test_stop_and_cont_give_the_times_of_the_guest(bench: Bench) -> None:
    running = Deferred.fromCoroutine(bench.driver.cont())
    bench.process.say({"event": "RESUME", "data": {"boottime-ns": 7}})
    bench.process.reply()
    stopped = Deferred.fromCoroutine(bench.driver.stop())
    bench.process.say({"event": "STOP", "data": {"boottime-ns": 9}}, {"event": "ELSE"})
    bench.process.reply()
    assert (running.result, stopped.result) == (7, 9)


def test_a_guest_that_never_ran_has_no_last_write(bench: Bench) -> None:
    stopped = Deferred.fromCoroutine(bench.driver.stop())
    bench.process.reply()
    assert stopped.result is None


def test_the_status_is_read(bench: Bench) -> None:
    status: Any = Deferred.fromCoroutine(bench.driver.query_status())
    bench.process.reply(
        **{"status": "running", "counter": 5, "pages-rewritten": 6, "filled-pages": 7, "working-set-pages": 8}
    )
    assert status.result == GuestStatus("running", 5, 6, 7, 8)
    assert status.result.is_running


@pytest.mark.parametrize("command", ["query_status", "verify"])
def test_an_answer_with_holes_is_an_error(bench: Bench, command: str) -> None:
    errors = errors_of(Deferred.fromCoroutine(getattr(bench.driver, command)()))
    bench.process.reply(status="running")
    assert isinstance(errors[0], ControlProtocolError)


def test_the_verification_is_read_and_has_its_time(bench: Bench) -> None:
    found: Any = Deferred.fromCoroutine(bench.driver.verify())
    bench.reactor.advance(10.0)
    bench.process.reply(**{"pages-checked": 9, "pages-bad": 0, "missing-rewrites": 0, "stray-pages": 0, "counter": 3})
    assert found.result == GuestVerification(9, 0, 0, 0, 3)
    assert found.result.is_intact


@pytest.mark.parametrize(
    "bad", [{"pages_bad": 1}, {"missing_rewrites": 1}, {"missing_rewrites": -1}, {"stray_pages": 1}]
)
def test_one_fault_is_enough_not_to_be_intact(bad: dict[str, int]) -> None:
    found = {"pages_checked": 9, "pages_bad": 0, "missing_rewrites": 0, "stray_pages": 0, "counter": 3, **bad}
    assert not GuestVerification(**found).is_intact


def test_quit_waits_for_the_end(bench: Bench) -> None:
    ended = Deferred.fromCoroutine(bench.driver.quit())
    bench.process.reply()
    assert not is_fired(ended)
    bench.process.end()
    assert is_fired(ended)
    assert bench.process.signals == []
    assert bench.reactor.getDelayedCalls() == []
    assert not bench.driver.is_alive
    assert bench.driver.process_id is None


def test_a_guest_that_does_not_take_quit_is_killed(bench: Bench) -> None:
    ended = Deferred.fromCoroutine(bench.driver.quit())
    bench.reactor.advance(10.1)
    assert bench.process.signals == ["KILL"]
    bench.process.end(status=None, signal=9)
    assert is_fired(ended)


def test_a_guest_that_takes_quit_and_does_not_end_is_killed(bench: Bench) -> None:
    ended = Deferred.fromCoroutine(bench.driver.quit())
    bench.process.reply()
    bench.reactor.advance(10.1)
    assert bench.process.signals == ["KILL"]
    bench.process.end(status=None, signal=9)
    assert is_fired(ended)


def test_the_end_reaches_who_asks_and_who_watches(bench: Bench) -> None:
    before = bench.driver.when_ended()
    errors = errors_of(Deferred.fromCoroutine(bench.driver.stop()))
    bench.process.end(status=None, signal=9)
    after = bench.driver.when_ended()
    assert str(errors[0]) == "guest g: its process ended: killed by SIGKILL"
    assert before.result is after.result is errors[0]
    for ending in (bench.driver.kill, bench.driver.quit):
        assert is_fired(Deferred.fromCoroutine(ending()))
    assert bench.process.signals == []


def test_a_guest_that_talks_nonsense_is_killed(bench: Bench) -> None:
    errors = errors_of(Deferred.fromCoroutine(bench.driver.stop()))
    bench.process.protocol.outReceived(b"Segmentation fault\n")
    assert bench.process.signals == ["KILL"]
    assert isinstance(errors[0], ControlProtocolError)


@pytest.mark.parametrize(
    ("exit_code", "signal_number", "words"),
    [
        (3, None, "exit status 3"),
        (None, 9, "killed by SIGKILL"),
        (None, 7, "SIGBUS, as when the file system of its image is full"),
        (None, 200, "killed by signal 200"),
    ],
)
def test_an_end_is_told_in_words(exit_code: int | None, signal_number: int | None, words: str) -> None:
    assert describe_end(exit_code, signal_number) == words
