"""The reading side of the migration stream: bytes in, split anywhere; checked events out. PURE.

The format is in csvd.migration.chunks. Memory is bounded: payloads of chunks are handed on as views of the bytes that
came in, and only the small payloads of other frames are gathered.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import crc32c

from csvd.migration.chunks import (
    BOOT_ID_BYTES,
    DIGEST_BYTES,
    HEADER,
    HEADER_BYTES,
    MAGIC,
    MAXIMUM_CHUNK_BYTES,
    MAXIMUM_MEMORY_BYTES,
    MAXIMUM_NAME_BYTES,
    MAXIMUM_REASON_BYTES,
    MAXIMUM_ROUNDS,
    OPENING,
    VERSION,
    Abort,
    ChunkKind,
    DestinationEvent,
    End,
    Failed,
    FrameType,
    HandedOver,
    Opening,
    RawPiece,
    Ready,
    RoundEnd,
    RoundReceived,
    Running,
    SourceEvent,
    ZeroRange,
)
from csvd.migration.errors import StreamError

Event = TypeVar("Event")

_CRC: Final = struct.Struct(">I")
_KINDS: Final = frozenset(ChunkKind)


@dataclass(frozen=True, slots=True)
class _Frame:
    """The fields of a frame's header."""

    type: FrameType
    kind: int
    payload_bytes: int
    argument: int
    length: int


@dataclass(frozen=True, slots=True)
class _Row(Generic[Event]):
    """What a frame of one type other than CHUNK may hold, and what it means."""

    parse: Callable[[_Frame, bytes], Event]
    shortest_payload: int = 0
    longest_payload: int = 0
    highest_argument: int = 0
    highest_length: int = 0


class _FrameReader(Generic[Event]):
    """Cuts a stream into frames and checks their CRCs; which frames may come is the subclasses' to say."""

    def __init__(self, rows: Mapping[FrameType, _Row[Event]]) -> None:
        self._rows = rows
        self._head = bytearray()
        self._frame: _Frame | None = None
        self._crc = 0
        self._taken_bytes = 0
        self._gathered = bytearray()
        self._error: StreamError | None = None

    def feed(self, data: bytes | bytearray | memoryview) -> Iterator[Event]:
        """Take bytes of the stream; gives what they say, in order, and has to be used up.

        Raises StreamError at the first bytes that do not belong, and from then on always.
        """
        if self._error is not None:
            raise self._error
        view = memoryview(data).cast("B")
        try:
            while view:
                if self._frame is None:
                    view = self._take_head(view)
                else:
                    taken = view[: self._frame.payload_bytes - self._taken_bytes]
                    view = view[len(taken) :]
                    self._crc = crc32c.crc32c(taken, self._crc)
                    yield from self._payload_received(self._frame, taken)
                    self._taken_bytes += len(taken)
                frame = self._frame
                if frame is not None and self._taken_bytes == frame.payload_bytes:
                    yield from self._finish(frame)
        except StreamError as error:
            self._error = error
            raise

    def _take_head(self, view: memoryview) -> memoryview:
        """Take bytes of a header; when it is complete, begin its frame. Returns the bytes after it."""
        taken = HEADER_BYTES - len(self._head)
        self._head += view[:taken]
        if len(self._head) < HEADER_BYTES:
            return view[len(view) :]
        number, kind, reserved, payload_bytes, argument, length, _ = HEADER.unpack(self._head)
        if number not in self._types() or reserved:
            raise StreamError(f"a frame of type {number:#04x} may not come here")
        frame = _Frame(FrameType(number), kind, payload_bytes, argument, length)
        self._begin(frame)
        self._frame = frame
        self._crc = crc32c.crc32c(self._head[: -_CRC.size])
        self._taken_bytes = 0
        return view[taken:]

    def _types(self) -> frozenset[int]:
        return frozenset(self._rows)

    def _begin(self, frame: _Frame) -> None:
        """Raise StreamError when the frame is not one that may come now."""
        row = self._rows[frame.type]
        if not row.shortest_payload <= frame.payload_bytes <= row.longest_payload:
            raise StreamError(f"{frame.type.name} has a payload of {frame.payload_bytes} bytes")
        if frame.kind or frame.argument > row.highest_argument or frame.length > row.highest_length:
            raise StreamError(f"{frame.type.name} has a field out of range")

    def _payload_received(self, frame: _Frame, taken: memoryview) -> Iterator[Event]:
        del frame
        self._gathered += taken
        return iter(())

    def _finish(self, frame: _Frame) -> Iterator[Event]:
        (stated_crc,) = _CRC.unpack_from(self._head, HEADER_BYTES - _CRC.size)
        if stated_crc != self._crc:
            raise StreamError(f"the CRC32C of a {frame.type.name} frame is wrong", why="it was damaged on its way")
        payload = bytes(self._gathered)
        self._gathered.clear()
        self._head.clear()
        self._frame = None
        yield from self._events(frame, payload)

    def _events(self, frame: _Frame, payload: bytes) -> Iterator[Event]:
        yield self._rows[frame.type].parse(frame, payload)


def _reason(payload: bytes) -> str:
    return payload.decode(errors="replace")


def _parse_opening(frame: _Frame, payload: bytes) -> Opening:
    del frame
    magic, version, connection, connections, reserved, memory_bytes, page_bytes, seed, migration_id = (
        OPENING.unpack_from(payload)
    )
    if magic != MAGIC:
        raise StreamError("this is not a migration stream of csvd")
    if version != VERSION:
        raise StreamError(f"the stream has version {version}, this node speaks {VERSION}")
    if (connection, connections) != (0, 1) or reserved:
        raise StreamError("the stream is one of several, which this version does not take")
    if page_bytes & (page_bytes - 1) or not 512 <= page_bytes <= MAXIMUM_CHUNK_BYTES:
        raise StreamError(f"a page of {page_bytes} bytes is not a power of two between 512 and 1 MiB")
    if not page_bytes <= memory_bytes <= MAXIMUM_MEMORY_BYTES or memory_bytes % page_bytes:
        raise StreamError(f"a memory of {memory_bytes} bytes is not a whole number of pages of {page_bytes}")
    try:
        guest = payload[OPENING.size :].decode()
    except UnicodeDecodeError as error:
        raise StreamError("the name of the guest is not UTF-8") from error
    return Opening(migration_id, guest, memory_bytes, page_bytes, seed, version, connection, connections)


_U64: Final = (1 << 64) - 1

_SOURCE_ROWS: Final[Mapping[FrameType, _Row[SourceEvent]]] = {
    FrameType.OPEN: _Row(_parse_opening, OPENING.size + 1, OPENING.size + MAXIMUM_NAME_BYTES),
    FrameType.ROUND_END: _Row(
        lambda frame, _: RoundEnd(frame.argument, bool(frame.length)), highest_argument=MAXIMUM_ROUNDS, highest_length=1
    ),
    FrameType.END: _Row(lambda _, payload: End(payload), DIGEST_BYTES, DIGEST_BYTES),
    FrameType.HANDED_OVER: _Row(lambda frame, _: HandedOver(frame.argument), highest_argument=_U64),
    FrameType.ABORT: _Row(lambda _, payload: Abort(_reason(payload)), 0, MAXIMUM_REASON_BYTES),
}

_DESTINATION_ROWS: Final[Mapping[FrameType, _Row[DestinationEvent]]] = {
    FrameType.ROUND_RECEIVED: _Row(lambda frame, _: RoundReceived(frame.argument), highest_argument=MAXIMUM_ROUNDS),
    FrameType.READY: _Row(lambda _, payload: Ready(payload), DIGEST_BYTES, DIGEST_BYTES),
    FrameType.RUNNING: _Row(
        lambda frame, payload: Running(frame.argument, payload), BOOT_ID_BYTES, BOOT_ID_BYTES, highest_argument=_U64
    ),
    FrameType.FAILED: _Row(lambda _, payload: Failed(_reason(payload)), 0, MAXIMUM_REASON_BYTES),
}

_AFTER_OPENING: Final = frozenset({FrameType.CHUNK, FrameType.ROUND_END, FrameType.ABORT})
_AFTER_LAST_ROUND: Final = frozenset({FrameType.END, FrameType.ABORT})
_AFTER_END: Final = frozenset({FrameType.HANDED_OVER, FrameType.ABORT})


class SourceStreamDecoder(_FrameReader[SourceEvent]):
    """Reads what a source sends. No chunk that it gives reaches outside the memory that the opening announced."""

    def __init__(self) -> None:
        super().__init__(_SOURCE_ROWS)
        self._allowed: frozenset[FrameType] = frozenset({FrameType.OPEN})
        self._memory_bytes = 0
        self._page_bytes = 1
        self._round = 1
        self._reached_bytes = 0

    def _types(self) -> frozenset[int]:
        return self._allowed

    def _begin(self, frame: _Frame) -> None:
        if frame.type is not FrameType.CHUNK:
            super()._begin(frame)
            if frame.type is FrameType.ROUND_END and frame.argument != self._round:
                raise StreamError(f"round {frame.argument} ends where round {self._round} was under way")
            return
        start, length = frame.argument, frame.length
        if frame.kind not in _KINDS:
            raise StreamError(f"chunk kind {frame.kind} does not exist in this version")
        if not 0 < length <= MAXIMUM_CHUNK_BYTES or start % self._page_bytes or length % self._page_bytes:
            raise StreamError(f"a chunk of {length} bytes at {start} is not made of pages, or too long")
        if start + length > self._memory_bytes:
            raise StreamError(f"a chunk of {length} bytes at {start} reaches past the end of the memory")
        if start < self._reached_bytes:
            raise StreamError(f"a chunk at {start} goes back behind {self._reached_bytes} in its round")
        if frame.payload_bytes != (length if frame.kind == ChunkKind.RAW else 0):
            raise StreamError(f"a chunk of {length} bytes has a payload of {frame.payload_bytes} bytes")
        self._reached_bytes = start + length

    def _payload_received(self, frame: _Frame, taken: memoryview) -> Iterator[SourceEvent]:
        if frame.type is FrameType.CHUNK:
            return iter((RawPiece(frame.argument + self._taken_bytes, taken),))
        return super()._payload_received(frame, taken)

    def _events(self, frame: _Frame, payload: bytes) -> Iterator[SourceEvent]:
        if frame.type is FrameType.CHUNK:
            if frame.kind == ChunkKind.ZERO:
                yield ZeroRange(frame.argument, frame.length)
            return
        for event in super()._events(frame, payload):
            self._follow(event)
            yield event

    def _follow(self, event: SourceEvent) -> None:
        """What may come after this event."""
        if isinstance(event, Opening):
            self._memory_bytes = event.memory_bytes
            self._page_bytes = event.page_bytes
            self._allowed = _AFTER_OPENING
        elif isinstance(event, RoundEnd):
            self._round += 1
            self._reached_bytes = 0
            if event.is_last:
                self._allowed = _AFTER_LAST_ROUND
        elif isinstance(event, End):
            self._allowed = _AFTER_END
        elif isinstance(event, HandedOver | Abort):
            self._allowed = frozenset()


class DestinationStreamDecoder(_FrameReader[DestinationEvent]):
    """Reads what a destination answers."""

    def __init__(self) -> None:
        super().__init__(_DESTINATION_ROWS)
