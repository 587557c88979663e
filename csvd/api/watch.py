"""Turns what changes at a node into events: the coordinator, the nodes, the owners of guests."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from csvd.api.events import EventRing
from csvd.api.interfaces import Cluster
from csvd.cluster.register_members import Member


class Watch:
    """Adds to the ring what it sees change."""

    def __init__(self, events: EventRing, cluster: Cluster) -> None:
        self._events = events
        self._cluster = cluster
        self._coordinator: tuple[str, int] | None = None
        self._guests: dict[str, tuple[str, int]] = {}
        self._members: Mapping[str, Member] = {}
        self._unsubscribe: Callable[[], None] = lambda: None

    def start(self) -> None:
        """Begin; what is there already is no event, except a coordinator."""
        self._guests = self._owners()
        self._members = self._cluster.register.members
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
        self._members_changed()
        before, self._guests = self._guests, self._owners()
        for name, (owner, epoch) in self._guests.items():
            known = before.get(name)
            if known is not None and known[0] != owner:
                self._events.add("guest", f"guest {name} moved from {known[0]} to {owner}, epoch {epoch}", subject=name)

    def _members_changed(self) -> None:
        before, self._members = self._members, self._cluster.register.members
        if not before:
            return  # This node hears of the cluster for the first time.
        for node in before.keys() - self._members.keys():
            self._events.add("node", f"{before[node].name} was removed from the cluster", subject=node)
        for node, member in self._members.items():
            for text in _changes(before.get(node), member):
                self._events.add("node", text, subject=node)


def _changes(before: Member | None, now: Member) -> Iterator[str]:
    """What has become of a node, in words."""
    if before is None:
        yield f"{now.name} has joined the cluster at {now.address}"
        return
    if before.name != now.name:
        yield f"{before.name} is called {now.name} now"
    if now.is_voter and not before.is_voter:
        yield f"{now.name} has caught up, and votes"
    if before.address != now.address:
        yield f"{now.name} is at {now.address} now"
    if before.is_draining != now.is_draining:
        yield f"{now.name} is {'drained' if now.is_draining else 'not drained any more'}"
