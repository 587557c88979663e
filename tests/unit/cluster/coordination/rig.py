"""Several nodes of coordination on one clock: the production code over a register, a network and a disk in memory.

Raft is played: one register, which every linked node sees after a while, and a leader that the test names.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import msgspec
from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.calls import Handler
from csvd.cluster.coordination.coordination import NodeCoordination
from csvd.cluster.coordination.faces import Json, Office
from csvd.cluster.coordination.node_session import NodeSession
from csvd.cluster.coordination.office import HeldOffice
from csvd.cluster.errors import CommandRefused, OutcomeUnknown, PeerUnreachable, RemoteError
from csvd.cluster.register import Register
from csvd.cluster.register_disks import DiskRecord
from csvd.cluster.register_members import Member
from csvd.cluster.timeouts import Timeouts
from csvd.errors import CsvdError
from csvd.shared_disk import FILE_LOCK, SharedDisk
from tests.unit.cluster import counting
from tests.unit.cluster.coordination.shared_disks import DiskInMemory, Platter
from tests.unit.cluster.simulated_files import SimulatedFiles


class Counting(counting.Counting):
    """Counts, and tells all nodes also at the beginning what it has come to: not all may have heard of it."""

    def __init__(self) -> None:
        super().__init__()
        self.begins = 0
        self.stuck: Deferred[None] | None = None
        """What the method "wait" waits for."""
        self.fenced: list[tuple[str, int, int]] = []
        """Who was kept off the disks of the service itself: the node, its number, and how often this had begun."""

    async def asked(self, node: str, method: str, params: Json) -> Json:
        if method == "wait" and self.stuck is not None:
            await self.stuck
            return {}
        return await super().asked(node, method, params)

    async def begin(self, office: Office) -> None:
        await super().begin(office)
        self.begins += 1
        await office.push("counting", "is", {"value": office.records.get("counting/value", 0)})

    async def fence_node(self, node: str, number: int) -> None:
        self.fenced.append((node, number, self.begins))


class CountingGate:
    """A gate whose writes end at once, or when the test lets them."""

    def __init__(self) -> None:
        self.is_open = False
        self.held: Deferred[None] | None = None

    async def close(self) -> None:
        self.is_open = False
        if self.held is not None:
            await self.held

    async def open(self) -> None:
        self.is_open = True


class FakeWatchdog:
    """Remembers when it would bite."""

    def __init__(self) -> None:
        self.deadline_s: float | None = None

    def arm(self, deadline_boottime_s: float) -> None:
        self.deadline_s = deadline_boottime_s

    def disarm(self) -> None:
        self.deadline_s = None


class RigNode:
    """One process of a node: it ends by `crash`, and another may be started on the same files."""

    def __init__(self, rig: Rig, name: str, files: SimulatedFiles) -> None:
        self.rig = rig
        self.node = name
        self.files = files
        self.handlers: dict[str, Handler] = {}
        self.change_callbacks: list[Callable[[Register], None]] = []
        self.link_callbacks: list[Callable[[str, bool], None]] = []
        self.register = Register.from_snapshot(rig.register.snapshot())
        self.is_crashed = False
        self.is_paused = False
        self.clock_offset_s = 0.0
        self.disks: list[DiskInMemory] = []
        self.watchdog = FakeWatchdog()
        self.counting = Counting()
        self.gate = CountingGate()
        self.seen: list[int] = []
        self.events: list[str] = []
        self.coordination = NodeCoordination(
            self,
            files=files,
            run_blocking=defer.execute,
            clock=rig.clock,
            boottime=rig.clock.seconds,
            now_ms=lambda: 0,
            timeouts=rig.timeouts,
            open_disk=self.open_disk,
            watchdog=self.watchdog,
            tell=lambda kind, text, subject: self.events.append(f"{rig.clock.seconds():8.3f} {kind}: {text}"),
        )
        self.coordination.add_service(self.make_service)
        self.coordination.on_sessions(self.sessions_changed)

    def make_service(self, disk: str, *, is_system: bool) -> Counting:
        return self.counting

    def sessions_changed(self) -> None:
        session = self.coordination.system
        if session is not None:
            session.on_pushed("counting", self.pushed)
            session.add_gate(self.gate)

    async def pushed(self, method: str, params: Json) -> Json:
        self.seen.append(params["value"])
        return {}

    def open_disk(self, record: DiskRecord) -> Deferred[SharedDisk]:
        disk = DiskInMemory(self.rig.platter, self.node)
        self.disks.append(disk)
        return defer.succeed(disk)

    def crash(self) -> None:
        """The process ends, as by kill -9."""
        self.is_crashed = True
        for disk in self.disks:
            disk.crash()
        self.rig.links_changed(self.node)

    def gate_is_open(self) -> bool:
        return self.gate.is_open

    @property
    def session(self) -> NodeSession:
        session = self.coordination.system
        assert isinstance(session, NodeSession)
        return session

    @property
    def office(self) -> HeldOffice | None:
        part = self.coordination._parts.get("system")
        return part.office if part is not None else None

    @property
    def is_acting(self) -> bool:
        return self.office is not None and self.office.is_live and not self.is_crashed

    # Membership

    @property
    def is_coordinator(self) -> bool:
        return self.rig.leader == self.node and not self.is_crashed

    @property
    def voters(self) -> frozenset[str]:
        return self.register.voters

    def is_linked(self, node: str) -> bool:
        return node == self.node or self.rig.is_linked(self.node, node)

    def on_change(self, callback: Callable[[Register], None]) -> Callable[[], None]:
        self.change_callbacks.append(callback)
        return lambda: self.change_callbacks.remove(callback)

    def on_link(self, callback: Callable[[str, bool], None]) -> Callable[[], None]:
        self.link_callbacks.append(callback)
        return lambda: self.link_callbacks.remove(callback)

    def serve(self, method: str, handler: Handler) -> None:
        self.handlers[method] = handler

    async def submit(self, command: dict[str, Any], *, timeout_s: float, key: str | None = None) -> dict[str, Any]:
        return await self.rig.submit(self.node, command)

    async def call(self, node: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        return await self.rig.call(self, node, method, params, timeout_s)


class Rig:
    """The cluster."""

    def __init__(
        self,
        count: int = 3,
        *,
        delay_s: float = 0.001,
        disk_s: float = 0.0,
        fence_kind: str = FILE_LOCK,
        witnesses: Sequence[str] = (),
    ) -> None:
        self.clock = Clock()
        self.clock.advance(1000)
        self.timeouts = Timeouts()
        self.delay_s = delay_s
        self.names = [f"n{number}" for number in range(1, count + 1)]
        members = [
            Member(name, name, number, is_voter=True, is_witness=name in witnesses)
            for number, name in enumerate(self.names, 1)
        ]
        self.register = Register(members)
        self.platter = Platter(self.clock, fence_kind=fence_kind, delay_s=disk_s)
        self.leader: str | None = "n1"
        self.cut: set[frozenset[str]] = set()
        self.nodes: dict[str, RigNode] = {}
        for name in self.names:
            self.start(name, SimulatedFiles())

    def start(self, name: str, files: SimulatedFiles) -> RigNode:
        node = self.nodes[name] = RigNode(self, name, files)
        self.run_now(node.coordination.start())
        self.links_changed(name)
        return node

    def restart(self, name: str) -> RigNode:
        return self.start(name, self.nodes[name].files.after_kill())

    def add_disk(self, name: str = "system") -> None:
        self.change({"op": "disk_add", "name": name, "url": name, "uuid": DiskInMemory.uuid})

    def change(self, command: dict[str, Any]) -> None:
        (answer,) = self.wait(self.submit(self.leader or "n1", command))
        assert answer["ok"]

    # Time

    def run(self, seconds: float, *, step_s: float = 0.001) -> None:
        for _ in range(round(seconds / step_s)):
            self.clock.advance(step_s)

    def run_until(self, condition: Callable[[], bool], timeout_s: float = 20.0) -> float:
        """How long it took."""
        began_s = self.clock.seconds()
        while not condition():
            assert self.clock.seconds() - began_s < timeout_s, self.story()
            self.clock.advance(0.001)
        return self.clock.seconds() - began_s

    def run_now(self, coroutine: Coroutine[Any, Any, Any]) -> list[Any]:
        outcome: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(outcome.append)
        return outcome

    def wait(self, coroutine: Coroutine[Any, Any, Any], timeout_s: float = 20.0) -> list[Any]:
        outcome = self.run_now(coroutine)
        self.run_until(lambda: bool(outcome), timeout_s)
        return outcome

    def story(self) -> str:
        lines = sorted(line for node in self.nodes.values() for line in node.events)
        troubles = [
            f"{name}: {msgspec.json.encode(node.coordination.status()).decode()}" for name, node in self.nodes.items()
        ]
        return "\n".join([*lines[-40:], *troubles])

    def acting(self) -> RigNode | None:
        found = [node for node in self.nodes.values() if node.is_acting]
        assert len(found) <= 1, self.story()
        return found[0] if found else None

    def run_until_acting(self, but: str = "", timeout_s: float = 20.0) -> RigNode:
        self.run_until(lambda: (node := self.acting()) is not None and node.node != but, timeout_s)
        node = self.acting()
        assert node is not None
        return node

    def run_until_all_live(self) -> None:
        self.run_until(lambda: all(node.session.state == "live" for node in self.nodes.values() if not node.is_crashed))

    def ask(self, node: str, method: str = "add", *, timeout_s: float = 20.0) -> list[Any]:
        return self.run_now(self.nodes[node].session.ask("counting", method, {}, timeout_s=timeout_s))

    # The network

    def is_linked(self, one: str, other: str) -> bool:
        ends = (self.nodes.get(one), self.nodes.get(other))
        return all(end is not None and not end.is_crashed for end in ends) and frozenset((one, other)) not in self.cut

    def isolate(self, name: str) -> None:
        self.cut |= {frozenset((name, other)) for other in self.names if other != name}
        self.links_changed(name)

    def heal(self) -> None:
        cut, self.cut = self.cut, set()
        for name in {name for pair in cut for name in pair}:
            self.links_changed(name)

    def links_changed(self, name: str) -> None:
        for other in self.names:
            if other == name or other not in self.nodes:
                continue
            is_up = self.is_linked(name, other)
            for here, there in ((name, other), (other, name)):
                node = self.nodes[here]
                if not node.is_crashed:
                    for callback in list(node.link_callbacks):
                        callback(there, is_up)
            if is_up:
                self.spread(name)
                self.spread(other)

    async def call(
        self, source: RigNode, target: str, method: str, params: dict[str, Any], timeout_s: float
    ) -> dict[str, Any]:
        if not source.is_linked(target):
            raise PeerUnreachable("there is no link to the node", where=target)
        node = self.nodes[target]
        answer: Deferred[dict[str, Any]] = Deferred()
        request = msgspec.msgpack.decode(msgspec.msgpack.encode(params))

        def lost(why: str) -> None:
            if not answer.called:
                answer.errback(OutcomeUnknown("whether it was done is not known", where=target, why=why))

        def arrive() -> None:
            if node.is_crashed or node is not self.nodes[target] or not source.is_linked(target):
                lost("the link was lost")
                return
            serving = Deferred.fromCoroutine(self.serve(node, source.node, method, request))
            serving.addCallbacks(
                lambda result: self.clock.callLater(self.delay_s, came, result),
                lambda failure: self.clock.callLater(self.delay_s, failed, failure.value),
            )

        def came(result: dict[str, Any]) -> None:
            if not answer.called and source.is_linked(target) and not source.is_crashed:
                answer.callback(msgspec.msgpack.decode(msgspec.msgpack.encode(result)))

        def failed(error: Exception) -> None:
            if not answer.called and source.is_linked(target) and not source.is_crashed:
                told = error if isinstance(error, CsvdError) else CsvdError(repr(error))
                answer.errback(RemoteError(told.what, why=told.why, kind=type(error).__name__))

        def watch() -> None:
            if not answer.called and not source.is_linked(target):
                lost("the link was lost")
            elif not answer.called:
                self.clock.callLater(0.005, watch)

        if source.node == target:
            return await self.serve(node, source.node, method, request)
        self.clock.callLater(self.delay_s, arrive)
        self.clock.callLater(timeout_s, lost, "no answer in time")
        watch()
        return await answer

    async def serve(self, node: RigNode, peer: str, method: str, params: dict[str, Any]) -> dict[str, Any]:
        return await node.handlers[method](peer, params)

    # Raft, played

    async def submit(self, node: str, command: dict[str, Any]) -> dict[str, Any]:
        leader = self.leader
        if leader is None or (node != leader and not self.is_linked(node, leader)):
            raise CommandRefused("no leader was found")
        waiting: Deferred[None] = Deferred()
        self.clock.callLater(2 * self.delay_s, waiting.callback, None)
        await waiting
        answer = self.register.apply(command)
        for name in self.names:
            if name == leader or self.is_linked(name, leader):
                self.clock.callLater(self.delay_s, partial(self.spread, name))
        if not answer["ok"]:
            raise CommandRefused(f"{command['op']} was refused", why=answer["reason"])
        return answer

    def spread(self, name: str) -> None:
        """A node hears of the register, where it can reach the leader."""
        node = self.nodes.get(name)
        leader = self.leader
        if node is None or node.is_crashed or leader is None or (name != leader and not self.is_linked(name, leader)):
            return
        if node.register.revision != self.register.revision:
            node.register = Register.from_snapshot(self.register.snapshot())
            for callback in list(node.change_callbacks):
                callback(node.register)
