"""A coordinator's lease: it may act until a while after a majority of the voters has last heard of it.

A heartbeat says (disk, epoch) to every voter; a voter that has promised no higher epoch promises this one, durably, and
answers. The lease runs from the *sending* of the newest heartbeat that a majority has answered, less the drift of
clocks, on CLOCK_BOOTTIME, which goes on while a host sleeps. A lease that has run out once is over for good.

A voter's answer counts only while it knows the same voters as this node, by the latest configuration in its log,
committed or not: majorities of one set always have a voter in common, and so have those of two sets that follow one
another, for a majority has the later one in its log before it counts (Raft's thesis, section 4.1).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from csvd.cluster.bell import Bell, pause, spawn
from csvd.cluster.coordination.faces import OfficeOver
from csvd.cluster.coordination.majority import configuration_of, majority_time
from csvd.cluster.coordination.membership import Membership
from csvd.cluster.coordination.promises import Promises
from csvd.cluster.errors import ClusterError
from csvd.cluster.reactor import Clock, DelayedCall
from csvd.cluster.timeouts import CLOCK_DRIFT, Timeouts

PROMISE: Final = "office.promise"
UNANSWERED: Final = 4
"""Heartbeats to one voter that may have no answer yet: one whose answer comes late renews the lease, too."""


class Voter:
    """This node's side of other nodes' leases: it promises, and answers heartbeats."""

    def __init__(self, membership: Membership, promises: Promises) -> None:
        self._membership = membership
        self._promises = promises
        membership.serve(PROMISE, self._asked)

    async def _asked(self, peer: str, params: dict[str, Any]) -> dict[str, Any]:
        disk, epoch = params.get("disk"), params.get("epoch")
        if not isinstance(disk, str) or not 1 <= len(disk) <= 64 or type(epoch) is not int or not 0 < epoch <= 2**62:
            raise ClusterError("a heartbeat of a coordinator is malformed", where=peer)
        promised = await self._promises.promise(disk, epoch)
        # Read after the wait: what counts is which voters are known when the answer is given.
        return {"promised": promised, "voters": configuration_of(self._membership.voters)}


class CoordinatorLease:
    """The lease of one office.

    Args:
        disk: the uuid of the disk.
        epoch: of the office.
        lapsed: called once, when the lease has run out after it was had.
    """

    def __init__(
        self,
        disk: str,
        epoch: int,
        *,
        membership: Membership,
        clock: Clock,
        boottime: Callable[[], float],
        timeouts: Timeouts,
        lapsed: Callable[[], None],
    ) -> None:
        self._disk = disk
        self._epoch = epoch
        self._membership = membership
        self._clock = clock
        self._boottime = boottime
        self._timeouts = timeouts
        self._lapsed = lapsed
        self._answered_s: dict[str, float] = {}
        self._under_way: Counter[str] = Counter()
        self._promised = Bell(clock)
        self._timer: DelayedCall | None = None
        self._unlink: Callable[[], None] = lambda: None
        self._is_over = False
        self.until_s = 0.0
        """The end of the lease, on the boot time."""
        self.promised_at_s: float | None = None
        """When a majority was first known to have promised: since then no lower epoch can renew its lease."""
        self.highest_seen = epoch
        """The highest epoch that a voter says it has promised."""
        self.renewed: Callable[[], None] = lambda: None
        """Called after the lease was made longer."""

    @property
    def is_live(self) -> bool:
        """Whether the lease is good now."""
        return not self._is_over and self._boottime() < self.until_s

    def start(self) -> None:
        """Send heartbeats from now on."""
        self._unlink = self._membership.on_link(lambda node, is_up: self._speak_to(node) if is_up else None)
        self._beat()

    def stop(self) -> None:
        """Send no more; the lease is over."""
        if self._is_over:
            return
        self._is_over = True
        self._unlink()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._promised.ring()

    async def majority(self) -> None:
        """Wait until a majority has promised.

        Raises:
            OfficeOver: a voter has promised a higher epoch meanwhile, or the lease was stopped.
        """
        while self.promised_at_s is None:
            if self._is_over:
                raise OfficeOver("the office was given up", where=self._disk)
            if self.highest_seen > self._epoch:
                raise OfficeOver(f"a voter has promised epoch {self.highest_seen}", where=self._disk)
            await self._promised.wait()

    def _beat(self) -> None:
        self._timer = self._clock.callLater(self._timeouts.coordinator_heartbeat_s, self._beat)
        for voter in sorted(self._membership.voters):
            self._speak_to(voter)
        self._check_lapse()

    def _speak_to(self, voter: str) -> None:
        if self._is_over or self._under_way[voter] >= UNANSWERED or voter not in self._membership.voters:
            return
        if self._membership.is_linked(voter):
            self._under_way[voter] += 1
            spawn(self._ask(voter), "a coordinator's heartbeat")

    async def _ask(self, voter: str) -> None:
        sent_s = self._boottime()
        params = {"disk": self._disk, "epoch": self._epoch}
        # An answer that is later than that renews nothing.
        timeout_s = self._timeouts.coordinator_lease_s
        try:
            answer = await self._membership.call(voter, PROMISE, params, timeout_s=timeout_s)
        except ClusterError:
            return
        finally:
            self._under_way[voter] -= 1
        promised, voters = answer.get("promised"), self._membership.voters
        if type(promised) is not int or self._is_over:
            return
        self.highest_seen = max(self.highest_seen, promised)
        if promised == self._epoch and voter in voters and answer.get("voters") == configuration_of(voters):
            self._answered_s[voter] = max(sent_s, self._answered_s.get(voter, sent_s))
            self._renew()
        self._promised.ring()

    def _renew(self) -> None:
        newest_s = majority_time(self._answered_s, self._membership.voters)
        if newest_s is None or self._check_lapse():
            return
        until_s = newest_s + self._timeouts.coordinator_lease_s * (1 - CLOCK_DRIFT)
        if until_s <= self.until_s or until_s <= self._boottime():
            return
        self.until_s = until_s
        if self.promised_at_s is None:
            self.promised_at_s = self._boottime()
        self._clock.callLater(max(0.0, until_s - self._boottime()) + 0.001, self._check_lapse)
        self.renewed()

    def _check_lapse(self) -> bool:
        """Whether the lease was had and is over."""
        if self._is_over:
            return True
        if self.promised_at_s is None or self._boottime() < self.until_s:
            return False
        self.stop()
        self._lapsed()
        return True


async def wait_until(clock: Clock, boottime: Callable[[], float], until_s: float) -> None:
    """Wait for a time of CLOCK_BOOTTIME, however the loop's clock runs beside it."""
    while (left_s := until_s - boottime()) > 0:
        await pause(clock, left_s + 0.001)
