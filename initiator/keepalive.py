"""Pings of a silent target by NOP-Out, so that one that is gone is found out (RFC 7143 section 11.18)."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from initiator.errors import InitiatorError, TimedOut

Ping = Callable[[], Coroutine[Deferred[Any], Any, float]]


class Keepalive:
    """Pings when nothing came for an interval.

    Args:
        interval_s: how long silence may last; 0 never pings.
        ping: sends a ping and waits for its answer; raises TimedOut without one.
        bytes_received: how much has come so far.
        deaf: called when a ping has no answer.
    """

    def __init__(
        self,
        reactor: Any,
        interval_s: float,
        *,
        ping: Ping,
        bytes_received: Callable[[], int],
        deaf: Callable[[], None],
    ) -> None:
        self._reactor = reactor
        self._interval_s = interval_s
        self._ping = ping
        self._bytes_received = bytes_received
        self._deaf = deaf
        self._timer: Any = None
        self._seen = 0
        self._stopped = False

    def start(self) -> None:
        """Begin to listen."""
        if self._interval_s and not self._stopped:
            self._timer = self._reactor.callLater(self._interval_s, self._look)

    def stop(self) -> None:
        """Ping no more, for good."""
        self._stopped = True
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None

    def _look(self) -> None:
        self._timer = None
        seen = self._bytes_received()
        if seen != self._seen:
            self._seen = seen
            self.start()
            return
        Deferred.fromCoroutine(self._ping()).addCallbacks(self._answered, self._unanswered)

    def _answered(self, _time_s: float) -> None:
        self._seen = self._bytes_received()
        self.start()

    def _unanswered(self, failure: Failure) -> None:
        if isinstance(failure.value, TimedOut):
            self._deaf()
        elif not isinstance(failure.value, InitiatorError):  # with others the session has ended already
            failure.raiseException()
