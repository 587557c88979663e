"""Ctrl-C and SIGTERM: raised where it is safe, kept where something would be left behind."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Interrupts:
    """Turns SIGINT, SIGTERM and SIGHUP into KeyboardInterrupt, but never between an act and the note of how to undo it.

    Use it as a context manager around everything that is to be undone.
    """

    NUMBERS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

    def __init__(self) -> None:
        self._shields = 0
        self._pending = False
        self._ended = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._take) for number in self.NUMBERS}
        return self

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self._ended:
            return
        if self._shields:
            self._pending = True
        else:
            raise KeyboardInterrupt

    @contextlib.contextmanager
    def shielded(self) -> Iterator[None]:
        """Keep a signal that comes meanwhile until the end of the block."""
        self._shields += 1
        try:
            yield
        finally:
            self._shields -= 1
        if self._pending and not self._shields and not self._ended:
            self._pending = False
            raise KeyboardInterrupt

    def ignore(self) -> None:
        """Ignore signals from now on: what is left to do is to clean up."""
        self._ended = True
