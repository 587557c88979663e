"""The channel between two nodes: who they are, and that every frame is theirs. PURE: bytes in, bytes out.

A channel has two stages. In the *handshake* each side proves to the other that it knows the secret of the cluster,
without showing it. Then both sides exchange *frames*, each with a code that only the other side could have made.

    dialer -> listener   HELLO   version, purpose, both names, the dialer's nonce, HMAC under the hello key
    listener -> dialer   PROOF   the listener's nonce, HMAC under the authentication key over "listener" and all above
    dialer -> listener   PROOF   HMAC under the authentication key over "dialer" and all above

The listener says nothing before it has seen the HELLO's code: a stranger gets only a closed connection. Both proofs
cover both nonces (no replay), both names and the role (no reflection, no redirection to another node). The keys of the
frames are derived from the secret and all of the above, one for each direction. A frame is

    length (4 bytes, big-endian)   payload   HMAC-SHA256 over (number of the frame, length, payload), its first 16 bytes

so a frame that is changed, repeated, left out or sent back is noticed, and the channel is closed. Nothing is encrypted:
mutual TLS takes the place of this module behind the same three methods (`start`, `receive`, `seal`).
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from csvd.cluster.errors import AuthenticationError
from csvd.cluster.names import is_node_name
from csvd.errors import ConfigError

if TYPE_CHECKING:
    from typing_extensions import Buffer

MINIMUM_SECRET_BYTES: Final = 16
MAXIMUM_SECRET_BYTES: Final = 4096
NONCE_BYTES: Final = 32
FRAME_MAC_BYTES: Final = 16
MAXIMUM_HELLO_BYTES: Final = 256

_VERSION: Final = 1
_MAGIC: Final = b"csvdpeer"
_DIGEST: Final = "sha256"
_DIGEST_BYTES: Final = 32
_HELLO: Final = struct.Struct(">8sBBBB")  # magic, version, purpose, lengths of the two names that follow
_LENGTH: Final = struct.Struct(">I")
_NUMBER: Final = struct.Struct(">Q")


class Purpose(IntEnum):
    """What a connection is for; said in the HELLO."""

    CONTROL = 1
    STREAM = 2


@dataclass(frozen=True)
class ClusterKeys:
    """The keys that are derived from the secret of a cluster; never shown by repr()."""

    hello: bytes
    authentication: bytes
    session: bytes

    def __repr__(self) -> str:
        return "ClusterKeys()"

    @classmethod
    def from_secret(cls, secret: bytes) -> ClusterKeys:
        """Derive the keys (extract and expand, as in RFC 5869).

        Raises:
            ConfigError: the secret is too short or too long.
        """
        if not MINIMUM_SECRET_BYTES <= len(secret) <= MAXIMUM_SECRET_BYTES:
            raise ConfigError(
                f"the secret of the cluster has {len(secret)} bytes",
                hint=f"it needs {MINIMUM_SECRET_BYTES} to {MAXIMUM_SECRET_BYTES} random bytes, the same on every node",
            )
        extracted = _hmac(b"csvd cluster peer channel", secret)
        return cls(*(_expand(extracted, label) for label in (b"hello", b"authentication", b"session")))


@dataclass(frozen=True, slots=True)
class Identity:
    """What a node says of itself in a handshake, and whom it lets in."""

    node: str
    members: frozenset[str]


def _hmac(key: bytes, *parts: Buffer) -> bytes:
    mac = hmac.new(key, digestmod=_DIGEST)
    for part in parts:
        mac.update(part)
    return mac.digest()


def _expand(key: bytes, label: bytes) -> bytes:
    return _hmac(key, label, b"\x01")


class Channel:
    """One end of the channel to a peer.

    Make one by `Channel.dialing` or `Channel.listening`; send what `start` and `receive` return to the peer; give
    every byte that comes to `receive`. After an AuthenticationError the channel is of no use: close it.
    """

    def __init__(self, keys: ClusterKeys, identity: Identity, nonce: bytes, maximum_frame_bytes: int) -> None:
        if len(nonce) != NONCE_BYTES:
            raise ValueError("a nonce has 32 random bytes")
        self._keys = keys
        self._identity = identity
        self._nonce = nonce
        self._maximum_frame_bytes = maximum_frame_bytes
        self._received = bytearray()
        self._transcript = b""
        self._stage: Callable[[], bytes | None] = self._read_hello
        self._seal_key = b""
        self._open_key = b""
        self._frames_sealed = 0
        self._frames_opened = 0
        self._is_broken = False
        self.peer = ""
        self.purpose = Purpose.CONTROL
        self.is_dialer = False
        self.is_established = False

    @classmethod
    def dialing(
        cls,
        keys: ClusterKeys,
        identity: Identity,
        peer: str,
        purpose: Purpose,
        *,
        nonce: bytes,
        maximum_frame_bytes: int,
    ) -> Channel:
        """The end that opened the connection; `nonce` is 32 fresh random bytes."""
        channel = cls(keys, identity, nonce, maximum_frame_bytes)
        channel.is_dialer = True
        channel.peer = peer
        channel.purpose = purpose
        channel._stage = channel._read_listener_proof
        channel._transcript = _hello(purpose, identity.node, peer, nonce)
        return channel

    @classmethod
    def listening(cls, keys: ClusterKeys, identity: Identity, *, nonce: bytes, maximum_frame_bytes: int) -> Channel:
        """The end that accepted the connection; `nonce` is 32 fresh random bytes."""
        return cls(keys, identity, nonce, maximum_frame_bytes)

    def start(self) -> bytes:
        """What to send at once: the dialer's HELLO, the listener's nothing."""
        if not self._transcript:
            return b""
        return self._transcript + _hmac(self._keys.hello, self._transcript)

    def receive(self, data: bytes) -> tuple[bytes, list[bytes]]:
        """Take bytes from the peer.

        Returns:
            What to send to the peer (handshake only), and the payloads of the frames that are now whole.

        Raises:
            AuthenticationError: the peer is not a member, or a frame is not as it was sent, or is too long.
        """
        if self._is_broken:
            raise AuthenticationError("the channel is closed", where=self.peer)
        self._received += data
        answer = b""
        try:
            while not self.is_established:
                message = self._stage()
                if message is None:
                    return answer, []
                answer += message
            return answer, self._open_frames()
        except AuthenticationError:
            self._is_broken = True
            self._received.clear()
            raise

    def seal(self, *payload: Buffer) -> list[bytes]:
        """What to send for one frame of this payload, which is copied: it may change as soon as this returns."""
        assert self.is_established
        length_bytes = sum(memoryview(part).nbytes for part in payload)
        assert length_bytes <= self._maximum_frame_bytes
        body = b"".join((_LENGTH.pack(length_bytes), *payload))
        number = _NUMBER.pack(self._frames_sealed)
        self._frames_sealed += 1
        return [body, _hmac(self._seal_key, number, body)[:FRAME_MAC_BYTES]]

    def _read_hello(self) -> bytes | None:
        """The listener's first stage: the HELLO, answered by the listener's proof."""
        received = self._received
        if not _MAGIC.startswith(bytes(received[: len(_MAGIC)])):
            raise AuthenticationError("it does not speak the protocol of csvd's nodes")
        if len(received) < _HELLO.size:
            return None
        _, version, purpose, dialer_bytes, listener_bytes = _HELLO.unpack_from(received)
        if version != _VERSION:
            raise AuthenticationError(f"it speaks version {version} of the protocol between nodes, not {_VERSION}")
        names_end = _HELLO.size + dialer_bytes + listener_bytes
        end = names_end + NONCE_BYTES + _DIGEST_BYTES
        if end > MAXIMUM_HELLO_BYTES:
            raise AuthenticationError("its names are too long")
        if len(received) < end:
            return None
        hello = bytes(received[: end - _DIGEST_BYTES])
        code = bytes(received[end - _DIGEST_BYTES : end])
        del received[:end]
        if not hmac.compare_digest(code, _hmac(self._keys.hello, hello)):
            raise AuthenticationError("it does not know the secret of the cluster")
        self._check_hello(hello, purpose, dialer_bytes, names_end)
        self._transcript = hello + self._nonce
        self._stage = self._read_dialer_proof
        return self._nonce + _hmac(self._keys.authentication, b"listener", self._transcript)

    def _check_hello(self, hello: bytes, purpose: int, dialer_bytes: int, names_end: int) -> None:
        dialer = hello[_HELLO.size : _HELLO.size + dialer_bytes].decode("ascii", "replace")
        listener = hello[_HELLO.size + dialer_bytes : names_end].decode("ascii", "replace")
        if purpose not in tuple(Purpose):
            raise AuthenticationError(f"purpose {purpose} is not known")
        if listener != self._identity.node:
            raise AuthenticationError("it looks for another node", why=f"for {listener!r}, not {self._identity.node}")
        if not is_node_name(dialer) or dialer == listener or dialer not in self._identity.members:
            raise AuthenticationError("it is not a member of the cluster", why=f"it calls itself {dialer!r}")
        self.peer = dialer
        self.purpose = Purpose(purpose)

    def _read_listener_proof(self) -> bytes | None:
        """The dialer's only stage: the listener's nonce and proof, answered by the dialer's proof."""
        if len(self._received) < NONCE_BYTES + _DIGEST_BYTES:
            return None
        transcript = self._transcript + bytes(self._received[:NONCE_BYTES])
        self._check_proof(b"listener", transcript, NONCE_BYTES)
        self._establish(transcript, seal_as=b"dialer", open_as=b"listener")
        return _hmac(self._keys.authentication, b"dialer", transcript)

    def _read_dialer_proof(self) -> bytes | None:
        """The listener's second stage."""
        if len(self._received) < _DIGEST_BYTES:
            return None
        self._check_proof(b"dialer", self._transcript, 0)
        self._establish(self._transcript, seal_as=b"listener", open_as=b"dialer")
        return b""

    def _check_proof(self, role: bytes, transcript: bytes, offset: int) -> None:
        proof = bytes(self._received[offset : offset + _DIGEST_BYTES])
        del self._received[: offset + _DIGEST_BYTES]
        if not hmac.compare_digest(proof, _hmac(self._keys.authentication, role, transcript)):
            raise AuthenticationError("it does not know the secret of the cluster", where=self.peer)

    def _establish(self, transcript: bytes, *, seal_as: bytes, open_as: bytes) -> None:
        session = _hmac(self._keys.session, hashlib.sha256(transcript).digest())
        self._seal_key = _expand(session, seal_as)
        self._open_key = _expand(session, open_as)
        self.is_established = True

    def _open_frames(self) -> list[bytes]:
        """Take every whole frame out of what was received."""
        payloads: list[bytes] = []
        position = 0
        with memoryview(self._received) as view:
            while len(view) - position >= _LENGTH.size:
                (length_bytes,) = _LENGTH.unpack_from(view, position)
                if length_bytes > self._maximum_frame_bytes:
                    raise AuthenticationError(
                        f"a frame of {length_bytes} bytes is longer than {self._maximum_frame_bytes}", where=self.peer
                    )
                end = position + _LENGTH.size + length_bytes
                if len(view) < end + FRAME_MAC_BYTES:
                    break
                payloads.append(self._opened(view[position:end], bytes(view[end : end + FRAME_MAC_BYTES])))
                position = end + FRAME_MAC_BYTES
        del self._received[:position]
        return payloads

    def _opened(self, body: memoryview, code: bytes) -> bytes:
        with body:
            number = _NUMBER.pack(self._frames_opened)
            if not hmac.compare_digest(code, _hmac(self._open_key, number, body)[:FRAME_MAC_BYTES]):
                raise AuthenticationError("a frame is not as it was sent, or out of its order", where=self.peer)
            self._frames_opened += 1
            return bytes(body[_LENGTH.size :])


def _hello(purpose: Purpose, dialer: str, listener: str, nonce: bytes) -> bytes:
    names: Sequence[bytes] = (dialer.encode(), listener.encode())
    return _HELLO.pack(_MAGIC, _VERSION, purpose, len(names[0]), len(names[1])) + b"".join(names) + nonce
