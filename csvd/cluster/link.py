"""One connection to a peer: its handshake, its frames, its keepalive, and the bounds on its memory.

A Link is the Twisted protocol of every kind of connection: the control link of a pair of nodes, a stream, and a join.
Under it is TLS; in it are frames, which it gives whole to its owner. A peer that does not prove who it is in time,
sends what it should not, says nothing for too long, or does not read what is sent to it, is cut off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Protocol

from cryptography import x509
from OpenSSL import SSL
from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from csvd.cluster.admittance import Peer
from csvd.cluster.errors import AuthenticationError, Evicted, PeerMessageError
from csvd.cluster.framing import FrameReader, Kind, Purpose, decode_hello, encode_hello, frame_header
from csvd.cluster.reactor import Clock, DelayedCall
from csvd.cluster.timeouts import Timeouts
from csvd.cluster.tls import TlsChannel

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAXIMUM_QUEUED_BYTES: Final = 32 * 1024 * 1024

Admit = Callable[[list[x509.Certificate]], Peer]
"""Who a peer is, by the certificates that it shows; raises AuthenticationError where it is not let in."""


class LinkOwner(Protocol):
    """Who a link belongs to."""

    def link_up(self, link: Link) -> None:
        """The peer has proven who it is (`link.peer`, `link.purpose`)."""

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        """A frame came, after `link_up`. May raise PeerMessageError, which ends the link."""

    def link_lost(self, link: Link, reason: str) -> None:
        """The connection has ended; called once, also where there was no `link_up`."""


class Link(TwistedProtocol):
    """A connection to a peer. `is_up` from the moment when both sides have let each other in until the end.

    Args:
        context: what this node shows of itself (csvd.cluster.tls).
        admit: decides whether the peer is let in.
        owner: told what happens.
        clock: the node's loop.
        timeouts: handshake, ping and silence.
        dials_for: what the connection is made for; None at the end that accepted it.
        maximum_queued_bytes: how much may wait for a peer that does not read before it is cut off.
    """

    def __init__(
        self,
        context: SSL.Context,
        admit: Admit,
        owner: LinkOwner,
        clock: Clock,
        timeouts: Timeouts,
        *,
        dials_for: Purpose | None = None,
        maximum_queued_bytes: int = MAXIMUM_QUEUED_BYTES,
    ) -> None:
        self.context = context
        self._admit = admit
        self._channel = TlsChannel(context, self._admitted, is_dialer=dials_for is not None)
        self._frames = FrameReader()
        self._owner = owner
        self._clock = clock
        self._timeouts = timeouts
        self._maximum_queued_bytes = maximum_queued_bytes
        self._queue: deque[bytes] = deque()
        self._queued_bytes = 0
        self._timer: DelayedCall | None = None
        self._heard_at_s = 0.0
        self._sent_since_ping = False
        self._reason = ""
        self._is_over = False
        self._is_closing = False
        self._is_refused = False
        self.told_evicted = False
        """Whether the member that was dialed says that this node is evicted."""
        self.identity: Peer | None = None
        self.purpose = dials_for or Purpose.CONTROL
        self.is_up = False
        self.is_blocked = False
        self.is_reading = True
        self.on_blocked: Callable[[bool], None] = lambda is_blocked: None

    @property
    def peer(self) -> str:
        """The id of the member at the other end; empty until it has shown who it is, and of one that is joining."""
        return "" if self.identity is None else self.identity.node

    @property
    def fingerprint(self) -> str:
        """The fingerprint of the key that the peer has shown to have; empty until it has."""
        return "" if self.identity is None else self.identity.fingerprint

    @property
    def host(self) -> str:
        """The address of the peer, for logs."""
        transport: Any = self.transport
        return str(getattr(transport.getPeer(), "host", "")) if transport is not None else ""

    @property
    def is_dialer(self) -> bool:
        """Whether this end made the connection."""
        return self._channel.is_dialer

    @property
    def queued_bytes(self) -> int:
        """How much waits here, besides what the transport buffers."""
        return self._queued_bytes

    def hand_over(self, owner: LinkOwner) -> None:
        """Give the link another owner."""
        self._owner = owner

    def connectionMade(self) -> None:  # noqa: N802
        """The TCP connection is there: begin the handshake."""
        transport: Any = self.transport
        transport.setTcpNoDelay(True)
        transport.setTcpKeepAlive(True)
        transport.registerProducer(self, True)
        self._timer = self._clock.callLater(self._timeouts.handshake_s, self._handshake_late)
        hello = self._channel.start()
        if hello:
            self._write(hello)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Bytes came."""
        if self._is_over or self._is_refused:
            return
        self._heard_at_s = self._clock.seconds()
        was_established = self._channel.is_established
        try:
            answer, pieces = self._channel.receive(data)
            if answer:
                self._write(answer)
            if self.is_dialer and self._channel.is_established and not was_established:
                self.send(Kind.HELLO, encode_hello(self.purpose))
            for piece in pieces:
                self._frames.feed(piece)
                while not self._is_over and (frame := self._frames.take()) is not None:
                    self._deliver(*frame)
        except Evicted as error:
            self._tell_evicted(str(error))
        except (AuthenticationError, PeerMessageError) as error:
            self.drop(str(error))

    def _tell_evicted(self, reason: str) -> None:
        """Say so, and hear no more. The peer ends the connection when it has read that, or its time to say who it is
        ends it: to end it here would cut off what was said, where more of the peer is on its way."""
        self.send(Kind.EVICTED)
        self._is_refused = True
        self._reason = reason

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """The connection is gone."""
        why = reason.getErrorMessage()
        if self.is_dialer and self._channel.is_established and not self.is_up:
            why = "it does not let this node in; its log says why"
        self._over(self._reason or why)

    def send(self, kind: Kind, *body: Buffer) -> None:
        """Send one frame; nothing on a link that is over."""
        if self._is_over or self._is_closing or not self._channel.is_established:
            return
        self._sent_since_ping = True
        header = frame_header(kind, sum(memoryview(part).nbytes for part in body))
        self._write(self._channel.seal(header, *body))

    def close(self, reason: str) -> None:
        """End the connection when all that was sent has gone out."""
        if self._is_over or self._is_closing:
            return
        self._write(self._channel.end())
        self._is_closing = True
        self._reason = self._reason or reason
        if not self._queue:
            self._lose_connection()

    def drop(self, reason: str) -> None:
        """End the connection now."""
        if self._is_over:
            return
        self._reason = self._reason or reason
        transport: Any = self.transport
        if transport is not None:
            transport.unregisterProducer()
            transport.abortConnection()
        self._over(self._reason)

    def pause_reading(self) -> None:
        """Take no more bytes from the peer until `resume_reading`."""
        self.is_reading = False
        transport: Any = self.transport
        transport.pauseProducing()

    def resume_reading(self) -> None:
        """Take bytes again."""
        if self._is_over or self.is_reading:
            return
        self.is_reading = True
        self._heard_at_s = self._clock.seconds()
        transport: Any = self.transport
        transport.resumeProducing()

    def pauseProducing(self) -> None:  # noqa: N802
        """The transport's buffer is full."""
        if not self.is_blocked:
            self.is_blocked = True
            self.on_blocked(True)

    def resumeProducing(self) -> None:  # noqa: N802
        """The transport's buffer is empty."""
        self.is_blocked = False
        while self._queue and not self.is_blocked:
            part = self._queue.popleft()
            self._queued_bytes -= len(part)
            self._transport_write(part)
        if self._queue:
            return
        if self._is_closing:
            self._lose_connection()
        elif not self.is_blocked:
            self.on_blocked(False)

    def stopProducing(self) -> None:  # noqa: N802
        """The transport takes nothing any more; connectionLost follows."""

    def _admitted(self, chain: list[x509.Certificate]) -> None:
        self.identity = self._admit(chain)

    def _deliver(self, kind: Kind, body: bytes) -> None:
        if not self.is_up:
            self._first(kind, body)
        elif kind is not Kind.PING:
            self._owner.link_received(self, kind, body)

    def _first(self, kind: Kind, body: bytes) -> None:
        """The first frame: the dialer's HELLO; or a PING, the news that the dialer was let in."""
        if kind is Kind.EVICTED and self.is_dialer and not body:
            self.told_evicted = True
            self.drop("it says that this node was evicted from the cluster")
            return
        expected = Kind.PING if self.is_dialer else Kind.HELLO
        if kind is not expected:
            raise PeerMessageError(f"its first frame is {kind.name}, not {expected.name}", where=self.peer)
        if not self.is_dialer:
            self.purpose = decode_hello(body)
            self._check_purpose()
            self.send(Kind.PING)
        self._frames.maximum_frame_bytes = self.purpose.maximum_frame_bytes
        self._up()

    def _check_purpose(self) -> None:
        assert self.identity is not None
        if (self.purpose is Purpose.JOIN) != self.identity.is_joining:
            who = "a joining node" if self.identity.is_joining else "a member"
            raise AuthenticationError(f"{who} makes no connection for {self.purpose.name}", where=self.peer)

    def _up(self) -> None:
        """Each side has let the other in."""
        self.is_up = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.callLater(self._timeouts.ping_s, self._keep_alive)
        self._owner.link_up(self)

    def _keep_alive(self) -> None:
        self._timer = self._clock.callLater(self._timeouts.ping_s, self._keep_alive)
        if self.is_reading and self._clock.seconds() - self._heard_at_s > self._timeouts.silence_s:
            self.drop(f"nothing came from it for {self._timeouts.silence_s} s")
            return
        if not self._sent_since_ping and not self.is_blocked:
            self.send(Kind.PING)
        self._sent_since_ping = False

    def _handshake_late(self) -> None:
        self._timer = None
        self.drop(f"it did not prove who it is within {self._timeouts.handshake_s} s")

    def _write(self, data: bytes) -> None:
        """Send bytes of the channel, after those that wait."""
        if not data or self._is_over:
            return
        if not self.is_blocked:
            self._transport_write(data)
            return
        self._queue.append(data)
        self._queued_bytes += len(data)
        if self._queued_bytes > self._maximum_queued_bytes:
            self.drop("it does not read what is sent to it")

    def _transport_write(self, data: bytes) -> None:
        transport: Any = self.transport
        transport.write(data)

    def _lose_connection(self) -> None:
        transport: Any = self.transport
        transport.unregisterProducer()
        transport.loseConnection()

    def _over(self, reason: str) -> None:
        if self._is_over:
            return
        self._is_over = True
        self.is_up = False
        self._queue.clear()
        self._queued_bytes = 0
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._owner.link_lost(self, reason)
