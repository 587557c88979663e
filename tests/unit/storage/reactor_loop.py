"""A real reactor for one test: the production kind, on a loop of its own, never installed."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

TIME_LIMIT_S = 20.0


def run_in_reactor(
    main: Callable[[Any], Coroutine[Deferred[Any], Any, None]], *, time_limit_s: float = TIME_LIMIT_S
) -> None:
    """Run `main(reactor)` to its end; raises what it raises, and fails when it takes too long."""
    loop = asyncio.new_event_loop()
    reactor: Any = AsyncioSelectorReactor(loop)
    results: list[Any] = []

    def begin() -> None:
        done = Deferred.fromCoroutine(main(reactor))
        done.addTimeout(time_limit_s, reactor)
        done.addBoth(results.append)
        done.addBoth(lambda _: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run(installSignalHandlers=False)
    loop.close()
    if isinstance(results[0], Failure):
        results[0].raiseException()
