"""One authenticated connection to a peer: its handshake, its frames, its keepalive, and the bounds on its memory.

A Link is the Twisted protocol of both kinds of connection, the control link of a pair of nodes and a stream. It gives
whole, authenticated payloads to its owner; the first byte of a payload says its kind. A peer that does not prove who it
is in time, sends what it should not, says nothing for too long, or does not read what is sent to it, is cut off.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, Protocol

from twisted.internet.protocol import Protocol as TwistedProtocol
from twisted.internet.protocol import connectionDone
from twisted.python.failure import Failure

from csvd.cluster.authentication import Channel, Purpose
from csvd.cluster.errors import AuthenticationError, PeerMessageError
from csvd.cluster.reactor import Clock, DelayedCall
from csvd.cluster.timeouts import Timeouts

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAXIMUM_CONTROL_FRAME_BYTES: Final = 8 * 1024 * 1024
MAXIMUM_STREAM_FRAME_BYTES: Final = 256 * 1024 + 1
MAXIMUM_QUEUED_BYTES: Final = 32 * 1024 * 1024


class Kind(IntEnum):
    """The first byte of a payload."""

    PING = 0
    RAFT = 1
    REQUEST = 2
    ANSWER = 3
    FAILURE = 4
    OPEN = 16
    ACCEPT = 17
    REFUSE = 18
    DATA = 19


class LinkOwner(Protocol):
    """Who a link belongs to."""

    def link_up(self, link: Link) -> None:
        """The peer has proven who it is (`link.peer`, `link.purpose`)."""

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        """A payload came, after `link_up`. May raise PeerMessageError, which ends the link."""

    def link_lost(self, link: Link, reason: str) -> None:
        """The connection has ended; called once, also where there was no `link_up`."""


class Link(TwistedProtocol):
    """A connection to a peer. `is_up` from the peer's proof until the end.

    Args:
        channel: the sans-IO end of the connection.
        owner: told what happens.
        clock: the node's loop.
        timeouts: handshake, ping and silence.
        maximum_queued_bytes: how much may wait for a peer that does not read before it is cut off.
    """

    def __init__(
        self,
        channel: Channel,
        owner: LinkOwner,
        clock: Clock,
        timeouts: Timeouts,
        *,
        maximum_queued_bytes: int = MAXIMUM_QUEUED_BYTES,
    ) -> None:
        self._channel = channel
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
        self.is_up = False
        self.is_blocked = False
        self.is_reading = True
        self.on_blocked: Callable[[bool], None] = lambda is_blocked: None

    @property
    def peer(self) -> str:
        """The name of the peer; of a peer that dialed only known when the link is up."""
        return self._channel.peer

    @property
    def purpose(self) -> Purpose:
        """What the connection is for."""
        return self._channel.purpose

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
            transport.write(hello)

    def dataReceived(self, data: bytes) -> None:  # noqa: N802
        """Bytes came."""
        if self._is_over:
            return
        self._heard_at_s = self._clock.seconds()
        was_established = self._channel.is_established
        try:
            answer, payloads = self._channel.receive(data)
            if answer:
                self._transport_write(answer)
            if self._channel.is_established and not was_established and not self._channel.is_dialer:
                # The dialer takes this first frame for the news that it was let in.
                self.send(Kind.PING)
                self._up()
            self._deliver(payloads)
        except (AuthenticationError, PeerMessageError) as error:
            self.drop(str(error))

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: N802
        """The connection is gone."""
        self._over(self._reason or reason.getErrorMessage())

    def send(self, kind: Kind, *body: Buffer) -> None:
        """Send one payload; nothing on a link that is over."""
        if self._is_over or self._is_closing or not self._channel.is_established:
            return
        self._sent_since_ping = True
        frame = self._channel.seal(bytes((kind,)), *body)
        if not self.is_blocked:
            for part in frame:
                self._transport_write(part)
            return
        self._queue.extend(frame)
        self._queued_bytes += sum(map(len, frame))
        if self._queued_bytes > self._maximum_queued_bytes:
            self.drop("it does not read what is sent to it")

    def close(self, reason: str) -> None:
        """End the connection when all that was sent has gone out."""
        if self._is_over or self._is_closing:
            return
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

    def _deliver(self, payloads: list[bytes]) -> None:
        for payload in payloads:
            if self._is_over or (not self.is_up and not self._up()):
                return
            try:
                kind = Kind(payload[0])
            except (IndexError, ValueError) as error:
                raise PeerMessageError("it sent a payload of no known kind", where=self.peer) from error
            if kind is not Kind.PING:
                self._owner.link_received(self, kind, payload[1:])

    def _up(self) -> bool:
        """The peer is known; whether the owner keeps the link."""
        self.is_up = True
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.callLater(self._timeouts.ping_s, self._keep_alive)
        self._owner.link_up(self)
        return not self._is_over

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
