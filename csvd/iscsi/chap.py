"""CHAP (RFC 1994) as iSCSI uses it (RFC 7143 section 12.1.3)."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from collections.abc import Collection
from dataclasses import dataclass
from enum import IntEnum

from csvd.errors import ConfigError
from csvd.iscsi.errors import TextError

MAX_BINARY_BYTES = 1024
"""RFC 7143 section 6.1: a large binary value has at most 1,024 bytes."""


class Algorithm(IntEnum):
    """CHAP_A, by IANA's PPP authentication algorithms. SHA-1 (6) is left out: nobody should choose it."""

    MD5 = 5
    SHA256 = 7
    SHA3_256 = 8


ALGORITHMS = tuple(Algorithm)

_HASHES = {Algorithm.MD5: "md5", Algorithm.SHA256: "sha256", Algorithm.SHA3_256: "sha3_256"}

RESPONSE_BYTES = {Algorithm.MD5: 16, Algorithm.SHA256: 32, Algorithm.SHA3_256: 32}
"""Length of a response, and of the challenges sent here: RFC 1994 section 2.3 wants them as hard to guess."""


@dataclass(frozen=True, slots=True, repr=False)
class Credentials:
    """A user and its secret. The secret never stands in a repr, and so in no log."""

    user: str
    secret: bytes

    def __repr__(self) -> str:
        return f"Credentials(user={self.user!r})"


def same_secret(one: Credentials, other: Credentials) -> bool:
    """Whether two have the same secret, compared in constant time."""
    return hmac.compare_digest(one.secret, other.secret)


def check_secret(secret: bytes, where: str) -> bytes:
    """Check a CHAP secret that a person configured: 12 to 255 bytes (RFC 7143 section 12.1.3 asks for 96 bits).

    Raises:
        ConfigError: it is shorter or longer.
    """
    if not 12 <= len(secret) <= 255:
        raise ConfigError(
            f"a CHAP secret has 12 to 255 bytes, this one {len(secret)}",
            where=where,
            hint="for one: openssl rand -hex 16 > FILE && chmod 600 FILE",
        )
    return secret


def response(algorithm: Algorithm, identifier: int, secret: bytes, challenge: bytes) -> bytes:
    """Compute CHAP_R: hash(identifier, secret, challenge) (RFC 1994 section 4.1)."""
    # MD5 here is the protocol's own; usedforsecurity=False lets it work on hosts in FIPS mode too.
    digest = hashlib.new(_HASHES[algorithm], usedforsecurity=False)
    digest.update(bytes((identifier,)) + secret + challenge)
    return digest.digest()


def verify(algorithm: Algorithm, identifier: int, secret: bytes, challenge: bytes, answer: bytes) -> bool:
    """Compare an answer with what it must be, in constant time."""
    return hmac.compare_digest(response(algorithm, identifier, secret, challenge), answer)


def encode_binary(data: bytes) -> str:
    """Give the hex form of a binary value (RFC 7143 section 6.1)."""
    return "0x" + data.hex()


def decode_binary(value: str) -> bytes:
    """Decode a hex (0x) or base64 (0b) constant.

    Raises:
        TextError: it is neither, or longer than 1,024 bytes.
    """
    prefix, digits = value[:2].lower(), value[2:]
    try:
        if len(digits) > 2 * MAX_BINARY_BYTES + 2:
            raise ValueError("too long")
        if prefix == "0x":
            data = bytes.fromhex(digits if len(digits) % 2 == 0 else "0" + digits)
            if any(c.isspace() for c in digits):
                raise ValueError("spaces")
        elif prefix == "0b":
            data = base64.b64decode(digits, validate=True)
        else:
            raise ValueError("no prefix")
    except (ValueError, binascii.Error) as error:
        # What was sent is not told: it may be a secret in the wrong place.
        raise TextError(f"not a binary value of at most {MAX_BINARY_BYTES} bytes: {len(value)} characters") from error
    if not 0 < len(data) <= MAX_BINARY_BYTES:
        raise TextError(f"a binary value of {len(data)} bytes, not 1 to {MAX_BINARY_BYTES}")
    return data


def choose_algorithm(offered: str, taken: Collection[Algorithm] = ALGORITHMS) -> Algorithm | None:
    """Choose from CHAP_A, a list in the initiator's order of preference; None when it offers none that is taken."""
    for item in offered.split(","):
        if item.isascii() and item.isdigit() and len(item) <= 3 and int(item) in taken:
            return Algorithm(int(item))
    return None
