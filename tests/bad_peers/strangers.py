"""What a stranger tries at the nodes' port: one row an attempt, with the line that the node's log has for it.

docs/security.md shows this table. The answer is always the same: a closed connection, and nothing of the cluster's.
One whose key was a member's is told that it was evicted: see tests/integration/test_cluster_joining.py.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL

from csvd.cluster.framing import Kind, Purpose, encode_hello, frame_header
from csvd.cluster.identity.certificate import (
    CLOCK_SLACK_S,
    NODE_LIFE_S,
    NodeIdentity,
    make_cluster,
    self_signed,
)
from csvd.cluster.tls import TlsChannel, node_context, tls_context

Identities = dict[str, NodeIdentity]
"""Of the members n1, n2, n3, by their names."""


@dataclass(frozen=True, slots=True)
class Certified:
    """A stranger that speaks TLS.

    Attributes:
        tried: what it tries, as the docs have it.
        logged: what the node's log says.
        context: what it shows, made of the members' identities.
    """

    tried: str
    logged: str
    context: Callable[[Identities], SSL.Context]


@dataclass(frozen=True, slots=True)
class Raw:
    """A stranger that sends bytes."""

    tried: str
    logged: str
    data: bytes


class Stranger:
    """A dialer with an identity of its own choice, over a blocking socket."""

    def __init__(self, address: tuple[str, int], context: SSL.Context) -> None:
        self.channel = TlsChannel(context, lambda chain: None, is_dialer=True)
        self._socket = socket.create_connection(address, timeout=10)
        self._socket.sendall(self.channel.start())

    def shake_hands(self) -> bool:
        """Whether this end takes the handshake for done: of TLS 1.3 the other end decides after it."""
        while not self.channel.is_established:
            try:
                data = self._socket.recv(65536)
            except ConnectionResetError:
                return False
            if not data:
                return False
            answer, _ = self.channel.receive(data)
            self._socket.sendall(answer)
        return True

    def say(self, kind: Kind, body: bytes) -> None:
        self.say_bytes(self.channel.seal(frame_header(kind, len(body)), body))

    def say_bytes(self, data: bytes) -> None:
        with suppress(ConnectionResetError, BrokenPipeError):
            self._socket.sendall(data)

    def hear(self) -> bytes:
        """What it is told, until the connection is closed."""
        heard = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            while data := self._socket.recv(65536):
                heard += b"".join(self.channel.receive(data)[1])
        self._socket.close()
        return heard

    def hear_first(self) -> bytes:
        """The first that it is told."""
        while True:
            data = self._socket.recv(65536)
            assert data, "closed"
            _, pieces = self.channel.receive(data)
            if pieces:
                return pieces[0]

    def close(self) -> None:
        self._socket.close()


def told(address: tuple[str, int], context: SSL.Context) -> bytes:
    """What a stranger is told when it behaves as a member does."""
    stranger = Stranger(address, context)
    if stranger.shake_hands():
        stranger.say(Kind.HELLO, encode_hello(Purpose.CONTROL))
    return stranger.hear()


def _at(identities: Identities, now_s: float) -> SSL.Context:
    """The certificate that n1 would have been given at another time, for the same key."""
    own = identities["n1"]
    return tls_context(own.authority.certify("n1", own.key.public_key(), now_s=now_s), own.key)


def _not_registered(identities: Identities) -> SSL.Context:
    return node_context(identities["n1"].renewed(now_s=time.time()))


def _in_another_name(identities: Identities) -> SSL.Context:
    own = identities["n3"]
    return tls_context(own.authority.certify("n1", own.key.public_key(), now_s=time.time()), own.key)


def _authority(identities: Identities) -> SSL.Context:
    authority = identities["n1"].authority
    return tls_context(authority.certificate, authority.key)


def _of_a_token(identities: Identities) -> SSL.Context:
    key = Ed25519PrivateKey.generate()
    return tls_context(self_signed("joining", key, now_s=time.time()), key)


def _none_at_all(identities: Identities) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    return context


def _of_tls_1_2(identities: Identities) -> SSL.Context:
    context = node_context(identities["n1"])
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    return context


CERTIFIED = (
    Certified(
        "a certificate of another authority of the same name",
        "its certificate is not by this cluster's authority",
        lambda identities: node_context(make_cluster("test", ["n1"], now_s=time.time())["n1"]),
    ),
    Certified(
        "a certificate that has expired, of a member's key",
        "its certificate expired at",
        lambda identities: _at(identities, time.time() - NODE_LIFE_S - 60),
    ),
    Certified(
        "a certificate that is not valid yet, of a member's key",
        "its certificate is not valid before",
        lambda identities: _at(identities, time.time() + 2 * CLOCK_SLACK_S),
    ),
    Certified(
        "a certificate by the cluster's authority for a key that the register does not have: forged, or revoked",
        "its certificate is not a member's: it is for n1, or was revoked",
        _not_registered,
    ),
    Certified(
        "a member's own key with a certificate in another member's name",
        "its certificate is in another node's name: it is n3, not n1",
        _in_another_name,
    ),
    Certified(
        "the authority's own certificate",
        "it shows a join token that is used, expired, revoked or of another cluster",
        _authority,
    ),
    Certified(
        "a join token that is forged, used, expired or revoked",
        "it shows a join token that is used, expired, revoked or of another cluster",
        _of_a_token,
    ),
    Certified("no certificate", "the TLS handshake failed: peer did not return a certificate", _none_at_all),
    Certified("TLS 1.2, with a member's certificate", "the TLS handshake failed: unsupported protocol", _of_tls_1_2),
)

RAW = (
    Raw("a message of Raft without TLS", "the TLS handshake failed", frame_header(Kind.RAFT, 600) + bytes(600)),
    Raw("HTTP", "the TLS handshake failed", b"GET / HTTP/1.1\r\n\r\n"),
    Raw("a pickle", "the TLS handshake failed", b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00" + bytes(100)),
    Raw(
        "a ClientHello of nonsense",
        "the TLS handshake failed",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(510),
    ),
    Raw("100,000 bytes of zeros", "the TLS handshake failed", bytes(100_000)),
)


def table() -> str:
    """The rows as docs/security.md has them."""
    return "\n".join(f"| {one.tried} | {one.logged} |" for one in (*CERTIFIED, *RAW))
