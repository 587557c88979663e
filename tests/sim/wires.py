"""The wires between hosts: delays, cuts in one direction, slow paths; and TCP connections over them.

A connection keeps the order of what is sent over it. While a path is cut, what is sent waits at the sender, as TCP
sends again, until the path is whole or the connection is given up. Each end has its own opinion of whether there is a
connection: one may have given it up long before the other hears of it.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from random import Random
from typing import Any, Protocol

from tests.sim.world import Process, World

Pair = tuple[str, str]


class Receiver(Protocol):
    """What stands at an end of a connection."""

    process: Process

    def arrived(self, connection: Connection, item: Any) -> None:
        """Something came over it."""

    def broken(self, connection: Connection, reason: str) -> None:
        """The other end has given it up."""


class Listener(Protocol):
    """What accepts connections at a host."""

    process: Process

    def called(self, connection: Connection, item: Any) -> None:
        """The first thing came over a new connection: accept it, or give it up."""


class Wires:
    """All paths between hosts, each with a chance of its own."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._cuts: Counter[Pair] = Counter()
        self.is_down: set[str] = set()
        self.listeners: dict[str, Listener] = {}
        self.slow_s: dict[Pair, float] = {}
        self.loss = 0.0
        self.duplicates = 0.0
        self.delay_s = (0.0002, 0.002)
        self._randoms: dict[Pair, Random] = {}
        self._connections: list[Connection] = []

    def random(self, path: Pair) -> Random:
        """The chance of a path."""
        found = self._randoms.get(path)
        if found is None:
            found = self._randoms[path] = self.world.random(f"wire {path[0]} {path[1]}")
        return found

    def latency_s(self, path: Pair) -> float:
        """How long something takes over a path now."""
        random = self.random(path)
        delay_s = random.uniform(*self.delay_s)
        if random.random() < 0.01:
            delay_s *= 20
        return delay_s + random.random() * self.slow_s.get(path, 0.0)

    def is_cut(self, path: Pair) -> bool:
        """Whether nothing comes through on a path."""
        return path in self._cuts

    def cut(self, paths: Iterable[Pair]) -> None:
        """Let nothing through on these paths, until each cut of a path is mended."""
        self._cuts.update(paths)

    def mend(self, paths: Iterable[Pair] | None = None) -> None:
        """Mend one cut of each of these paths, or all cuts: all comes through again where there is none any more."""
        if paths is None:
            mended = sorted(self._cuts)
            self._cuts.clear()
        else:
            cut = [path for path in paths if path in self._cuts]
            self._cuts.subtract(cut)
            mended = [path for path in cut if not self._cuts[path]]
            for path in mended:
                del self._cuts[path]
        self._connections = [one for one in self._connections if not one.is_over]
        for connection in self._connections:
            connection.mended(mended)

    def connect(self, process: Process, end: Receiver, target: str) -> Connection:
        """A connection that is being made: the other end is set when the first thing has arrived there."""
        connection = Connection(self, process.name, target, end)
        self._connections.append(connection)
        return connection


class Connection:
    """One connection; ends are known by the names of their hosts."""

    def __init__(self, wires: Wires, dialer: str, listener: str, end: Receiver) -> None:
        self._wires = wires
        self._ends: dict[str, Receiver | None] = {dialer: end, listener: None}
        self._last_s: dict[str, float] = {dialer: 0.0, listener: 0.0}
        self._waiting: dict[str, deque[tuple[Callable[..., object], tuple[Any, ...]]]] = {
            dialer: deque(),
            listener: deque(),
        }
        self._is_new = True
        self.dialer = dialer
        self.listener = listener

    @property
    def is_over(self) -> bool:
        """Whether no end has it any more."""
        return self._ends[self.dialer] is None and self._ends[self.listener] is None

    def other(self, name: str) -> str:
        """The host at the other end."""
        return self.listener if name == self.dialer else self.dialer

    def accept(self, end: Receiver) -> None:
        """The listener has it now."""
        self._ends[self.listener] = end

    def has(self, name: str) -> bool:
        """Whether the end at a host has it."""
        return self._ends[name] is not None

    def send(self, source: str, item: Any) -> None:
        """Send something to the other end; nothing where this end has given it up."""
        if self._ends[source] is not None:
            self._carry(source, self._arrive, source, item)

    def give_up(self, name: str, reason: str, *, is_told: bool = True) -> None:
        """An end has it no more; the other is told (RST or FIN), unless the host went down without a word."""
        if self._ends[name] is None:
            return
        self._ends[name] = None
        self._waiting[name].clear()
        if is_told:
            self._carry(name, self._tell, self.other(name), reason)

    def mended(self, paths: Sequence[Pair]) -> None:
        """Paths are whole again: what waits is sent again, a while later."""
        for source in (self.dialer, self.listener):
            path = (source, self.other(source))
            if path in paths and self._waiting[source]:
                pause_s = self._wires.random(path).uniform(0.0, 0.4)
                self._wires.world.later(pause_s, self._flush, source)

    def _carry(self, source: str, call: Callable[..., object], *arguments: Any) -> None:
        wires, path = self._wires, (source, self.other(source))
        when_s = max(self._last_s[source], wires.world.now_s + wires.latency_s(path))
        self._last_s[source] = when_s
        wires.world.later(when_s - wires.world.now_s, self._through, source, call, arguments)

    def _through(self, source: str, call: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        target = self.other(source)
        if target in self._wires.is_down:
            return  # nobody is there, not even to say so
        if self._wires.is_cut((source, target)) or self._waiting[source]:
            self._waiting[source].append((call, arguments))
        else:
            call(*arguments)

    def _flush(self, source: str) -> None:
        waiting = self._waiting[source]
        while waiting and not self._wires.is_cut((source, self.other(source))):
            call, arguments = waiting.popleft()
            call(*arguments)

    def _arrive(self, source: str, item: Any) -> None:
        target = self.other(source)
        end = self._ends[target]
        if end is None:
            listener = self._wires.listeners.get(target)
            if self._is_new and listener is not None:
                self._is_new = False
                self._wires.world.later(0.0, listener.called, self, item, owner=listener.process)
            else:
                # Nobody has this connection here: RST.
                self._carry(target, self._tell, source, "reset by the peer")
        else:
            self._wires.world.later(0.0, self._deliver, target, item, owner=end.process)

    def _deliver(self, target: str, item: Any) -> None:
        end = self._ends[target]
        if end is not None:
            end.arrived(self, item)

    def _tell(self, target: str, reason: str) -> None:
        end = self._ends[target]
        if end is not None:
            self._wires.world.later(0.0, self._break, target, reason, owner=end.process)

    def _break(self, target: str, reason: str) -> None:
        end = self._ends[target]
        if end is not None:
            self._ends[target] = None
            self._waiting[target].clear()
            end.broken(self, reason)
