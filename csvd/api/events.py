"""What happened at this node lately: a bounded ring of numbered events, as `GET /v1/events` shows them."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Final

EVENTS_KEPT: Final = 1024
EVENTS_ANSWERED: Final = 256
MAX_TEXT_CHARACTERS: Final = 512


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Args:
        number: one more than the event's before it; begins at 1 when the daemon starts.
        time_s: seconds since the epoch, by the clock of the host.
        kind: a word for programs: ``election``, ``login``, ``migration``.
        text: a sentence for people.
        subject: the node, session or guest that it is about.
    """

    number: int
    time_s: float
    kind: str
    text: str
    subject: str


class EventRing:
    """The latest events of this run of the daemon."""

    def __init__(self, *, now_s: Callable[[], float] = time.time, kept: int = EVENTS_KEPT) -> None:
        self._now_s = now_s
        self._events: deque[Event] = deque(maxlen=kept)
        self._began_s = now_s()
        self._last = 0
        self.counts: Counter[str] = Counter()
        """How many there were of each kind, those that are no longer kept, too."""

    def add(self, kind: str, text: str, *, subject: str = "") -> Event:
        """Note an event; the oldest goes when there are too many."""
        self._last += 1
        self.counts[kind] += 1
        event = Event(self._last, self._now_s(), kind, text[:MAX_TEXT_CHARACTERS], subject)
        self._events.append(event)
        return event

    def after(self, number: int, *, limit: int = EVENTS_ANSWERED) -> dict[str, Any]:
        """The events after one, oldest first, at most ``limit``.

        ``last`` is the number to ask after next; ``lost`` how many between are no longer kept; ``began_s`` tells one
        run of the daemon, whose numbers begin at 1, from another.
        """
        if number > self._last:
            number = 0  # a number of a run before this one
        chosen = [event for event in self._events if event.number > number][:limit]
        first = self._events[0].number if self._events else 1
        return {
            "events": [asdict(event) for event in chosen],
            "last": chosen[-1].number if chosen else self._last,
            "lost": max(0, first - number - 1),
            "began_s": self._began_s,
        }
