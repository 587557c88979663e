"""Whose turn it is: for procedures that change what is kept, one after the other."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable


class Turn:
    """One at a time, first come, first served."""

    def __init__(self) -> None:
        self._waiting: deque[Callable[[], None]] = deque()
        self._is_free = True
        self._is_passing = False

    def take(self, granted: Callable[[], None]) -> None:
        """Call back when it is the caller's turn."""
        if self._is_free and not self._waiting:
            self._is_free = False
            granted()
        else:
            self._waiting.append(granted)

    def pass_on(self) -> None:
        """Whoever has the turn is done. What waits is begun from here, one after the other, never one inside another:
        a thousand that wait must not cost a thousand frames."""
        self._is_free = True
        if self._is_passing:
            return
        self._is_passing = True
        while self._waiting and self._is_free:
            self._is_free = False
            self._waiting.popleft()()
        self._is_passing = False
