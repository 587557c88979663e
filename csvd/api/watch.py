"""Turns what changes at a node into events: the coordinator, the owners of guests."""

from __future__ import annotations

from collections.abc import Callable

from csvd.api.events import EventRing
from csvd.api.interfaces import Cluster


class Watch:
    """Adds to the ring what it sees change."""

    def __init__(self, events: EventRing, cluster: Cluster) -> None:
        self._events = events
        self._cluster = cluster
        self._coordinator: tuple[str, int] | None = None
        self._guests: dict[str, tuple[str, int]] = {}
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin; what is there already is no event, except a coordinator."""
        self._guests = self._owners()
        self._unsubscribe = self._cluster.on_change(lambda *_: self._register_changed())
        self._register_changed()

    def stop(self) -> None:
        """End."""
        self._unsubscribe()

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
