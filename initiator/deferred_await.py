"""Coroutines that await Deferreds, run by an asyncio task."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

from twisted.internet.defer import CancelledError, Deferred

_Result = TypeVar("_Result")


async def in_task(work: Awaitable[_Result]) -> _Result:
    """Await in an asyncio task what awaits Deferreds: a coroutine of this package, or a Deferred.

    When the task is cancelled, the Deferred that is awaited is cancelled at once; the work ends (and so has given its
    buffers back) before the asyncio.CancelledError goes on to the caller. What the work raises is raised here, with its
    own traceback.
    """
    steps = work.__await__()
    loop = asyncio.get_running_loop()
    resume: Callable[[Any], Deferred[Any]] = steps.send
    told: CancelledError | None = None
    cancelled: asyncio.CancelledError | None = None
    while True:
        try:
            deferred = resume(told)
        except StopIteration as done:
            if cancelled is not None:
                raise cancelled from None
            result: _Result = done.value
            return result
        except BaseException as error:
            if cancelled is not None:
                raise cancelled from error
            raise
        resume, told = steps.send, None
        future = loop.create_future()
        deferred.addBoth(_arrived, future)
        try:
            await future
        except asyncio.CancelledError as error:
            cancelled = error
            if future.cancelled():
                await _cancel(deferred)
            else:  # it fired just before: what it brought has come too late
                deferred.addErrback(lambda _: None)
                resume, told = steps.throw, CancelledError()


def _arrived(outcome: Any, future: asyncio.Future[None]) -> Any:
    # The Deferred keeps what it fired with: the coroutine takes it from there.
    if not future.done():
        future.set_result(None)
    return outcome


async def _cancel(deferred: Deferred[Any]) -> None:
    """Cancel a Deferred and wait until it has fired, however often this task is cancelled meanwhile."""
    while True:
        deferred.cancel()
        future = asyncio.get_running_loop().create_future()
        deferred.addBoth(_arrived, future)
        with suppress(asyncio.CancelledError):
            await future
        if not future.cancelled():
            return
