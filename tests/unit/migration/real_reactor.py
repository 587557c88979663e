"""Runs a scenario on a reactor of its own, with child processes and threads, and leaves nothing behind."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from twisted.internet import process
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

from csvd.migration.interfaces import RunInThread
from tests.own_reactor import close

T = TypeVar("T")


def run_scenario(scenario: Callable[[Any], Awaitable[None]], *, timeout_s: float = 60.0) -> None:
    """Run ``scenario(reactor)`` to its end; raises what it raises, TimeoutError when it takes too long."""
    loop = asyncio.new_event_loop()
    reactor: Any = AsyncioSelectorReactor(loop)
    failures: list[BaseException] = []

    def late() -> None:
        failures.append(TimeoutError(f"the scenario took more than {timeout_s} s"))
        reactor.stop()

    def over(result: object) -> None:
        if isinstance(result, Failure) and result.value is not None:
            failures.append(result.value)
        timer.cancel()
        reactor.stop()

    async def run() -> None:
        await scenario(reactor)

    def begin() -> None:
        Deferred.fromCoroutine(run()).addBoth(over)

    def child_changed(number: int, frame: object) -> None:
        reactor.callFromThread(process.reapAllProcesses)

    before = signal.signal(signal.SIGCHLD, child_changed)
    timer = reactor.callLater(timeout_s, late)
    reactor.callWhenRunning(begin)
    try:
        reactor.run(installSignalHandlers=False)
    finally:
        signal.signal(signal.SIGCHLD, before)
        close(reactor)
        loop.close()
    if failures:
        raise failures[0]


def threads_of(reactor: Any) -> RunInThread:
    """Runs jobs in the reactor's thread pool."""

    def run_in_thread(job: Callable[[], T]) -> Deferred[T]:
        return deferToThreadPool(reactor, reactor.getThreadPool(), job)

    return run_in_thread


async def sleep(reactor: Any, seconds: float) -> None:
    """Let the reactor work for a while."""
    await deferLater(reactor, seconds)


async def until(reactor: Any, condition: Callable[[], object], *, timeout_s: float = 10.0) -> None:
    """Let the reactor work until something is so. Raises TimeoutError."""
    deadline = reactor.seconds() + timeout_s
    while not condition():
        if reactor.seconds() > deadline:
            raise TimeoutError("it did not become so")
        await sleep(reactor, 0.005)
