"""The token that a node joins by: a text of one line that holds a secret, good for one join, until a time.

The text is `csvd1.` and, in base64url without padding, what msgpack makes of the fields below, then the first eight
bytes of its SHA-256, so that a text that was cut or mistyped is found to be. Of the 32 random bytes both sides derive
an Ed25519 key (HKDF-SHA-256, RFC 5869): the joining node shows a certificate of that key by mutual TLS, and the cluster
knows it by its fingerprint, the token's id. So neither the register nor the wire holds what the token is made of.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import os
from dataclasses import dataclass
from typing import Annotated, Final

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from csvd.cluster.identity.certificate import fingerprint
from csvd.errors import ConfigError

SEED_BYTES: Final = 32
MAXIMUM_TOKEN_BYTES: Final = 4096
MAXIMUM_TOKEN_ADDRESSES: Final = 32

_PREFIX: Final = "csvd1."
_CHECK_BYTES: Final = 8
_PURPOSE: Final = b"csvd join token"


_Host = Annotated[str, msgspec.Meta(min_length=1, max_length=253)]
_Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]


class _Fields(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    cluster: Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
    addresses: Annotated[
        list[tuple[_Host, _Port]],
        msgspec.Meta(min_length=1, max_length=MAXIMUM_TOKEN_ADDRESSES),
    ]
    authority: Annotated[bytes, msgspec.Meta(min_length=32, max_length=32)]
    expires_at_s: Annotated[int, msgspec.Meta(ge=0, le=2**40)]
    is_witness: bool
    seed: Annotated[bytes, msgspec.Meta(min_length=SEED_BYTES, max_length=SEED_BYTES)]


@dataclass(frozen=True, slots=True, repr=False)
class JoinToken:
    """A token; repr() does not show it.

    Attributes:
        cluster: the name of the cluster.
        addresses: host and port of its members at the time.
        authority: the fingerprint of the cluster's authority, in hexadecimal.
        expires_at_s: seconds since 1970.
        is_witness: whether the node that joins by it is a witness.
        seed: 32 random bytes.
    """

    cluster: str
    addresses: tuple[tuple[str, int], ...]
    authority: str
    expires_at_s: int
    is_witness: bool
    seed: bytes

    @classmethod
    def make(
        cls,
        *,
        cluster: str,
        addresses: list[tuple[str, int]],
        authority: str,
        expires_at_s: int,
        is_witness: bool = False,
    ) -> JoinToken:
        """Make a token with fresh random bytes."""
        chosen = tuple(addresses[:MAXIMUM_TOKEN_ADDRESSES])
        return cls(cluster, chosen, authority, expires_at_s, is_witness, os.urandom(SEED_BYTES))

    @classmethod
    def parse(cls, text: str) -> JoinToken:
        """Read a token.

        Raises:
            ConfigError: it is none; the error does not show it.
        """
        text = text.strip()
        if not text.startswith(_PREFIX) or len(text) > MAXIMUM_TOKEN_BYTES:
            raise ConfigError("this is not a join token", hint="csvd token create makes one")
        encoded = text.removeprefix(_PREFIX)
        try:
            data = base64.b64decode(encoded + "=" * (-len(encoded) % 4), altchars=b"-_", validate=True)
        except (ValueError, binascii.Error):
            data = b""
        body, check = data[:-_CHECK_BYTES], data[-_CHECK_BYTES:]
        if hashlib.sha256(body).digest()[:_CHECK_BYTES] != check:
            raise ConfigError("the join token is not whole", hint="copy all of it: it is one line")
        try:
            fields = msgspec.msgpack.decode(body, type=_Fields)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ConfigError("this join token is not one that this version of csvd makes") from error
        return cls(
            fields.cluster,
            tuple(fields.addresses),
            fields.authority.hex(),
            fields.expires_at_s,
            fields.is_witness,
            fields.seed,
        )

    def text(self) -> str:
        """The token as a person passes it on."""
        authority = bytes.fromhex(self.authority)
        fields = _Fields(self.cluster, list(self.addresses), authority, self.expires_at_s, self.is_witness, self.seed)
        body = msgspec.msgpack.encode(fields)
        data = body + hashlib.sha256(body).digest()[:_CHECK_BYTES]
        return _PREFIX + base64.urlsafe_b64encode(data).rstrip(b"=").decode()

    @property
    def key(self) -> Ed25519PrivateKey:
        """The key by which the joining node shows that it has the token."""
        derived = HKDF(algorithm=SHA256(), length=32, salt=None, info=_PURPOSE).derive(self.seed)
        return Ed25519PrivateKey.from_private_bytes(derived)

    @property
    def id(self) -> str:
        """The fingerprint of the key: what the register knows the token by."""
        return fingerprint(self.key.public_key())


def is_token_text(text: str) -> bool:
    """Whether a text looks like a token: a secret, wherever it stands."""
    return text.strip().startswith(_PREFIX)
