"""A cluster in memory for tests of migration: one register, calls and streams between nodes, and ways to break them."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.python.failure import Failure

from csvd.cluster.errors import CommandRefused, OutcomeUnknown, PeerUnreachable, RemoteError
from csvd.cluster.register import Register
from csvd.errors import CsvdError
from csvd.migration.interfaces import Buffer, Clock, StreamLink
from csvd.vm.errors import GuestEnded
from tests.unit.cluster.registers import register_of

T = TypeVar("T")

BUFFER_BYTES = 64 * 1024
# What bytes take from one end of a link to the other, and what a guest or the register takes to answer.
TRANSIT_S = 0.0005
ANSWER_S = 0.001


def run_here(job: Callable[[], T]) -> Deferred[T]:
    """In place of a thread: the job is done at once."""
    try:
        return succeed(job())
    except CsvdError:
        return fail()


def is_fired(deferred: Deferred[Any]) -> bool:
    """Whether a Deferred has a result; a function, so that mypy does not remember the answer."""
    return bool(deferred.called)


def errors_of(deferred: Deferred[Any]) -> list[BaseException]:
    """Collects the error of a Deferred, should it have one."""
    errors: list[BaseException] = []

    def failed(failure: Failure) -> None:
        assert failure.value is not None
        errors.append(failure.value)

    deferred.addErrback(failed)
    return errors


async def waited(clock: Clock, seconds: float = ANSWER_S) -> None:
    """Let time pass."""
    passed: Deferred[None] = Deferred()
    clock.callLater(seconds, passed.callback, None)
    await passed


class Fate(Enum):
    """What becomes of a submitted command."""

    CARRIED_OUT = "carried out"
    REFUSED = "refused"
    REQUEST_LOST = "never carried out, and nobody knows"
    ANSWER_LOST = "carried out, and nobody knows"
    LATE = "carried out later, and nobody knows"


LATE_S = 0.4


class Fabric:
    """What the nodes have in common."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.register = register_of("node1", "node2", "node3", "a", "b")
        self.nodes: dict[str, FakeNode] = {}
        self.watchers: list[Callable[..., None]] = []
        self.commands: list[dict[str, Any]] = []
        self.fate: Callable[[dict[str, Any]], Fate] = lambda command: Fate.CARRIED_OUT
        # What every answer of the register takes.
        self.delay_s = ANSWER_S

    def node(self, name: str) -> FakeNode:
        """A new node."""
        self.nodes[name] = FakeNode(self, name)
        return self.nodes[name]

    def apply(self, command: dict[str, Any]) -> dict[str, Any]:
        answer = self.register.apply(command)
        for watcher in [*self.watchers]:
            watcher()
        return answer


class FakeNode:
    """One node's cluster."""

    def __init__(self, fabric: Fabric, name: str) -> None:
        self.node = name
        self.is_down = False
        self._fabric = fabric
        self._methods: dict[str, Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]] = {}
        self._streams: dict[str, Callable[[str, dict[str, Any], StreamLink], None]] = {}
        self.links: list[MemoryLink] = []

    @property
    def register(self) -> Register:
        return self._fabric.register

    def on_change(self, callback: Callable[..., None]) -> Callable[[], object]:
        self._fabric.watchers.append(callback)
        return lambda: self._fabric.watchers.remove(callback) if callback in self._fabric.watchers else None

    async def submit(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        del timeout_s
        fabric = self._fabric
        fabric.commands.append(command)
        fate = fabric.fate(command)
        await waited(fabric.clock, fabric.delay_s)
        if self.is_down:
            raise OutcomeUnknown("no answer", where=self.node)
        if fate is Fate.REFUSED:
            raise CommandRefused("refused by the test")
        if fate is Fate.REQUEST_LOST:
            raise OutcomeUnknown("lost by the test")
        if fate is Fate.LATE:
            fabric.clock.callLater(LATE_S, fabric.apply, command)
            raise OutcomeUnknown("late by the test")
        answer = fabric.apply(command)
        if fate is Fate.ANSWER_LOST:
            raise OutcomeUnknown("answer lost by the test")
        if not answer["ok"]:
            raise CommandRefused(answer["reason"])
        return answer

    async def call(self, node: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        del timeout_s
        peer = self._peer(node)
        if method not in peer._methods:
            raise RemoteError(f"{method} is not served", where=node)
        try:
            return await peer._methods[method](self.node, params)
        except CsvdError as error:
            raise RemoteError(
                error.what, where=error.where or node, why=error.why, kind=type(error).__name__
            ) from error

    def _peer(self, node: str) -> FakeNode:
        peer = self._fabric.nodes.get(node)
        if peer is None or peer.is_down or self.is_down:
            raise PeerUnreachable("no link", where=node)
        return peer

    def serve(self, method: str, handler: Callable[[str, dict[str, Any]], Awaitable[dict[str, Any]]]) -> None:
        self._methods[method] = handler

    def serve_stream(self, kind: str, handler: Callable[[str, dict[str, Any], StreamLink], None]) -> None:
        self._streams[kind] = handler

    async def open_stream(self, node: str, kind: str, header: dict[str, Any]) -> MemoryLink:
        peer = self._peer(node)
        near, far = link_pair(self._fabric.clock)
        try:
            peer._streams[kind](self.node, header, far)
        except CsvdError as error:
            raise RemoteError(str(error), where=node) from error
        self.links.append(near)
        peer.links.append(far)
        return near

    def go_down(self) -> None:
        """As when the daemon is killed: no word gets in or out any more."""
        self.is_down = True
        for link in self.links:
            link.cut()


class MemoryTransport:
    """The flow control of one end of a MemoryLink."""

    def __init__(self, link: MemoryLink) -> None:
        self._link = link
        self.producer: Any = None

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        assert self.producer is None
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def pauseProducing(self) -> None:
        self._link.is_reading = False

    def resumeProducing(self) -> None:
        self._link.is_reading = True
        self._link.deliver_soon()


class MemoryLink:
    """One end of a stream in memory, with the buffering and the flow control of a socket."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.transport = MemoryTransport(self)
        self.peer: MemoryLink
        self.is_reading = True
        self.is_lost = False
        self.inbox: deque[bytes] = deque()
        self.most_waiting_bytes = 0
        self._on_data: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[str], None] | None = None
        self._is_ending = False
        self._is_delivering = False
        # Called with what is about to be delivered here; gives what is delivered, None for a broken link.
        self.tamper: Callable[[bytes], bytes | None] = lambda data: data

    @property
    def on_data(self) -> Callable[[bytes], None] | None:
        return self._on_data

    @on_data.setter
    def on_data(self, callback: Callable[[bytes], None]) -> None:
        self._on_data = callback
        self.deliver_soon()

    @property
    def on_lost(self) -> Callable[[str], None] | None:
        return self._on_lost

    @on_lost.setter
    def on_lost(self, callback: Callable[[str], None]) -> None:
        self._on_lost = callback

    def write_sequence(self, buffers: Iterable[Buffer]) -> None:
        if self.is_lost or self._is_ending:
            return
        peer = self.peer
        peer.inbox.extend(bytes(buffer) for buffer in buffers)
        waiting_bytes = sum(map(len, peer.inbox))
        peer.most_waiting_bytes = max(peer.most_waiting_bytes, waiting_bytes)
        if waiting_bytes > BUFFER_BYTES and self.transport.producer is not None:
            self.transport.producer.pauseProducing()
        peer.deliver_soon()

    def lose(self) -> None:
        self._is_ending = True
        self.peer.deliver_soon()

    def cut(self) -> None:
        """The link breaks: what is under way is lost."""
        for end in (self, self.peer):
            if not end.is_lost:
                end.inbox.clear()
                end._lost("cut by the test")

    def deliver_soon(self) -> None:
        if not self._is_delivering:
            self._is_delivering = True
            self._clock.callLater(TRANSIT_S, self._deliver)

    def _deliver(self) -> None:
        self._is_delivering = False
        if self.is_lost or self._on_data is None:
            return
        while self.inbox and self.is_reading and not self.is_lost:
            data = self.tamper(self.inbox.popleft())
            if data is None:
                self.cut()
                return
            self._on_data(data)
        if self.inbox or self.is_lost:
            return
        producer = self.peer.transport.producer
        if self.peer._is_ending:
            self._lost("closed by the peer")
            self.peer._lost("closed here")
        elif producer is not None and self.is_reading:
            producer.resumeProducing()

    def _lost(self, reason: str) -> None:
        if self.is_lost:
            return
        self.is_lost = True
        if self.transport.producer is not None:
            self.transport.producer.stopProducing()
        if self._on_lost is not None:
            self._on_lost(reason)


def link_pair(clock: Clock) -> tuple[MemoryLink, MemoryLink]:
    """The two ends of a stream."""
    near, far = MemoryLink(clock), MemoryLink(clock)
    near.peer, far.peer = far, near
    return near, far


class FakeSourceGuest:
    """A guest at the source that does what the test says."""

    def __init__(
        self, clock: Clock, image_path: Path, memory_bytes: int, *, epoch: int = 1, page_bytes: int = 4096
    ) -> None:
        self._clock = clock
        self.image_path = image_path
        self.memory_bytes = memory_bytes
        self.page_bytes = page_bytes
        self.spec = {"memory_bytes": memory_bytes}
        self.epoch = epoch
        self.process_id: int | None = None
        self.is_running = True
        self.did: list[str] = []
        self.fails: dict[str, CsvdError] = {}
        self.on_stop: Callable[[], object] = lambda: None
        self.ended: Deferred[GuestEnded] = Deferred()

    def when_ended(self) -> Deferred[GuestEnded]:
        return self.ended

    async def _do(self, what: str) -> None:
        self.did.append(what)
        await waited(self._clock)
        if what in self.fails:
            raise self.fails[what]

    async def stop(self) -> int | None:
        self.on_stop()
        await self._do("stop")
        return 1

    async def resume(self) -> None:
        await self._do("resume")

    async def release(self) -> None:
        await self._do("release")

    async def end(self) -> None:
        await self._do("end")

    def stay(self) -> None:
        self.did.append("stay")


class FakeIncomingGuest:
    """A guest at the destination."""

    def __init__(self, clock: Clock, image_path: Path) -> None:
        self._clock = clock
        self.image_path = image_path
        self.did: list[str] = []
        self.fails: dict[str, CsvdError] = {}

    async def _do(self, what: str) -> None:
        self.did.append(what)
        await waited(self._clock)
        if what in self.fails:
            raise self.fails[what]

    async def ready(self) -> None:
        await self._do("ready")

    async def adopt(self) -> int | None:
        await self._do("adopt")
        return 2

    async def discard(self) -> None:
        await self._do("discard")


class FakeHost:
    """The guests of one node."""

    def __init__(self, clock: Clock, directory: Path) -> None:
        self._clock = clock
        self.directory = directory
        self.leaving: dict[str, FakeSourceGuest] = {}
        self.came: list[FakeIncomingGuest] = []
        self.refuses: CsvdError | None = None
        self.incoming_fails: dict[str, CsvdError] = {}

    def depart(self, name: str) -> FakeSourceGuest:
        return self.leaving[name]

    async def arrive(
        self, name: str, *, spec: Any, memory_bytes: int, source: str, epoch: int, is_running: bool
    ) -> FakeIncomingGuest:
        del spec, source, epoch, is_running
        if self.refuses is not None:
            raise self.refuses
        path = self.directory / f"{name}.{len(self.came)}.ram"
        with path.open("wb") as file:
            file.truncate(memory_bytes)
        guest = FakeIncomingGuest(self._clock, path)
        guest.fails = self.incoming_fails
        self.came.append(guest)
        return guest
