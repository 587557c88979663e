"""Deferreds that wait: for the answer to a request, and with others for the same thing."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred

from initiator.engine.requests import Request


def answer(request: Request) -> None:
    """Fire the Deferred that stands in a request's context, as it ended."""
    done: Deferred[Any] = request.context
    request.context = None
    if request.error is None:
        done.callback(request)
    else:
        done.errback(request.error)


async def follow(original: Deferred[None]) -> None:
    """Wait for a Deferred that others wait for too."""
    waiting: Deferred[None] = Deferred()

    def passed(result: None) -> None:
        waiting.callback(None)
        return result

    original.addCallback(passed)
    await waiting
