"""Writes that were left behind on a nexus without an answer, and what must wait until they are proven over.

A write that was sent and not answered may be executed at any time, as long as its I_T nexus lives at the target: from
the target's receive buffer when a stopped process goes on, from its queue, from its disk. RFC 7143 has nothing by which
a time limit follows; only events end it (see :mod:`initiator.multipath`). Until one of them has come about for a nexus,
its writes stand here as stale, with the blocks that they may change.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Any

from initiator.scsi.footprint import Footprint, overlap


@dataclass(frozen=True, slots=True)
class StaleWrite:
    """A write without an answer."""

    nexus: Hashable
    """The nexus that it was sent on."""
    call: Any
    """What it was sent for; its replays are the same call."""
    footprint: Footprint
    since_s: float


class StaleWrites:
    """The stale writes of a disk, whatever path they were sent on.

    Args:
        forget_after_s: after so long a write is taken to be over without a proof; None never does so.
    """

    def __init__(self, forget_after_s: float | None = None) -> None:
        self.forget_after_s = forget_after_s
        self._writes: list[StaleWrite] = []

    def __len__(self) -> int:
        return len(self._writes)

    def __iter__(self) -> Iterator[StaleWrite]:
        return iter(self._writes)

    def left_behind(self, nexus: Hashable, call: Any, footprint: Footprint, now: float) -> None:
        """A write was sent on a nexus, which is left without an answer. One that changes nothing is no write."""
        if footprint[0] < footprint[1]:
            self._writes.append(StaleWrite(nexus, call, footprint, now))

    def proven_over(self, nexus: Hashable) -> bool:
        """Nothing that was sent on this nexus can be executed any more. Gives whether anything stood here for it."""
        before = len(self._writes)
        self._writes = [write for write in self._writes if write.nexus != nexus]
        return len(self._writes) < before

    def over(self, nexus: Hashable, call: Any) -> bool:
        """One write is known to be over: the target has answered its ABORT TASK. Gives whether it stood here."""
        before = len(self._writes)
        self._writes = [write for write in self._writes if write.nexus != nexus or write.call is not call]
        return len(self._writes) < before

    def expire(self, now: float) -> list[StaleWrite]:
        """Forget the writes that have been here for longer than they are believed in; give them."""
        if self.forget_after_s is None:
            return []
        old = [write for write in self._writes if now - write.since_s >= self.forget_after_s]
        self._writes = [write for write in self._writes if now - write.since_s < self.forget_after_s]
        return old

    def next_expiry_s(self) -> float | None:
        """When :meth:`expire` has something to do."""
        if self.forget_after_s is None or not self._writes:
            return None
        return min(write.since_s for write in self._writes) + self.forget_after_s

    def nexuses(self) -> set[Hashable]:
        """The nexuses that have stale writes."""
        return {write.nexus for write in self._writes}

    def hold(self, footprint: Footprint, *, apart_from: Any = None) -> StaleWrite | None:
        """Find a stale write because of which a command with this footprint must wait.

        ``apart_from`` is a call that need not wait for itself: where its own data is written twice nothing changes.
        """
        for write in self._writes:
            if overlap(write.footprint, footprint) and (apart_from is None or write.call is not apart_from):
                return write
        return None
