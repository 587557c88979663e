"""Two ends of a TCP connection in memory, with buffers that fill; and links of the cluster over them."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from twisted.internet.error import ConnectionDone, ConnectionLost
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from csvd.cluster.admittance import Admittance
from csvd.cluster.framing import Kind, Purpose
from csvd.cluster.identity.certificate import NodeIdentity, make_cluster
from csvd.cluster.link import Link, LinkOwner
from csvd.cluster.timeouts import Timeouts
from csvd.cluster.tls import Chain, TlsChannel, node_context

NOW_S = 1_800_000_000.0
MEMBERS = make_cluster("tests", ["n1", "n2", "n3"], now_s=NOW_S)
TIMEOUTS = Timeouts()
BUFFER_BYTES = 64 * 1024


def admittance(node: str, *, now_s: float = NOW_S) -> Admittance:
    """Whom a member lets in: the other members."""
    made = Admittance(node, MEMBERS[node].authority.certificate, lambda: now_s)
    made.set_members({name: [identity.fingerprint] for name, identity in MEMBERS.items()})
    return made


def dialing(peer: str = "n2", *, identity: NodeIdentity = MEMBERS["n1"]) -> TlsChannel:
    """The channel of a dialer, a member unless it shows another identity."""

    def admit(chain: Chain) -> None:
        admittance("n1").who_listens(peer, chain)

    return TlsChannel(node_context(identity), admit, is_dialer=True)


def listening(node: str = "n2", *, now_s: float = NOW_S) -> TlsChannel:
    """The channel of a member that was dialed."""

    def admit(chain: Chain) -> None:
        admittance(node, now_s=now_s).who_dials(chain)

    return TlsChannel(node_context(MEMBERS[node]), admit, is_dialer=False)


def established() -> tuple[TlsChannel, TlsChannel]:
    """A dialer's and a listener's channel after their handshake."""
    dialer, listener = dialing(), listening()
    answer, _ = listener.receive(dialer.start())
    proof, _ = dialer.receive(answer)
    rest, _ = listener.receive(proof)
    dialer.receive(rest)
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
        self.frames: list[tuple[Kind, bytes]] = []
        self.losses: list[str] = []

    def link_up(self, link: Link) -> None:
        self.ups.append(link.peer)

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        self.frames.append((kind, body))

    def link_lost(self, link: Link, reason: str) -> None:
        self.losses.append(reason)


class LinkPair:
    """A dialer's and a listener's link over a wire."""

    def __init__(
        self,
        *,
        dialer: NodeIdentity = MEMBERS["n1"],
        listener: NodeIdentity = MEMBERS["n2"],
        purpose: Purpose = Purpose.CONTROL,
        owners: tuple[LinkOwner, LinkOwner] | None = None,
        maximum_queued_bytes: int = 4 * 1024 * 1024,
        now_s: float = NOW_S,
        is_evicted: Callable[[str], bool] | None = None,
    ) -> None:
        self.clock = Clock()
        self.notes = (Notes(), Notes())
        near, far = owners or self.notes
        door = admittance("n2", now_s=now_s)
        if is_evicted is not None:
            door.set_members({})
            door.is_evicted = is_evicted
        self.dialer = Link(
            node_context(dialer),
            lambda chain: admittance("n1").who_listens("n2", chain),
            near,
            self.clock,
            TIMEOUTS,
            dials_for=purpose,
            maximum_queued_bytes=maximum_queued_bytes,
        )
        self.listener = Link(
            node_context(listener),
            door.who_dials,
            far,
            self.clock,
            TIMEOUTS,
            maximum_queued_bytes=maximum_queued_bytes,
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
