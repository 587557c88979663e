from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import pytest
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred, maybeDeferred
from twisted.python.failure import Failure

from tests.unit.initiator.tiny_target import TinyTarget

Run = Callable[[Callable[[Any], Coroutine[Deferred[Any], Any, Any]]], Any]


@pytest.fixture
def run() -> Run:
    """Run ``work(reactor)`` on a reactor of its own; give its result or raise its error."""

    def run_now(work: Callable[[Any], Coroutine[Deferred[Any], Any, Any]]) -> Any:
        loop = asyncio.new_event_loop()
        reactor = AsyncioSelectorReactor(loop)
        outcome: list[Any] = []

        def begin() -> None:
            maybeDeferred(lambda: Deferred.fromCoroutine(work(reactor))).addBoth(ended)

        def ended(result: Any) -> None:
            outcome.append(result)
            reactor.stop()  # type: ignore[no-untyped-call]

        reactor.callWhenRunning(begin)
        reactor.run(installSignalHandlers=False)  # type: ignore[no-untyped-call]
        loop.close()
        (result,) = outcome
        if isinstance(result, Failure):
            result.raiseException()
        return result

    return run_now


@pytest.fixture
def target() -> Iterator[TinyTarget]:
    tiny = TinyTarget()
    yield tiny
    tiny.close()
