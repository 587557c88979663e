"""Turns what changes at a node into events: the coordinator, the owners of guests, iSCSI sessions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.task import LoopingCall
from twisted.logger import Logger

from csvd.api.events import EventRing
from csvd.api.interfaces import Cluster, Target

LOOK_S: Final = 1.0


class Watch:
    """Adds to the ring what it sees change.

    Args:
        clock: the node's loop.
        target: whose sessions are looked at every second; a session shorter than that is not seen.
    """

    _log = Logger()

    def __init__(self, clock: Any, events: EventRing, cluster: Cluster, target: Target | None) -> None:
        self._events = events
        self._cluster = cluster
        self._target = target
        self._coordinator: tuple[str, int] | None = None
        self._guests: dict[str, tuple[str, int]] = {}
        self._sessions: dict[tuple[str, int], str] = {}
        self._looking = LoopingCall(self._look_at_sessions)
        self._looking.clock = clock
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin; what is there already is no event, except a coordinator."""
        self._guests = self._owners()
        self._unsubscribe = self._cluster.on_change(lambda *_: self._register_changed())
        self._register_changed()
        if self._target is not None:
            self._looking.start(LOOK_S, now=True).addErrback(
                lambda failure: self._log.failure("sessions are watched no more", failure)
            )

    def stop(self) -> None:
        """End."""
        self._unsubscribe()
        if self._looking.running:
            self._looking.stop()

    def _owners(self) -> dict[str, tuple[str, int]]:
        return {name: (record.owner, record.epoch) for name, record in self._cluster.register.guests.items()}

    def _register_changed(self) -> None:
        record = self._cluster.register.coordinator
        if record is not None and (record.node, record.epoch) != self._coordinator:
            self._coordinator = (record.node, record.epoch)
            self._events.add("election", f"{record.node} is the coordinator, epoch {record.epoch}", subject=record.node)
        before, self._guests = self._guests, self._owners()
        for name, (owner, epoch) in self._guests.items():
            known = before.get(name)
            if known is not None and known[0] != owner:
                self._events.add("guest", f"guest {name} moved from {known[0]} to {owner}, epoch {epoch}", subject=name)

    def _look_at_sessions(self) -> None:
        assert self._target is not None
        now = {
            (session["target"], session["tsih"]): f"{session['initiator']} from {', '.join(session['peers']) or '-'}"
            for session in self._target.sessions()
        }
        for key, text in now.items():
            if key not in self._sessions:
                self._events.add("login", f"{text} logged in to {key[0]}", subject=text.partition(" ")[0])
        for key, text in self._sessions.items():
            if key not in now:
                self._events.add("logout", f"{text} left {key[0]}", subject=text.partition(" ")[0])
        self._sessions = now
