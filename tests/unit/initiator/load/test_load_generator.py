from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from initiator.engine.requests import BUSY, CHECK_CONDITION, GOOD, Command
from initiator.errors import CommandFailed, ResidualMismatch, SessionClosed, SessionLost
from initiator.load.generator import BACKOFF_S, Load
from initiator.load.workload import Commands, Workload

MEDIUM_ERROR = b"\x70\0\x03" + bytes(9) + b"\x11\0\0\0\0\0"


class Rig:
    """A load over a road that answers when it is told to; a clock of nanoseconds that the test moves."""

    def __init__(self, *, reads: int = 100, depth: int = 4) -> None:
        self.clock = Clock()
        self.now_ns = 0
        self.alive = True
        self.open: list[tuple[Command, Callable[[Command], None]]] = []
        self.started: list[bytes] = []
        self.deadlines: list[float] = []
        workload = Workload(block_bytes=4096, reads=reads, random=False, first_bytes=0, length_bytes=1 << 20)
        road = SimpleNamespace(start=self._start, reactor=self.clock, options=SimpleNamespace(timeout_s=30.0))
        disk: Any = SimpleNamespace(road=road, lun=0)
        commands = Commands(workload, 512, lambda: 0.5)
        self.load = Load(disk, commands, block_bytes=4096, depth=depth, now_ns=lambda: self.now_ns)
        self.outcome: list[Any] = []
        self.load.start().addBoth(self.outcome.append)

    def _start(self, command: Command, deadline_s: float, finished: Callable[[Command], None]) -> None:
        if not self.alive:
            raise SessionClosed("the session is closed")
        self.open.append((command, finished))
        self.started.append(command.cdb)
        self.deadlines.append(deadline_s)

    def answer(self, status: int = GOOD, *, error: Any = None, **fields: Any) -> None:
        """End the oldest command."""
        command, finished = self.open.pop(0)
        command.status, command.error = status, error
        for name, value in fields.items():
            setattr(command, name, value)
        finished(command)

    @property
    def error(self) -> BaseException:
        (failure,) = self.outcome
        assert isinstance(failure, Failure)
        assert failure.value is not None
        return failure.value


def test_it_keeps_as_many_commands_under_way_as_it_is_deep() -> None:
    rig = Rig(depth=4)
    for _ in range(10):
        assert len(rig.open) == 4
        rig.answer()
    assert rig.load.reads.count == 10
    assert len({id(command.data_in) for command, _ in rig.open}) == 4
    assert set(rig.deadlines) == {30.0}


def test_a_latency_is_from_start_to_answer() -> None:
    rig = Rig(depth=1)
    rig.now_ns = 1500
    rig.answer()
    rig.now_ns = 1510
    rig.answer()
    assert (rig.load.reads.least, rig.load.reads.greatest) == (10, 1500)


def test_it_ends_when_all_is_answered_after_the_stop() -> None:
    rig = Rig(depth=2)
    rig.load.stop()
    rig.answer()
    assert not rig.outcome
    rig.answer()
    assert rig.outcome == [None]
    assert len(rig.started) == 2
    assert rig.load.reads.count == 2


def test_writes_are_counted_as_writes() -> None:
    rig = Rig(reads=0)
    rig.answer()
    assert (rig.load.writes.count, rig.load.reads.count) == (1, 0)
    assert {cdb[0] for cdb in rig.started} == {0x8A}


@pytest.mark.parametrize(
    ("how", "error"),
    [
        ({"status": CHECK_CONDITION, "sense": MEDIUM_ERROR}, CommandFailed),
        ({"error": SessionLost("lost")}, SessionLost),
        ({"residual": 512}, ResidualMismatch),
        ({"response": 1}, CommandFailed),
    ],
)
def test_a_command_that_fails_ends_the_load_when_the_others_have_ended(
    how: dict[str, Any], error: type[Exception]
) -> None:
    rig = Rig(depth=3)
    rig.answer(**how)
    rig.answer()
    assert not rig.outcome
    rig.answer()
    assert isinstance(rig.error, error)
    assert len(rig.started) == 3


def test_a_busy_target_is_asked_again_a_little_later() -> None:
    rig = Rig(depth=1)
    rig.answer(BUSY)
    assert not rig.open
    rig.clock.advance(BACKOFF_S)
    assert rig.started == [rig.started[0]] * 2
    assert rig.load.busy == 1
    rig.answer()
    assert rig.load.reads.count == 1


def test_it_ends_while_a_busy_target_is_given_time() -> None:
    rig = Rig(depth=1)
    rig.answer(BUSY)
    rig.load.stop()
    rig.clock.advance(BACKOFF_S)
    assert rig.outcome == [None]


def test_a_road_that_is_at_an_end_ends_the_load() -> None:
    rig = Rig(depth=2)
    rig.alive = False
    rig.answer()
    rig.answer()
    assert isinstance(rig.error, SessionClosed)
