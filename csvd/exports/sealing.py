"""Secrets that are kept where more can read them than may know them: sealed with the cluster's key.

AES-256 in Galois/Counter Mode (NIST SP 800-38D) with a random nonce of 96 bits. What a secret is for is authenticated
with it, so that one which is moved to another place does not open there.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from csvd.errors import ConfigError, CsvdError

KEY_BYTES: Final = 32
MAX_SEALED_CHARACTERS: Final = 1024
_NONCE_BYTES: Final = 12
_PURPOSE: Final = b"csvd exports\0"


class SealBroken(CsvdError):
    """What was sealed does not open: it was changed, moved, or sealed with another key."""


class NoKey(CsvdError):
    """There is no key to seal with."""


class Sealing:
    """Seals secrets, and opens them again.

    Args:
        key: the cluster's, 32 bytes; None on a node of no cluster, which can seal and open nothing.
        entropy: gives unpredictable bytes.

    Raises:
        ConfigError: the key has another length.
    """

    def __init__(self, key: bytes | None, entropy: Callable[[int], bytes]) -> None:
        if key is not None and len(key) != KEY_BYTES:
            raise ConfigError(f"the cluster's key has {len(key)} bytes, not {KEY_BYTES}")
        self._cipher = None if key is None else AESGCM(key)
        self._entropy = entropy

    def seal(self, secret: bytes, place: str) -> str:
        """Seal a secret; sealed again it is another text.

        Args:
            place: what it is for; it opens for nothing else.

        Raises:
            NoKey: there is no key.
        """
        if self._cipher is None:
            raise _no_key(place)
        nonce = self._entropy(_NONCE_BYTES)
        return base64.b64encode(nonce + self._cipher.encrypt(nonce, secret, _bound(place))).decode()

    def open(self, sealed: str, place: str) -> bytes:
        """Give the secret.

        Raises:
            SealBroken: it is not what was sealed for this place with this key.
            NoKey: there is no key.
        """
        if self._cipher is None:
            raise _no_key(place)
        try:
            if len(sealed) > MAX_SEALED_CHARACTERS:
                raise ValueError(f"it has {len(sealed)} characters")
            data = base64.b64decode(sealed, validate=True)
            return self._cipher.decrypt(data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bound(place))
        except (InvalidTag, ValueError, binascii.Error) as error:
            raise SealBroken("a sealed secret does not open", where=place, hint="give the secret anew") from error


def _no_key(place: str) -> NoKey:
    return NoKey(
        "this node has no key of a cluster to seal secrets with", where=place, hint="csvd init makes a cluster"
    )


def _bound(place: str) -> bytes:
    return _PURPOSE + place.encode()
