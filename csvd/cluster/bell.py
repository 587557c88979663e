"""Waiting for a change, with a time limit, on the clock that is given."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.cluster.reactor import Clock, DelayedCall

_log = Logger()


class Bell:
    """Wakes all that wait. They go on from the loop, not inside of `ring`: what rings need not be ready for them."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[Deferred[bool]] = []
        self._ringing: DelayedCall | None = None

    def ring(self) -> None:
        """Something has changed."""
        if self._ringing is None and self._waiting:
            self._ringing = self._clock.callLater(0, self._rung)

    async def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is rung; False: the time was up before that."""
        waiting: Deferred[bool] = Deferred()
        self._waiting.append(waiting)
        timer = None if timeout_s is None else self._clock.callLater(max(0.0, timeout_s), self._late, waiting)
        try:
            return await waiting
        finally:
            if timer is not None and timer.active():
                timer.cancel()

    def _late(self, waiting: Deferred[bool]) -> None:
        if waiting in self._waiting:
            self._waiting.remove(waiting)
            waiting.callback(False)

    def _rung(self) -> None:
        self._ringing = None
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(True)


async def pause(clock: Clock, seconds: float) -> None:
    """Wait."""
    waiting: Deferred[None] = Deferred()
    clock.callLater(seconds, waiting.callback, None)
    await waiting


def spawn(coroutine: Coroutine[Any, Any, object], what: str) -> Deferred[object]:
    """Begin something that nobody waits for; an error of it is a fault, and is logged."""
    begun: Deferred[object] = Deferred.fromCoroutine(coroutine)
    return begun.addErrback(lambda failure: _log.failure("a fault of csvd: {what}", failure, what=what))
