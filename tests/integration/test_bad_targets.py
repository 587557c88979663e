"""A target that means no good gets a typed error out of our initiator, at a bounded cost, and harms nobody else."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, globalLogPublisher

import initiator
from csvd.iscsi.chap import Credentials
from csvd.iscsi.codes import TaskManagementFunction
from initiator import Disk, InitiatorError, SessionOptions, TimedOut
from tests.bad_targets.attempts import ATTEMPTS, READ_BYTES, WRITE_BYTES
from tests.bad_targets.target import Attempt, BadTarget
from tests.unit.initiator.conftest import run  # noqa: F401 - a fixture
from tests.unit.initiator.tiny_target import TinyTarget

GUARD = b"\xa5" * 4096
MIB = 1 << 20
LOGGED_EVENTS = 200
STUCK_S = 60
SOON = SessionOptions(timeout_s=1.5, abort_timeout_s=0.5, nop_interval_s=0)
"""For what ends by its deadline."""
LATE = SessionOptions(timeout_s=30, abort_timeout_s=10, nop_interval_s=0)
"""For what must end before: a slow machine does not change how."""
US = Credentials("joe", b"opensesame12345")
THEM = Credentials("the target", b"another secret of it")

Run = Callable[[Callable[[Any], Coroutine[Deferred[Any], Any, Any]]], Any]


class Honest:
    """A session with a target that means well; what it is told stays right whatever the other target does."""

    def __init__(self, target: TinyTarget, disk: Disk) -> None:
        self.disk = disk
        self.reads = 0
        self._content = bytes(target.disk[:4096])
        self._going = True
        self.ended = Deferred.fromCoroutine(self._go_on())

    async def _go_on(self) -> None:
        while self._going:
            assert await self.disk.read(0, 8) == self._content
            self.reads += 1

    async def stop(self) -> None:
        self._going = False
        await self.ended
        await self.disk.close()


@pytest.fixture
def honest_target() -> Iterator[TinyTarget]:
    target = TinyTarget()
    target.disk[:4096] = bytes(range(256)) * 16
    yield target
    target.close()


class Logged:
    """What is logged meanwhile."""

    def __init__(self) -> None:
        self.count = 0
        self.faults: list[str] = []

    def __call__(self, event: Any) -> None:
        self.count += 1
        if event["log_level"] >= LogLevel.error:
            self.faults.append(str(event))


async def _work(kind: str, url: str, options: SessionOptions, reactor: Any) -> None:
    """Do what the attempt is made against."""
    if kind == "discover":
        await initiator.discover(initiator.parse_url(url).portal, reactor=reactor, options=options)
        return
    proof: dict[str, Any] = {"credentials": US, "target_credentials": THEM} if kind == "chap login" else {}
    async with await initiator.connect(url, reactor=reactor, options=options, recover=False, **proof) as disk:
        match kind:
            case "read" | "read twice" | "give up":
                await _read(disk, 2 if kind == "read twice" else 1)
            case "write":
                data = bytearray(GUARD + bytes(WRITE_BYTES) + GUARD)
                await disk.write(0, memoryview(data)[len(GUARD) : -len(GUARD)])
            case "ping":
                await disk.session.nop(b"are you there")
            case "reset":
                await disk.session.task_management(TaskManagementFunction.LOGICAL_UNIT_RESET)


async def _read(disk: Disk, times: int) -> None:
    room = bytearray(GUARD + bytes(READ_BYTES) + GUARD)
    try:
        for _ in range(times):
            await disk.read_into(0, memoryview(room)[len(GUARD) : -len(GUARD)])
    finally:
        assert room[: len(GUARD)] == room[-len(GUARD) :] == GUARD


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.name)
def test_a_bad_target_gets_a_typed_error_at_a_bounded_cost(
    attempt: Attempt,
    run: Run,  # noqa: F811 - the fixture
    honest_target: TinyTarget,
) -> None:
    target, logged = BadTarget(attempt), Logged()
    observer: Any = logged
    options = LATE if attempt.ends not in (None, TimedOut, InitiatorError) else SOON

    async def against(reactor: Any) -> tuple[InitiatorError | None, int]:
        disk = await initiator.connect(honest_target.url, reactor=reactor, options=SessionOptions(timeout_s=20))
        honest = Honest(honest_target, disk)
        error: InitiatorError | None = None
        tracemalloc.start()
        try:
            working = Deferred.fromCoroutine(_work(attempt.work, target.url, options, reactor))
            await working.addTimeout(STUCK_S, reactor)
        except InitiatorError as raised:
            error = raised
        _, peak_bytes = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        await honest.stop()
        return error, peak_bytes

    globalLogPublisher.addObserver(observer)
    try:
        error, peak_bytes = run(against)
    finally:
        globalLogPublisher.removeObserver(observer)
        target.close()
    assert target.begun, "the attempt was not made"
    assert logged.faults == []
    assert logged.count < LOGGED_EVENTS
    assert peak_bytes < attempt.memory_mib * MIB
    if attempt.ends is None:
        assert error is None
    else:
        assert isinstance(error, attempt.ends)
        assert attempt.says in str(error)
        assert str(error).isprintable()


def test_the_page_shows_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    for attempt in ATTEMPTS:
        assert f"| {attempt.name} | {attempt.ends.__name__ if attempt.ends else 'nothing raised'} |\n" in page
