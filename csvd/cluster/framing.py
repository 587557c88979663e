"""The frames between nodes, inside of TLS. PURE: bytes in, frames out.

    length of the rest (4 bytes, big-endian)   kind (1 byte)   body

The first frame of a connection comes from its dialer and is HELLO: the version of the protocol and what the connection
is for. Until it has come a frame has 64 bytes at most; then as many as the purpose allows. A frame that is too long is
refused at its length, before any of it is kept. A dialer that was a member, and was evicted, gets EVICTED alone.
"""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from csvd.cluster.errors import PeerMessageError

if TYPE_CHECKING:
    from typing_extensions import Buffer

VERSION: Final = 2
MAXIMUM_HELLO_FRAME_BYTES: Final = 64
MAXIMUM_CONTROL_FRAME_BYTES: Final = 8 * 1024 * 1024
MAXIMUM_STREAM_FRAME_BYTES: Final = 256 * 1024 + 1
MAXIMUM_JOIN_FRAME_BYTES: Final = 64 * 1024

_HEADER: Final = struct.Struct(">IB")
_LENGTH_BYTES: Final = 4
_HELLO: Final = struct.Struct(">BB")


class Purpose(IntEnum):
    """What a connection is for; said in HELLO."""

    CONTROL = 1
    STREAM = 2
    JOIN = 3

    @property
    def maximum_frame_bytes(self) -> int:
        """The longest frame of such a connection, its kind included."""
        return _MAXIMUM_FRAME_BYTES[self]


_MAXIMUM_FRAME_BYTES: Final = {
    Purpose.CONTROL: MAXIMUM_CONTROL_FRAME_BYTES,
    Purpose.STREAM: MAXIMUM_STREAM_FRAME_BYTES,
    Purpose.JOIN: MAXIMUM_JOIN_FRAME_BYTES,
}


class Kind(IntEnum):
    """What a frame is."""

    PING = 0
    RAFT = 1
    REQUEST = 2
    ANSWER = 3
    FAILURE = 4
    HELLO = 8
    EVICTED = 9
    OPEN = 16
    ACCEPT = 17
    REFUSE = 18
    DATA = 19


class FrameReader:
    """Puts frames together from bytes at any split.

    Attributes:
        maximum_frame_bytes: the longest frame that is taken from now on; set it between two calls of `take`.
    """

    def __init__(self, maximum_frame_bytes: int = MAXIMUM_HELLO_FRAME_BYTES) -> None:
        self.maximum_frame_bytes = maximum_frame_bytes
        self._received = bytearray()
        self._position = 0

    @property
    def held_bytes(self) -> int:
        """How much waits for the rest of its frame."""
        return len(self._received) - self._position

    def feed(self, data: Buffer) -> None:
        """Take bytes; ask `take` for what came of them before any more."""
        if self._position:
            del self._received[: self._position]
            self._position = 0
        self._received += data

    def take(self) -> tuple[Kind, bytes] | None:
        """The next whole frame; None where there is none yet.

        Raises:
            PeerMessageError: it is too long, or of no known kind.
        """
        position = self._position
        if len(self._received) - position < _HEADER.size:
            if len(self._received) - position >= _LENGTH_BYTES:
                self._check(int.from_bytes(self._received[position : position + _LENGTH_BYTES], "big"))
            return None
        length_bytes, number = _HEADER.unpack_from(self._received, position)
        self._check(length_bytes)
        try:
            kind = Kind(number)
        except ValueError as error:
            raise PeerMessageError(f"it sent a frame of kind {number}, which is not known") from error
        end = position + _LENGTH_BYTES + length_bytes
        if len(self._received) < end:
            return None
        with memoryview(self._received) as view:
            body = bytes(view[position + _HEADER.size : end])
        self._position = end
        return kind, body

    def _check(self, length_bytes: int) -> None:
        if length_bytes == 0:
            raise PeerMessageError("it sent a frame of no kind")
        if length_bytes > self.maximum_frame_bytes:
            raise PeerMessageError(f"a frame of {length_bytes} bytes is longer than {self.maximum_frame_bytes}")


def frame_header(kind: Kind, body_bytes: int) -> bytes:
    """What goes before a body of that many bytes."""
    return _HEADER.pack(body_bytes + 1, kind)


def encode_hello(purpose: Purpose) -> bytes:
    """The body of HELLO."""
    return _HELLO.pack(VERSION, purpose)


def decode_hello(body: bytes) -> Purpose:
    """The purpose in the body of HELLO.

    Raises:
        PeerMessageError: it is of another version of the protocol, or of no known purpose.
    """
    if len(body) < 1 or (body[0] == VERSION and len(body) != _HELLO.size):
        raise PeerMessageError("its HELLO is not one")
    if body[0] != VERSION:
        raise PeerMessageError(f"it speaks version {body[0]} of the protocol between nodes, not {VERSION}")
    try:
        return Purpose(body[1])
    except ValueError as error:
        raise PeerMessageError(f"it wants a connection for purpose {body[1]}, which is not known") from error
