"""Calls that block, each in a thread with a deadline."""

from __future__ import annotations

import errno
import queue
import threading
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.task import Clock

from csvd.errors import ConfigError
from csvd.storage.disk import FENCED, StorageError
from csvd.storage.rbd.blocking import MOST_THREADS, BlockingCalls
from tests.unit.storage.pool_doubles import outcomes_of
from tests.unit.storage.rbd.fake_ceph import RADOS_ERRORS, RBD_ERRORS

DEADLINE_S = 30.0
PATIENCE_S = 20.0


class ThreadClock(Clock):
    """A clock, and what threads have for the loop, which the test does when it pleases."""

    def __init__(self) -> None:
        super().__init__()
        self._from_threads: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()

    def callFromThread(self, callable: Callable[..., Any], *args: object) -> None:  # noqa: A002
        self._from_threads.put(lambda: callable(*args))

    def do_next(self) -> None:
        """What the next thread has; waits for it."""
        self._from_threads.get(timeout=PATIENCE_S)()


class Rig:
    def __init__(self) -> None:
        self.clock = ThreadClock()
        self.calls = BlockingCalls(self.clock, deadline_s=DEADLINE_S, where="rbd:pool/image")
        self.go = threading.Event()

    def wait_and_say(self, what: str) -> str:
        """A call that waits for the test."""
        assert self.go.wait(PATIENCE_S)
        return what


@pytest.fixture
def rig() -> Rig:
    return Rig()


def fail_with(error: Exception) -> Callable[[], None]:
    def function() -> None:
        raise error

    return function


def test_it_runs_in_another_thread_and_fires_in_the_loop(rig: Rig) -> None:
    outcomes = outcomes_of(rig.calls.run("open", lambda: threading.current_thread()))
    assert outcomes == []
    rig.clock.do_next()
    assert outcomes[0] is not threading.current_thread()
    assert outcomes[0].daemon
    assert not rig.clock.getDelayedCalls()


@pytest.mark.parametrize("error", [RADOS_ERRORS["OSError"], RBD_ERRORS["ImageNotFound"]])
def test_errors_of_ceph_become_those_of_a_disk(rig: Rig, error: type[Exception]) -> None:
    outcomes = outcomes_of(rig.calls.run("resize", fail_with(error(errno.ENOSPC, "it is full"))))
    rig.clock.do_next()
    assert isinstance(outcomes[0], StorageError)
    assert (outcomes[0].errno, outcomes[0].operation) == (errno.ENOSPC, "resize")
    assert "it is full" in str(outcomes[0])


def test_our_own_errors_and_faults_stay_what_they_are(rig: Rig) -> None:
    ours, fault = ConfigError("no such image"), ZeroDivisionError()
    for error in (ours, fault):
        outcomes = outcomes_of(rig.calls.run("open", fail_with(error)))
        rig.clock.do_next()
        assert outcomes == [error]


def test_a_fence_is_called_one(rig: Rig) -> None:
    outcomes = outcomes_of(rig.calls.run("join", fail_with(RADOS_ERRORS["OSError"](errno.ESHUTDOWN))))
    rig.clock.do_next()
    assert outcomes[0].errno == FENCED
    assert "fenced" in str(outcomes[0])


def test_at_the_deadline_it_fails_and_what_comes_too_late_is_let_go(rig: Rig) -> None:
    let_go: list[str] = []
    outcomes = outcomes_of(rig.calls.run("open", lambda: rig.wait_and_say("image"), too_late=let_go.append))
    rig.clock.advance(DEADLINE_S - 0.01)
    assert outcomes == []
    rig.clock.advance(0.01)
    assert outcomes[0].errno == errno.ETIMEDOUT
    assert let_go == []
    rig.go.set()
    rig.clock.do_next()
    assert let_go == ["image"]
    assert len(outcomes) == 1


def test_a_call_may_have_a_deadline_of_its_own(rig: Rig) -> None:
    outcomes = outcomes_of(rig.calls.run("resize", lambda: rig.wait_and_say("done"), deadline_s=100))
    rig.clock.advance(99)
    assert outcomes == []
    rig.go.set()
    rig.clock.do_next()
    assert outcomes == ["done"]


def test_an_error_that_comes_too_late_is_nobodys(rig: Rig) -> None:
    def fail_later() -> None:
        rig.wait_and_say("")
        raise RADOS_ERRORS["OSError"](errno.EIO)

    outcomes = outcomes_of(rig.calls.run("open", fail_later))
    rig.clock.advance(DEADLINE_S)
    rig.go.set()
    rig.clock.do_next()
    assert [outcome.errno for outcome in outcomes] == [errno.ETIMEDOUT]


def test_what_is_cancelled_is_let_go_when_it_comes(rig: Rig) -> None:
    let_go: queue.SimpleQueue[str] = queue.SimpleQueue()
    opening = rig.calls.run("open", lambda: rig.wait_and_say("image"), too_late=let_go.put)
    opening.addErrback(lambda _: None)
    opening.cancel()
    rig.go.set()
    rig.clock.do_next()
    assert let_go.get(timeout=PATIENCE_S) == "image"
    rig.clock.advance(DEADLINE_S)


def test_what_is_cancelled_when_it_is_on_its_way_is_let_go_too(rig: Rig) -> None:
    let_go: queue.SimpleQueue[str] = queue.SimpleQueue()
    came = threading.Event()
    clock = rig.clock
    queued = clock.callFromThread

    def queue_and_tell(callable: Callable[..., Any], *args: object) -> None:  # noqa: A002
        queued(callable, *args)
        came.set()

    clock.callFromThread = queue_and_tell  # type: ignore[method-assign]
    opening = rig.calls.run("open", lambda: "image", too_late=let_go.put)
    opening.addErrback(lambda _: None)
    assert came.wait(PATIENCE_S)
    opening.cancel()
    clock.do_next()
    assert let_go.get(timeout=PATIENCE_S) == "image"


def test_threads_that_never_come_back_are_bounded(rig: Rig) -> None:
    late = outcomes_of(*[rig.calls.run("open", lambda: rig.wait_and_say("")) for _ in range(MOST_THREADS)])
    rig.clock.advance(DEADLINE_S)
    assert len(late) == MOST_THREADS
    refused = outcomes_of(rig.calls.run("open", lambda: rig.wait_and_say("")))
    assert refused[0].errno == errno.EBUSY
    rig.go.set()
    for _ in range(MOST_THREADS):
        rig.clock.do_next()
    outcomes = outcomes_of(rig.calls.run("open", lambda: "again"))
    rig.clock.do_next()
    assert outcomes == ["again"]


def test_it_is_idle_when_the_last_thread_is_done_and_not_at_the_deadline(rig: Rig) -> None:
    idle: list[Any] = []
    rig.calls.when_idle().addCallback(idle.append)
    assert idle == [None]
    outcomes_of(rig.calls.run("open", lambda: rig.wait_and_say("")))
    rig.calls.when_idle().addCallback(idle.append)
    rig.clock.advance(DEADLINE_S)
    assert idle == [None]
    rig.go.set()
    rig.clock.do_next()
    assert idle == [None, None]
