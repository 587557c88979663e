"""The simulated world: one queue of events, real time, and processes whose clocks are not quite right.

Nothing here knows what runs in it. The same seed gives the same events in the same order: chance comes from `Random`s
that are made of the seed and a name, time from the queue, and nothing depends on the order of hashing.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Callable
from heapq import heappop, heappush
from random import Random
from typing import Any, Final, Protocol

from twisted.internet.error import AlreadyCalled, AlreadyCancelled

KEPT_LINES: Final = 400
"""How many of the last events are shown when a seed fails."""
MAXIMUM_STEPS_AT_ONCE: Final = 20_000


class Violation(AssertionError):
    """Something that must never happen has happened."""


class Trace:
    """What happened, as lines; the last are kept, and a checksum of all."""

    def __init__(self, echo: Callable[[str], None] | None = None) -> None:
        self.last: deque[str] = deque(maxlen=KEPT_LINES)
        self.checksum = 0
        self.lines = 0
        self._echo = echo

    def add(self, line: str) -> None:
        self.lines += 1
        self.checksum = zlib.crc32(line.encode(), self.checksum)
        self.last.append(line)
        if self._echo is not None:
            self._echo(line)


class Event:
    """A call that is to come, of a process or of the world itself."""

    __slots__ = ("arguments", "call", "due_s", "owner", "state", "when_s")

    def __init__(
        self, owner: Process | None, due_s: float | None, call: Callable[..., object], arguments: tuple[Any, ...]
    ) -> None:
        self.owner = owner
        self.due_s = due_s  # on the clock of the owner, for its own timers
        self.call: Callable[..., object] | None = call
        self.arguments = arguments
        self.when_s = 0.0
        self.state = ""

    def cancel(self) -> None:
        if self.state:
            raise AlreadyCalled if self.state == "called" else AlreadyCancelled
        self.state = "cancelled"
        self.call = None

    def active(self) -> bool:
        return not self.state

    def reset(self, seconds: float) -> None:
        assert self.owner is not None
        assert not self.state
        self.owner.clock.schedule(self, seconds)


class World:
    """The queue of events and real time."""

    def __init__(self, seed: int, trace: Trace | None = None) -> None:
        self.seed = seed
        self.trace = trace or Trace()
        self.now_s = 0.0
        self.steps = 0
        self.after_step: Callable[[Process | None], None] = lambda process: None
        self._queue: list[tuple[float, int, Event]] = []
        self._pushed = 0

    def random(self, name: str) -> Random:
        """A source of chance of its own for a name, so that one part does not disturb the others."""
        return Random(f"{self.seed}/{name}")

    def note(self, who: str, what: str) -> None:
        """Put a line into the trace."""
        self.trace.add(f"{self.now_s:11.6f} {who:4} {what}")

    def later(
        self, delay_s: float, call: Callable[..., object], *arguments: Any, owner: Process | None = None
    ) -> Event:
        """Call after a delay in real time; as an event of a process where there is an owner."""
        event = Event(owner, None, call, arguments)
        self.push(self.now_s + delay_s, event)
        return event

    def push(self, when_s: float, event: Event) -> None:
        """Put an event into the queue; those of the same time come in this order."""
        self._pushed += 1
        event.when_s = when_s
        heappush(self._queue, (when_s, self._pushed, event))

    def run_until(self, end_s: float, is_enough: Callable[[], bool] | None = None) -> bool:
        """Run all events up to a time, or until there is enough; whether that was so."""
        queue, moved_at = self._queue, self.steps
        while queue and queue[0][0] <= end_s:
            when_s, _, event = heappop(queue)
            if event.state or event.when_s != when_s:
                continue  # cancelled, or put off
            if when_s > self.now_s:
                self.now_s = when_s
                moved_at = self.steps
            elif self.steps - moved_at > MAXIMUM_STEPS_AT_ONCE:
                raise Violation(f"{MAXIMUM_STEPS_AT_ONCE} steps in a row take no time: it goes in circles")
            self._dispatch(event)
            if is_enough is not None and is_enough():
                return True
        self.now_s = max(self.now_s, end_s)
        return False

    def _dispatch(self, event: Event) -> None:
        owner = event.owner
        if owner is not None:
            if not owner.is_alive:
                return
            if owner.is_paused:
                owner.backlog.append(event)
                return
            if event.due_s is not None and owner.clock.is_early(event):
                return
        self.run(event)

    def run(self, event: Event) -> None:
        """Run an event now."""
        call = event.call
        assert call is not None
        event.state = "called"
        event.call = None
        self.steps += 1
        call(*event.arguments)
        self.after_step(event.owner)


class Ending(Protocol):
    """What happens to something of a process when the process ends."""

    def __call__(self, *, power_cut: bool) -> None:
        """It ended: it was killed, or the power of its host went."""


class Process:
    """A process on a host: alive until it is killed; while it is paused its events pile up."""

    def __init__(self, world: World, name: str, rate: float, offset_s: float) -> None:
        self.world = world
        self.name = name
        self.is_alive = True
        self.is_paused = False
        self.backlog: list[Event] = []
        self.endings: list[Ending] = []
        self.clock = ProcessClock(self, rate, offset_s)
        self._paused_at_s = 0.0

    def kill(self, *, power_cut: bool = False) -> None:
        """None of its events comes any more."""
        self.is_alive = False
        self.backlog.clear()
        for ending in self.endings:
            ending(power_cut=power_cut)

    def pause(self) -> None:
        self.is_paused = True
        self._paused_at_s = self.world.now_s

    def resume(self, *, was_suspended: bool, timers_first: bool) -> None:
        """Let it go on: what has piled up comes at once.

        Args:
            was_suspended: the whole host slept, so that CLOCK_MONOTONIC stood still; CLOCK_BOOTTIME never does.
            timers_first: in the order of Twisted's loop, else in the order of time.
        """
        self.is_paused = False
        if was_suspended:
            self.clock.slept(self.world.now_s - self._paused_at_s)
        backlog, self.backlog = self.backlog, []
        if timers_first:
            backlog.sort(key=lambda event: event.due_s is None)
        for event in backlog:
            self.world.push(self.world.now_s, event)


class ProcessClock:
    """The clock of a process, as Twisted's reactor has it: CLOCK_MONOTONIC, and CLOCK_BOOTTIME by `boottime`."""

    def __init__(self, process: Process, rate: float, offset_s: float) -> None:
        self.process = process
        self._world = process.world
        self.rate = rate
        self._offset_s = offset_s - rate * process.world.now_s
        self._slept_s = 0.0
        self._seen_s = 0.0

    def boottime(self) -> float:
        """Seconds of CLOCK_BOOTTIME."""
        return self._offset_s + self.rate * self._world.now_s

    def seconds(self) -> float:
        """Seconds of CLOCK_MONOTONIC."""
        now_s = self._offset_s + self.rate * self._world.now_s - self._slept_s
        if now_s > self._seen_s:
            self._seen_s = now_s
        return self._seen_s

    def callLater(self, delay: float, callable: Callable[..., Any], *args: Any, **keywords: Any) -> Event:  # noqa: A002
        """Call after a delay by this clock."""
        call = (lambda *given: callable(*given, **keywords)) if keywords else callable
        event = Event(self.process, None, call, args)
        self.schedule(event, delay)
        return event

    def schedule(self, event: Event, delay_s: float) -> None:
        """Let a timer come after a delay from now."""
        assert delay_s >= 0
        event.due_s = self.seconds() + delay_s
        self._world.push(self._world.now_s + delay_s / self.rate, event)

    def is_early(self, event: Event) -> bool:
        """Whether a timer comes too early, for this clock slept; it comes again then."""
        due_s = event.due_s
        assert due_s is not None
        early_s = due_s - self.seconds()
        if early_s > 1e-9:
            self._world.push(self._world.now_s + early_s / self.rate, event)
            return True
        # Exactly the time that was asked for, whatever the rounding, as a loop that waits for it sees it.
        self._seen_s = max(self._seen_s, due_s)
        return False

    def slept(self, real_s: float) -> None:
        """The host was suspended for a time."""
        self._slept_s += real_s * self.rate
