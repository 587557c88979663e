"""Running the commands of one call several at a time."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

Work = Callable[[], Coroutine[Deferred[Any], Any, Any]]


async def run_all(works: Iterator[Work], most: int) -> None:
    """Run pieces of work, at most ``most`` at once, begun in order; end when every piece that was begun has ended.

    Only then may the caller of a transfer have its buffers back. The first that fails lets no more begin, and its error
    is raised; so all before a piece that failed were run. Cancelled, it cancels what runs.
    """
    stop = False

    async def worker() -> None:
        nonlocal stop
        for work in works:
            if stop:
                return
            try:
                await work()
            except BaseException:
                stop = True
                raise

    running: list[Deferred[Any]] = [Deferred.fromCoroutine(worker()) for _ in range(most)]
    results = await DeferredList(running, consumeErrors=True)
    failures = [result for succeeded, result in results if not succeeded and isinstance(result, Failure)]
    if failures:
        failures[0].raiseException()
