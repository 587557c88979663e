"""Stand-ins for the reactor and the threads of a pool, so that a test decides what runs when."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from csvd.storage.disk import Disk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool

T = TypeVar("T")


class PoolClock(Clock):
    """A reactor that runs nothing by itself, and counts what comes from threads."""

    def __init__(self) -> None:
        super().__init__()
        self.calls_from_thread = 0

    def callFromThread(self, callable: Callable[..., Any], *args: object) -> None:  # noqa: A002
        self.calls_from_thread += 1
        self.callLater(0, callable, *args)

    def run(self) -> None:
        """Run passes until nothing is due."""
        while self.getDelayedCalls():
            self.advance(0)


class HeldThreads:
    """Threads that run a call when the test says so."""

    def __init__(self) -> None:
        self.held: list[Callable[[], Any]] = []
        self.hand_offs = 0
        self.count = 0
        self.running = False

    def start(self) -> None:
        self.running = True

    def stop(self) -> None:
        self.running = False

    def have(self, count: int) -> None:
        self.count = max(self.count, count)

    def callInThread(self, func: Callable[..., Any], *args: object) -> None:
        assert self.running, "the threads are not started, or stopped already"
        self.hand_offs += 1
        self.held.append(lambda: func(*args))

    def run_one(self) -> None:
        """The call that has waited longest."""
        self.held.pop(0)()


class InlineThreads(HeldThreads):
    """Threads that run a call at once."""

    def callInThread(self, func: Callable[..., Any], *args: object) -> None:
        super().callInThread(func, *args)
        self.run_one()


class InlinePool:
    """A pool whose work is done when `settle` returns."""

    def __init__(self) -> None:
        self.clock = PoolClock()
        self.threads = InlineThreads()
        self.pool = DiskPool(self.clock, threads=4, thread_pool=self.threads)

    def open(self, url: str, **options: Any) -> Disk:
        """Open a disk over this pool."""
        return self.settle(open_disk(url, pool=self.pool, **options))

    def settle(self, deferred: Deferred[T]) -> T:
        """The result of a Deferred, after all work is done; raises what it failed with."""
        outcome: Deferred[T] = Deferred()
        deferred.addBoth(outcome.callback)
        self.clock.run()
        return result_now(outcome)


def result_now(deferred: Deferred[T]) -> T:
    """The result of a Deferred that has fired; raises what it failed with."""
    results: list[Any] = []
    deferred.addBoth(results.append)
    assert results, "it has not fired"
    if isinstance(results[0], Failure):
        results[0].raiseException()
    result: T = results[0]
    return result


def outcomes_of(*deferreds: Deferred[Any]) -> list[Any]:
    """A list into which each Deferred puts its result when it fires: None, or its exception."""
    outcomes: list[Any] = []
    for deferred in deferreds:
        deferred.addCallbacks(outcomes.append, lambda failure: outcomes.append(failure.value))
    return outcomes
