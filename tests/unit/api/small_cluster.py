"""Three nodes in memory, each with the control API's routes over faked guests and migrations."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, succeed

from csvd.api.disks import DiskRoutes
from csvd.api.events import EventRing
from csvd.api.exports import ExportRoutes
from csvd.api.guests import GuestRoutes
from csvd.api.node import NodeRoutes
from csvd.api.peers import Peers
from csvd.api.routes import Answer, Request, Router
from csvd.cluster.errors import PeerUnreachable, RemoteError
from csvd.cluster.register import Register
from csvd.cluster.register_guests import GuestRecord
from csvd.errors import CsvdError
from csvd.migration.errors import MigrationRefused
from csvd.migration.precopy import Policy
from csvd.migration.report import Progress, Report
from csvd.vm.errors import GuestNotHere
from csvd.vm.interfaces import GuestVerification
from csvd.vm.spec import GuestSpec
from tests.unit.cluster.registers import register_of

Handler = Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]


def result_of(awaitable: Awaitable[Any]) -> Any:
    """The result of what needs no waiting; its error is raised."""

    async def run() -> Any:
        return await awaitable

    results: list[Any] = []
    Deferred.fromCoroutine(run()).addBoth(results.append)
    if hasattr(results[0], "raiseException"):
        results[0].raiseException()
    return results[0]


class FakeCluster:
    """One node's cluster: calls go to the others' handlers at once."""

    def __init__(self, node: str, nodes: dict[str, FakeNode]) -> None:
        self.node = node
        self.register = register_of("node1", "node2", "node3")
        self.links: dict[str, str] = {}
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self.fresh: Register = self.register
        self._nodes = nodes
        self._handlers: dict[str, Handler] = {}
        self._listeners: list[Callable[..., None]] = []

    def status(self) -> dict[str, Any]:
        record = self.register.coordinator
        return {
            "node": self.node,
            "members": [
                {
                    "node": name,
                    "address": f"127.0.0.1:{7000 + int(name[-1])}",
                    "link": "self" if name == self.node else self.links.get(name, "up"),
                    "trouble": "" if self.links.get(name, "up") == "up" else "no answer",
                }
                for name in self._nodes
            ],
            "coordinator": record.node if record else None,
            "epoch": self.register.epoch,
            "is_coordinator": bool(record and record.node == self.node),
            "leader": record.node if record else None,
            "term": 7,
            "commit_index": 9,
            "revision": self.register.revision,
            "guests": [],
            "failure": "",
        }

    def on_change(self, callback: Callable[..., None]) -> Callable[[], None]:
        self._listeners.append(callback)
        return lambda: self._listeners.remove(callback)

    def apply(self, **command: Any) -> dict[str, Any]:
        """Carry out a command in this node's register."""
        answer = self.register.apply(command)
        for listener in [*self._listeners]:
            listener(self.register)
        return answer

    async def read_guest(self, name: str, *, timeout_s: float) -> dict[str, Any] | None:
        """What the coordinator says; this node has applied it by then."""
        self.register = self.fresh
        record = self.register.guest(name)
        return record.to_json() if record else None

    async def call(self, node: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        self.calls.append((node, params))
        if self.links.get(node, "up") != "up":
            raise PeerUnreachable("there is no link to the node", where=node)
        try:
            return await self._nodes[node].cluster._handlers[method](self.node, params)
        except CsvdError as error:
            raise RemoteError(error.what, where=error.where, kind=type(error).__name__) from error

    def serve(self, method: str, handler: Handler) -> None:
        self._handlers[method] = handler


class FakeGuests:
    """The guests of a node: notes what it is asked."""

    def __init__(self, cluster: FakeCluster) -> None:
        self._cluster = cluster
        self.asked: list[str] = []
        self.error: CsvdError | None = None
        self.verification = GuestVerification(10, 0, 0, 0, 99)

    async def _do(self, what: str, name: str) -> dict[str, Any]:
        self.asked.append(f"{what} {name}")
        if self.error is not None:
            raise self.error
        record = self._own(name)
        return {**record.to_json(), "counter": 5}

    def _own(self, name: str) -> GuestRecord:
        record = self._cluster.register.guest(name)
        if record is None or record.owner != self._cluster.node:
            raise GuestNotHere("another node owns the guest", where=f"guest {name}")
        return record

    async def create(self, name: str, spec: GuestSpec) -> dict[str, Any]:
        self._cluster.apply(op="guest_create", name=name, owner=self._cluster.node, spec=spec.to_json())
        return await self._do("create", name)

    async def start(self, name: str) -> dict[str, Any]:
        return await self._do("start", name)

    async def stop(self, name: str) -> dict[str, Any]:
        return await self._do("stop", name)

    async def pause(self, name: str) -> dict[str, Any]:
        return await self._do("pause", name)

    async def resume(self, name: str) -> dict[str, Any]:
        return await self._do("resume", name)

    async def remove(self, name: str) -> None:
        await self._do("remove", name)

    async def verify(self, name: str) -> GuestVerification:
        await self._do("verify", name)
        return self.verification

    def list_guests(self) -> list[dict[str, Any]]:
        return [record.to_json() for record in self._cluster.register.guests.values()]

    async def show(self, name: str) -> dict[str, Any]:
        return await self._do("show", name)


@dataclass
class FakeMigration:
    """A migration that is over when ``finish`` says so."""

    name: str
    source: str
    destination: str
    migration_id: str
    policy: Policy | None
    report: Report | None = None
    is_cancelled: bool = False
    watchers: list[Deferred[Any]] = field(default_factory=list)

    def progress(self) -> Progress:
        return Progress(
            migration_id=self.migration_id,
            guest=self.name,
            source=self.source,
            destination=self.destination,
            state="round 1" if self.report is None else self.report.state,
            round=1,
            memory_bytes=1 << 20,
            bytes_sent=1000,
            remaining_bytes=500_000,
            throughput_bytes_per_s=1e6,
            dirty_bytes_per_s=2e3,
            expected_downtime_ms=None,
            percent=50.0,
            elapsed_s=1.5,
            tracker="page-compare",
            is_cancellable=self.report is None,
            report=self.report,
        )

    def cancel(self) -> None:
        self.is_cancelled = True

    def when_finished(self) -> Deferred[Any]:
        if self.report is not None:
            return succeed(self.report)
        self.watchers.append(Deferred())
        return self.watchers[-1]

    def finish(self, state: str = "completed", reason: str = "") -> None:
        downtime_ms = 12.5 if state == "completed" else None
        self.report = Report(
            migration_id=self.migration_id,
            guest=self.name,
            source=self.source,
            destination=self.destination,
            state=state,
            reason=reason,
            notes=[],
            memory_bytes=1 << 20,
            rounds=[],
            bytes_sent=1000,
            zero_pages_elided=3,
            downtime_ms=downtime_ms,
            downtime_measured="by a test",
            total_s=2.0,
            tracker="page-compare",
        )
        for watcher in self.watchers:
            watcher.callback(self.report)


class FakeMigrations:
    """The migrations away from a node."""

    def __init__(self, node: str) -> None:
        self._node = node
        self.all: list[FakeMigration] = []
        self.refusal: MigrationRefused | None = None

    def start(self, guest: str, destination: str, policy: Policy | None = None) -> FakeMigration:
        if self.refusal is not None:
            raise self.refusal
        self.all.append(FakeMigration(guest, self._node, destination, f"{self._node}-{len(self.all)}", policy))
        return self.all[-1]

    def migrations(self) -> Sequence[FakeMigration]:
        under_way = [migration for migration in self.all if migration.report is None]
        return [*under_way, *(migration for migration in self.all if migration.report is not None)]


class FakeTarget:
    """A target with the sessions that a test gives it."""

    def __init__(self, portal: str) -> None:
        self.portals = [portal]
        self.logged_in: list[dict[str, Any]] = []

    def sessions(self) -> list[dict[str, Any]]:
        return self.logged_in

    async def refresh(self) -> None:
        return None

    def workers(self) -> list[dict[str, Any]]:
        return []

    def statistics(self) -> dict[str, Any]:
        return {"bounds_s": [0.5, 1.0], "units": [], "commands": [], "sessions": []}


class FakeExports:
    """The targets of a node: one that does not change; notes what it is asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []

    async def refresh(self) -> None:
        return None

    def troubles(self) -> dict[str, str]:
        return {}

    def targets(self) -> list[dict[str, Any]]:
        return [{"name": "iqn.2026-11.org.example:x", "portal_group_tag": 1}]

    def luns(self, name: str | None = None) -> list[dict[str, Any]]:
        return [{"number": 0, "target": name, "size_bytes": 512}]

    def configuration(self) -> dict[str, Any]:
        return {"file": "csvd.toml"}

    def portals(self) -> list[dict[str, Any]]:
        return [{"portal": "127.0.0.1:0"}]

    def target(self, name: str) -> dict[str, Any]:
        return self._note("target", name)

    def lun(self, name: str, number: int) -> dict[str, Any]:
        return self._note("lun", name, number)

    def acl(self, name: str) -> list[dict[str, Any]]:
        return [self._note("acl", name)]

    async def create_target(self, name: str, keys: dict[str, Any], *, scope: str = "") -> dict[str, Any]:
        return self._note("create_target", name, keys, *([scope] if scope else []))

    async def set_target(self, name: str, keys: dict[str, Any]) -> dict[str, Any]:
        return self._note("set_target", name, keys)

    async def remove_target(self, name: str, *, force: bool) -> dict[str, Any]:
        return self._note("remove_target", name, force)

    async def add_lun(self, name: str, keys: dict[str, Any]) -> dict[str, Any]:
        return self._note("add_lun", name, keys)

    async def set_lun(self, name: str, number: int, keys: dict[str, Any]) -> dict[str, Any]:
        return self._note("set_lun", name, number, keys)

    async def remove_lun(self, name: str, number: int) -> dict[str, Any]:
        return self._note("remove_lun", name, number)

    async def resize_lun(self, name: str, number: int, size_bytes: int | None, *, force: bool) -> dict[str, Any]:
        return self._note("resize_lun", name, number, size_bytes, force)

    async def add_acl(self, name: str, initiator: str, keys: dict[str, Any]) -> dict[str, Any]:
        return self._note("add_acl", name, initiator, keys)

    async def set_acl(self, name: str, initiator: str, keys: dict[str, Any]) -> dict[str, Any]:
        return self._note("set_acl", name, initiator, keys)

    async def remove_acl(self, name: str, initiator: str) -> dict[str, Any]:
        return self._note("remove_acl", name, initiator)

    async def rotate_key(self, *, without: str = "", timeout_s: float = 60.0) -> dict[str, Any]:
        return self._note("rotate_key", without)

    async def drop_session(self, name: str, tsih: int, *, grace_s: int = 0) -> dict[str, Any]:
        return self._note("drop_session", name, tsih, grace_s)

    def _note(self, *asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        return {"asked": list(asked)}


class FakeDisks:
    """Shared disks that note what they are asked for."""

    def __init__(self) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.disks: list[dict[str, Any]] = []

    def list_disks(self) -> list[dict[str, Any]]:
        return self.disks

    async def show_disk(self, name: str) -> dict[str, Any]:
        return self._note("show_disk", name)

    async def add_disk(
        self, name: str, url: str, *, create_bytes: int | None, adopt: bool, force: bool
    ) -> dict[str, Any]:
        return self._note("add_disk", name, url, create_bytes, adopt, force)

    async def remove_disk(self, name: str) -> dict[str, Any]:
        return self._note("remove_disk", name)

    async def move_coordinator(self, disk: str, node: str) -> dict[str, Any]:
        return self._note("move_coordinator", disk, node)

    async def fence(self, node: str, *, force: bool, is_vouched_for: bool) -> dict[str, Any]:
        return self._note("fence", node, force, is_vouched_for)

    def _note(self, *asked: Any) -> dict[str, Any]:
        self.asked.append(asked)
        return {"asked": list(asked)}


class FakeNode:
    """One node: the real routes over the fakes."""

    def __init__(self, name: str, nodes: dict[str, FakeNode], now_s: Callable[[], float]) -> None:
        self.cluster = FakeCluster(name, nodes)
        self.guests = FakeGuests(self.cluster)
        self.migrations = FakeMigrations(name)
        self.target = FakeTarget(f"127.0.0.1:326{name[-1]}")
        self.exports = FakeExports()
        self.disks = FakeDisks()
        self.events = EventRing(now_s=now_s)
        self.policy = Policy(downtime_target_s=0.123)
        peers = Peers(self.cluster)
        guest_routes = GuestRoutes(
            self.cluster, self.guests, self.migrations, peers, self.events, policy=self.policy, now_s=now_s
        )
        node_routes = NodeRoutes(
            self.cluster,
            self.guests,
            peers,
            self.events,
            target=self.target,
            exports=self.exports,
            version="1.2.3",
            disks=self.disks,
            now_s=now_s,
        )
        export_routes = ExportRoutes(self.exports, peers)
        disk_routes = DiskRoutes(self.disks)
        self.router = Router(
            [*node_routes.routes(), *disk_routes.routes(), *export_routes.routes(), *guest_routes.routes()]
        )
        peers.serve(self.router)

    def ask(self, method: str, path: str, body: dict[str, Any] | None = None, **query: str) -> Answer:
        """Answer a client of this node."""
        answer: Answer = result_of(self.router.dispatch(Request(method, path, query, body or {})))
        return answer

    def event_texts(self) -> list[str]:
        """What its ring holds."""
        return [event["text"] for event in self.events.after(0)["events"]]


class SmallCluster:
    """The three nodes, whose registers are in step unless a test says otherwise."""

    def __init__(self) -> None:
        self.time_s = 1000.0
        self.nodes: dict[str, FakeNode] = {}
        for name in ("node1", "node2", "node3"):
            self.nodes[name] = FakeNode(name, self.nodes, self._now_s)

    def _now_s(self) -> float:
        self.time_s += 1
        return self.time_s

    def __getitem__(self, number: int) -> FakeNode:
        return self.nodes[f"node{number}"]

    def apply(self, **command: Any) -> None:
        """Carry out a command in every register."""
        for node in self.nodes.values():
            assert node.cluster.apply(**command)["ok"]

    def with_guest(self, owner: int = 1) -> SmallCluster:
        """The cluster with a guest "g"."""
        self.apply(op="guest_create", name="g", owner=f"node{owner}", spec={"memory_bytes": 1 << 20})
        return self
