"""Which ask of a node is being carried out: so that what is kept meanwhile is kept together with its answer."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True, slots=True, order=True)
class AskKey:
    """Names one ask for ever.

    Args:
        node: the id of the node that asks.
        incarnation: the number of that node's run.
        number: of the ask in that run, at one disk; from 1.
    """

    node: str
    incarnation: int
    number: int


CURRENT_ASK: Final[ContextVar[AskKey | None]] = ContextVar("current ask", default=None)
"""Within `Service.asked` and all that it awaits: the ask. A coroutine that Twisted runs keeps the context in which it
was begun."""


def current_ask() -> AskKey:
    """The ask that is being carried out.

    Raises:
        ValueError: none is.
    """
    key = CURRENT_ASK.get()
    if key is None:
        raise ValueError("an answer is kept within an ask only")
    return key
