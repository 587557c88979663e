"""Targets with several portals on a clock that stands still: for tests of several paths, without a byte on a wire.

A node executes what it has received when it is told to; also what came on a session that is gone by then.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.iscsi.codes import TaskManagementFunction
from initiator.engine.discovery import TargetAddress
from initiator.engine.requests import CHECK_CONDITION, Command
from initiator.errors import (
    AttemptAborted,
    CommandAborted,
    ConnectFailed,
    InitiatorError,
    SessionClosed,
    SessionLost,
    TimedOut,
)
from initiator.multipath import Multipath
from initiator.multipath_options import MultipathOptions, PathStatus
from initiator.options import SessionOptions
from initiator.road import submit
from initiator.scsi.target_ports import AccessState
from initiator.url import IscsiUrl, Portal
from tests.unit.initiator.session_script import Outcome

BLOCK_BYTES = 512
NAME = "iqn.2026-11.test:world"
MEDIUM = {0x28, 0x2A, 0x35, 0x88, 0x89, 0x8A, 0x91}
"""Commands that wait until the test lets them be executed."""


def sense_bytes(key: int, asc: int, ascq: int) -> bytes:
    return bytes((0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, asc, ascq, 0, 0, 0, 0))


@dataclass(eq=False)
class Task:
    """A command as the node has it: with the data that was sent."""

    session: WorldSession
    command: Command
    cdb: bytes
    data: bytes


@dataclass(eq=False)
class Node:
    """A target device with portals, each in a group of its own tag, over a disk that others may serve too."""

    portals: dict[Portal, int]
    disk: bytearray
    name: str = NAME
    identity: bytes = b"\x60\x01\x02\x03\x04\x05\x06\x07\x08\x09\x0a\x0b\x0c\x0d\x0e\x0f"
    states: dict[int, AccessState] = field(default_factory=dict)
    unreachable: set[Portal] = field(default_factory=set)
    frozen: bool = False
    """It takes what comes and answers nothing, as a process that was stopped."""
    executes_on_reinstatement: bool = False
    """The tasks of a nexus that is reinstated are executed before it is; else they are dropped."""
    tells_portals: bool = True
    not_ready: bool = False
    tpgs: int = 3
    tasks: list[Task] = field(default_factory=list)
    sessions: list[WorldSession] = field(default_factory=list)
    attentions: dict[WorldSession, list[tuple[int, int]]] = field(default_factory=dict)
    resets: int = 0

    def state_of(self, tag: int) -> AccessState:
        return self.states.get(tag, AccessState.ACTIVE_OPTIMIZED)

    def set_state(self, tag: int, state: AccessState, *, say_so: bool = True) -> None:
        self.states[tag] = state
        if say_so:
            for session in self.sessions:
                self.attentions.setdefault(session, []).append((0x2A, 0x06))

    def log_in(self, session: WorldSession) -> None:
        for old in [
            s for s in self.sessions if (s.isid, s.portal_group_tag) == (session.isid, session.portal_group_tag)
        ]:
            self.end_tasks(old)
            self.sessions.remove(old)
            old.end(SessionLost("the session was reinstated"))
        self.sessions.append(session)
        self.attentions[session] = [(0x29, 0x00)]

    def end_tasks(self, session: WorldSession) -> None:
        mine = [task for task in self.tasks if task.session is session]
        self.tasks = [task for task in self.tasks if task.session is not session]
        if self.executes_on_reinstatement:
            for task in mine:
                self.apply(task)

    def receive(self, session: WorldSession, command: Command) -> None:
        task = Task(session, command, command.cdb, bytes(command.data_out))
        self.tasks.append(task)
        if command.cdb[0] not in MEDIUM:
            session.reactor.callLater(0, self.execute, task)

    def execute(self, task: Task) -> None:
        """Execute a task that is still there, and answer where somebody listens."""
        if task not in self.tasks or self.frozen:
            return
        self.tasks.remove(task)
        session, command = task.session, task.command
        status, found, data = self.outcome(task)
        if not session.listens or command.done:
            return
        command.status, command.sense = status, found
        if command.data_in is not None:
            count = min(len(data), command.length)
            command.data_in[:count] = data[:count]
            command.received = count
            command.residual = command.length - count
        session.done(command)

    def execute_all(self) -> None:
        for task in list(self.tasks):
            self.execute(task)

    def outcome(self, task: Task) -> tuple[int, bytes, bytes]:
        code, tag = task.cdb[0], task.session.portal_group_tag
        attentions = self.attentions.get(task.session, [])
        if attentions and code not in (0x12, 0xA0):
            return CHECK_CONDITION, sense_bytes(6, *attentions.pop(0)), b""
        state = self.state_of(tag)
        if not state.active and (code in MEDIUM or code == 0):
            ascq = {AccessState.STANDBY: 0x0B, AccessState.UNAVAILABLE: 0x0C}.get(state, 0x0A)
            return CHECK_CONDITION, sense_bytes(2, 4, ascq), b""
        if self.not_ready and (code in MEDIUM or code == 0):
            return CHECK_CONDITION, sense_bytes(2, 0x3A, 0), b""
        return self.apply(task)

    def apply(self, task: Task) -> tuple[int, bytes, bytes]:
        cdb, tag = task.cdb, task.session.portal_group_tag
        start = int.from_bytes(cdb[2:6], "big") * BLOCK_BYTES
        match cdb[0]:
            case 0x2A:
                self.disk[start : start + len(task.data)] = task.data
            case 0x28:
                return 0, b"", bytes(self.disk[start : start + int.from_bytes(cdb[7:9], "big") * BLOCK_BYTES])
            case 0x12 if not cdb[1]:
                return 0, b"", bytes((0, 0, 6, 2, 31, self.tpgs << 4, 0, 2)) + b"TEST    WORLD           1   "
            case 0x12:
                of_unit = bytes((1, 3, 0, len(self.identity))) + self.identity if self.identity else b""
                body = {
                    0x00: b"\x00\x80\x83",
                    0x80: b"serial",
                    0x83: of_unit + b"\x01\x15\0\x04\0\0" + tag.to_bytes(2, "big"),
                }[cdb[2]]
                return 0, b"", bytes((0, cdb[2])) + len(body).to_bytes(2, "big") + body
            case 0x9E:
                last = len(self.disk) // BLOCK_BYTES - 1
                return 0, b"", last.to_bytes(8, "big") + BLOCK_BYTES.to_bytes(4, "big") + bytes(20)
            case 0xA3:
                groups = b"".join(
                    bytes((self.state_of(each), 0x8F)) + each.to_bytes(2, "big") + bytes((0, 0, 0, 1, 0, 0, 0, each))
                    for each in sorted(set(self.portals.values()))
                )
                return 0, b"", len(groups).to_bytes(4, "big") + groups
            case 0xA4:
                for at in range(4, len(task.data), 4):
                    state, _, high, low = task.data[at : at + 4]
                    self.set_state(high << 8 | low, AccessState(state), say_so=False)
        return 0, b"", b""

    def cut(self, portal: Portal, *, and_keep_it_so: bool = True) -> None:
        """Break the connections of a portal; the node goes on with what it has received."""
        if and_keep_it_so:
            self.unreachable.add(portal)
        for session in [s for s in self.sessions if s.portal == portal]:
            session.end(SessionLost("the connection to the target broke", why="cut"))


class WorldSession:
    """A session as Multipath needs one: a road, and what it says of itself."""

    def __init__(self, node: Node, place: IscsiUrl, isid: bytes, options: SessionOptions, reactor: Any) -> None:
        self.node = node
        self.portal = self.peer = place.portal
        self.target_name = place.target_name
        self.isid = isid
        self.portal_group_tag = node.portals[place.portal]
        self.options = options
        self.reactor = reactor
        self.on_end: Callable[[Any], None] | None = None
        self.ended: InitiatorError | None = None
        self.closing = False
        self.under_way: dict[Command, tuple[Callable[[Command], None], list[Any]]] = {}
        self.queued: list[Command] = []
        self._tag = 1

    @property
    def session(self) -> WorldSession:
        return self

    @property
    def where(self) -> str:
        return f"{self.portal} {self.target_name}"

    @property
    def alive(self) -> bool:
        return self.ended is None and not self.closing

    @property
    def listens(self) -> bool:
        return self.ended is None

    def start(
        self,
        command: Command,
        deadline_s: float,
        finished: Callable[[Command], None],
        attempt_s: float | None = None,
    ) -> None:
        if not self.alive:
            raise SessionClosed("the session is closed", why=str(self.ended or ""))
        assert not command.was_sent
        now_s = self.reactor.seconds()
        timers = [self.reactor.callLater(max(0.0, deadline_s - now_s), self._late, command)]
        if attempt_s is not None and attempt_s < deadline_s:
            timers.append(self.reactor.callLater(attempt_s - now_s, self._attempt_late, command))
        self.under_way[command] = finished, timers
        if len(self.under_way) > self.options.queue_depth:
            self.queued.append(command)
        else:
            self._send(command)

    def _send(self, command: Command) -> None:
        self._tag += 1
        command.tag = self._tag
        self.node.receive(self, command)

    def submit(self, command: Command, timeout_s: float | None = None) -> Deferred[Command]:
        road: Any = self
        return submit(road, command, timeout_s)

    def done(self, command: Command) -> None:
        """The target has answered; who gave the command up is not told."""
        command.done = True
        finished, timers = self.under_way.pop(command, (None, []))
        stop(timers)
        if self.queued:
            self._send(self.queued.pop(0))
        if finished is not None:
            finished(command)

    def _attempt_late(self, command: Command) -> None:
        if command in self.under_way and command not in self.queued and not self.node.frozen:
            self.node.tasks = [task for task in self.node.tasks if task.command is not command]
            command.error = AttemptAborted("no answer in time")
            self.done(command)

    def _late(self, command: Command) -> None:
        finished, timers = self.under_way.pop(command)
        stop(timers)
        self._take_back(command)
        command.error = TimedOut("no answer within its time")
        finished(command)

    def cancel(self, command: Command) -> None:
        stop(self.under_way.pop(command)[1])
        self._take_back(command)

    def _take_back(self, command: Command) -> None:
        if command in self.queued:
            self.queued.remove(command)
        else:
            self.reactor.callLater(0.05, self._abort_task, command)

    def _abort_task(self, command: Command) -> None:
        """ABORT TASK comes to the target, where the session lives so long."""
        if self.listens and not command.done:
            if self.node.frozen:
                self.reactor.callLater(0.5, self._abort_task, command)
                return
            self.node.tasks = [task for task in self.node.tasks if task.command is not command]
            self.done(command)

    def end(self, error: InitiatorError) -> None:
        if self.ended is not None:
            return
        self.ended = error
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(self)
        left, self.under_way = self.under_way, {}
        for command, (finished, timers) in left.items():
            stop(timers)
            lost = SessionLost("the session with the target is lost", why=str(error))
            command.error = lost
            finished(command)

    def abort(self) -> None:
        self.end(SessionClosed("this side has closed the session"))

    async def close(self) -> None:
        if self in self.node.sessions and self.ended is None:
            self.node.end_tasks(self)
            self.node.sessions.remove(self)
        self.abort()

    async def nop(self, *, timeout_s: float | None = None) -> float:
        return 0.0

    async def task_management(
        self, function: TaskManagementFunction, *, lun: int = 0, timeout_s: float | None = None
    ) -> None:
        assert function is TaskManagementFunction.LOGICAL_UNIT_RESET
        node, node.tasks = self.node, []
        node.resets += 1
        for command in list(self.under_way):
            command.error = CommandAborted("reset")
            self.done(command)


def stop(timers: list[Any]) -> None:
    """Cancel those that have not gone off."""
    for timer in timers:
        if timer.active():
            timer.cancel()


class World:
    """Nodes, a clock, and a road over paths to all of their portals."""

    def __init__(self, *nodes: Node, queue_depth: int = 32, **how: Any) -> None:
        self.clock = Clock()
        self.nodes = nodes
        self.options = SessionOptions(queue_depth=queue_depth)
        self.how = MultipathOptions(**how)
        self.events: list[PathStatus] = []
        self.logins: list[tuple[Portal, bytes]] = []
        self.places = [IscsiUrl(portal, node.name) for node in nodes for portal in node.portals]
        self._isids = 0
        self.road: Multipath = None  # type: ignore[assignment]

    def open(self) -> World:
        """Bring all paths up."""
        outcome = self.opening()
        self.settle()
        assert isinstance(outcome.result, Multipath), outcome.result
        self.road = outcome.result
        return self

    def opening(self) -> Outcome:
        return Outcome(
            Multipath.open(
                self.places,
                self.opener,
                self.addresses,
                isid=self._isid,
                reactor=self.clock,
                options=self.options,
                how=self.how,
                listener=self.events.append,
            )
        )

    def _isid(self) -> bytes:
        self._isids += 1
        return self._isids.to_bytes(6, "big")

    def opener(self, place: IscsiUrl, isid: bytes) -> Coroutine[Deferred[Any], Any, Any]:
        return self._log_in(place, isid)

    async def addresses(self, place: IscsiUrl) -> frozenset[TargetAddress]:
        await self._moment()
        node = next(node for node in self.nodes if place.portal in node.portals)
        if place.portal in node.unreachable or node.frozen:
            raise ConnectFailed("no connection", where=str(place.portal), why="refused")
        told = node.portals if node.tells_portals else {place.portal: node.portals[place.portal]}
        return frozenset(TargetAddress(portal, tag) for portal, tag in told.items())

    async def _log_in(self, place: IscsiUrl, isid: bytes) -> Any:
        self.logins.append((place.portal, isid))
        await self._moment()
        node = next(node for node in self.nodes if place.portal in node.portals)
        if place.portal in node.unreachable or node.frozen:
            raise ConnectFailed("no connection", where=str(place.portal), why="refused")
        session = WorldSession(node, place, isid, self.options, self.clock)
        node.log_in(session)
        return session

    def _moment(self) -> Deferred[None]:
        moment: Deferred[None] = Deferred()
        self.clock.callLater(0, moment.callback, None)
        return moment

    def settle(self, seconds: float = 0.0) -> None:
        """Let time pass, and everything happen that takes none."""
        self.clock.advance(seconds)
        for _ in range(60):
            self.clock.advance(0)

    def pass_time(self, seconds: float, step_s: float = 0.1) -> None:
        """Let time pass in steps."""
        for _ in range(round(seconds / step_s)):
            self.settle(step_s)

    # --- calls

    def write(self, lba: int, fill: int, timeout_s: float = 30.0) -> tuple[Command, Outcome]:
        cdb = b"\x2a\0" + lba.to_bytes(4, "big") + b"\0\0\x01\0"
        command = Command(0, cdb, data_out=bytes((fill,)) * BLOCK_BYTES)
        return command, Outcome(submit(self.road, command, timeout_s))

    def read(self, lba: int, timeout_s: float = 30.0) -> tuple[bytearray, Outcome]:
        room = bytearray(BLOCK_BYTES)
        command = Command(0, b"\x28\0" + lba.to_bytes(4, "big") + b"\0\0\x01\0", data_in=room)
        return room, Outcome(submit(self.road, command, timeout_s))

    def run(self, cdb: bytes, data_out: bytes | None = None, timeout_s: float = 30.0) -> tuple[Command, Outcome]:
        command = Command(0, cdb, data_out=data_out)
        return command, Outcome(submit(self.road, command, timeout_s))

    @property
    def tasks(self) -> list[Task]:
        return [task for node in self.nodes for task in node.tasks]

    def where(self, outcome_of: Command) -> list[Portal]:
        """At which portals a command, by its CDB, waits to be executed."""
        return [task.session.portal for task in self.tasks if task.cdb == outcome_of.cdb]


P1, P2, P3 = Portal("192.0.2.1"), Portal("192.0.2.2"), Portal("192.0.2.3")


def disk_of(blocks: int = 64) -> bytearray:
    return bytearray(blocks * BLOCK_BYTES)


def one_group() -> Node:
    """Two portals of one group."""
    return Node({P1: 1, P2: 1}, disk_of())


def two_groups() -> Node:
    """Two portals of one device, each of a group of its own."""
    return Node({P1: 1, P2: 2}, disk_of())


def two_nodes() -> tuple[Node, Node]:
    """Two devices over one disk, with the same names, that know nothing of one another."""
    disk = disk_of()
    return Node({P1: 1}, disk), Node({P2: 1}, disk)
