"""Secrets that are kept where more can read them than may know them: sealed with the cluster's key.

AES-256 in Galois/Counter Mode (NIST SP 800-38D) with a random nonce of 96 bits. What a secret is for is authenticated
with it, so that one which is moved to another place does not open there.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable
from typing import Final

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from csvd.cluster.data_keys import DataKeys
from csvd.errors import CsvdError

MAX_SEALED_CHARACTERS: Final = 1024
_NONCE_BYTES: Final = 12
_NONCE_CHARACTERS: Final = 16
"""Of base64, which has 4 of them for 3 bytes."""
_MARK: Final = ":"
"""Between the key's id and the rest; no character of base64."""
_PURPOSE: Final = b"csvd exports\0"


class SealBroken(CsvdError):
    """What was sealed does not open: it was changed, moved, or sealed with another key."""


class NoKey(CsvdError):
    """There is no key to seal with."""


class Sealing:
    """Seals secrets, and opens them again.

    What is sealed names the key: ``KEY-ID:BASE64``. What an earlier csvd sealed names none, and is tried with each.

    Args:
        keys: the cluster's; None on a node of no cluster, which can seal and open nothing.
        entropy: gives unpredictable bytes.
    """

    def __init__(self, keys: DataKeys | None, entropy: Callable[[int], bytes]) -> None:
        self.keys = keys
        self._entropy = entropy

    def seal(self, secret: bytes, place: str) -> str:
        """Seal a secret with the current key; sealed again it is another text.

        Args:
            place: what it is for; it opens for nothing else.

        Raises:
            NoKey: there is no key.
        """
        return self._sealed(self._entropy(_NONCE_BYTES), secret, place)

    def open(self, sealed: str, place: str) -> bytes:
        """Give the secret.

        Raises:
            SealBroken: it is not what was sealed for this place, or not with a key that this node has.
            NoKey: there is no key.
        """
        return self._opened(sealed, place)[1]

    def resealed(self, sealed: str, place: str, key_id: str) -> str:
        """Give what is sealed with this key: the same text, where it is that already.

        The nonce stays, so that `name_of` does: with another key it was never used.

        Raises:
            SealBroken: it does not open, or this node does not have the key.
            NoKey: there is no key at all.
        """
        if key_of(sealed) == key_id:
            return sealed
        nonce, secret = self._opened(sealed, place)
        return self._sealed(nonce, secret, place, key_id)

    def _sealed(self, nonce: bytes, secret: bytes, place: str, key_id: str = "") -> str:
        if self.keys is None:
            raise _no_key(place)
        key_id = key_id or self.keys.current
        key = self.keys.key(key_id)
        if key is None:
            raise _not_here(key_id, place)
        return f"{key_id}{_MARK}{base64.b64encode(nonce + AESGCM(key).encrypt(nonce, secret, _bound(place))).decode()}"

    def _opened(self, sealed: str, place: str) -> tuple[bytes, bytes]:
        """The nonce and the secret."""
        if self.keys is None:
            raise _no_key(place)
        key_id, text = key_of(sealed), sealed.rpartition(_MARK)[2]
        for each in [key_id] if key_id else self.keys.ids:
            key = self.keys.key(each)
            if key is None:
                raise _not_here(each, place)
            try:
                if len(sealed) > MAX_SEALED_CHARACTERS:
                    raise ValueError(f"it has {len(sealed)} characters")
                data = base64.b64decode(text, validate=True)
                nonce = data[:_NONCE_BYTES]
                return nonce, AESGCM(key).decrypt(nonce, data[_NONCE_BYTES:], _bound(place))
            except (InvalidTag, ValueError, binascii.Error):
                continue
        raise SealBroken("a sealed secret does not open", where=place, hint="give the secret anew")


def key_of(sealed: str) -> str:
    """The id of the key that something is sealed with; empty where it names none."""
    return sealed.rpartition(_MARK)[0]


def name_of(sealed: str, place: str) -> str:
    """32 hexadecimal digits for a sealed secret: others when it is given anew, the same when it is only resealed."""
    text = sealed.rpartition(_MARK)[2]
    return hashlib.sha256(f"{place}\0{text[:_NONCE_CHARACTERS]}".encode()).hexdigest()[:32]


def _no_key(place: str) -> NoKey:
    return NoKey(
        "this node has no key of a cluster to seal secrets with", where=place, hint="csvd init makes a cluster"
    )


def _not_here(key_id: str, place: str) -> SealBroken:
    return SealBroken(
        f"the key {key_id[:16]} for a secret is not here",
        where=place,
        hint="it is asked for; where no other node has it either, give the secret anew",
    )


def _bound(place: str) -> bytes:
    return _PURPOSE + place.encode()
