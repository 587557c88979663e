"""Two ends of a TCP connection in memory, with buffers that fill; and links of the cluster over them."""

from __future__ import annotations

from random import Random
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from csvd.cluster.authentication import Channel, ClusterKeys, Identity, Purpose
from csvd.cluster.link import Kind, Link, LinkOwner
from csvd.cluster.timeouts import Timeouts

KEYS = ClusterKeys.from_secret(b"the secret of the tests")
MEMBERS = frozenset({"n1", "n2", "n3"})
TIMEOUTS = Timeouts()
BUFFER_BYTES = 64 * 1024
MAXIMUM_FRAME_BYTES = 1024 * 1024


def dialing(
    peer: str = "n2", *, node: str = "n1", keys: ClusterKeys = KEYS, purpose: Purpose = Purpose.CONTROL
) -> Channel:
    identity = Identity(node, MEMBERS)
    return Channel.dialing(keys, identity, peer, purpose, nonce=bytes(32), maximum_frame_bytes=MAXIMUM_FRAME_BYTES)


def listening(node: str = "n2", *, keys: ClusterKeys = KEYS, nonce: bytes = bytes(32)) -> Channel:
    return Channel.listening(keys, Identity(node, MEMBERS), nonce=nonce, maximum_frame_bytes=MAXIMUM_FRAME_BYTES)


def established() -> tuple[Channel, Channel]:
    """A dialer's and a listener's channel after their handshake."""
    dialer, listener = dialing(), listening()
    answer, _ = listener.receive(dialer.start())
    proof, _ = dialer.receive(answer)
    listener.receive(proof)
    return dialer, listener


class MemoryTransport:
    """One end: what Twisted's TCP transport does, as far as a Link uses it."""

    def __init__(self, protocol: Link) -> None:
        self.protocol = protocol
        self.peer: MemoryTransport | None = None
        self.outgoing = bytearray()
        self.producer: Any = None
        self.is_reading = True
        self.is_closing = False
        self.is_closed = False

    def setTcpNoDelay(self, enabled: bool) -> None:
        pass

    def setTcpKeepAlive(self, enabled: bool) -> None:
        pass

    def registerProducer(self, producer: Any, streaming: bool) -> None:
        assert streaming
        self.producer = producer

    def unregisterProducer(self) -> None:
        self.producer = None

    def write(self, data: bytes) -> None:
        assert isinstance(data, bytes)
        if self.is_closing or self.is_closed:
            return
        self.outgoing += data
        if len(self.outgoing) > BUFFER_BYTES and self.producer is not None:
            self.producer.pauseProducing()

    def loseConnection(self) -> None:
        self.is_closing = True

    def abortConnection(self) -> None:
        self.outgoing.clear()
        self.is_closing = True

    def pauseProducing(self) -> None:
        self.is_reading = False

    def resumeProducing(self) -> None:
        self.is_reading = True

    def getPeer(self) -> str:
        return "peer"

    def getHost(self) -> str:
        return "host"

    def end(self, reason: Exception) -> None:
        if not self.is_closed:
            self.is_closed = True
            self.protocol.connectionLost(Failure(reason))  # type: ignore[no-untyped-call]


class Wire:
    """Joins two links; `pump` carries what waits, in pieces of random length."""

    def __init__(self, one: Link, other: Link, *, seed: int = 1) -> None:
        self.ends = (MemoryTransport(one), MemoryTransport(other))
        self.ends[0].peer, self.ends[1].peer = self.ends[1], self.ends[0]
        self.random = Random(seed)
        for end in self.ends:
            end.protocol.makeConnection(end)  # type: ignore[no-untyped-call]

    def pump(self) -> None:
        moved = True
        while moved:
            moved = self._carry(self.ends[0])
            moved = self._carry(self.ends[1]) or moved

    def _carry(self, end: MemoryTransport) -> bool:
        peer = end.peer
        assert peer is not None
        if end.is_closed or peer.is_closed:
            return False
        if end.outgoing and peer.is_reading:
            length = self.random.randint(1, 65536)
            piece = bytes(end.outgoing[:length])
            del end.outgoing[:length]
            peer.protocol.dataReceived(piece)
            if not end.outgoing and end.producer is not None:
                end.producer.resumeProducing()
            return True
        if end.is_closing and not end.outgoing:
            end.end(ConnectionDone())
            peer.end(ConnectionLost())
            return True
        return False


class Notes:
    """An owner of links that notes what it is told."""

    def __init__(self) -> None:
        self.ups: list[str] = []
        self.payloads: list[tuple[Kind, bytes]] = []
        self.losses: list[str] = []

    def link_up(self, link: Link) -> None:
        self.ups.append(link.peer)

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        self.payloads.append((kind, body))

    def link_lost(self, link: Link, reason: str) -> None:
        self.losses.append(reason)


class LinkPair:
    """A dialer's and a listener's link over a wire."""

    def __init__(
        self,
        *,
        dialer: Channel | None = None,
        listener: Channel | None = None,
        owners: tuple[LinkOwner, LinkOwner] | None = None,
        maximum_queued_bytes: int = 4 * 1024 * 1024,
    ) -> None:
        self.clock = Clock()
        self.notes = (Notes(), Notes())
        owners = owners or self.notes
        channels = (dialer or dialing(), listener or listening())
        self.dialer, self.listener = (
            Link(channel, owner, self.clock, TIMEOUTS, maximum_queued_bytes=maximum_queued_bytes)
            for channel, owner in zip(channels, owners, strict=True)
        )
        self.wire = Wire(self.dialer, self.listener)

    def pump(self) -> LinkPair:
        self.wire.pump()
        return self

    def advance(self, seconds: float) -> None:
        """Let time pass, in steps so small that every ping is sent and read."""
        for _ in range(int(seconds * 10)):
            self.clock.advance(0.1)
            self.wire.pump()
