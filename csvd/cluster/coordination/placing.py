"""Raft's leader sees to it that every disk has a coordinator: it asks the members what they do, decides, and asks one
to take an office (csvd.cluster.coordination.placement decides). Whoever is asked claims the office in the register: two
leaders that do not know of one another do no harm.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from csvd.cluster.bell import Bell, spawn
from csvd.cluster.coordination.faces import Json
from csvd.cluster.coordination.membership import Membership, Tell
from csvd.cluster.coordination.placement import DiskView, Move, NodeView, place
from csvd.cluster.errors import ClusterError
from csvd.cluster.reactor import Clock
from csvd.cluster.timeouts import Timeouts

FACTS: Final = "office.facts"
TAKE: Final = "office.take"
ROUND_S: Final = 0.5
"""Between two looks where nothing is heard."""
HURRIED_S: Final = 0.03
"""Between two looks while a coordinator's link is lost."""
GONE_S: Final = 0.3
"""A coordinator whose link has been lost for this long is taken for gone; its successor finds out whether it is."""
FACTS_S: Final = 0.25
TAKE_S: Final = 2.0
ASKED_AGAIN_S: Final = 1.0


class Placing:
    """The leader's part; on every node, at work where the leader is.

    Args:
        is_gone: a look at a disk whether a node's process is gone; False where nobody can tell.
    """

    def __init__(
        self,
        *,
        membership: Membership,
        clock: Clock,
        timeouts: Timeouts,
        is_gone: Callable[[str, str], Awaitable[bool]],
        tell: Tell,
    ) -> None:
        self._membership = membership
        self._clock = clock
        self._timeouts = timeouts
        self._is_gone = is_gone
        self._tell = tell
        self._bell = Bell(clock)
        self._unlinked_s: dict[str, float] = {}
        self._facts: dict[str, tuple[Json, Mapping[str, int]]] = {}  # and the epochs of the register when it was asked
        self._heard_s: dict[str, float] = {}
        self._leads_since_s: float | None = None
        self._asked: dict[str, tuple[Move, float]] = {}
        self._stops: list[Callable[[], None]] = []
        self._is_stopped = False

    def start(self) -> None:
        """Be at work whenever this node leads."""
        self._stops = [
            self._membership.on_change(lambda register: self._bell.ring()),
            self._membership.on_link(self._linked),
        ]
        spawn(self._run(), "the placing of offices")

    def stop(self) -> None:
        """End."""
        self._is_stopped = True
        for stop in self._stops:
            stop()
        self._bell.ring()

    def look(self) -> None:
        """Something has changed at this node."""
        self._bell.ring()

    async def move(self, disk: str, node: str) -> Json:
        """A person wants another coordinator for a disk; returns the record when it is claimed.

        Raises:
            ClusterError: it can not be.
        """
        record = self._membership.register.disk(disk)
        if record is None:
            raise ClusterError(f"there is no disk {disk} in the cluster", hint="csvd disk ls lists them")
        params = {"disk": disk, "epoch": record.epoch, "is_pinned": True}
        return await self._membership.call(node, TAKE, params, timeout_s=TAKE_S)

    def _linked(self, node: str, is_up: bool) -> None:
        if is_up:
            self._unlinked_s.pop(node, None)
            self._heard_s[node] = self._clock.seconds()
        else:
            self._unlinked_s.setdefault(node, self._clock.seconds())
            self._facts.pop(node, None)
        self._bell.ring()

    async def _run(self) -> None:
        while not self._is_stopped:
            wait_s = ROUND_S
            if not self._membership.is_coordinator:
                self._leads_since_s = None
            elif self._membership.register.disks:
                if self._leads_since_s is None:
                    self._leads_since_s = self._clock.seconds()
                wait_s = await self._round()
            await self._bell.wait(wait_s)

    async def _round(self) -> float:
        """One look and what comes of it; gives how long to wait until the next."""
        epochs = {name: disk.epoch for name, disk in self._membership.register.disks.items()}
        asking = [spawn(self._ask(node, epochs), "a look at a node") for node in self._membership.register.members]
        # Meanwhile: on a loaded machine each of these takes its time.
        is_hurried = await self._look_after_lost()
        for asked in asking:
            await asked
        if not self._membership.is_coordinator:
            return ROUND_S
        register = self._membership.register
        disks = {name: DiskView(disk.coordinator, disk.epoch, disk.is_pinned) for name, disk in register.disks.items()}
        for move in place(disks, self._views(disks), settle_s=self._timeouts.settle_s):
            self._ask_to_take(move)
        return HURRIED_S if is_hurried else ROUND_S

    async def _ask(self, node: str, epochs: Mapping[str, int]) -> None:
        """See what a node does; the register has these epochs of the disks when it is asked."""
        if not self._membership.is_linked(node):
            return
        try:
            facts = await self._membership.call(node, FACTS, {}, timeout_s=FACTS_S)
        except ClusterError:
            return  # What it said last stands for a while.
        if _is_well_formed(facts) and self._membership.is_linked(node):
            self._facts[node] = facts, epochs
        self._heard_s[node] = self._clock.seconds()

    async def _look_after_lost(self) -> bool:
        """See which coordinators without a link are gone; whether one is not known to be."""
        is_hurried = False
        for name, disk in self._membership.register.disks.items():
            since_s = self._unlinked_s.get(disk.coordinator)
            if since_s is None or since_s == float("-inf"):
                continue
            if self._clock.seconds() - since_s >= GONE_S or await self._is_gone(name, disk.coordinator):
                if disk.coordinator in self._unlinked_s:
                    self._unlinked_s[disk.coordinator] = float("-inf")
            else:
                is_hurried = True
        return is_hurried

    def _views(self, disks: Mapping[str, DiskView]) -> Mapping[str, NodeView]:
        views = {}
        for node, member in self._membership.register.members.items():
            held = {name: disk.epoch for name, disk in disks.items() if disk.coordinator == node}
            facts, epochs = self._facts.get(node, (None, {}))
            views[node] = NodeView(
                self._is_there(node),
                is_eligible=not member.is_witness,
                is_draining=member.is_draining,
                up_s=float(facts["up_s"]) if facts else 0.0,
                attached=tuple(facts["attached"]) if facts else (),
                acting=facts["offices"] | _taken_since(held, facts, epochs) if facts else held,
                troubled=tuple(facts["troubled"]) if facts else (),
            )
        return views

    def _is_there(self, node: str) -> bool:
        """Whether a node answers; one that was heard of a moment ago may answer in the next."""
        now_s = self._clock.seconds()
        if not self._membership.is_linked(node):
            lost_s = self._unlinked_s.get(node)
            return lost_s is not None and now_s - lost_s < GONE_S
        heard_s = max(self._heard_s.get(node, 0.0), self._leads_since_s or 0.0)
        return now_s - heard_s < self._timeouts.coordinator_lease_s

    def _ask_to_take(self, move: Move) -> None:
        asked = self._asked.get(move.disk)
        now_s = self._clock.seconds()
        if asked is not None and asked[0] == move and now_s - asked[1] < ASKED_AGAIN_S:
            return
        self._asked[move.disk] = (move, now_s)
        spawn(self._take(move), "the placing of an office")

    async def _take(self, move: Move) -> None:
        params: dict[str, Any] = {"disk": move.disk, "epoch": move.expected_epoch, "is_pinned": False}
        try:
            await self._membership.call(move.node, TAKE, params, timeout_s=TAKE_S)
        except ClusterError as error:
            self._tell("office", f"{move.node} does not take the office of {move.disk}: {error}", move.disk)
        else:
            self._tell("office", f"{move.node} takes the office of {move.disk}: {move.why}", move.disk)
        self._bell.ring()


def _taken_since(held: Mapping[str, int], facts: Json, epochs: Mapping[str, int]) -> dict[str, int]:
    """Of the offices that the register gives to a node, those that it has claimed since it was asked, when the register
    had these epochs, or of which it does not know yet that it has."""
    return {name: epoch for name, epoch in held.items() if name in facts["claiming"] or epoch != epochs.get(name)}


def _is_well_formed(facts: Json) -> bool:
    offices = facts.get("offices")
    return (
        all(_is_texts(facts.get(name)) for name in ("attached", "claiming", "troubled"))
        and isinstance(offices, dict)
        and all(type(epoch) is int for epoch in offices.values())
        and isinstance(facts.get("up_s"), int | float)
    )


def _is_texts(value: object) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(item, str) for item in value)
