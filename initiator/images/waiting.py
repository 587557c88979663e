"""What copying and comparing share: buffers, the answer to a plan that asks, waiting for all that runs."""

from __future__ import annotations

import mmap
from collections.abc import Sequence
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from initiator.errors import InitiatorError
from initiator.images.end import End
from initiator.images.plan import Ask, CopyPlan, Run


async def answer(plan: CopyPlan, ask: Ask, end: End, offset: int) -> None:
    """Ask an end, of which the copy begins at ``offset``, and tell the plan.

    Raises:
        InitiatorError: the end says nothing.
    """
    runs = [Run(run.offset - offset, run.length, run.zero) for run in await end.runs(offset + ask.offset, ask.length)]
    if not any(run.length for run in runs):
        raise InitiatorError("nothing is told of what is there", where=end.name)
    plan.mapped(ask.side, runs)


async def all_of(running: Sequence[Deferred[Any]]) -> None:
    """Wait until all have ended; only then may their buffers go. Raises the error of the first in order that failed."""
    results: list[tuple[bool, Any]] = await DeferredList(list(running), consumeErrors=True)
    for succeeded, result in results:
        if not succeeded:
            failure: Failure = result
            failure.raiseException()


def pages(length: int) -> memoryview:
    """Give a buffer of whole pages.

    What malloc gives of such a size begins 16 bytes into a page; some processors copy a page to there at a fifth of the
    speed.
    """
    return memoryview(mmap.mmap(-1, length))
