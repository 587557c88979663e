"""The deadlines of the requests under way: one timer for all. With one timeout for most calls it seldom moves, and a
call costs two steps of a dict."""

from __future__ import annotations

from collections.abc import Callable
from math import inf
from typing import Any

from initiator.engine.requests import Request


class Deadlines:
    """Requests and the times, of ``reactor.seconds()``, by which they want an answer."""

    def __init__(self, reactor: Any, expired: Callable[[Request], None]) -> None:
        self.at: dict[Request, float] = {}
        """Every request that somebody waits for. Who takes one out need do nothing more."""
        self._reactor = reactor
        self._expired = expired
        self._timer: Any = None
        self._timer_at = inf

    def set(self, request: Request, deadline_s: float) -> None:
        """Have ``expired`` called with a request at its deadline, unless it is taken out before."""
        self.at[request] = deadline_s
        if deadline_s < self._timer_at:
            self._schedule(deadline_s)

    def stop(self) -> list[Request]:
        """End the timer; give the requests that waited, oldest first."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer, self._timer_at = None, inf
        waiting, self.at = list(self.at), {}
        return waiting

    def _schedule(self, deadline_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = deadline_s
        self._timer = self._reactor.callLater(max(0.0, deadline_s - self._reactor.seconds()), self._on_time)

    def _on_time(self) -> None:
        self._timer, self._timer_at = None, inf
        now = self._reactor.seconds()
        for request in [request for request, at in self.at.items() if at <= now]:
            if self.at.pop(request, None) is not None:
                self._expired(request)
        # One of them may have set another deadline, and with it the timer, which is not the first one.
        if self.at and (first_s := min(self.at.values())) < self._timer_at:
            self._schedule(first_s)
