"""How a node that has claimed a disk in the register comes to act for it. Every step is waited for, in this order:

1. A majority of the voters promises the epoch; from then on no earlier coordinator can renew its lease.
2. The node joins the disk.
3. The coordinator that the owner block names acts no more: it says so itself; or it is fenced, with proof. Where the
   fence is a file lock, which harms nobody who lives, it is tried at once and again, and its proof is required: a live
   coordinator lapses, ends what is under way and lets the lock go; one that stands still is killed by its watchdog. The
   other fences are used only after its lease must be out; where there is none, that is all there can be.
4. The owner block is written, by compare-and-write: who read the same block is beaten here.
5. The records are read; the nodes in them reclaim their sessions, or are gone; the services begin.

When the register names a later epoch, or a voter has promised one, the office ends at whatever step it is.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from csvd.cluster.bell import Bell, spawn
from csvd.cluster.coordination.faces import OfficeOver
from csvd.cluster.coordination.lease import wait_until
from csvd.cluster.coordination.membership import Membership
from csvd.cluster.coordination.office import FENCED, GRACE, OWNING, PROMISED, HeldOffice
from csvd.cluster.errors import ClusterError
from csvd.cluster.reactor import Clock
from csvd.cluster.timeouts import CLOCK_DRIFT, Timeouts
from csvd.errors import CsvdError
from csvd.shared_disk import (
    FILE_LOCK,
    NO_FENCE,
    FenceProof,
    OwnerBlock,
    OwnerChanged,
)

RELEASE: Final = "office.release"
RETRY_S: Final = 0.02
RETRY_OTHERS_S: Final = 0.2
RELEASE_CALL_S: Final = 5.0


class Takeover:
    """One try to take one office.

    Args:
        office: claimed.
        number: of this node.
        join: takes this node's place on the disk.
        own_is_over: waits until every earlier office that this process had at the disk is over, with its writes.
    """

    def __init__(
        self,
        office: HeldOffice,
        number: int,
        *,
        membership: Membership,
        clock: Clock,
        boottime: Callable[[], float],
        timeouts: Timeouts,
        join: Callable[[int], Awaitable[None]],
        own_is_over: Callable[[], Awaitable[None]],
    ) -> None:
        self._office = office
        self._number = number
        self._membership = membership
        self._clock = clock
        self._boottime = boottime
        self._timeouts = timeouts
        self._join = join
        self._own_is_over = own_is_over

    async def run(self) -> None:
        """Take it; returns when it acts.

        Raises:
            OfficeOver: it ended meanwhile.
            CsvdError: the disk, or a service, has failed: the office is to be ended.
        """
        office = self._office
        office.lease.start()
        await office.lease.majority()
        office.reach(PROMISED, "a majority of the voters has promised the epoch")
        await self._join(self._number)
        office.check()
        await self._own()
        office.reach(OWNING, "the owner block names this node")
        office.kept.load(await office.shared_disk.read_records())
        office.sessions.load(office.proof)
        count = len(office.sessions.all)
        office.reach(GRACE, f"grace: {count} sessions of the office before are to be reclaimed")
        await office.sessions.reclaimed()
        await office.begin_services()

    async def _own(self) -> None:
        """Write the owner block, after the one that it names is off."""
        office = self._office
        new = OwnerBlock(office.epoch, office.node, self._number)
        owner = await office.shared_disk.read_owner()
        while owner != new:
            office.check()
            if owner.epoch >= office.epoch:
                raise OfficeOver(f"{owner.node} owns the disk already, epoch {owner.epoch}", where=office.disk)
            office.proof = await self._is_off(owner)
            office.reach(FENCED, f"the coordinator before is off: {office.proof.kind}: {office.proof.seen}")
            if not office.lease.is_live:
                raise OfficeOver("the lease is out", where=office.disk)
            try:
                await office.shared_disk.write_owner(owner, new)
                owner = new
            except OwnerChanged as error:
                owner = error.found
            except CsvdError:
                owner = await office.shared_disk.read_owner()  # Perhaps it was written.
        office.check()
        office.owner = new

    async def _is_off(self, owner: OwnerBlock) -> FenceProof:
        """Wait until the coordinator that a block names acts no more."""
        office, now_s = self._office, self._boottime
        if owner.epoch == 0:
            return FenceProof("released", "", "the disk never had a coordinator", now_s())
        if owner.is_released:
            return FenceProof("released", owner.node, "the owner block says so", now_s())
        if owner.node == office.node:
            # Another process of this node is gone: this one has joined in its place.
            await self._own_is_over()
            return FenceProof("released", owner.node, "it was this node", now_s())
        found: list[FenceProof] = []
        bell = Bell(self._clock)

        def is_wanted() -> bool:
            return not found and not office.is_over

        async def seek(way: Awaitable[FenceProof | None]) -> None:
            proof = await way
            if proof is not None:
                found.append(proof)
            bell.ring()

        ways = (self._released(owner, is_wanted), self._fenced(owner, is_wanted))
        for way in ways:
            spawn(seek(way), "the wait for the coordinator before")
        while is_wanted():
            await bell.wait(RETRY_OTHERS_S)
        office.check()
        return found[0]

    async def _released(self, owner: OwnerBlock, is_wanted: Callable[[], bool]) -> FenceProof | None:
        """Have the coordinator before say that it acts no more."""
        params: dict[str, Any] = {
            "disk": self._office.disk,
            "epoch": self._office.epoch,
            "owner_epoch": owner.epoch,
        }
        while is_wanted():
            if self._membership.is_linked(owner.node):
                try:
                    answer = await self._membership.call(owner.node, RELEASE, params, timeout_s=RELEASE_CALL_S)
                except ClusterError as error:
                    self._office.trouble = str(error)
                else:
                    if answer.get("released") is True:
                        return FenceProof("released", owner.node, "it says so itself", self._boottime())
            await self._office.bell.wait(RETRY_OTHERS_S)
        return None

    async def _fenced(self, owner: OwnerBlock, is_wanted: Callable[[], bool]) -> FenceProof | None:
        office, disk = self._office, self._office.shared_disk
        kind = disk.fence_kind
        if kind != FILE_LOCK:
            promised_at_s = office.lease.promised_at_s
            assert promised_at_s is not None
            lease_s = self._timeouts.coordinator_lease_s * (1 + CLOCK_DRIFT)
            await wait_until(self._clock, self._boottime, promised_at_s + lease_s)
            if kind == NO_FENCE:
                return FenceProof("lease", owner.node, "its lease was waited out", self._boottime())
        while is_wanted():
            try:
                return await disk.fence(owner.node, owner.number)
            except CsvdError as error:
                office.trouble = str(error)  # NotProven, or a fault of the disk: asking again is right.
            await office.bell.wait(RETRY_S if kind == FILE_LOCK else RETRY_OTHERS_S)
        return None
