"""The calls of an IscsiDisk, and what becomes of them when the node is fenced; on a clock of the test's."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock

from csvd.storage.disk import FENCED, StorageError
from csvd.storage.iscsi.calls import ANSWERS_S, ASK_S, Calls
from initiator import TimedOut
from tests.unit.storage.pool_doubles import outcomes_of


class Bench:
    """Calls that end when the test says so."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.asked = 0
        self.cancelled: list[Deferred[Any]] = []
        self.calls = Calls(self.clock, self._ask, where="disk", block_bytes=512)
        self.calls.watching = True

    def _ask(self) -> None:
        self.asked += 1

    def call(self, operation: str) -> tuple[Deferred[Any], list[Any]]:
        """One under way: what it waits for, and what it came to."""
        inner: Deferred[Any] = Deferred(self.cancelled.append)

        async def work() -> Any:
            return await inner

        return inner, outcomes_of(self.calls.run(operation, 4096, work()))


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_a_call_gives_what_its_work_gives(bench: Bench) -> None:
    inner, outcome = bench.call("read")
    inner.callback(7)
    assert outcome == [7]
    assert not bench.clock.getDelayedCalls()


def test_what_the_initiator_could_not_do_is_an_error_of_the_disk(bench: Bench) -> None:
    inner, outcome = bench.call("write")
    inner.errback(TimedOut("too late"))
    assert isinstance(outcome[0], StorageError)
    assert (outcome[0].errno, outcome[0].operation, outcome[0].offset_bytes) == (errno.ETIMEDOUT, "write", 4096)


def test_it_is_idle_when_the_last_has_ended(bench: Bench) -> None:
    assert outcomes_of(bench.calls.when_idle()) == [None]
    first, _ = bench.call("read")
    second, _ = bench.call("write")
    idle = outcomes_of(bench.calls.when_idle())
    first.callback(None)
    assert idle == []
    second.errback(ValueError())
    assert idle == [None]


def test_what_a_fence_has_aborted_is_given_up_after_a_while(bench: Bench) -> None:
    answered, first = bench.call("write")
    _, second = bench.call("write")
    _, third = bench.call("read")
    bench.calls.aborted(was_fenced=True)
    late, fourth = bench.call("read")
    answered.errback(TimedOut("too late"))
    bench.clock.advance(ANSWERS_S)
    assert first[0].errno == errno.ETIMEDOUT
    assert (second[0].errno, third[0].errno) == (FENCED, errno.EAGAIN)
    assert len(bench.cancelled) == 2
    assert fourth == [], "it began after the fence: it will be answered"
    late.callback(None)
    assert fourth == [None]


def test_what_a_reset_has_aborted_may_be_tried_again(bench: Bench) -> None:
    _, outcome = bench.call("write")
    bench.calls.aborted(was_fenced=False)
    bench.clock.advance(ANSWERS_S)
    assert (outcome[0].errno, outcome[0].why) == (errno.EAGAIN, "another node had it aborted")


def test_a_node_that_waits_for_long_asks_whether_it_was_fenced(bench: Bench) -> None:
    first, _ = bench.call("write")
    bench.clock.advance(ASK_S)
    assert bench.asked == 1
    bench.clock.advance(ASK_S)
    assert bench.asked == 2
    bench.call("read")
    first.callback(None)
    bench.clock.advance(ASK_S / 2)
    assert bench.asked == 2, "the oldest that is left has not waited for long"


def test_who_can_not_be_fenced_asks_nothing(bench: Bench) -> None:
    bench.calls.watching = False
    bench.call("write")
    bench.clock.advance(10 * ASK_S)
    assert bench.asked == 0


def test_a_caller_who_gives_up_gets_what_a_cancelled_call_gives(bench: Bench) -> None:
    inner: Deferred[Any] = Deferred()

    async def work() -> Any:
        return await inner

    running = bench.calls.run("write", 0, work())
    outcome = outcomes_of(running)
    running.cancel()
    assert isinstance(outcome[0], CancelledError)
    assert outcomes_of(bench.calls.when_idle()) == [None]
