"""What copying and comparing share: buffers, and the answer to a plan that asks."""

from __future__ import annotations

import mmap

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


def pages(length: int) -> memoryview:
    """Give a buffer of whole pages.

    What malloc gives of such a size begins 16 bytes into a page; some processors copy a page to there at a fifth of the
    speed.
    """
    return memoryview(mmap.mmap(-1, length))
