"""A node's session with the coordinator of a disk, whoever that is: its lease, its asks, and the pushes that it takes.

The lease runs from the sending of the heartbeat that was answered, less the drift of clocks, on CLOCK_BOOTTIME. When
the register names another coordinator, the session is reclaimed there while its lease goes on. When the lease is out,
the node closes its gates, waits for what is under way, leaves the disk, and comes back as a new one: the coordinator,
and the disk, see that it has left. Where it can not do that in time, the watchdog ends the process.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

from twisted.internet.defer import Deferred

from csvd.cluster.bell import Bell, pause, spawn
from csvd.cluster.coordination.asks import Asks
from csvd.cluster.coordination.faces import CLOSED, FENCED, LAPSED, LIVE, RECLAIMING, Gate, Json, Pushed
from csvd.cluster.coordination.membership import Membership, Tell, Watch
from csvd.cluster.coordination.outcome import PushInput
from csvd.cluster.errors import ClusterError
from csvd.cluster.json_values import copy_json_object
from csvd.cluster.listeners import Listeners
from csvd.cluster.reactor import Clock
from csvd.cluster.register_disks import DiskRecord
from csvd.cluster.timeouts import CLOCK_DRIFT, Timeouts
from csvd.errors import CsvdError
from csvd.shared_disk import SharedDisk

OPEN: Final = "session.open"
JOINED: Final = "session.joined"
RECLAIM: Final = "session.reclaim"
BEAT: Final = "session.beat"
LEFT: Final = "session.left"

MAXIMUM_PUBLISHED_BYTES: Final = 16 * 1024
CALL_S: Final = 2.5
"""Longer than a coordinator lets a call wait for its takeover."""
RETRY_S: Final = 0.03
UNLINKED_S: Final = 0.5
FAILED_S: Final = 0.5
WARNED_AFTER: Final = 0.5
"""Of the time that a node has to let go of a disk, before it says that it has not."""


async def _nothing() -> None:
    return None


class NodeSession:
    """The `DiskSession`.

    Args:
        disk: the name of the disk.
        incarnation: the number of this run of the node.
        watch: the deadlines of this process.
    """

    def __init__(
        self,
        disk: str,
        *,
        membership: Membership,
        incarnation: int,
        watch: Watch,
        clock: Clock,
        boottime: Callable[[], float],
        timeouts: Timeouts,
        tell: Tell,
    ) -> None:
        self._disk = disk
        self._membership = membership
        self._incarnation = incarnation
        self._watch = watch
        self._clock = clock
        self._boottime = boottime
        self._timeouts = timeouts
        self._tell = tell
        self._shared_disk: SharedDisk | None = None
        self._is_joined = False
        self._state = LAPSED
        self._id: str | None = None
        self._epoch = 0
        self._coordinator = ""
        self._coming: tuple[str, str, int] | None = None
        self._lease_until_s = 0.0
        self._is_leaving = False
        self._running: Deferred[object] | None = None
        self._bell = Bell(clock)
        self._gates: list[Gate] = []
        self._open_gates: list[Gate] = []
        self._handlers: dict[str, Pushed] = {}
        self._callbacks: Listeners[Callable[[], None]] = Listeners()
        self._input = PushInput()
        self._published: dict[str, Any] = {}
        self._is_publishing = False
        self._beats = 0
        self._at = ""
        self._is_closed = False
        self._asks = Asks(disk, membership=membership, incarnation=incarnation, clock=clock, session=self._asked_in)
        self.is_needed: Callable[[], bool] = lambda: False
        """Whether this node has, or takes, the office: then its place on the disk is kept without a session, too."""
        self.own_is_over: Callable[[], Awaitable[None]] = _nothing
        """Waits until offices that this node had, and that have ended, write no more."""
        self.trouble = ""

    # The face

    @property
    def disk(self) -> str:
        """The name of the disk."""
        return self._disk

    @property
    def state(self) -> str:
        """See `DiskSession`."""
        return self._state

    @property
    def is_live(self) -> bool:
        """Whether the lease is good now."""
        return self._boottime() < self._lease_until_s

    @property
    def lease_until_s(self) -> float:
        """The end of the lease; 0 where there is none."""
        return self._lease_until_s

    @property
    def coordinator(self) -> str:
        """The coordinator that it is with, or seeks."""
        record = self._record()
        return self._coordinator or (record.coordinator if record is not None else "")

    async def ask(self, service: str, method: str, params: Json, *, timeout_s: float) -> Json:
        """See `DiskSession`."""
        return await self._asks.ask(service, method, params, timeout_s=timeout_s)

    def on_pushed(self, service: str, handler: Pushed) -> None:
        """See `DiskSession`."""
        if service in self._handlers:
            raise ValueError(f"the pushes of {service} are taken already")
        self._handlers[service] = handler

    def on_state(self, callback: Callable[[], None]) -> Callable[[], None]:
        """See `DiskSession`."""
        return self._callbacks.add(callback)

    def add_gate(self, gate: Gate) -> Callable[[], None]:
        """See `DiskSession`."""
        self._gates.append(gate)
        if self._is_joined and not self._is_leaving:
            spawn(self._open_late(gate), "the opening of a gate")

        def remove() -> None:
            if gate in self._gates:
                self._gates.remove(gate)
            if gate in self._open_gates:
                self._open_gates.remove(gate)

        return remove

    def publish(self, key: str, value: Any) -> None:
        """See `DiskSession`."""
        published = {**self._published, key: value}
        if value is None:
            del published[key]
        self._published, _ = copy_json_object(published, maximum_bytes=MAXIMUM_PUBLISHED_BYTES)
        self._is_publishing = True
        self._bell.ring()

    # Its life

    @property
    def is_joined(self) -> bool:
        """Whether this node has its place on the disk."""
        return self._is_joined

    def start(self, shared_disk: SharedDisk) -> None:
        """The disk is open: seek the coordinator from now on."""
        self._shared_disk = shared_disk
        self._running = spawn(self._run(), "a node's session")

    async def close(self) -> None:
        """End for good: gates are closed, the disk is left."""
        was = self._id
        self._is_closed = True
        self._end(CLOSED, "")
        self._bell.ring()
        if self._running is not None:
            await self._running
        while self._is_leaving:
            await self._bell.wait(RETRY_S)
        await self._leave_now()
        if was is not None and self._membership.is_linked(self._coordinator):
            try:
                params = {"disk": self._disk, "epoch": self._epoch, "session": was}
                await self._membership.call(self._coordinator, LEFT, params, timeout_s=RETRY_S * 10)
            except ClusterError:
                return  # The coordinator sees it by itself.

    def changed(self) -> None:
        """The register or a link has changed."""
        self._bell.ring()

    def lapse(self, why: str) -> None:
        """Give the lease up now: this node's own office has lost its lease, and others will wait for this node."""
        self._end(LAPSED, why)

    def office_over(self) -> None:
        """This node's own office has ended: where there is no session, the place on the disk is given up."""
        if self._is_joined and self._id is None and self._coming is None and not self._is_leaving:
            self._begin_leaving()

    async def join(self, number: int) -> None:
        """Take this node's place on the disk, as one that is taking the office needs it, with or without a session."""
        while self._is_leaving:
            await self._bell.wait(RETRY_S)
        if not self._is_joined and self._shared_disk is not None:
            await self._shared_disk.join(self._membership.node, number)
            self._is_joined = True

    async def pushed(self, peer: str, params: Json) -> Json:
        """A coordinator pushes."""
        here = (params["session"], peer, params["epoch"])
        if here not in ((self._id, self._coordinator, self._epoch), self._coming):
            return {"again": "the node is not in this session"}
        handler = self._handlers.get(params["service"])

        async def begin() -> Json:
            return await handler(params["method"], params["params"]) if handler is not None else {}

        return await self._input.take(params["number"], params["oldest"], begin)

    async def _run(self) -> None:
        while not self._is_closed:
            try:
                wait_s = await self._step()
            except CsvdError as error:
                self.trouble = str(error)
                wait_s = FAILED_S
            if wait_s > 0 and not self._is_closed:
                await self._bell.wait(wait_s)

    async def _step(self) -> float:
        """Do what is next; gives how long to wait after it, unless something changes."""
        record = self._record()
        member = self._membership.register.member(self._membership.node)
        if record is None or not record.coordinator or member is None or member.is_witness:
            return UNLINKED_S
        if self._is_leaving:
            return RETRY_S
        if self._id is not None and record.epoch != self._epoch:
            wait_s = await self._reclaim(record)
            if self._id is not None and record.epoch != self._epoch and self._is_beat_due() and not self._beats:
                # Until the next coordinator is ready, the one before may act, and renew the lease.
                spawn(self._send_beat(self._id, []), "a node's heartbeat")
            return wait_s
        if self._id is not None:
            return await self._beat()
        return await self._come(record, member.number)

    def _is_beat_due(self) -> bool:
        due_s = self._timeouts.node_lease_s - self._timeouts.node_heartbeat_s
        return self._lease_left_s() < due_s and self._membership.is_linked(self._coordinator)

    async def _come(self, record: DiskRecord, number: int) -> float:
        """Have a new session."""
        answer = await self._call(record, OPEN, published=self._published)
        session = answer.get("session")
        if not isinstance(session, str) or self._is_closed:
            return RETRY_S
        self._input = PushInput()
        self._coming = (session, record.coordinator, record.epoch)
        try:
            return await self._join(record, number, session)
        except CsvdError as error:
            self.trouble = str(error)
            return FAILED_S
        finally:
            self._coming = None
            if self._id is None and not self._is_leaving:
                # Not let in: what was joined is left again, so that nobody need fence this node.
                self._begin_leaving()

    async def _join(self, record: DiskRecord, number: int, session: str) -> float:
        give_up_s = self._boottime() + self._timeouts.node_lease_s
        self._watch.arm(self._disk, give_up_s + self._timeouts.release_s)
        await self.join(number)
        for gate in list(self._gates):
            if gate not in self._open_gates:
                self._open_gates.append(gate)
                await gate.open()
        # Not for longer: what was joined is left again before the watchdog bites.
        while not self._is_closed and self._record() == record and self._boottime() < give_up_s:
            sent_s = self._boottime()
            timeout_s = min(CALL_S, give_up_s - sent_s)
            answer = await self._call(record, JOINED, timeout_s=timeout_s, session=session)
            if answer.get("ok") is True and not self._is_closed:
                self._id, self._coordinator, self._epoch = session, record.coordinator, record.epoch
                if not self._extend(sent_s):
                    self._end(LAPSED, "the coordinator's answer came too late")
                    return 0
                self._become(LIVE)
                return self._timeouts.node_heartbeat_s / 2
            if "lost" in answer:
                break
            await self._bell.wait(RETRY_S)
        return RETRY_S

    async def _reclaim(self, record: DiskRecord) -> float:
        """Go on with the session at the next coordinator."""
        if self._state == LIVE:
            self._become(RECLAIMING)
        session, sent_s = self._id, self._boottime()
        answer = await self._call(
            record, RECLAIM, session=session, incarnation=self._incarnation, published=self._published
        )
        if self._id != session or session is None:
            return 0
        if answer.get("ok") is True:
            self._coordinator, self._epoch = record.coordinator, record.epoch
            self._input = PushInput()
            if self._extend(sent_s):
                self._become(LIVE)
            self._asks.changed()
            # The answer may have waited for the takeover: a fresh lease, soon.
            return min(self._timeouts.node_heartbeat_s, self._lease_left_s() / 2)
        if "lost" in answer:
            self._end(FENCED, str(answer["lost"]))
        return RETRY_S

    async def _beat(self) -> float:
        """Renew the lease. Where the answer is slow to come the next is sent, and either renews it from its sending."""
        if not self._membership.is_linked(self._coordinator):
            self.trouble = f"there is no link to the coordinator, {self._coordinator}"
            return UNLINKED_S
        session, record = self._id, self._record()
        assert session is not None
        answered: list[Json] = []
        spawn(self._send_beat(session, answered), "a node's heartbeat")
        next_s = self._clock.seconds() + self._timeouts.node_heartbeat_s
        while not answered and self._id == session and self._record() == record:
            if not await self._bell.wait(next_s - self._clock.seconds()):
                break
        if not answered or self._id != session:
            return 0
        if answered[0].get("ok") is True:
            return 0 if self._is_publishing else self._timeouts.node_heartbeat_s
        return RETRY_S

    async def _send_beat(self, session: str, answered: list[Json]) -> None:
        """Send one heartbeat; what comes of it is added to `answered`."""
        epoch, sent_s = self._epoch, self._boottime()
        sent = {"disk": self._disk, "epoch": epoch, "session": session}
        is_publishing, self._is_publishing = self._is_publishing, False
        if is_publishing:
            sent["published"] = self._published
        answer: Json = {}
        self._beats += 1
        try:
            answer = await self._membership.call(self._coordinator, BEAT, sent, timeout_s=self._timeouts.node_lease_s)
        except ClusterError as error:
            self.trouble = str(error)
        finally:
            self._beats -= 1
        self._is_publishing = self._is_publishing or (is_publishing and "ok" not in answer)
        if self._id == session and answer.get("ok") is True:
            self._extend(sent_s)
            self.trouble = ""
        elif self._id == session and self._epoch == epoch and "lost" in answer:
            self._end(FENCED, str(answer["lost"]))
        answered.append(answer)
        self._bell.ring()

    async def _call(self, record: DiskRecord, method: str, *, timeout_s: float = CALL_S, **fields: Any) -> Json:
        """Ask the coordinator of a record; {"again": why} where it does not answer."""
        if not self._membership.is_linked(record.coordinator):
            why = f"there is no link to the coordinator, {record.coordinator}"
            self.trouble = why
            return {"again": why}
        params = {"disk": self._disk, "epoch": record.epoch, **fields}
        if method == OPEN:
            params["incarnation"] = self._incarnation
        try:
            answer = await self._membership.call(record.coordinator, method, params, timeout_s=timeout_s)
        except ClusterError as error:
            self.trouble = str(error)
            return {"again": str(error)}
        if "ok" not in answer:
            self.trouble = str(answer.get("again") or answer.get("lost") or "the coordinator's answer is none")
        return answer

    # The lease

    def _lease_left_s(self) -> float:
        return max(0.0, self._lease_until_s - self._boottime())

    def _extend(self, sent_s: float) -> bool:
        """The coordinator has answered what was sent then; whether the lease is good by that."""
        until_s = sent_s + self._timeouts.node_lease_s * (1 - CLOCK_DRIFT)
        if until_s > self._lease_until_s:
            self._lease_until_s = until_s
            self._watch.arm(self._disk, until_s + self._timeouts.release_s)
            self._clock.callLater(max(0.0, until_s - self._boottime()) + 0.001, self._look_at_lease)
        return self.is_live

    def _look_at_lease(self) -> None:
        if self._id is not None and not self.is_live:
            self._end(LAPSED, "its lease is out")

    def _end(self, state: str, why: str) -> None:
        """The session is over: from this moment nothing new begins."""
        if self._id is None:
            if state == CLOSED:
                self._become(CLOSED)
            return
        self._id = None
        self._lease_until_s = 0.0
        if why:
            self._tell("session", f"the session of {self._membership.node} at {self._disk} is over: {why}", self._disk)
        if not self._is_leaving:
            self._begin_leaving()
        self._become(state)

    def _begin_leaving(self) -> None:
        self._is_leaving = True
        spawn(self._leave(), "the leaving of a disk")

    async def _leave(self) -> None:
        """End what is under way, and leave the disk; the watchdog bites where that takes too long."""
        warning = self._clock.callLater(self._timeouts.release_s * WARNED_AFTER, self._still_leaving)
        try:
            await self._leave_now()
        finally:
            if warning.active():
                warning.cancel()
            self._is_leaving = False
            self._bell.ring()

    def _still_leaving(self) -> None:
        """Say why, before the watchdog bites: nothing can be said after that."""
        deadline_s = self._watch.deadlines.get(self._disk)
        left = "" if deadline_s is None else f"; the kernel ends this process in {deadline_s - self._boottime():.1f} s"
        text = f"{self._membership.node} has not let go of {self._disk} yet, for it waits for {self._at}{left}"
        self._tell("watchdog", text, self._disk)

    async def _leave_now(self) -> None:
        self._at = "the end of what is under way at its logical units"
        gates, self._open_gates = self._open_gates, []
        closing = [spawn(gate.close(), "the closing of a gate") for gate in gates]
        for one in closing:
            await one
        while self._is_joined and self._shared_disk is not None:
            self._at = "the last write of its own office"
            await self.own_is_over()
            if self.is_needed():
                break
            self._at = "the disk itself to be left"
            try:
                await self._shared_disk.leave()
                self._is_joined = False
            except CsvdError as error:
                self.trouble = str(error)
                await pause(self._clock, RETRY_S)
        self._watch.disarm(self._disk)

    async def _open_late(self, gate: Gate) -> None:
        """A gate was added while the disk is joined."""
        while gate in self._gates and gate not in self._open_gates and self._is_joined and not self._is_leaving:
            try:
                self._open_gates.append(gate)
                await gate.open()
            except CsvdError as error:
                self.trouble = str(error)
                if gate in self._open_gates:
                    self._open_gates.remove(gate)
                await pause(self._clock, FAILED_S)
            else:
                self._call_back()

    # How

    def _record(self) -> DiskRecord | None:
        return self._membership.register.disk(self._disk)

    def _asked_in(self) -> tuple[str, str, int] | None:
        """The session in which an ask may be sent: its id, the coordinator, the epoch."""
        if self._id is None or not self.is_live:
            return None
        return self._id, self._coordinator, self._epoch

    def _become(self, state: str) -> None:
        if state == self._state or (self._state == CLOSED):
            return
        self._state = state
        self._asks.changed()
        self._call_back()

    def _call_back(self) -> None:
        for callback in self._callbacks:
            callback()

    def status(self) -> Mapping[str, Any]:
        """For people."""
        return {
            "state": self._state,
            "coordinator": self.coordinator,
            "epoch": self._epoch,
            "lease_left_s": round(self._lease_left_s(), 3),
            "trouble": "" if self._state == LIVE else self.trouble,
        }
