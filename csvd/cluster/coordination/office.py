"""An office that this node has claimed: its lease, records, sessions and services, from the claim to the end.

It is one of these, in order; it ends from any of them, and never comes back:

    claimed     the register names this node for the epoch
    promised    a majority of the voters has promised the epoch, and the lease is live
    fenced      the office before acts no more, with proof
    owning      the owner block says so; the records are read
    grace       the nodes of the office before reclaim their sessions, or are gone
    acting      the services have begun
    over
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from twisted.internet.defer import Deferred

from csvd.cluster.bell import Bell
from csvd.cluster.coordination.asked import Asked
from csvd.cluster.coordination.asking import AskKey, current_ask
from csvd.cluster.coordination.faces import Json, OfficeOver, Service
from csvd.cluster.coordination.lease import CoordinatorLease
from csvd.cluster.coordination.membership import Membership, Tell, Watch
from csvd.cluster.coordination.records import ANSWERS, RECORDS, Records
from csvd.cluster.coordination.sessions import OfficeGround, Sessions
from csvd.cluster.reactor import Clock
from csvd.cluster.register_disks import DiskRecord
from csvd.cluster.timeouts import Timeouts
from csvd.errors import CsvdError
from csvd.shared_disk import FenceProof, OwnerBlock, SharedDisk

CLAIMED: Final = "claimed"
PROMISED: Final = "promised"
FENCED: Final = "fenced"
OWNING: Final = "owning"
GRACE: Final = "grace"
ACTING: Final = "acting"
OVER: Final = "over"


class HeldOffice:
    """The `Office`, once it is acting.

    Args:
        record: of the disk, by which this node has claimed it.
        services: of this disk on this node.
        ended: called once, when it is over.
    """

    def __init__(
        self,
        record: DiskRecord,
        shared_disk: SharedDisk,
        services: Sequence[Service],
        *,
        membership: Membership,
        clock: Clock,
        boottime: Callable[[], float],
        timeouts: Timeouts,
        watch: Watch,
        tell: Tell,
        ended: Callable[[HeldOffice, str], None],
    ) -> None:
        self.record = record
        self.shared_disk = shared_disk
        self._services = services
        self._begun: list[Service] = []
        self._membership = membership
        self._boottime = boottime
        self._timeouts = timeouts
        self._watch = watch
        self._tell = tell
        self._ended = ended
        self._over: Deferred[object] | None = None
        self.bell = Bell(clock)
        self.step = CLAIMED
        self.began_s = boottime()
        self.trouble = ""
        self.owner: OwnerBlock | None = None
        """What this node has written into the owner block."""
        self.proof: FenceProof | None = None
        self.lease = CoordinatorLease(
            record.uuid,
            record.epoch,
            membership=membership,
            clock=clock,
            boottime=boottime,
            timeouts=timeouts,
            lapsed=lambda: self.end("its lease ran out", lapsed=True),
        )
        self.lease.renewed = self._renewed
        self.has_lapsed = False
        self.kept = Records(
            shared_disk,
            record.epoch,
            is_live=self._may_write,
            failed=lambda error: self.end(f"the disk failed: {error}"),
        )
        ground = OfficeGround(
            record.name,
            record.epoch,
            shared_disk,
            membership,
            clock,
            boottime,
            timeouts,
            is_live=self._may_write,
            is_over=lambda: self.is_over,
            tell=tell,
        )
        self.sessions = Sessions(ground, self.kept, services)
        self.asked = Asked(
            record.name, self.kept, {service.name: service for service in services}, is_live=lambda: self.is_live
        )

    # The face

    @property
    def disk(self) -> str:
        """The name of the disk."""
        return self.record.name

    @property
    def epoch(self) -> int:
        """The epoch."""
        return self.record.epoch

    @property
    def node(self) -> str:
        """This node."""
        return self._membership.node

    @property
    def is_live(self) -> bool:
        """Whether this node may act now."""
        return self.step == ACTING and self.lease.is_live

    @property
    def nodes(self) -> Mapping[str, Json]:
        """See `Office`."""
        return self.sessions.published

    @property
    def records(self) -> Mapping[str, Any]:
        """See `Office`."""
        return self.kept.table(RECORDS)

    async def keep(
        self, changes: Mapping[str, Any], *, answer: Json | None = None, answers: Mapping[AskKey, Json] | None = None
    ) -> None:
        """See `Office`."""
        tables: dict[str, Mapping[str, Any]] = {RECORDS: changes}
        kept = {**(answers or {})}
        if answer is not None:
            kept[current_ask()] = answer
        if kept:
            tables[ANSWERS] = self.asked.changes_of(kept)
        await self.kept.keep(tables)

    async def push(
        self, service: str, method: str, params: Json, *, to: str | None = None, excluding: tuple[str, ...] = ()
    ) -> dict[str, Json]:
        """See `Office`."""
        return await self.sessions.push(service, method, params, to=to, excluding=excluding)

    # Its life

    @property
    def is_over(self) -> bool:
        """Whether it has ended."""
        return self.step == OVER

    def check(self) -> None:
        """See that it goes on.

        Raises:
            OfficeOver: it has ended, or another node has claimed the disk.
        """
        if self.is_over:
            raise OfficeOver("the office has ended", where=self.disk)

    def reach(self, step: str, text: str) -> None:
        """The next step is reached."""
        self.check()
        self.step = step
        self._tell("office", f"{self.disk}, epoch {self.epoch}: {text}", self.disk)
        self.bell.ring()

    async def begin_services(self) -> None:
        """All nodes have reclaimed or are gone: act from now on.

        Raises:
            CsvdError: a service could not begin.
        """
        # From here a service may keep and push; asks wait until all have begun.
        self.sessions.are_begun = True
        for service in self._services:
            self.check()
            self._begun.append(service)
            await service.begin(self)
        self.reach(ACTING, f"{self.node} is the coordinator")

    async def acting(self, timeout_s: float) -> bool:
        """Wait until it acts; whether it does."""
        while not self.is_over and self.step != ACTING:
            if not await self.bell.wait(timeout_s):
                return False
        return self.is_live

    async def in_grace(self, timeout_s: float) -> bool:
        """Wait until nodes may come; whether they may."""
        while self.step not in (GRACE, ACTING, OVER):
            if not await self.bell.wait(timeout_s):
                return False
        return not self.is_over and self.lease.is_live

    def end(self, why: str, *, lapsed: bool = False) -> None:
        """It is over: from this moment on nothing new is written or said in its name."""
        if self.is_over:
            return
        was, self.step = self.step, OVER
        self.has_lapsed = lapsed
        self.trouble = why
        self.lease.stop()
        self.sessions.stop()
        for service in reversed(self._begun):
            service.end()
        self._over = Deferred.fromCoroutine(self._drain())
        if was != CLAIMED:
            self._tell("office", f"{self.disk}, epoch {self.epoch}: {self.node} gives it up: {why}", self.disk)
        self.bell.ring()
        self._ended(self, why)

    async def over(self) -> None:
        """Wait until it is over, and nothing that it has written is under way any more."""
        while self._over is None:
            await self.bell.wait()
        drained: Deferred[object] = Deferred()
        self._over.addBoth(lambda _: drained.callback(None))
        await drained

    async def release(self, why: str) -> None:
        """Give it up in order, as this node's last act: the owner block says so, and nobody need fence this node."""
        if self.owner is not None and self.is_live:
            # No record is written any more while the block is: it must be the last.
            await self.kept.end()
            owner = self.owner
            if self.is_live:
                try:
                    await self.shared_disk.write_owner(owner, replace(owner, is_released=True))
                except CsvdError as error:
                    self.trouble = str(error)
        self.end(why)
        await self.over()

    async def _drain(self) -> None:
        await self.kept.end()
        self._watch.disarm(self._watched)

    @property
    def _watched(self) -> str:
        return f"the office of {self.disk}, epoch {self.epoch}"

    def _may_write(self) -> bool:
        return not self.is_over and self.lease.is_live

    def _renewed(self) -> None:
        self._watch.arm(self._watched, self.lease.until_s + self._timeouts.release_s)

    def status(self) -> Mapping[str, Any]:
        """For people."""
        left_s = max(0.0, self.lease.until_s - self._boottime()) if not self.is_over else 0.0
        return {
            "epoch": self.epoch,
            "step": self.step,
            "lease_left_s": round(left_s, 3),
            "trouble": self.trouble,
            "records_bytes": self.kept.size_bytes,
            "records": len(self.records),
            "record_sequence": self.kept.sequence,
            "proof": _proof(self.proof),
            "last_fence": _proof(self.sessions.last_proof),
            "sessions": [
                {
                    "node": session.node,
                    "id": session.id,
                    "state": session.state,
                    "lease_left_s": round(max(0.0, session.until_s - self._boottime()), 3),
                    "trouble": session.trouble,
                    "published": session.published,
                }
                for session in self.sessions.all
            ],
        }


def _proof(proof: FenceProof | None) -> Json | None:
    if proof is None:
        return None
    return {"kind": proof.kind, "node": proof.node, "seen": proof.seen, "at_s": round(proof.at_s, 3)}
