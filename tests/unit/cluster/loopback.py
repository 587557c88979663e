"""Coordination in memory, for the tests of services: several nodes, one disk, one office; no network, leases or disk.

    loopback = Loopback(["n1", "n2", "n3"])
    loopback.coordination("n1").add_service(make)  # on every node
    await loopback.start()  # n1 has the office
    session = loopback.session("n2")

What fails is what the test lets fail: `move`, `kill`, `lapse`, `declare_gone`, `come_back`, `hold_keeps`. Everything
goes on in the same turn, unless it waits for one of these.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from twisted.internet.defer import Deferred

from csvd.cluster.coordination.asking import CURRENT_ASK, AskKey, current_ask
from csvd.cluster.coordination.faces import (
    CLOSED,
    FENCED,
    LAPSED,
    LIVE,
    RECLAIMING,
    FencingService,
    Gate,
    Json,
    MakeService,
    OfficeOver,
    Pushed,
    Service,
)
from csvd.cluster.errors import CommandRefused, OutcomeUnknown, RemoteError
from csvd.errors import CsvdError


def copied(value: Any) -> Any:
    """What is left of a value after a journey: only JSON, and nothing shared."""
    return msgspec.json.decode(msgspec.json.encode(value))


class Loopback:
    """The cluster, its disk and its office."""

    def __init__(
        self, nodes: Sequence[str] = ("n1", "n2", "n3"), *, disk: str = "system", records: Mapping[str, Any] = {}
    ) -> None:
        self.disk = disk
        self.records: dict[str, Any] = copied(dict(records))
        """What is durable."""
        self.answers: dict[AskKey, Json] = {}
        """The answers that were kept with changes."""
        self.keeps = 0
        """Writes of the records."""
        self.office: LoopbackOffice | None = None
        self.epoch = 0
        self._held: list[Deferred[None]] | None = None
        self._waiting: list[Deferred[None]] = []
        self._nodes = {name: LoopbackCoordination(self, name) for name in nodes}
        self.sessions = {name: LoopbackSession(self, name) for name in nodes}

    def number_of(self, node: str) -> int:
        """A node's number: its place among all."""
        return [*self._nodes].index(node) + 1

    def coordination(self, node: str) -> LoopbackCoordination:
        """A node's part."""
        return self._nodes[node]

    def session(self, node: str) -> LoopbackSession:
        """A node's session."""
        return self.sessions[node]

    async def start(self, node: str | None = None) -> None:
        """All nodes get their sessions; the first one, or another, the office."""
        for session in self.sessions.values():
            await session._open()
        await self._take(node or next(iter(self._nodes)))

    async def move(self, node: str) -> None:
        """The office goes to another node, in order."""
        self.end_office()
        await self._take(node)

    def end_office(self) -> None:
        """The coordinator has lost its lease; nobody has the office until `move`."""
        office, self.office = self.office, None
        if office is not None:
            office._over()
            for session in self.sessions.values():
                if session.state == LIVE:
                    session._become(RECLAIMING)
        self.changed()

    async def kill(self, node: str) -> None:
        """A node's process dies and is fenced. Where it has the office, the next living node takes it."""
        session = self.sessions[node]
        had_office = self.office is not None and self.office.node == node
        if had_office:
            self.end_office()
        session._become(CLOSED)
        if had_office:
            await self._take(next(name for name, one in self.sessions.items() if one.state != CLOSED))
        else:
            await self.declare_gone(node)

    async def lapse(self, node: str) -> None:
        """A node is cut off until its lease is out: its gates close. The coordinator does not know more yet."""
        await self.sessions[node]._lapse(LAPSED)

    async def declare_gone(self, node: str) -> None:
        """The coordinator has the proof that a node is off."""
        session = self.sessions[node]
        if session.state not in (CLOSED, LAPSED):
            await session._lapse(FENCED)
        session.is_known = False
        if self.office is not None:
            await self.office._gone(node)
        self.changed()

    async def come_back(self, node: str) -> None:
        """A node that lapsed, was declared gone or killed has a session again; it starts from nothing."""
        session = self.sessions[node]
        if session.is_known:
            await self.declare_gone(node)
        await session._open()
        if self.office is not None:
            for service in self.office.services.values():
                service.node_come(node)
        self.changed()

    def hold_keeps(self) -> None:
        """From now on the disk is slow: `keep` waits for `let_keeps_go`."""
        self._held = []

    def let_keeps_go(self) -> None:
        """The disk is fast again."""
        held, self._held = self._held or [], None
        for one in held:
            one.callback(None)

    async def kept(self) -> None:
        """Wait for the disk."""
        if self._held is not None:
            waiting: Deferred[None] = Deferred()
            self._held.append(waiting)
            await waiting

    async def change(self) -> None:
        """Wait until anything has changed."""
        waiting: Deferred[None] = Deferred()
        self._waiting.append(waiting)
        await waiting

    def changed(self) -> None:
        """Wake all that wait for a change."""
        waiting, self._waiting = self._waiting, []
        for one in waiting:
            one.callback(None)

    async def _take(self, node: str) -> None:
        for name, session in self.sessions.items():
            if session.state in (LAPSED, CLOSED):
                await self.declare_gone(name)
        self.epoch += 1
        office = LoopbackOffice(self, node, self.epoch, self._nodes[node].services)
        for session in self.sessions.values():
            session._reclaimed()
        for service in office.services.values():
            await service.begin(office)
        self.office = office
        for session in self.sessions.values():
            if session.state == RECLAIMING:
                session._become(LIVE)
        self.changed()


class LoopbackOffice:
    """The `Office`."""

    def __init__(self, loopback: Loopback, node: str, epoch: int, services: dict[str, Service]) -> None:
        self._loopback = loopback
        self.node = node
        self.epoch = epoch
        self.is_live = True
        self.services = services
        self._under_way: dict[AskKey, list[Deferred[None]]] = {}

    @property
    def disk(self) -> str:
        return self._loopback.disk

    @property
    def nodes(self) -> Mapping[str, Json]:
        return {name: dict(session.published) for name, session in self._loopback.sessions.items() if session.is_known}

    @property
    def records(self) -> Mapping[str, Any]:
        return self._loopback.records

    async def keep(
        self, changes: Mapping[str, Any], *, answer: Json | None = None, answers: Mapping[AskKey, Json] | None = None
    ) -> None:
        self._check()
        made = copied(dict(changes))
        await self._loopback.kept()
        if not self.is_live:
            raise OutcomeUnknown("whether the records were kept is not known")
        for key, value in made.items():
            if value is None:
                self._loopback.records.pop(key, None)
            else:
                self._loopback.records[key] = value
        self._loopback.keeps += 1
        if answer is not None:
            self._loopback.answers[current_ask()] = copied(answer)
        self._loopback.answers.update({key: copied(kept) for key, kept in (answers or {}).items()})

    async def push(
        self, service: str, method: str, params: Json, *, to: str | None = None, excluding: tuple[str, ...] = ()
    ) -> dict[str, Json]:
        self._check()
        names = [to] if to is not None else [name for name in self.nodes if name not in excluding]
        pushes = {name: Deferred.fromCoroutine(self._push(name, service, method, params)) for name in names}
        answers = {name: await push for name, push in pushes.items()}
        self._check()
        return {name: answer for name, answer in answers.items() if answer is not None}

    async def _push(self, node: str, service: str, method: str, params: Json) -> Json | None:
        """The answer; None of a node that is gone, or whose handler failed."""
        session = self._loopback.sessions[node]
        while session.is_known:
            self._check()
            if session.state in (LIVE, RECLAIMING):
                try:
                    return await session._pushed(service, method, copied(params))
                except CsvdError:
                    return None
            await self._loopback.change()
        return None

    async def _asked(self, key: AskKey, service: str, method: str, params: Json) -> Json:
        """The answer; raises OfficeOver where another office is to be asked."""
        if key in self._loopback.answers:
            return copied(self._loopback.answers[key])  # type: ignore[no-any-return]
        token = CURRENT_ASK.set(key)
        try:
            answering = Deferred.fromCoroutine(self.services[service].asked(key.node, method, copied(params)))
        finally:
            CURRENT_ASK.reset(token)
        try:
            answer = await answering
        except OutcomeUnknown as error:
            raise OfficeOver(str(error)) from error
        self._check()
        return copied(answer)  # type: ignore[no-any-return]

    async def _gone(self, node: str) -> None:
        for service in self.services.values():
            if isinstance(service, FencingService):
                await service.fence_node(node, self._loopback.number_of(node))
        for service in self.services.values():
            service.node_gone(node)

    def _over(self) -> None:
        self.is_live = False
        for service in self.services.values():
            service.end()

    def _check(self) -> None:
        if not self.is_live:
            raise OfficeOver("the office has ended", where=self.disk)


class LoopbackCoordination:
    """The `Coordination` of one node."""

    def __init__(self, loopback: Loopback, node: str) -> None:
        self._loopback = loopback
        self.node = node
        self.services: dict[str, Service] = {}

    @property
    def system(self) -> LoopbackSession | None:
        return self._loopback.sessions[self.node]

    def session(self, disk: str) -> LoopbackSession | None:
        return self.system if disk == self._loopback.disk else None

    def add_service(self, make: MakeService) -> None:
        service = make(self._loopback.disk, is_system=True)
        if service is not None:
            self.services[service.name] = service

    def on_sessions(self, callback: Callable[[], None]) -> Callable[[], None]:
        return lambda: None


class LoopbackSession:
    """The `DiskSession` of one node."""

    def __init__(self, loopback: Loopback, node: str) -> None:
        self._loopback = loopback
        self._node = node
        self.state = LAPSED
        self.lease_until_s = float("inf")
        self.published: Json = {}
        self.is_known = False
        """Whether the coordinator counts it among its nodes."""
        self._handlers: dict[str, Pushed] = {}
        self._callbacks: list[Callable[[], None]] = []
        self._gates: list[Gate] = []
        self._last_ask = 0
        self._incarnation = 1

    @property
    def disk(self) -> str:
        return self._loopback.disk

    @property
    def is_live(self) -> bool:
        return self.state in (LIVE, RECLAIMING)

    @property
    def coordinator(self) -> str:
        office = self._loopback.office
        return office.node if office is not None else ""

    async def ask(self, service: str, method: str, params: Json, *, timeout_s: float) -> Json:
        """The time never runs out here, but for one that is not positive where nobody can be asked now."""
        self._last_ask += 1
        key = AskKey(self._node, self._incarnation, self._last_ask)
        while True:
            office = self._loopback.office
            if office is not None and self.is_live:
                try:
                    return await office._asked(key, service, method, params)
                except OfficeOver:
                    continue
                except CsvdError as error:
                    kind = type(error).__name__
                    raise RemoteError(error.what, where=error.where, why=error.why, kind=kind) from error
            if timeout_s <= 0:
                raise CommandRefused("no coordinator was found in the time given")
            await self._loopback.change()

    def on_pushed(self, service: str, handler: Pushed) -> None:
        assert service not in self._handlers
        self._handlers[service] = handler

    def on_state(self, callback: Callable[[], None]) -> Callable[[], None]:
        self._callbacks.append(callback)
        return lambda: self._callbacks.remove(callback)

    def add_gate(self, gate: Gate) -> Callable[[], None]:
        self._gates.append(gate)
        return lambda: self._gates.remove(gate)

    def publish(self, key: str, value: Any) -> None:
        if value is None:
            self.published.pop(key, None)
        else:
            self.published[key] = copied(value)

    async def _pushed(self, service: str, method: str, params: Json) -> Json:
        handler = self._handlers.get(service)
        return copied(await handler(method, params)) if handler is not None else {}

    async def _open(self) -> None:
        for gate in self._gates:
            await gate.open()
        self.is_known = True
        self._become(LIVE)

    async def _lapse(self, state: str) -> None:
        self._become(state)
        for gate in self._gates:
            await gate.close()

    def _reclaimed(self) -> None:
        self.is_known = self.is_known and self.is_live

    def _become(self, state: str) -> None:
        if state != self.state:
            self.state = state
            for callback in list(self._callbacks):
                callback()
