"""The cluster as coordination sees it: the register, the voters, the links. `csvd.cluster.cluster.Cluster` is it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

from twisted.internet.defer import Deferred

from csvd.cluster.calls import Handler
from csvd.cluster.register import Register
from csvd.cluster.register_disks import DiskRecord
from csvd.shared_disk import SharedDisk

Tell = Callable[[str, str, str], None]
"""Tells people of an event: its kind, a sentence, and what it is about."""

OpenDisk = Callable[[DiskRecord], "Deferred[SharedDisk]"]
"""Opens the shared disk that a record names."""


class Membership(Protocol):
    """This node's membership in its cluster."""

    @property
    def node(self) -> str:
        """The id of this node."""

    @property
    def register(self) -> Register:
        """The register as far as this node has applied it."""

    @property
    def is_coordinator(self) -> bool:
        """Whether this node is Raft's leader and has claimed the register, as far as it knows."""

    @property
    def voters(self) -> frozenset[str]:
        """Who votes, by the latest configuration in this node's journal, committed or not (Raft thesis 4.1)."""

    def is_linked(self, node: str) -> bool:
        """Whether there is a link to a node now; always to this one."""

    def on_change(self, callback: Callable[[Register], None]) -> Callable[[], None]:
        """Call back after every change of the register; gives what ends it."""

    def on_link(self, callback: Callable[[str, bool], None]) -> Callable[[], None]:
        """Call back when the link to a node has come (True) or gone (False); gives what ends it."""

    async def submit(self, command: dict[str, Any], *, timeout_s: float, key: str | None = None) -> dict[str, Any]:
        """Have a command of the register carried out once; see `Cluster.submit`."""

    async def call(self, node: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Call a method of a node, this one's too; see `Cluster.call`."""

    def serve(self, method: str, handler: Handler) -> None:
        """Answer a method."""


class Watchdog(Protocol):
    """Kills this process at a time, also where it is stopped: the kernel does it."""

    def arm(self, deadline_boottime_s: float) -> None:
        """Kill it at that time of CLOCK_BOOTTIME, in place of the time that was set before."""

    def disarm(self) -> None:
        """Let it live."""


class Watch:
    """One watchdog for all that this process must let go of in time: it bites at the earliest of the deadlines."""

    def __init__(self, watchdog: Watchdog) -> None:
        self._watchdog = watchdog
        self._deadlines: dict[str, float] = {}
        self._armed_s: float | None = None

    @property
    def deadlines(self) -> Mapping[str, float]:
        """By what has to be let go of."""
        return self._deadlines

    def arm(self, what: str, deadline_boottime_s: float) -> None:
        """This must be let go of by then."""
        self._deadlines[what] = deadline_boottime_s
        self._set()

    def disarm(self, what: str) -> None:
        """This was let go of."""
        if self._deadlines.pop(what, None) is not None:
            self._set()

    def _set(self) -> None:
        earliest_s = min(self._deadlines.values(), default=None)
        if earliest_s == self._armed_s:
            return
        self._armed_s = earliest_s
        if earliest_s is None:
            self._watchdog.disarm()
        else:
            self._watchdog.arm(earliest_s)
