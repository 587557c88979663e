"""TLS 1.3 between nodes, without sockets: bytes in, bytes out, over OpenSSL.

Both sides show a certificate; that its key is theirs OpenSSL proves (CertificateVerify, RFC 8446 section 4.4.3).
Whether it is one to let in is decided right after the handshake, and before a byte is taken from the peer or given to
it, by the `admit` that the channel is made with: a certificate is admitted by what the register says of its key, which
OpenSSL does not know. There is no resumption, no early data and no older version of TLS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from cryptography import x509
from OpenSSL import SSL

from csvd.cluster.errors import AuthenticationError, Evicted
from csvd.cluster.identity.certificate import NodeIdentity

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from typing_extensions import Buffer

MAXIMUM_HANDSHAKE_BYTES: Final = 64 * 1024
"""What a peer may send before its handshake is done; an honest one sends less than 4 KiB."""

_RECORD_BYTES: Final = 16384
_RECORD_OVERHEAD_BYTES: Final = 22
_ROOM_BYTES: Final = 4096

Chain = list[x509.Certificate]


def tls_context(
    certificate: x509.Certificate, key: Ed25519PrivateKey, *, authority: x509.Certificate | None = None
) -> SSL.Context:
    """Make the context of all connections that show a certificate.

    Args:
        certificate: shown to peers.
        key: of the certificate.
        authority: shown, too: a joining node has not seen it yet, and knows its fingerprint.
    """
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_min_proto_version(SSL.TLS1_3_VERSION)
    context.set_options(SSL.OP_NO_TICKET | SSL.OP_NO_COMPRESSION | SSL.OP_NO_RENEGOTIATION)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    # OpenSSL is to demand a certificate and the proof of its key, and to leave the rest to `TlsChannel._admitted`.
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    context.use_certificate(certificate)
    context.use_privatekey(key)
    if authority is not None:
        context.add_extra_chain_cert(authority)
    return context


def node_context(identity: NodeIdentity) -> SSL.Context:
    """The context of a node's connections."""
    return tls_context(identity.certificate, identity.key, authority=identity.authority.certificate)


class TlsChannel:
    """One end of a connection.

    Send what `start`, `receive`, `seal` and `end` return to the peer, in that order; give every byte that comes to
    `receive`. After an AuthenticationError the channel is of no use: close the connection.

    Args:
        context: of `tls_context`.
        admit: given the chain that the peer showed, its own certificate first; raises AuthenticationError where it is
            not to be let in.
        is_dialer: whether this end made the connection.
    """

    def __init__(self, context: SSL.Context, admit: Callable[[Chain], object], *, is_dialer: bool) -> None:
        self._connection = SSL.Connection(context, None)
        self._admit = admit
        self._handshake_bytes = 0
        self.is_dialer = is_dialer
        self.is_established = False
        self.is_ended = False
        if is_dialer:
            self._connection.set_connect_state()
        else:
            self._connection.set_accept_state()

    def start(self) -> bytes:
        """What to send at once: the dialer's ClientHello, the listener's nothing."""
        if not self.is_dialer:
            return b""
        self._shake_hands()
        return self._waiting(_ROOM_BYTES)

    def receive(self, data: bytes) -> tuple[bytes, list[bytes]]:
        """Take bytes from the peer.

        Returns:
            What to send to the peer, and what it said, in pieces of any length. A piece is there only when the peer
            was admitted.

        Raises:
            Evicted: the peer is not let in; one may seal for it that it was evicted, and must not receive any more.
            AuthenticationError: the peer does not speak TLS 1.3, is not to be let in, or a byte is not as it was sent.
        """
        if self.is_ended:
            return b"", []
        self._connection.bio_write(data)
        if not self.is_established:
            self._handshake_bytes += len(data)
            if not self._shake_hands():
                if self._handshake_bytes > MAXIMUM_HANDSHAKE_BYTES:
                    raise AuthenticationError("its handshake has no end")
                return self._waiting(_ROOM_BYTES), []
        pieces = self._said()
        return self._waiting(_ROOM_BYTES), pieces

    def seal(self, *parts: Buffer) -> bytes:
        """What to send for these bytes, which are copied: they may change as soon as this returns."""
        assert self.is_established
        plain = b"".join(parts)
        with memoryview(plain) as view:
            done = 0
            while done < len(plain):
                # One record at a time: pyOpenSSL allows partial writes.
                done += self._connection.send(view[done:])
        return self._waiting(len(plain) + (len(plain) // _RECORD_BYTES + 1) * _RECORD_OVERHEAD_BYTES + _ROOM_BYTES)

    def end(self) -> bytes:
        """What to send last: that nothing follows."""
        if not self.is_established:
            return b""
        try:
            self._connection.shutdown()
        except SSL.Error:
            return b""
        return self._waiting(_ROOM_BYTES)

    def _shake_hands(self) -> bool:
        """Go on with the handshake; whether it is done, and the peer let in."""
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            return False
        except SSL.Error as error:
            raise _refused("the TLS handshake failed", error) from error
        try:
            self._admit(self._peer_chain())
        except Evicted:
            self.is_established = True
            raise
        except AuthenticationError:
            raise
        except Exception as error:
            # What cryptography raises for a certificate that it does not understand is not one class.
            raise AuthenticationError("its certificate can not be read", why=type(error).__name__) from error
        self.is_established = True
        return True

    def _peer_chain(self) -> Chain:
        own = self._connection.get_peer_certificate(as_cryptography=True)
        if own is None:
            raise AuthenticationError("it shows no certificate")
        chain = self._connection.get_peer_cert_chain(as_cryptography=True) or []
        # A listener's chain has the peer's own certificate in it or not, as the version of OpenSSL has it.
        return [own, *(certificate for certificate in chain if certificate != own)]

    def _said(self) -> list[bytes]:
        pieces: list[bytes] = []
        try:
            while not self.is_ended:
                pieces.append(self._connection.recv(_RECORD_BYTES))
        except SSL.WantReadError:
            pass
        except SSL.ZeroReturnError:
            self.is_ended = True
        except SSL.Error as error:
            raise _refused("what it sent is not as TLS has it", error) from error
        return pieces

    def _waiting(self, room_bytes: int) -> bytes:
        """What OpenSSL has to send."""
        try:
            data = self._connection.bio_read(room_bytes)
        except SSL.WantReadError:
            return b""
        return data if len(data) < room_bytes else data + self._waiting(room_bytes)


def _refused(what: str, error: SSL.Error) -> AuthenticationError:
    reasons = error.args[0] if error.args and isinstance(error.args[0], list) else []
    why = str(reasons[-1][-1]) if reasons else str(error) or type(error).__name__
    return AuthenticationError(what, why=why[:200])
