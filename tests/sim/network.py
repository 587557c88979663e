"""The network of a simulated node: what csvd.cluster.peer does over TLS, over the simulated wires.

One control link for each pair of nodes, dialed by the one whose name sorts first and dialed again with growing pauses;
pings, and silence that ends a link; admission by name and fingerprint. The calls are production code
(csvd.cluster.calls), so that what is called crosses the wire as bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any, cast

from csvd.cluster.calls import Calls, Handler
from csvd.cluster.coordination.lease import PROMISE
from csvd.cluster.errors import ClusterError, PeerMessageError, PeerUnreachable
from csvd.cluster.framing import Kind
from csvd.cluster.link import Link
from csvd.cluster.network import Address, Fingerprints, PeerEvents
from csvd.cluster.timeouts import Timeouts
from tests.sim.raft_checks import RaftChecks
from tests.sim.wires import Connection, Wires
from tests.sim.world import Event, Process

Frame = tuple[Kind, bytes]


@dataclass(frozen=True, slots=True)
class Hello:
    """The first thing over a connection: who dials."""

    node: str
    fingerprint: str


class SimLink:
    """One end of a control link that is up; csvd.cluster.calls takes it for a Link."""

    def __init__(self, network: SimNetwork, connection: Connection, peer: str) -> None:
        self._network = network
        self.connection = connection
        self.peer = peer
        self._clock = network.process.clock
        self._heard_at_s = self._clock.seconds()
        self._sent_since_ping = False
        self._timer: Event | None = self._clock.callLater(network.timeouts.ping_s, self._keep_alive)

    def send(self, kind: Kind, body: bytes = b"") -> None:
        """Send a payload."""
        self._sent_since_ping = True
        self.connection.send(self._network.node, (kind, bytes(body)))

    def heard(self) -> None:
        """Something came."""
        self._heard_at_s = self._clock.seconds()

    def over(self) -> None:
        """The link has ended."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _keep_alive(self) -> None:
        timeouts = self._network.timeouts
        self._timer = self._clock.callLater(timeouts.ping_s, self._keep_alive)
        if self._clock.seconds() - self._heard_at_s > timeouts.silence_s:
            self._network.drop(self, f"nothing came from it for {timeouts.silence_s} s")
            return
        if not self._sent_since_ping:
            self.send(Kind.PING)
        self._sent_since_ping = False


class SimNetwork:
    """All links of one node."""

    def __init__(
        self,
        process: Process,
        wires: Wires,
        fingerprint: str,
        timeouts: Timeouts,
        random: Random,
        checks: RaftChecks,
        first_members: Mapping[str, tuple[Address | None, Fingerprints]],
    ) -> None:
        self.process = process
        self.node = process.name
        self.timeouts = timeouts
        self._wires = wires
        self._fingerprint = fingerprint
        self._events = PeerEvents(lambda peer: None, lambda peer: None, lambda peer, data: None)
        self._random = random
        self._checks = checks
        self._first_members = first_members
        self._calls = Calls(self.node, process.clock)
        self._members: dict[str, Fingerprints] = {}
        self._links: dict[str, SimLink] = {}
        self._dialers: dict[str, _Dialer] = {}
        self._by_connection: dict[int, SimLink] = {}
        self._troubles: dict[str, str] = {}
        self._is_started = False

    @property
    def address(self) -> Address | None:
        """Where it listens."""
        return (f"{self.node}.sim", 7000)

    def start(self, events: PeerEvents) -> None:
        """Listen, and dial."""
        self._events = events
        self._is_started = True
        self._wires.listeners[self.node] = self
        for dialer in list(self._dialers.values()):
            dialer.start()

    async def stop(self) -> None:
        """End all links."""
        self._is_started = False
        if self._wires.listeners.get(self.node) is self:
            del self._wires.listeners[self.node]
        for dialer in self._dialers.values():
            dialer.stop()
        for link in list(self._links.values()):
            self.drop(link, "this node is stopped")

    def set_members(self, members: Mapping[str, tuple[Address | None, Fingerprints]]) -> None:
        """Whom to admit and to dial."""
        members = members or self._first_members
        self._members = {name: fingerprints for name, (_, fingerprints) in sorted(members.items())}
        for name in sorted(self._dialers):
            if name not in members:
                self._dialers.pop(name).stop()
        for name, link in sorted(self._links.items()):
            if name not in members:
                self.drop(link, "it is no member any more")
        for name in self._members:
            if name > self.node and name not in self._dialers:
                dialer = self._dialers[name] = _Dialer(self, name, self._random)
                if self._is_started:
                    dialer.start()

    def link_to(self, peer: str) -> Callable[[bytes], None] | None:
        """How to send a message of Raft to a peer now; on the wire it may be lost, or come twice."""
        link = self._links.get(peer)
        return None if link is None else lambda data: self._send_raft(link, data)

    def link_state(self, peer: str) -> tuple[bool, str]:
        """Whether there is a link to a peer, and what ended the last one."""
        return peer in self._links, self._troubles.get(peer, "")

    def serve(self, method: str, handler: Handler) -> None:
        """Answer a method that peers call."""
        self._calls.serve(method, self._watched(handler) if method == PROMISE else handler)

    def _watched(self, handler: Handler) -> Handler:
        """Look at the promises that this node says it has given."""

        async def watched(peer: str, params: dict[str, Any]) -> dict[str, Any]:
            answer = await handler(peer, params)
            self._checks.promised(self.node, params["disk"], answer["promised"])
            return answer

        return watched

    async def call(self, peer: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        """Call a method of a node (also of this one)."""
        if peer == self.node:
            return await self._calls.call_here(method, params)
        if peer not in self._members:
            raise ClusterError("there is no such node in the cluster", where=peer)
        link = self._links.get(peer)
        if link is None:
            raise PeerUnreachable("there is no link to the node", where=peer, why=self._troubles.get(peer, ""))
        return await self._calls.call(cast(Link, link), method, params, timeout_s=timeout_s)

    def serve_stream(self, kind: str, handler: object) -> None:
        """Streams carry data, not decisions: none is opened in the simulation."""

    async def open_stream(self, node: str, kind: str, header: dict[str, Any]) -> Any:
        """Never opened here."""
        raise PeerUnreachable("there are no streams in the simulation", where=node)

    def called(self, connection: Connection, item: Hello) -> None:
        """Somebody dials this node."""
        connection.accept(self)
        if item.fingerprint not in self._members.get(item.node, ()):
            connection.give_up(self.node, "it is no member")
            return
        connection.send(self.node, (Kind.PING, b""))
        self._up(connection, item.node)

    def arrived(self, connection: Connection, item: Frame) -> None:
        """A payload came, or the first one, by which the dialer knows that it was let in."""
        link = self._by_connection.get(id(connection))
        if link is None:
            self._dialers[connection.listener].succeeded()
            link = self._up(connection, connection.listener)
        link.heard()
        kind, body = item
        try:
            if kind is Kind.RAFT:
                self._events.raft_received(link.peer, body)
            elif kind is not Kind.PING:
                self._calls.received(cast(Link, link), kind, body)
        except PeerMessageError as error:
            self.drop(link, str(error))

    def broken(self, connection: Connection, reason: str) -> None:
        """The other end has given a connection up."""
        link = self._by_connection.get(id(connection))
        if link is not None:
            self._over(link, reason)
        elif connection.dialer == self.node:
            self._failed(connection.listener)

    def drop(self, link: SimLink, reason: str) -> None:
        """End a link."""
        link.connection.give_up(self.node, reason)
        self._over(link, reason)

    def killed(self, *, is_told: bool) -> None:
        """The process is gone: the kernel ends its connections, where there still is a kernel."""
        if self._wires.listeners.get(self.node) is self:
            del self._wires.listeners[self.node]
        for dialer in self._dialers.values():
            if dialer.connection is not None:
                dialer.connection.give_up(self.node, "the process ended", is_told=is_told)
        for link in self._by_connection.values():
            link.connection.give_up(self.node, "the process ended", is_told=is_told)

    def dial(self, peer: str) -> Connection:
        """Begin to make the link to a peer."""
        connection = self._wires.connect(self.process, self, peer)
        connection.send(self.node, Hello(self.node, self._fingerprint))
        return connection

    def _up(self, connection: Connection, peer: str) -> SimLink:
        old = self._links.get(peer)
        if old is not None:
            self.drop(old, "the peer has made a new link")
        link = self._links[peer] = self._by_connection[id(connection)] = SimLink(self, connection, peer)
        self.process.world.note(self.node, f"link to {peer} is up")
        self._events.link_up(peer)
        return link

    def _over(self, link: SimLink, reason: str) -> None:
        if self._by_connection.pop(id(link.connection), None) is None:
            return
        link.over()
        self._calls.link_lost(cast(Link, link), reason)
        if self._links.get(link.peer) is link:
            del self._links[link.peer]
            self._troubles[link.peer] = reason
            self.process.world.note(self.node, f"link to {link.peer} is down: {reason}")
            self._events.link_down(link.peer)
            self._failed(link.peer)

    def _failed(self, peer: str) -> None:
        dialer = self._dialers.get(peer)
        if dialer is not None:
            dialer.failed()

    def _send_raft(self, link: SimLink, data: bytes) -> None:
        self._checks.sent(self.node, link.peer, data)
        random = self._wires.random((self.node, link.peer))
        if random.random() < self._wires.loss:
            return
        link.send(Kind.RAFT, data)
        if random.random() < self._wires.duplicates:
            link.send(Kind.RAFT, data)


class _Dialer:
    """Makes the link to one peer, again and again."""

    def __init__(self, network: SimNetwork, peer: str, random: Random) -> None:
        self._network = network
        self._peer = peer
        self._random = random
        self._pause_s = network.timeouts.redial_minimum_s
        self._timer: Event | None = None
        self.connection: Connection | None = None
        self._is_stopped = False

    def start(self) -> None:
        """Dial now."""
        timeouts = self._network.timeouts
        self._timer = self._network.process.clock.callLater(timeouts.connect_s + timeouts.handshake_s, self._late)
        self.connection = self._network.dial(self._peer)

    def stop(self) -> None:
        """Dial no more."""
        self._is_stopped = True
        self._cancel()
        if self.connection is not None:
            self.connection.give_up(self._network.node, "not wanted any more")
            self.connection = None

    def succeeded(self) -> None:
        """The link is up."""
        self._cancel()
        self.connection = None
        self._pause_s = self._network.timeouts.redial_minimum_s

    def failed(self) -> None:
        """There is no link, or not any more: try again after a pause."""
        self.connection = None
        if self._is_stopped:
            return
        self._cancel()
        timeouts = self._network.timeouts
        self._timer = self._network.process.clock.callLater(self._pause_s * self._random.uniform(0.5, 1.0), self.start)
        self._pause_s = min(2 * self._pause_s, timeouts.redial_maximum_s)

    def _late(self) -> None:
        self._timer = None
        if self.connection is not None:
            self.connection.give_up(self._network.node, "it did not answer")
        self.failed()

    def _cancel(self) -> None:
        if self._timer is not None and self._timer.active():
            self._timer.cancel()
        self._timer = None
