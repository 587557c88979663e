"""The stream of a migration: frames of guest memory one way, acknowledgements the other, and how they are written.
PURE.

A frame is a header of 24 bytes and a payload, all integers big endian:

| bytes | field          | meaning                                                                          |
|-------|----------------|----------------------------------------------------------------------------------|
| 0     | type           | a `FrameType`                                                                    |
| 1     | kind           | how a CHUNK's payload stands for its memory, a `ChunkKind`; 0 in other frames    |
| 2-3   | reserved       | 0                                                                                |
| 4-7   | payload length | bytes after this header                                                          |
| 8-15  | argument       | CHUNK: offset in the memory; ROUND_END, ROUND_RECEIVED: number of the round;     |
|       |                | HANDED_OVER: epoch; RUNNING: CLOCK_BOOTTIME nanosecond of the start, 0 if paused |
| 16-19 | length         | CHUNK: bytes of guest memory it stands for; ROUND_END: 1 for the last round      |
| 20-23 | CRC32C         | of bytes 0-19 and the payload                                                    |

The source sends OPEN, then rounds (CHUNK…, ROUND_END), after the last round END with the digest of the whole image,
then HANDED_OVER; or ABORT, at any moment, when it is certain that the hand-over has not been and will not be made. In
a round every page is sent once at most, in ascending order. The destination answers each ROUND_END by ROUND_RECEIVED,
END by READY, and sends RUNNING when its guest is the one; or FAILED, with its reason, when it has thrown its copy
away.

The digest of an image is the XXH3-128 of the XXH3-128s of its pages, both with the seed of the stream. Pages that
were never sent are zero.

A stream is one of `connections`; this version takes 1 only. New ways to stand for memory are new rows of `ChunkKind`.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

import crc32c

VERSION: Final = 1
HEADER_BYTES: Final = 24
MAXIMUM_CHUNK_BYTES: Final = 1 << 20
MAXIMUM_MEMORY_BYTES: Final = 1 << 48
MAXIMUM_ROUNDS: Final = 100_000
DIGEST_BYTES: Final = 16
MIGRATION_ID_BYTES: Final = 16
BOOT_ID_BYTES: Final = 16
MAXIMUM_NAME_BYTES: Final = 255
MAXIMUM_REASON_BYTES: Final = 1024

HEADER: Final = struct.Struct(">BBHIQII")
_HEADER_BEFORE_CRC: Final = struct.Struct(">BBHIQI")
_CRC: Final = struct.Struct(">I")
MAGIC: Final = b"CSVDMIGR"
OPENING: Final = struct.Struct(f">8sHHHHQIQ{MIGRATION_ID_BYTES}s")


class FrameType(IntEnum):
    """What a frame says; the destination's have the top bit."""

    OPEN = 0x01
    CHUNK = 0x02
    ROUND_END = 0x03
    END = 0x04
    HANDED_OVER = 0x05
    ABORT = 0x06
    ROUND_RECEIVED = 0x82
    READY = 0x83
    RUNNING = 0x84
    FAILED = 0x85


class ChunkKind(IntEnum):
    """How the payload of a chunk stands for guest memory."""

    ZERO = 0
    RAW = 1


@dataclass(frozen=True, slots=True)
class Opening:
    """The first frame: which guest's memory this is."""

    migration_id: bytes
    guest: str
    memory_bytes: int
    page_bytes: int
    digest_seed: int
    version: int = VERSION
    connection: int = 0
    connections: int = 1


@dataclass(frozen=True, slots=True)
class ZeroRange:
    """Memory that is zero now."""

    offset_bytes: int
    length_bytes: int


@dataclass(frozen=True, slots=True)
class RawPiece:
    """Memory that holds ``data`` now. The view is of the bytes that were fed, and its CRC is not checked yet: when it
    turns out wrong, the decoder raises and the whole copy is worthless."""

    offset_bytes: int
    data: memoryview


@dataclass(frozen=True, slots=True)
class RoundEnd:
    """All that was found dirty in this pass has been sent."""

    number: int
    is_last: bool


@dataclass(frozen=True, slots=True)
class End:
    """The memory is complete; this is the digest of the source's."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class HandedOver:
    """The register names the destination, with this epoch."""

    epoch: int


@dataclass(frozen=True, slots=True)
class Abort:
    """The guest stays at the source, for certain."""

    reason: str


@dataclass(frozen=True, slots=True)
class RoundReceived:
    """The destination has every byte of this round in place."""

    number: int


@dataclass(frozen=True, slots=True)
class Ready:
    """The destination's memory has this digest, and its paused guest is ready."""

    digest: bytes


@dataclass(frozen=True, slots=True)
class Running:
    """The destination runs the guest.

    Args:
        boottime_ns: its CLOCK_BOOTTIME at the first instruction; 0 when the guest was paused before and stays so.
        boot_id: identifies the running kernel, so that the source knows whether the clock is its own.
    """

    boottime_ns: int
    boot_id: bytes


@dataclass(frozen=True, slots=True)
class Failed:
    """The destination gave up; before a hand-over its copy is gone, after it the guest is there but does not run."""

    reason: str


SourceEvent = Opening | ZeroRange | RawPiece | RoundEnd | End | HandedOver | Abort
DestinationEvent = RoundReceived | Ready | Running | Failed


def encode_opening(opening: Opening) -> bytes:
    """The OPEN frame."""
    payload = OPENING.pack(
        MAGIC,
        opening.version,
        opening.connection,
        opening.connections,
        0,
        opening.memory_bytes,
        opening.page_bytes,
        opening.digest_seed,
        opening.migration_id,
    )
    return _frame(FrameType.OPEN, payload + opening.guest.encode())


def encode_raw_header(offset_bytes: int, payload: bytes | bytearray | memoryview) -> bytes:
    """The header of a CHUNK; the payload is sent right after it, as it is."""
    length = len(payload)
    head = _HEADER_BEFORE_CRC.pack(FrameType.CHUNK, ChunkKind.RAW, 0, length, offset_bytes, length)
    return head + _CRC.pack(crc32c.crc32c(payload, crc32c.crc32c(head)))


def encode_zero(offset_bytes: int, length_bytes: int) -> bytes:
    """A CHUNK of memory that is zero."""
    head = _HEADER_BEFORE_CRC.pack(FrameType.CHUNK, ChunkKind.ZERO, 0, 0, offset_bytes, length_bytes)
    return head + _CRC.pack(crc32c.crc32c(head))


def encode_round_end(number: int, *, is_last: bool) -> bytes:
    """The ROUND_END frame."""
    return _frame(FrameType.ROUND_END, argument=number, length=int(is_last))


def encode_end(digest: bytes) -> bytes:
    """The END frame."""
    return _frame(FrameType.END, digest)


def encode_handed_over(epoch: int) -> bytes:
    """The HANDED_OVER frame."""
    return _frame(FrameType.HANDED_OVER, argument=epoch)


def encode_abort(reason: str) -> bytes:
    """The ABORT frame; a long reason is cut."""
    return _frame(FrameType.ABORT, _cut(reason))


def encode_round_received(number: int) -> bytes:
    """The ROUND_RECEIVED frame."""
    return _frame(FrameType.ROUND_RECEIVED, argument=number)


def encode_ready(digest: bytes) -> bytes:
    """The READY frame."""
    return _frame(FrameType.READY, digest)


def encode_running(boottime_ns: int, boot_id: bytes) -> bytes:
    """The RUNNING frame."""
    return _frame(FrameType.RUNNING, boot_id, argument=boottime_ns)


def encode_failed(reason: str) -> bytes:
    """The FAILED frame; a long reason is cut."""
    return _frame(FrameType.FAILED, _cut(reason))


def _frame(frame_type: FrameType, payload: bytes = b"", *, argument: int = 0, length: int = 0) -> bytes:
    head = _HEADER_BEFORE_CRC.pack(frame_type, 0, 0, len(payload), argument, length)
    return head + _CRC.pack(crc32c.crc32c(payload, crc32c.crc32c(head))) + payload


def _cut(reason: str) -> bytes:
    return reason.encode(errors="replace")[:MAXIMUM_REASON_BYTES].decode(errors="ignore").encode()
