"""What happens on a LUN, as events: found by asking it little and often, and told by its unit attentions."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.task import deferLater

from initiator.disk import Disk
from initiator.errors import CommandFailed, ConnectFailed, MalformedAnswer, SessionClosed, SessionLost, TimedOut
from initiator.scsi.sense import Sense

FIRST_BACKOFF_S: Final = 0.5
LAST_BACKOFF_S: Final = 10.0
FACTS_EVERY: Final = 10
"""Polls after which everything is asked for, also where no unit attention has told of a change."""

_GONE: Final = (SessionLost, SessionClosed, TimedOut)
_UNREACHABLE: Final = (*_GONE, ConnectFailed)


@dataclass(frozen=True, slots=True)
class Event:
    """Something happened. ``kind`` is for programs, ``text`` for people; ``facts`` are plain values."""

    kind: str
    text: str
    facts: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Facts:
    """What a LUN said of itself; None where it does not say.

    Args:
        groups: of every target port group its tag, access state and whether it is preferred.
        keys: the registered reservation keys, in order.
        reservation: who holds it: the type and the key in words; empty: nobody.
    """

    size_bytes: int
    block_bytes: int
    groups: tuple[tuple[int, str, bool], ...] | None = None
    keys: tuple[int, ...] | None = None
    reservation: str | None = None


def changes(before: Facts | None, after: Facts) -> Iterator[Event]:
    """Give what is different; without ``before`` what there is."""
    size = {"size_bytes": after.size_bytes, "block_bytes": after.block_bytes}
    if before is None or (before.size_bytes, before.block_bytes) != (after.size_bytes, after.block_bytes):
        was = "" if before is None else f", was {before.size_bytes}"
        yield Event("capacity", f"{after.size_bytes} bytes in blocks of {after.block_bytes}{was}", size)
    old = {} if before is None else {tag: (state, preferred) for tag, state, preferred in before.groups or ()}
    for tag, state, preferred in after.groups or ():
        if old.get(tag) != (state, preferred):
            was = f", was {old[tag][0]}" if tag in old else ""
            text = f"target port group {tag} is {state}{' and preferred' if preferred else ''}{was}"
            yield Event("access_state", text, {"group": tag, "state": state, "preferred": preferred})
    yield from _reservation_changes(before, after)


def _reservation_changes(before: Facts | None, after: Facts) -> Iterator[Event]:
    keys, old_keys = after.keys, None if before is None else before.keys
    if keys is not None and keys != old_keys and (keys or old_keys):
        text = ", ".join(f"{key:#x}" for key in keys) or "none"
        yield Event("registrations", f"registered keys: {text}", {"keys": [f"{key:#x}" for key in keys]})
    held, old_held = after.reservation, None if before is None else before.reservation
    if held is not None and held != old_held and (held or old_held):
        text = f"reserved: {held}" if held else "the reservation is gone"
        yield Event("reservation", text, {"reservation": held or None})


class Watcher:
    """Watches one LUN, over as many sessions as it takes.

    Args:
        connect: logs in anew.
        tell: takes the events.
        interval_s: between two polls (TEST UNIT READY).
    """

    def __init__(
        self, reactor: Any, connect: Callable[[], Awaitable[Disk]], tell: Callable[[Event], None], *, interval_s: float
    ) -> None:
        self._reactor = reactor
        self._connect = connect
        self._tell = tell
        self._interval_s = interval_s
        self._facts: Facts | None = None
        self._stale = True
        self._ready = True

    async def run(self) -> None:
        """Watch for ever; a lost session is logged in again.

        Raises:
            CsvdError: the first login failed, or a later one in a way that waiting does not mend.
        """
        disk = await self._connect()
        while True:
            try:
                await self._observe(disk)
            except _GONE as error:
                self._tell(Event("session_gone", f"session lost: {error}", {"why": str(error)}))
            finally:
                await disk.close()
            disk = await self._again()

    async def _again(self) -> Disk:
        began_s, backoff_s, tries = self._reactor.seconds(), FIRST_BACKOFF_S, 0
        while True:
            tries += 1
            try:
                disk = await self._connect()
            except _UNREACHABLE as error:
                if tries == 1:
                    self._tell(Event("unreachable", f"can not log in: {error}", {"why": str(error)}))
                await deferLater(self._reactor, backoff_s, lambda: None)
                backoff_s = min(2 * backoff_s, LAST_BACKOFF_S)
                continue
            down_s = round(self._reactor.seconds() - began_s, 3)
            text = f"logged in again after {down_s:.1f} s, at try {tries}"
            self._tell(Event("logged_in_again", text, {"down_s": down_s, "tries": tries}))
            return disk

    async def _observe(self, disk: Disk) -> None:
        """Poll until the session is lost."""
        disk.on_unit_attention.append(self._attention)
        listen = getattr(disk.road, "listen", None)
        if listen is not None:  # a road that logs in again by itself tells what it does
            listen(self._road_event)
        self._stale, polls = True, 0
        while True:
            if self._stale or polls % FACTS_EVERY == 0:
                self._stale = False
                await self._compare(disk)
            await deferLater(self._reactor, self._interval_s, lambda: None)
            polls += 1
            await self._poll(disk)

    async def _poll(self, disk: Disk) -> None:
        try:
            await disk.test_unit_ready()
        except CommandFailed as failed:
            if self._ready:
                self._tell(Event("not_ready", f"not ready: {failed}", {"why": str(failed)}))
            self._ready = False
            return
        if not self._ready:
            self._ready = True
            self._tell(Event("ready", "ready again", {}))

    async def _compare(self, disk: Disk) -> None:
        facts = await gather(disk)
        if facts is not None:
            for event in changes(self._facts, facts):
                self._tell(event)
            self._facts = facts

    def _attention(self, sense: Sense) -> None:
        self._stale = True
        self._tell(Event("unit_attention", f"unit attention: {sense}", {"asc": sense.asc, "ascq": sense.ascq}))

    def _road_event(self, event: Any) -> None:
        self._stale = True
        kind = "".join(f"_{c.lower()}" if c.isupper() else c for c in type(event).__name__).lstrip("_")
        if kind != "unit_attention":  # those come from the disk, too
            self._tell(Event(kind, str(event), {}))


async def gather(disk: Disk) -> Facts | None:
    """Ask a LUN for what may change; None where it does not even tell its size."""
    try:
        capacity = await disk.read_capacity()
    except (CommandFailed, MalformedAnswer):
        return None
    groups: tuple[tuple[int, str, bool], ...] | None = None
    keys: tuple[int, ...] | None = None
    held: str | None = None
    with suppress(CommandFailed, MalformedAnswer):
        found = (await disk.target_port_groups()).groups
        groups = tuple((group.tag, group.state.name.lower().replace("_", " "), group.preferred) for group in found)
    with suppress(CommandFailed, MalformedAnswer):
        keys = tuple(sorted((await disk.reservations.keys()).keys))
        reservation = await disk.reservations.reservation()
        kind = reservation.type.text if reservation.type is not None else f"type {reservation.kind}"
        held = f"{kind} by {reservation.key:#x}" if reservation.held else ""
    return Facts(capacity.size_bytes, capacity.block_bytes, groups, keys, held)
