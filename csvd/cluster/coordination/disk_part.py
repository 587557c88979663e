"""A node's part in one shared disk: the disk itself, the node's session, its services, and the office where it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.cluster.bell import Bell, spawn
from csvd.cluster.coordination.faces import Json, OfficeOver, Service
from csvd.cluster.coordination.membership import Membership, OpenDisk, Tell, Watch
from csvd.cluster.coordination.node_session import NodeSession
from csvd.cluster.coordination.office import ACTING, HeldOffice
from csvd.cluster.coordination.promises import Promises
from csvd.cluster.coordination.takeover import Takeover
from csvd.cluster.errors import ClusterError
from csvd.cluster.reactor import Clock
from csvd.cluster.register import Register
from csvd.cluster.register_disks import DiskRecord
from csvd.cluster.timeouts import Timeouts
from csvd.errors import CsvdError
from csvd.shared_disk import FILE_LOCK, NO_FENCE, SharedDisk

OPEN_RETRY_S: Final = 2.0
CLAIM_S: Final = 5.0
TROUBLED_S: Final = 5.0
"""How long a node that has failed to take an office is asked only where there is no other."""
OFFICES_REMEMBERED: Final = 8

_log = Logger()


class DiskPart:
    """One disk on this node.

    Args:
        record: of the disk, as it was when this node learned of it.
        services: of this disk on this node.
        changed: called when what this node does at the disk has changed.
    """

    def __init__(
        self,
        record: DiskRecord,
        services: Sequence[Service],
        *,
        membership: Membership,
        open_disk: OpenDisk,
        promises: Promises,
        watch: Watch,
        clock: Clock,
        boottime: Callable[[], float],
        timeouts: Timeouts,
        tell: Tell,
        changed: Callable[[], None],
    ) -> None:
        self.record = record
        self._services = services
        self._membership = membership
        self._open_disk = open_disk
        self._promises = promises
        self._watch = watch
        self._clock = clock
        self._boottime = boottime
        self._timeouts = timeouts
        self._tell = tell
        self._changed = changed
        self._offices: list[HeldOffice] = []
        self._highest_seen = 0
        self._troubled_until_s = 0.0
        self._is_closed = False
        self.is_claiming = False
        """Whether the register may name this node in a moment, or names it already, and it does not know yet."""
        self._opening: Deferred[object] | None = None
        self.bell = Bell(clock)
        self.shared_disk: SharedDisk | None = None
        self.trouble = ""
        self.session = NodeSession(
            record.name,
            membership=membership,
            incarnation=promises.incarnation,
            watch=watch,
            clock=clock,
            boottime=boottime,
            timeouts=timeouts,
            tell=tell,
        )
        self.session.is_needed = lambda: self.office is not None
        self.session.own_is_over = self._own_is_over

    @property
    def name(self) -> str:
        """Of the disk."""
        return self.record.name

    @property
    def office(self) -> HeldOffice | None:
        """The office that this node has, or takes; None where it does not."""
        last = self._offices[-1] if self._offices else None
        return last if last is not None and not last.is_over else None

    @property
    def is_troubled(self) -> bool:
        """Whether this node has just failed to take the office."""
        return self._boottime() < self._troubled_until_s

    def start(self) -> None:
        """Open the disk, again and again until it is, and seek the coordinator."""
        self._opening = spawn(self._open(), "the opening of a shared disk")

    async def close(self) -> None:
        """Give up the office and the session, in this order, and let go of the disk."""
        self._is_closed = True
        self.bell.ring()
        if self._opening is not None:
            await self._opening
        office = self.office
        if office is not None:
            await office.release("this node stops")
        await self.session.close()
        if self.shared_disk is not None:
            try:
                await self.shared_disk.close()
            except CsvdError as error:
                _log.warn("{disk} was not closed as it should: {error}", disk=self.name, error=error)

    def register_changed(self, register: Register) -> None:
        """The register has changed: one that takes an office which another has claimed gives up. One that acts goes on
        until its successor asks it to stop, or its lease is out: it can not renew it any more."""
        record = register.disk(self.name)
        office = self.office
        if office is not None and office.step != ACTING and (record is None or record.epoch > office.epoch):
            office.end("another node has claimed the disk")
        if office is not None:
            office.sessions.members_changed({member.id: member.number for member in register.members.values()})
        self.session.changed()
        self.bell.ring()

    def linked(self, node: str, is_up: bool) -> None:
        """The link to a node has come or gone."""
        office = self.office
        if office is not None:
            office.sessions.linked(node, is_up)
            office.bell.ring()
        self.session.changed()

    async def is_gone(self, node: str) -> bool:
        """Whether the disk shows that a node's process is gone, by a look that does no harm."""
        member = self._membership.register.member(node)
        disk = self.shared_disk
        if disk is None or member is None or disk.fence_kind != FILE_LOCK or node == self._membership.node:
            return False
        try:
            return await disk.is_gone(node, member.number)
        except CsvdError:
            return False

    async def take(self, expected_epoch: int, *, is_pinned: bool) -> int:
        """Claim the office, and begin to take it; gives its epoch.

        Raises:
            CsvdError: it was not claimed.
        """
        disk, me = self.shared_disk, self._membership.register.member(self._membership.node)
        if disk is None or self._is_closed or me is None:
            raise ClusterError("this node does not have the disk", where=self.name, why=self.trouble)
        if self.is_claiming:
            raise ClusterError("this node is claiming the disk already", where=self.name)
        office = self.office
        if office is not None and office.epoch == expected_epoch and not is_pinned:
            return office.epoch  # Who asks has not heard of it yet.
        self.is_claiming = True
        try:
            return await self._claim(disk, me.number, expected_epoch, is_pinned=is_pinned)
        finally:
            self.is_claiming = False

    async def _claim(self, disk: SharedDisk, number: int, expected_epoch: int, *, is_pinned: bool) -> int:
        above = max(self._highest_seen, self._promises.epochs.get(self.record.uuid, 0))
        command = {
            "op": "disk_claim",
            "name": self.name,
            "node": self._membership.node,
            "expected_epoch": expected_epoch,
            "above": above,
            "is_pinned": is_pinned,
        }
        answer = await self._membership.submit(command, timeout_s=CLAIM_S)
        record = DiskRecord(**{name: answer[name] for name in self.record.to_json()})
        if not self._is_closed:
            self._begin(record, disk, number)
        return record.epoch

    async def office_of(self, epoch: int, timeout_s: float) -> HeldOffice | None:
        """The office of an epoch here; waits a while where this node is just claiming it."""
        while True:
            office = self.office
            if office is not None and office.epoch == epoch:
                return office
            record = self._membership.register.disk(self.name)
            if record is None or record.coordinator != self._membership.node or record.epoch > epoch:
                return None
            if not await self.bell.wait(timeout_s):
                return None

    async def release(self, peer: str, owner_epoch: int, epoch: int) -> bool:
        """A successor asks: end the office of an epoch; whether nothing of it can act any more."""
        office = self.office
        if office is not None and office.epoch < epoch:
            office.end(f"{peer} is the coordinator")
        earlier = [one for one in self._offices if one.epoch < epoch]
        for one in earlier:
            await one.over()
        if any(one.epoch == owner_epoch for one in earlier):
            return True
        # It was an earlier process of this node, which is gone: this one could not have joined otherwise.
        disk = self.shared_disk
        return self.session.is_joined and disk is not None and disk.fence_kind != NO_FENCE

    def _begin(self, record: DiskRecord, disk: SharedDisk, number: int) -> None:
        before = self.office
        if before is not None:
            if before.epoch >= record.epoch:
                return
            before.end("this node has claimed the disk again")
        office = HeldOffice(
            record,
            disk,
            self._services,
            membership=self._membership,
            clock=self._clock,
            boottime=self._boottime,
            timeouts=self._timeouts,
            watch=self._watch,
            tell=self._tell,
            ended=self._ended,
        )
        takeover = Takeover(
            office,
            number,
            membership=self._membership,
            clock=self._clock,
            boottime=self._boottime,
            timeouts=self._timeouts,
            join=self.session.join,
            own_is_over=self._own_is_over,
        )
        self._offices = [*self._offices[1 - OFFICES_REMEMBERED :], office]
        self._tell("office", f"{self.name}, epoch {office.epoch}: {office.node} has claimed it", self.name)
        self._changed()
        self.bell.ring()
        spawn(self._run(office, takeover), "a takeover")

    async def _run(self, office: HeldOffice, takeover: Takeover) -> None:
        try:
            await takeover.run()
        except OfficeOver as error:
            self._highest_seen = max(self._highest_seen, office.lease.highest_seen)
            office.end(str(error))
        except CsvdError as error:
            self._troubled_until_s = self._boottime() + TROUBLED_S
            office.end(str(error))
        except Exception as error:
            self._troubled_until_s = self._boottime() + TROUBLED_S
            office.end(f"it failed inside: {type(error).__name__}")
            raise
        else:
            self._changed()

    def _ended(self, office: HeldOffice, why: str) -> None:
        if office.has_lapsed and self.session.coordinator == office.node:
            # Others will wait for this node on the disk: it lets go now, not when its own lease is out.
            self.session.lapse(why)
        spawn(self._after(office), "the end of an office")
        self._changed()
        self.bell.ring()

    async def _after(self, office: HeldOffice) -> None:
        await office.over()
        if self.office is None:
            self.session.office_over()

    async def _own_is_over(self) -> None:
        for office in list(self._offices):
            if office.is_over:
                await office.over()

    async def _open(self) -> None:
        while not self._is_closed:
            try:
                disk = await self._open_disk(self.record)
            except CsvdError as error:
                self.trouble = str(error)
            except Exception as error:  # noqa: BLE001 - logged, and tried again: a disk's fault is not the node's end
                _log.failure("{disk} could not be opened", disk=self.name)
                self.trouble = repr(error)
            else:
                self.trouble = ""
                self.shared_disk = disk
                self.session.start(disk)
                self._changed()
                return
            await self.bell.wait(OPEN_RETRY_S)

    def status(self, record: DiskRecord) -> Mapping[str, Any]:
        """For people."""
        office = self.office
        last = self._offices[-1] if self._offices else None
        told: Json = {
            **record.to_json(),
            "attached": self.shared_disk is not None,
            "trouble": self.trouble,
            "fence": self.shared_disk.fence_kind if self.shared_disk is not None else "",
            "session": dict(self.session.status()),
            "office": dict(office.status()) if office is not None else None,
            "last_office": dict(last.status()) if last is not None and office is None else None,
        }
        return told
