"""A node's part in the coordination of the cluster's shared disks: the `Coordination`, and what other nodes call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from csvd.cluster.bell import spawn
from csvd.cluster.coordination.asking import AskKey
from csvd.cluster.coordination.asks import ASK, MAXIMUM_AT_ONCE
from csvd.cluster.coordination.disk_part import DiskPart
from csvd.cluster.coordination.faces import DiskSession, Json, MakeService
from csvd.cluster.coordination.lease import Voter
from csvd.cluster.coordination.membership import Membership, OpenDisk, Tell, Watch, Watchdog
from csvd.cluster.coordination.node_session import BEAT, JOINED, LEFT, MAXIMUM_PUBLISHED_BYTES, OPEN, RECLAIM
from csvd.cluster.coordination.office import HeldOffice
from csvd.cluster.coordination.outcome import checked
from csvd.cluster.coordination.placing import FACTS, TAKE, Placing
from csvd.cluster.coordination.promises import Promises
from csvd.cluster.coordination.pushes import PUSH
from csvd.cluster.coordination.takeover import RELEASE
from csvd.cluster.durability import RunBlocking
from csvd.cluster.errors import ClusterError
from csvd.cluster.json_values import JsonError, copy_json_object
from csvd.cluster.listeners import Listeners
from csvd.cluster.reactor import Clock
from csvd.cluster.register import Register
from csvd.cluster.register_disks import DiskRecord
from csvd.cluster.state_directory import Files
from csvd.cluster.timeouts import Timeouts
from csvd.shared_disk import SharedDisk

HOLD_S: Final = 1.0
"""How long a call waits here for a takeover."""
FENCE: Final = "office.fence"
FENCE_WAIT_S: Final = 10.0


class NodeCoordination:
    """The `Coordination` of a node. Everything that it stands on is given, so that it runs in the simulation.

    Args:
        membership: the cluster, not started yet.
        files: the state directory, where what was promised is kept.
        run_blocking: where that is written.
        clock: the node's loop.
        boottime: seconds on CLOCK_BOOTTIME: leases are measured by it.
        now_ms: the time of day; see Promises.
        timeouts: the same on every node.
        open_disk: opens a shared disk.
        watchdog: ends this process where it does not let go of the disks in time.
        tell: for events.

    Raises:
        PromisesError: what was promised can not be read.
    """

    def __init__(
        self,
        membership: Membership,
        *,
        files: Files,
        run_blocking: RunBlocking,
        clock: Clock,
        boottime: Callable[[], float],
        now_ms: Callable[[], int],
        timeouts: Timeouts,
        open_disk: OpenDisk,
        watchdog: Watchdog,
        tell: Tell,
    ) -> None:
        self._membership = membership
        self._clock = clock
        self._boottime = boottime
        self._timeouts = timeouts
        self._open_disk = open_disk
        self._tell = tell
        self._watch = Watch(watchdog)
        self._promises = Promises(files, membership.node, run_blocking=run_blocking, clock=clock, now_ms=now_ms())
        self._voter = Voter(membership, self._promises)
        self._placing = Placing(membership=membership, clock=clock, timeouts=timeouts, is_gone=self._is_gone, tell=tell)
        self._makes: list[MakeService] = []
        self._parts: dict[str, DiskPart] = {}
        self._callbacks: Listeners[Callable[[], None]] = Listeners()
        self._stops: list[Callable[[], None]] = []
        self._began_s = boottime()
        self._is_stopped = False
        for method, handler in {
            FACTS: self._facts,
            TAKE: self._take,
            RELEASE: self._release,
            FENCE: self._fence,
            OPEN: self._opened,
            JOINED: self._joined,
            RECLAIM: self._reclaim,
            BEAT: self._beat,
            LEFT: self._left,
            ASK: self._ask,
            PUSH: self._pushed,
        }.items():
            membership.serve(method, handler)

    # The face

    @property
    def node(self) -> str:
        """The id of this node."""
        return self._membership.node

    @property
    def system(self) -> DiskSession | None:
        """The session of the system disk."""
        return next((part.session for part in self._parts.values() if part.record.is_system), None)

    def session(self, disk: str) -> DiskSession | None:
        """The session of a disk."""
        part = self._parts.get(disk)
        return part.session if part is not None else None

    def add_service(self, make: MakeService) -> None:
        """Have a service made for every disk; before `start`."""
        assert not self._stops
        self._makes.append(make)

    def on_sessions(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call back after a disk was added or removed."""
        return self._callbacks.add(callback)

    def shared_disk(self, disk: str) -> SharedDisk | None:
        """A shared disk that is open here; None for others."""
        part = self._parts.get(disk)
        return part.shared_disk if part is not None else None

    # Its life

    async def start(self) -> None:
        """Take part from now on; before the membership is started, so that no call meets a node that is not ready.

        Raises:
            ClusterError: the state directory could not be written.
        """
        await self._promises.start()
        self._stops = [
            self._membership.on_change(self._register_changed),
            self._membership.on_link(self._linked),
        ]
        self._placing.start()
        self._register_changed(self._membership.register)

    async def stop(self) -> None:
        """Give up offices and sessions, in order; before the membership is stopped."""
        self._is_stopped = True
        for stop in self._stops:
            stop()
        self._placing.stop()
        closing = [spawn(part.close(), "the closing of a shared disk") for part in self._parts.values()]
        for one in closing:
            await one
        self._parts.clear()

    async def move(self, disk: str, node: str) -> Json:
        """Have another node be the coordinator of a disk, as a person wants; returns when it has claimed it.

        Raises:
            ClusterError: it can not.
        """
        return await self._placing.move(disk, node)

    async def fence(self, disk: str, node: str, *, force: bool, is_vouched_for: bool) -> Json:
        """Have a node's session ended, as a person wants: the coordinator fences it.

        Args:
            force: even where the node is alive.
            is_vouched_for: the person has seen to it that the node is off.

        Raises:
            ClusterError: it can not be, or is not proven yet.
        """
        record = self._membership.register.disk(disk)
        if record is None:
            raise ClusterError(f"there is no disk {disk} in the cluster")
        if not record.coordinator:
            raise ClusterError("the disk has no coordinator", where=disk)
        params = {"disk": disk, "node": node, "force": force, "is_vouched_for": is_vouched_for}
        return await self._membership.call(record.coordinator, FENCE, params, timeout_s=FENCE_WAIT_S + HOLD_S)

    def status(self) -> Sequence[Mapping[str, Any]]:
        """The shared disks as this node sees them, for people."""
        told = []
        for name, record in sorted(self._membership.register.disks.items()):
            part = self._parts.get(name)
            told.append(part.status(record) if part is not None else record.to_json())
        return told

    # How

    def _register_changed(self, register: Register) -> None:
        if self._is_stopped:
            return
        disks = register.disks
        me = register.member(self.node)
        if me is None or me.is_witness:
            disks = {}
        gone = [part for name, part in self._parts.items() if not _is_same(disks.get(name), part.record)]
        for part in gone:
            del self._parts[part.name]
            spawn(part.close(), "the closing of a shared disk")
        come = [record for name, record in disks.items() if name not in self._parts]
        for record in come:
            self._parts[record.name] = self._made(record)
        for part in self._parts.values():
            part.register_changed(register)
        if gone or come:
            for callback in self._callbacks:
                callback()
        for record in come:
            self._parts[record.name].start()

    def _made(self, record: DiskRecord) -> DiskPart:
        made = [make(record.name, is_system=record.is_system) for make in self._makes]
        return DiskPart(
            record,
            [service for service in made if service is not None],
            membership=self._membership,
            open_disk=self._open_disk,
            promises=self._promises,
            watch=self._watch,
            clock=self._clock,
            boottime=self._boottime,
            timeouts=self._timeouts,
            tell=self._tell,
            changed=self._placing.look,
        )

    def _linked(self, node: str, is_up: bool) -> None:
        for part in self._parts.values():
            part.linked(node, is_up)

    async def _is_gone(self, disk: str, node: str) -> bool:
        part = self._parts.get(disk)
        return part is not None and await part.is_gone(node)

    def _part(self, params: Json) -> DiskPart:
        checked(params, disk=str)
        part = self._parts.get(params["disk"])
        if part is None:
            raise ClusterError(f"this node does not know the disk {params['disk']}", where=self.node)
        return part

    async def _facts(self, peer: str, params: Json) -> Json:
        parts = self._parts.values()
        return {
            "up_s": self._boottime() - self._began_s,
            "attached": [part.name for part in parts if part.shared_disk is not None],
            "offices": {part.name: part.office.epoch for part in parts if part.office is not None},
            "claiming": [part.name for part in parts if part.is_claiming],
            "troubled": [part.name for part in parts if part.is_troubled],
        }

    async def _take(self, peer: str, params: Json) -> Json:
        checked(params, epoch=int, is_pinned=bool)
        part = self._part(params)
        return {"epoch": await part.take(params["epoch"], is_pinned=params["is_pinned"])}

    async def _release(self, peer: str, params: Json) -> Json:
        checked(params, epoch=int, owner_epoch=int)
        part = self._part(params)
        return {"released": await part.release(peer, params["owner_epoch"], params["epoch"])}

    async def _fence(self, peer: str, params: Json) -> Json:
        """A person wants a node fenced."""
        checked(params, node=str, force=bool, is_vouched_for=bool)
        office, node = self._part(params).office, params["node"]
        if office is None or not office.is_live:
            raise ClusterError("this node is not the coordinator of the disk now", where=params["disk"])
        if node == self.node:
            raise ClusterError(
                f"{node} is the coordinator of {params['disk']} itself",
                hint=f"move it first: csvd coordinator move {params['disk']} NODE",
            )
        if self._membership.is_linked(node) and not params["force"]:
            raise ClusterError(f"{node} is alive: there is a link to it", hint="--force fences it nevertheless")
        session = office.sessions.fence_by_hand(node, is_vouched_for=params["is_vouched_for"])
        if session is None:
            return {"proof": None}
        await session.pushes.gone(FENCE_WAIT_S)
        if not session.pushes.is_gone:
            raise ClusterError(
                f"it is not proven yet that {node} is off {params['disk']}; it is being tried",
                why=session.trouble,
                hint="where you have switched it off: --powered-off",
            )
        return {"proof": office.status()["last_fence"]}

    async def _office(self, params: Json) -> HeldOffice | None:
        checked(params, epoch=int)
        return await self._part(params).office_of(params["epoch"], HOLD_S)

    async def _opened(self, peer: str, params: Json) -> Json:
        checked(params, incarnation=int)
        published = _published(params.get("published"))
        office = await self._office(params)
        member = self._membership.register.member(peer)
        if office is None or member is None or not await office.in_grace(HOLD_S):
            return _not_here(office)
        answer = await office.sessions.opened(peer, member.number, params["incarnation"], published)
        return _while_live(office, answer)

    async def _joined(self, peer: str, params: Json) -> Json:
        checked(params, session=str)
        office = await self._office(params)
        if office is None or not await office.in_grace(HOLD_S):
            return _not_here(office)
        return _while_live(office, await office.sessions.joined(peer, params["session"]))

    async def _reclaim(self, peer: str, params: Json) -> Json:
        checked(params, session=str, incarnation=int)
        published = _published(params.get("published"))
        office = await self._office(params)
        if office is None or not await office.in_grace(HOLD_S):
            return _not_here(office)
        answer = office.sessions.reclaim(peer, params["session"], params["incarnation"], published)
        return _while_live(office, answer)

    async def _beat(self, peer: str, params: Json) -> Json:
        checked(params, epoch=int, session=str)
        published = _published(params["published"]) if "published" in params else None
        office = self._part(params).office
        if office is None or office.epoch != params["epoch"] or not await office.in_grace(0):
            return _not_here(office)
        return _while_live(office, office.sessions.beat(peer, params["session"], published))

    async def _left(self, peer: str, params: Json) -> Json:
        checked(params, session=str)
        office = self._part(params).office
        if office is None or office.epoch != params.get("epoch") or not office.is_live:
            return _not_here(office)
        return await office.sessions.left(peer, params["session"])

    async def _ask(self, peer: str, params: Json) -> Json:
        checked(params, session=str, incarnation=int, number=int, service=str, method=str, params=dict)
        waiting = _numbers(params.get("waiting"))
        office = await self._office(params)
        if office is None or not await office.acting(HOLD_S):
            return _not_here(office)
        if not office.sessions.is_known(peer, params["session"]):
            return {"again": "the coordinator does not know the session"}
        key = AskKey(peer, params["incarnation"], params["number"])
        return await office.asked.ask(key, waiting, params["service"], params["method"], params["params"])

    async def _pushed(self, peer: str, params: Json) -> Json:
        checked(params, epoch=int, session=str, number=int, oldest=int, service=str, method=str, params=dict)
        return await self._part(params).session.pushed(peer, params)


def _is_same(record: DiskRecord | None, known: DiskRecord) -> bool:
    return record is not None and (record.uuid, record.url) == (known.uuid, known.url)


def _not_here(office: HeldOffice | None) -> Json:
    if office is None:
        return {"again": "the node does not have the office"}
    return {"again": f"the office is not ready: {office.step}"}


def _while_live(office: HeldOffice, answer: Json) -> Json:
    """An answer may give a lease, or tell of an act: it is said only while this node may."""
    return answer if office.lease.is_live else {"again": "the office has ended"}


def _numbers(value: object) -> frozenset[int]:
    """The numbers of asks, as they came from the node.

    Raises:
        ClusterError: they are none, or too many.
    """
    if not isinstance(value, list) or len(value) > MAXIMUM_AT_ONCE or any(type(one) is not int for one in value):
        raise ClusterError("a call of coordination is malformed", where="waiting")
    return frozenset(value)


def _published(value: object) -> Json:
    """What a node publishes, as it came from the node.

    Raises:
        ClusterError: it is no JSON object, or too long.
    """
    try:
        return copy_json_object(value, maximum_bytes=MAXIMUM_PUBLISHED_BYTES)[0]
    except JsonError as error:
        raise ClusterError("what a node published can not be", why=str(error)) from error
