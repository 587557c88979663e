"""Streams: connections of their own between two nodes, for bytes in bulk, with flow control in both directions.

A stream has the same handshake and the same frames as a control link. The dialer says a kind and a
header; the node at the other end lets the handler of that kind have it, or refuses with a reason.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, Final

import msgspec

from csvd.cluster.errors import ClusterError, PeerMessageError, RemoteError
from csvd.cluster.framing import MAXIMUM_STREAM_FRAME_BYTES, Kind
from csvd.cluster.link import Link
from csvd.errors import CsvdError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MAXIMUM_HEADER_BYTES: Final = 64 * 1024
_DATA_BYTES: Final = MAXIMUM_STREAM_FRAME_BYTES - 1

StreamHandler = Callable[[str, dict[str, Any], "StreamLink"], None]


class StreamTransport:
    """The methods of Twisted's ITransport, IConsumer and IPushProducer for the bytes of a stream.

    What is written goes in frames. A producer that is registered is paused while the peer reads
    more slowly than it produces; a writer that does not heed it is cut off when too much waits.
    """

    def __init__(self, link: Link, write: Callable[[Iterable[Buffer]], None]) -> None:
        self._link = link
        self._write = write
        self._producer: Any = None
        link.on_blocked = self._blocked

    @property
    def disconnecting(self) -> bool:
        """Whether nothing more is taken."""
        return not self._link.is_up

    def write(self, data: Buffer) -> None:
        """Send bytes."""
        self._write((data,))

    def writeSequence(self, data: Iterable[Buffer]) -> None:  # noqa: N802
        """Send several pieces of bytes in their order."""
        self._write(data)

    def loseConnection(self) -> None:  # noqa: N802
        """Close when all that was written is sent."""
        self._link.close("closed by this node")

    def abortConnection(self) -> None:  # noqa: N802
        """Close at once; what was written may not be sent."""
        self._link.drop("aborted by this node")

    def getPeer(self) -> Any:  # noqa: N802
        """The address of the peer."""
        transport: Any = self._link.transport
        return transport.getPeer()

    def getHost(self) -> Any:  # noqa: N802
        """The address of this end."""
        transport: Any = self._link.transport
        return transport.getHost()

    def registerProducer(self, producer: Any, streaming: bool) -> None:  # noqa: N802
        """Let a push producer be paused and resumed.

        Raises:
            RuntimeError: there is one already, or it is a pull producer (as Twisted's own transports raise it).
        """
        if self._producer is not None:
            raise RuntimeError("a producer is registered already")
        if not streaming:
            raise RuntimeError("a stream takes push producers (streaming=True) only")
        if not self._link.is_up:
            producer.stopProducing()
            return
        self._producer = producer
        if self._link.is_blocked:
            producer.pauseProducing()

    def unregisterProducer(self) -> None:  # noqa: N802
        """The producer has no more to say."""
        self._producer = None

    def pauseProducing(self) -> None:  # noqa: N802
        """Take no more bytes from the peer: it will feel it."""
        self._link.pause_reading()

    def resumeProducing(self) -> None:  # noqa: N802
        """Take bytes again."""
        self._link.resume_reading()

    def stopProducing(self) -> None:  # noqa: N802
        """Take no more bytes for good."""
        self.loseConnection()

    def lost(self) -> None:
        """The stream is over."""
        producer, self._producer = self._producer, None
        if producer is not None:
            producer.stopProducing()

    def _blocked(self, is_blocked: bool) -> None:
        if self._producer is not None:
            if is_blocked:
                self._producer.pauseProducing()
            else:
                self._producer.resumeProducing()


class StreamLink:
    """One end of a stream.

    Set `on_data` (called with each piece of bytes) and `on_lost` (called once with the reason, a sentence). Bytes that
    come before `on_data` is set wait, and the peer is held back meanwhile. That a stream has ended says nothing of
    whether it was at its end: what goes over it must say so itself.

    Attributes:
        peer: the name of the node at the other end.
        kind: what the stream is for, as said by the node that opened it.
        transport: ITransport with the producer API.
    """

    def __init__(self, link: Link, kind: str, ended: Callable[[Link], None]) -> None:
        """
        Args:
            link: the connection, which belongs to the stream from now on.
            kind: what the stream is for.
            ended: told once when the connection has ended.
        """
        self._ended = ended
        self.peer = link.peer
        self.kind = kind
        self.transport = StreamTransport(link, self.write_sequence)
        self._link = link
        self._on_data: Callable[[bytes], None] | None = None
        self._on_lost: Callable[[str], None] | None = None
        self._unread: list[bytes] = []
        self._held: list[bytes] | None = None
        self._lost_reason: str | None = None
        link.hand_over(self)

    @property
    def on_data(self) -> Callable[[bytes], None] | None:
        """Called with each piece of bytes from the peer."""
        return self._on_data

    @on_data.setter
    def on_data(self, callback: Callable[[bytes], None]) -> None:
        self._on_data = callback
        unread, self._unread = self._unread, []
        if unread:
            self._link.resume_reading()
        for data in unread:
            callback(data)
        self._tell_lost()

    @property
    def on_lost(self) -> Callable[[str], None] | None:
        """Called once, after the last `on_data`, with why the stream has ended."""
        return self._on_lost

    @on_lost.setter
    def on_lost(self, callback: Callable[[str], None]) -> None:
        self._on_lost = callback
        self._tell_lost()

    @property
    def is_lost(self) -> bool:
        """Whether the stream has ended."""
        return self._lost_reason is not None

    def write_sequence(self, buffers: Iterable[Buffer]) -> None:
        """Send pieces of bytes in their order; they are copied, and may change as soon as this returns."""
        batch: list[memoryview] = []
        batch_bytes = 0
        for buffer in buffers:
            view = memoryview(buffer).cast("B")
            while len(view) > _DATA_BYTES - batch_bytes:
                room = _DATA_BYTES - batch_bytes
                self._send([*batch, view[:room]])
                view = view[room:]
                batch, batch_bytes = [], 0
            if len(view):
                batch.append(view)
                batch_bytes += len(view)
        if batch:
            self._send(batch)

    def lose(self) -> None:
        """Close when all that was written is sent."""
        self._link.close("closed by this node")

    def hold(self) -> None:
        """Keep what is written until `release`: the peer must first be told that the stream is accepted."""
        self._held = []

    def release(self) -> None:
        """Send what was kept."""
        held, self._held = self._held or [], None
        self.write_sequence(held)

    def link_up(self, link: Link) -> None:
        """The link was up before it was a stream."""

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        """Bytes of the stream came."""
        if kind is not Kind.DATA:
            raise PeerMessageError(f"it sent a frame of kind {kind.name} on a stream", where=link.peer)
        if self._on_data is not None:
            self._on_data(body)
            return
        self._unread.append(body)
        link.pause_reading()

    def link_lost(self, link: Link, reason: str) -> None:
        """The stream is over."""
        self._lost_reason = reason
        self._ended(link)
        self.transport.lost()
        self._tell_lost()

    def _send(self, views: Sequence[memoryview]) -> None:
        if self._held is not None:
            self._held.extend(bytes(view) for view in views)
        else:
            self._link.send(Kind.DATA, *views)

    def _tell_lost(self) -> None:
        if self._lost_reason is None or self._on_lost is None or self._unread:
            return
        callback, self._on_lost = self._on_lost, None
        callback(self._lost_reason)


def encode_open(kind: str, header: dict[str, Any]) -> bytes:
    """The body of OPEN.

    Raises:
        ClusterError: the header is too long.
    """
    body = msgspec.msgpack.encode([kind, header])
    if len(body) > MAXIMUM_HEADER_BYTES:
        raise ClusterError(f"the header of a stream has {len(body)} bytes, more than {MAXIMUM_HEADER_BYTES}")
    return body


def decode_open(link: Link, body: bytes) -> tuple[str, dict[str, Any]]:
    """The kind and the header in the body of OPEN.

    Raises:
        PeerMessageError: it has none.
    """
    try:
        return msgspec.msgpack.decode(body, type=tuple[str, dict[str, Any]])
    except (msgspec.MsgspecError, RecursionError) as error:
        raise PeerMessageError("it opened a stream with no header", where=link.peer, why=str(error)) from error


def encode_refusal(error: CsvdError) -> bytes:
    """The body of REFUSE."""
    return str(error).encode()[:4096]


def decode_refusal(link: Link, body: bytes) -> RemoteError:
    """The error in the body of REFUSE."""
    return RemoteError(body.decode(errors="replace")[:4096], where=link.peer, kind="StreamRefused")
