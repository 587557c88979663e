"""The logical units that all nodes export, at one of the nodes: their gate, and what the coordinator pushes.

Their commands may run only while this node has a session with the coordinator of the system disk, and has taken over
what the nodes agree on. Else they wait: in their task sets, where task management finds them, and express ones, too.
When the lease is out no further access to their disks begins; what is under way is waited for; then the node leaves
the disks, and others may fence it by that. (RFC 8881 section 8.4.2 has clients do the same.)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.cluster.coordination.faces import LIVE, RECLAIMING, Coordination, DiskSession, Json
from csvd.cluster.errors import ClusterError
from csvd.cluster.reactor import Clock
from csvd.errors import CsvdError
from csvd.scsi.cluster_unit import ClusterUnit, Due, not_in_time
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.range_locks import Claim, RangeLocks
from csvd.scsi.reservation_codes import SenselessCode
from csvd.scsi.sense import Asc, CheckCondition, SenseKey
from csvd.scsi.unit_record import Effect, UnitRecord
from csvd.storage.disk import FencingDisk, StorageError
from csvd.target.cluster_holds import ClusterHold, ClusterHolds
from csvd.target.gated_disk import GatedDisk
from csvd.target.unit_changes import SERVICE
from csvd.target.unit_service import PUBLISHED

ASK_TIMEOUT_S: Final = 120.0
"""How long a command waits for the coordinator: longer than initiators wait for a command."""
ANSWER_S: Final = 10.0
"""How long who logs out waits for the coordinator: longer than it takes to have another one, and a node fenced; shorter
than initiators wait (15 s of open-iscsi)."""
AGAIN_S: Final = 0.5
STALLED_S: Final = 1.0


_UNTIL_DONE: Final = frozenset({"end legacy", "reset", "clear"})
"""Asked for as often as it takes: to do them once more does no harm, and who waits for them must not hear that they are
done before they are."""


class Tasks(Protocol):
    """What aborts tasks of this node."""

    def abort(self, naa: bytes, nexuses: Sequence[str] | None, done: Callable[[], None]) -> None:
        """Abort tasks of a logical unit, of these I_T nexuses or of all; calls back when none of them can touch its
        disk any more."""


class ClusterUnits:
    """The clustered logical units of one node. A `Gate` of the session of the system disk.

    Args:
        number_of: the number of a member, by its id; 0 for one that is not known.
        prefix: no other node, and no other run of this one, has it.

    Attributes:
        may_attach: whether this node knows who may use them, after it was away; until then all commands wait. Call
            `attach` when that changes.
    """

    log = Logger()

    def __init__(
        self,
        coordination: Coordination,
        clock: Clock,
        *,
        number_of: Callable[[str], int],
        prefix: str,
    ) -> None:
        self._coordination = coordination
        self._clock = clock
        self._number_of = number_of
        self._units: dict[str, ClusterUnit] = {}
        self._disks: dict[GatedDisk, set[LogicalUnit]] = {}
        self._attached: set[str] = set()
        self._attaching: set[str] = set()
        self._joined: set[GatedDisk] = set()
        self._is_closed = True
        self._has_stalled = False
        self._look_is_due = False
        self._sync = 0
        self._session: DiskSession | None = None
        self._ends: list[Callable[[], None]] = []
        self._holds = ClusterHolds(clock, lambda: self._session, self._locks, prefix)
        self.may_attach: Callable[[], bool] = lambda: True
        self.tasks: Tasks | None = None
        """Set before anything is served."""
        self._ends.append(coordination.on_sessions(self._look_for_session))
        self._look_for_session()

    def stop(self) -> None:
        """Hear no more of the session."""
        for end in self._ends:
            end()
        self._ends.clear()

    def _look_for_session(self) -> None:
        session = self._coordination.system
        if session is None or session is self._session:
            return
        self._session = session
        session.on_pushed(SERVICE, self._pushed)
        self._ends.append(session.add_gate(self))
        self._ends.append(session.on_state(self._state_changed))
        self._is_closed = not session.is_live
        self._state_changed()

    # What is served

    def of(self, unit: LogicalUnit) -> ClusterUnit:
        """What the nodes agree on for a logical unit, which is the store of its reservations; its commands wait until
        that is known here."""
        naa = unit.identity.naa.hex()
        cluster = self._units.get(naa)
        if cluster is None:
            cluster = self._units[naa] = ClusterUnit(unit.identity.naa, self, _UnitGate(self, naa))
        disk = unit.device
        if not isinstance(disk, GatedDisk):
            # Units over one disk share its gate, or what one of them has under way would be nobody's.
            gated = (each for each in self._disks if each.ungated is disk)
            unit.device = disk = next(gated, None) or GatedDisk(disk, self.admits)
            allow(disk.ungated, self.may_act)
        self._disks.setdefault(disk, set()).add(unit)
        cluster.serve(unit)
        self._clock.callLater(0, self._begin_attaching)
        return cluster

    def _forget_unserved(self) -> None:
        """Forget what no target exports any more."""
        for naa in [naa for naa, cluster in self._units.items() if not cluster.is_served]:
            del self._units[naa]
            self._attached.discard(naa)
            self._publish()
            self._holds.ask("detach", {"naa": naa}, lambda answer: None)
        for disk, units in list(self._disks.items()):
            units -= {unit for unit in units if unit.cluster is None or not unit.cluster.serves(unit)}
            if not units:
                del self._disks[disk]
                self._joined.discard(disk)

    def ended(self) -> None:
        """A target has stopped to export something."""
        self._clock.callLater(0, self._forget_unserved)

    def _locks(self, naa: str) -> list[RangeLocks]:
        units = (unit for units in self._disks.values() for unit in units)
        return list(dict.fromkeys(unit.locks for unit in units if unit.identity.naa.hex() == naa))

    @property
    def disks(self) -> list[GatedDisk]:
        """The disks of all clustered logical units."""
        return list(self._disks)

    # The gate

    def admits(self) -> bool:
        """Whether this node may act NOW. Where it may not, all task sets have been closed."""
        session = self._session
        if session is not None and not self._is_closed and not self._has_stalled and session.is_live:
            return True
        self._shut()
        return False

    def may_act(self) -> bool:
        """The same for threads: it changes nothing."""
        session = self._session
        return session is not None and not self._is_closed and session.is_live

    def is_open(self, naa: str) -> bool:
        """Whether the commands of a logical unit may begin NOW."""
        return self.admits() and naa in self._attached

    def _shut(self) -> None:
        """Nothing begins any more. Where the lease was only renewed late, it goes on soon."""
        for cluster in self._units.values():
            if cluster.is_open:
                cluster.close()
        if not self._look_is_due and not self._is_closed:
            self._look_is_due = True
            self._clock.callLater(STALLED_S if self._has_stalled else AGAIN_S, self._look_again)

    def _look_again(self) -> None:
        self._look_is_due = False
        self._has_stalled = False
        if not self._is_closed:
            self._open_attached()

    def stalled(self) -> None:
        """A disk says that this node was fenced, while its lease is good: its commands wait for a while."""
        self._has_stalled = True
        self._shut()

    def _open_attached(self) -> None:
        if self.admits():
            for naa in self._attached:
                if naa in self._units and not self._units[naa].is_open:
                    self._units[naa].open()

    async def close(self) -> None:
        """The lease is out: nothing begins from now on. Returns when all that was under way has ended, and the disks
        are left."""
        self._is_closed = True
        self._detach()
        for disk in list(self._disks):
            await disk.settled()
        for disk in list(self._disks):
            await self._leave(disk)

    def _detach(self) -> None:
        """What this node knows may be old by now: it asks when it is back."""
        self._attached.clear()
        self._sync += 1
        self._shut()
        self._holds.lapsed()

    async def _leave(self, disk: GatedDisk) -> None:
        raw = disk.ungated
        if disk in self._joined and isinstance(raw, FencingDisk):
            self._joined.discard(disk)
            try:
                await raw.leave()
            except StorageError as error:
                self.log.warn("{disk} was not left: {error}", disk=disk.url, error=error)

    async def open(self) -> None:
        """The session is about to be live: join the disks. Commands go on when it is."""
        for disk in list(self._disks):
            try:
                await self._join(disk)
            except CsvdError as error:
                # It keeps its own logical units closed, and no others: they are attached when it is joined.
                self.log.warn("{disk} is not joined yet: {error}", disk=disk.url, error=error)
        self._is_closed = False

    async def _join(self, disk: GatedDisk) -> None:
        """Join a disk that can fence, so that this node can be fenced from it."""
        raw = disk.ungated
        node = self._coordination.node
        if disk not in self._joined and isinstance(raw, FencingDisk) and not raw.read_only:
            await raw.join(node, self._number_of(node))
            self._joined.add(disk)

    async def fence_node(self, node: str, number: int) -> None:
        """Keep a node off the disks of all clustered logical units."""
        for disk in list(self._disks):
            raw = disk.ungated
            if isinstance(raw, FencingDisk) and not raw.read_only:
                await raw.fence(node, number)

    # Attaching

    def _state_changed(self) -> None:
        session = self._session
        assert session is not None
        if session.state == LIVE:
            self._begin_attaching()
        elif session.state != RECLAIMING:
            self._detach()

    def attach(self) -> None:
        """Have the commands of logical units begin that wait for nothing else."""
        self._begin_attaching()

    def _begin_attaching(self) -> None:
        session = self._session
        if session is None or session.state != LIVE or self._is_closed or not self.may_attach():
            return
        for naa in list(self._units):
            if naa not in self._attached and naa not in self._attaching:
                # One ask at a time: an older one could come after the unit is on here, and switch it on once more.
                self._attaching.add(naa)
                attaching = Deferred.fromCoroutine(self._attach(session, naa, self._sync))
                attaching.addCallbacks(partial(self._asked_to_attach, naa), partial(self._not_attached, naa))
        self._open_attached()

    def _asked_to_attach(self, naa: str, _: None) -> None:
        self._attaching.discard(naa)
        if naa in self._units and naa not in self._attached:
            self._begin_attaching()  # The answer was of a time before this node was away.

    async def _attach(self, session: DiskSession, naa: str, sync: int) -> None:
        """Take over what the nodes agree on for a logical unit; its commands may begin then."""
        for disk, units in list(self._disks.items()):
            if any(unit.identity.naa.hex() == naa for unit in units):
                await self._join(disk)
        cluster = self._units[naa]
        params = {"naa": naa, "power": cluster.record.power or None}
        answer = await session.ask(SERVICE, "attach", params, timeout_s=ASK_TIMEOUT_S)
        if sync != self._sync or self._units.get(naa) is not cluster:
            return
        await self._take_over(naa, answer)
        for code in answer["holds"]:
            await self._holds.take_part(code, naa)
        if sync == self._sync and self._units.get(naa) is cluster:
            self._attached.add(naa)
            self._publish()
            self._open_attached()

    def _not_attached(self, naa: str, failure: Failure) -> None:
        self._attaching.discard(naa)
        if failure.check(CsvdError) is None:
            self.log.failure("a fault in attaching {naa}", failure, naa=naa)
        else:
            self.log.warn("{naa} is not served yet: {error}", naa=naa, error=failure.value)
        self._clock.callLater(STALLED_S, self._begin_attaching)

    def _publish(self) -> None:
        """Tell the next coordinator what this node exports."""
        if self._session is not None:
            powers = {naa: self._units[naa].record.power for naa in self._attached if naa in self._units}
            self._session.publish(PUBLISHED, powers)

    # What the coordinator pushes

    async def _pushed(self, method: str, params: Json) -> Json:
        try:
            return await self._take_push(method, params)
        except (AttributeError, LookupError, TypeError, ValueError) as error:
            raise SenselessCode("the coordinator's push makes no sense", where=method, why=repr(error)) from error

    async def _take_push(self, method: str, params: Json) -> Json:
        match method:
            case "record":
                await self._take_over(params["naa"], params)
            case "ports":
                cluster = self._units.get(params["naa"])
                return {"ports": cluster.ports_here(params["names"]) if cluster is not None else {}}
            case "hold":
                sync = self._sync
                await self._holds.take(params)
                if sync != self._sync:
                    # It was given up here, for the session is over: what was under way then may be so yet.
                    for disk in list(self._disks):
                        await disk.settled()
            case "unhold":
                self._holds.release(params["hold"])
            case "holds":
                return {"running": self._holds.running()}
            case "held":
                self._holds.only(params["holds"])
        return {}

    async def _take_over(self, naa: str, params: Json) -> None:
        """Take over a record; returns when no access that it forbids is under way any more."""
        cluster = self._units.get(naa)
        if cluster is None:
            return
        due = cluster.take(UnitRecord.of(params["record"]), [Effect.of(each) for each in params["effects"]])
        await self._do(cluster, due)
        if cluster.state.type is not None or cluster.legacy_holder is not None:
            for disk in self._disks_of(naa):
                await disk.settled()

    async def _do(self, cluster: ClusterUnit, due: Due) -> None:
        if self.tasks is not None and (due.aborts_all or due.aborted):
            aborted: Deferred[None] = Deferred()
            self.tasks.abort(cluster.naa, None if due.aborts_all else due.aborted, lambda: aborted.callback(None))
            await aborted
        if due.must_flush:
            for disk in self._disks_of(cluster.naa.hex()):
                try:
                    await disk.flush()
                except StorageError as error:
                    self.log.warn("{disk} was not flushed: {error}", disk=disk.url, error=error)

    def _disks_of(self, naa: str) -> list[GatedDisk]:
        return [disk for disk, units in self._disks.items() if any(unit.identity.naa.hex() == naa for unit in units)]

    # What commands ask

    def ask(self, method: str, params: Json, answered: Callable[[Any], None]) -> None:
        """See `csvd.scsi.cluster_unit.Elsewhere`."""
        session = self._session
        if session is None:
            answered(not_ready())
            return

        def failed(failure: Failure) -> None:
            if failure.check(ClusterError) is None:
                self.log.failure("a fault in asking for {method}", failure, method=method)
            if method in _UNTIL_DONE:
                self._clock.callLater(STALLED_S, self.ask, method, params, answered)
            else:
                answered(not_in_time())

        asking = Deferred.fromCoroutine(session.ask(SERVICE, method, params, timeout_s=ASK_TIMEOUT_S))
        asking.addCallbacks(answered, failed)

    def bounded(self, done: Callable[[], None]) -> Callable[[], None]:
        """See `csvd.scsi.cluster_unit.Elsewhere`."""
        timer = self._clock.callLater(ANSWER_S, done)

        def called() -> None:
            if timer.active():
                timer.cancel()
                done()

        return called

    def holding(self, claims: Sequence[Claim]) -> ClusterHold:
        """See `csvd.scsi.cluster_unit.Elsewhere`."""
        return self._holds.hold(claims)


class _UnitGate:
    """The gate of one logical unit; see `csvd.scsi.task_set.TaskGate`."""

    def __init__(self, units: ClusterUnits, naa: str) -> None:
        self._units = units
        self._naa = naa

    def admits(self) -> bool:
        """Whether commands may begin NOW."""
        return self._units.is_open(self._naa)


def allow(disk: Any, may_act: Callable[[], bool]) -> None:
    """Have a disk that works in threads ask there, right before it goes to the store."""
    if hasattr(disk, "may_act"):
        disk.may_act = may_act


def not_ready() -> CheckCondition:
    """There is no coordinator to ask."""
    return CheckCondition(SenseKey.NOT_READY, Asc.LOGICAL_UNIT_NOT_READY_CAUSE_NOT_REPORTABLE)
