"""A line on stderr that tells how far work is, how fast it goes, and when it will be done."""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from initiator.cli.options import size_text

EVERY_S: Final = 0.2
WINDOW_S: Final = 5.0
"""The rate is that of so many seconds."""

BAR_WIDTH: Final = 24


class Progress:
    """Drawn at most five times a second, where stderr is a terminal.

    Args:
        label: what is done.
        now_s: a clock.
        write: takes the text; None: stderr, if that is a terminal.
    """

    def __init__(self, label: str, now_s: Callable[[], float], write: Callable[[str], Any] | None = None) -> None:
        self._label = label
        self._now_s = now_s
        self._write = write or (_to_terminal if sys.stderr.isatty() else None)
        self._points: deque[tuple[float, int]] = deque()
        self._next_s = 0.0
        self._drawn = False

    def update(self, done: int, whole: int | None) -> None:
        """So many bytes are done, of so many where that is known."""
        if self._write is None or (now := self._now_s()) < self._next_s:
            return
        self._next_s = now + EVERY_S
        self._points.append((now, done))
        while len(self._points) > 2 and now - self._points[0][0] > WINDOW_S:
            self._points.popleft()
        (first_s, first), _ = self._points[0], self._points[-1]
        rate = (done - first) / (now - first_s) if now > first_s else 0.0
        self._write("\r\x1b[K" + line(self._label, done, whole, rate))
        self._drawn = True

    def end(self) -> None:
        """Take the line away."""
        if self._drawn and self._write is not None:
            self._write("\r\x1b[K")
            self._drawn = False


def line(label: str, done: int, whole: int | None, rate: float) -> str:
    """Give the text of the line; ``rate`` is in bytes a second."""
    speed = f"{size_text(rate)}/s"
    if whole is None:
        return f"{label}  {size_text(done)}  {speed}"
    share = min(1.0, done / whole) if whole else 1.0
    bar = "#" * int(share * BAR_WIDTH)
    left = f"  {_clock((whole - done) / rate)} left" if rate > 0 and done < whole else ""
    return f"{label}  [{bar:-<{BAR_WIDTH}}]  {share:4.0%}  {size_text(done)} of {size_text(whole)}  {speed}{left}"


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _to_terminal(text: str) -> None:
    sys.stderr.write(text)
    sys.stderr.flush()
