"""Three nodes that export as one, on coordination in memory; what they serve with is a list of what they were told."""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from csvd.cluster.data_keys import DataKeys
from csvd.config.targets import TargetSection
from csvd.errors import ConfigError
from csvd.exports.catalogue import AnyEdit
from csvd.exports.cluster_exports import ClusterExports
from csvd.exports.coordinator import NAME
from csvd.exports.joined import JoinedServing
from csvd.exports.serving import Plan, Serving
from csvd.scsi.target_ports import AccessState
from csvd.target.cluster_ports import ClusterPorts
from tests.unit.cluster.loopback import Loopback

ONE = "iqn.2026-11.org.example:one"
TWO = "iqn.2026-11.org.example:two"
HOST = "iqn.2026-11.org.example:host"
KEY = b"the cluster's key, of 32 bytes.."


class FakeServing(Serving):
    """What it is told to serve; disks that are missing here can not be opened."""

    def __init__(self) -> None:
        self.plan = Plan()
        self.next = Plan()
        self.missing: set[str] = set()
        self.history: list[list[str]] = []
        """The names of targets after each commit."""
        self.opening: Deferred[None] | None = None
        """What a disk that opens slowly waits for."""
        self.live: dict[str, int] = {}
        """Sessions by target."""
        self.resized: list[tuple[str, int, int | None]] = []

    @property
    def portals(self) -> list[str]:
        return [portal for group in self.groups().values() for portal in group.values()]

    async def stop(self) -> None:
        return None

    async def note(self, targets: Sequence[TargetSection]) -> None:
        self.plan = replace(self.plan, targets=targets)

    async def drop_session(self, target: str, tsih: int, *, grace_s: int) -> bool:
        return False

    def statistics(self) -> dict[str, Any]:
        return {}

    def workers(self) -> list[dict[str, Any]]:
        return []

    async def start(self, plan: Plan) -> list[str]:
        self.plan = plan
        return []

    async def prepare(self, plan: Plan) -> None:
        if self.opening is not None:
            await self.opening
        for section in plan.targets:
            for lun in section.lun:
                if lun.disk in self.missing:
                    raise ConfigError("is not there", where=lun.disk)
        self.next = plan

    async def commit(self) -> None:
        self.plan = self.next
        self.history.append([section.name for section in self.plan.targets])

    async def abandon(self) -> None:
        self.next = self.plan

    async def refresh(self) -> None:
        return None

    def groups(self) -> dict[int, dict[str, str]]:
        tags = {tag: portals for section in self.plan.targets for tag, portals in section.groups().items()}
        return {tag: {portal: portal for portal in portals} for tag, portals in tags.items()}

    def sessions(self) -> list[dict[str, Any]]:
        return [{"target": target} for target, count in self.live.items() for _ in range(count)]

    def unit_face(self, target: str, number: int) -> dict[str, Any] | None:
        section = next((section for section in self.plan.targets if section.name == target), None)
        if section is None or all(lun.number != number for lun in section.lun):
            return None
        return {"number": number}

    async def resize(self, target: str, number: int, size_bytes: int | None, *, full: bool) -> None:
        self.resized.append((target, number, size_bytes))

    @property
    def luns(self) -> dict[str, list[int]]:
        return {section.name: [lun.number for lun in section.lun] for section in self.plan.targets}

    def section(self, name: str) -> TargetSection:
        return next(section for section in self.plan.targets if section.name == name)


@dataclass(frozen=True)
class FakeMember:
    number: int
    is_draining: bool = False
    is_witness: bool = False

    @property
    def address(self) -> str:
        return f"192.0.2.{self.number}:7001"


class KeyHolder:
    """By whom a node gets keys that others have: there is a link to every member that has a session."""

    def __init__(self, stage: ExportingCluster, node: str) -> None:
        self.node = node
        self._stage = stage
        self._handlers: dict[str, Any] = {}
        stage.holders[node] = self

    @property
    def members(self) -> Any:
        return self._stage.members

    def is_linked(self, node: str) -> bool:
        return self._stage.loopback.sessions[node].is_live

    def serve(self, method: str, handler: Any) -> None:
        self._handlers[method] = handler

    async def call(self, node: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        answer: dict[str, Any] = await self._stage.holders[node]._handlers[method](self.node, params)
        return answer


class Exporting:
    """One node."""

    def __init__(self, stage: ExportingCluster, name: str, number: int) -> None:
        self.name = name
        self.told: list[str] = []
        self.current: list[bool] = []
        self.serving = FakeServing()
        self.ports: ClusterPorts = {}
        self.full_disk = False
        self.keys = DataKeys([KEY], store=self._store, holders=KeyHolder(stage, name))
        self.joined = JoinedServing(self.serving, tell_ports=partial(setattr, self, "ports"))
        self.session = stage.loopback.session(name)
        self.exports = ClusterExports(
            stage.loopback.coordination(name),
            members=lambda: stage.members,
            on_members=stage.on_members,
            serving=self.joined,
            keys=self.keys,
            portals=[] if name in stage.without_portals else [f"0.0.0.0:{3260 + number}"],
            clock=stage.clock,
            run=lambda job: succeed(job()),
            entropy=os.urandom,
            tell=lambda kind, text, _subject: self.told.append(text) if kind == "exports" else None,
            on_current=lambda: self.current.append(True),
        )
        self.targets = self.exports.targets

    def _store(self, _keys: Sequence[bytes]) -> Deferred[None]:
        return fail(ConfigError("the disk is full")) if self.full_disk else succeed(None)

    def states(self) -> dict[int, AccessState]:
        return {tag: port.state for tag, port in self.ports.items()}


class ExportingCluster:
    """All of them."""

    def __init__(
        self, records: Mapping[str, Any] = {}, *, start: bool = True, without_portals: Sequence[str] = ()
    ) -> None:
        self.without_portals = without_portals
        self.holders: dict[str, KeyHolder] = {}
        self.clock = Clock()
        self._on_members: list[Callable[..., None]] = []
        self.loopback = Loopback(records=records)
        self.members = {name: FakeMember(number) for number, name in enumerate(self.loopback.sessions, start=1)}
        self.nodes = {name: Exporting(self, name, member.number) for name, member in self.members.items()}
        if start:
            self.start()

    def start(self) -> None:
        for node in self.nodes.values():
            self.run(node.joined.start(Plan()))
            node.exports.start()
        self.run(self.loopback.start())

    def __getitem__(self, name: str) -> Exporting:
        return self.nodes[name]

    def stop(self) -> None:
        for node in self.nodes.values():
            node.exports.stop()
        assert not self.clock.getDelayedCalls()

    @staticmethod
    def begin(coroutine: Coroutine[Any, Any, Any]) -> list[Any]:
        """Begin; the outcome is in the list when it is there."""
        outcome: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(outcome.append)
        return outcome

    def run(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        (found,) = self.begin(coroutine)
        if isinstance(found, Failure):
            found.raiseException()
        return found

    def asking(self, node: str, edit: AnyEdit, **more: bool) -> list[Any]:
        params = {"edit": msgspec.to_builtins(edit), **more}
        return self.begin(self.loopback.session(node).ask(NAME, "change", params, timeout_s=5))

    def change(self, node: str, edit: AnyEdit, **more: bool) -> Any:
        (found,) = self.asking(node, edit, **more)
        if isinstance(found, Failure):
            found.raiseException()
        return found

    def drain(self, name: str, is_draining: bool = True) -> None:
        self.members[name] = replace(self.members[name], is_draining=is_draining)
        self.members_changed()

    def on_members(self, callback: Callable[..., None]) -> Callable[[], None]:
        self._on_members.append(callback)
        return lambda: self._on_members.remove(callback)

    def members_changed(self) -> None:
        for callback in list(self._on_members):
            callback()
