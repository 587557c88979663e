"""Work that goes on at once: commands several at a time, what blocks in a thread, and waiting for all of it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.threads import deferToThreadPool
from twisted.python.failure import Failure

_Result = TypeVar("_Result")

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

    await all_of([Deferred.fromCoroutine(worker()) for _ in range(most)])


async def all_of(running: Sequence[Deferred[Any]]) -> None:
    """Wait until all have ended; only then may their buffers go. Raises the error of the first in order that failed."""
    results: list[tuple[bool, Any]] = await DeferredList(list(running), consumeErrors=True)
    for succeeded, result in results:
        if not succeeded:
            failure: Failure = result
            failure.raiseException()


async def in_thread(reactor: Any, work: Callable[..., _Result], *args: Any) -> _Result:
    """Run what may block (a slow file, a pipe) in a thread: the sessions must stay able to answer their targets."""
    done: Deferred[_Result] = deferToThreadPool(reactor, reactor.getThreadPool(), work, *args)
    return await done
