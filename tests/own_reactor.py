"""A real reactor for one test: the production kind, on a loop of its own, never installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.internet.epollreactor import EPollReactor
from twisted.python.failure import Failure

Work = Callable[[Any], Coroutine[Deferred[Any], Any, Any]]


def run(work: Work, *, time_limit_s: float | None = None) -> Any:
    """Run ``work(reactor)`` to its end; give its result or raise its error, also when it takes too long."""
    loop = asyncio.new_event_loop()
    reactor: Any = AsyncioSelectorReactor(loop)
    outcome: list[Any] = []

    def begin() -> None:
        done: Deferred[Any] = maybeDeferred(lambda: Deferred.fromCoroutine(work(reactor)))
        if time_limit_s is not None:
            done.addTimeout(time_limit_s, reactor)
        done.addBoth(ended)

    def ended(result: Any) -> None:
        outcome.append(result)
        reactor.stop()

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    close(reactor)
    loop.close()
    (result,) = outcome
    if isinstance(result, Failure):
        result.raiseException()
    return result


def close(reactor: Any) -> None:
    """Close what a reactor that has ended leaves open: it is meant to be the only one of its process."""
    for waker in list(reactor._internalReaders):
        reactor.removeReader(waker)
        waker.connectionLost(None)
    if isinstance(reactor, EPollReactor):
        reactor._poller.close()
