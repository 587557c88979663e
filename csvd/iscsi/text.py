"""Text: lists of key=value pairs, each ended by a NUL (RFC 7143 section 6.1)."""

from __future__ import annotations

import re
from collections.abc import Iterable

from csvd.iscsi.errors import TextError

MAX_KEY_BYTES = 63
"""RFC 7143 section 6.1: a key is 1 to 63 characters."""

MAX_VALUE_BYTES = 8192
"""RFC 7143 section 6.1 lets a receiver refuse values above 255 bytes where a key has no longer form; CHAP has one."""

MAX_PAIRS = 128
"""More pairs than every registered key together; what a peer sends above it is refused."""

_KEY = re.compile(rb"[A-Za-z][A-Za-z0-9.\-+@_]{0,62}\Z")


def parse(data: bytes, max_pairs: int = MAX_PAIRS) -> list[tuple[str, str]]:
    """Parse a complete text: pairs in their order. A key may stand several times, as in the answer to SendTargets.

    Raises:
        TextError: no ``=``, a key or value out of its bounds, too many pairs or bytes that are not UTF-8.
    """
    pairs: list[tuple[str, str]] = []
    for item in bytes(data).split(b"\0"):
        if not item:  # the NUL that ends the last pair, and the padding that some initiators count as data
            continue
        if len(pairs) == max_pairs:
            raise TextError(f"more than {max_pairs} keys in one text")
        key, equals, value = item.partition(b"=")
        if not equals:
            raise TextError(f"text without '=': {item[:32]!r}")
        if not _KEY.match(key):
            raise TextError(f"not a key of 1 to {MAX_KEY_BYTES} characters: {key[:80]!r}")
        if len(value) > MAX_VALUE_BYTES:
            raise TextError(f"the value of {key.decode()} has more than {MAX_VALUE_BYTES} bytes")
        try:
            name, text = key.decode("ascii"), value.decode("utf-8")
        except UnicodeDecodeError as error:
            raise TextError(f"the value of {key.decode()} is not UTF-8") from error
        pairs.append((name, text))
    return pairs


def parse_unique(data: bytes) -> dict[str, str]:
    """Parse a text of negotiation, in which no key may stand twice (RFC 7143 section 6.2).

    Raises:
        TextError: as :func:`parse`, or a key stands twice.
    """
    keys: dict[str, str] = {}
    for name, value in parse(data):
        if name in keys:
            raise TextError(f"the key {name} stands twice in one text")
        keys[name] = value
    return keys


def build(pairs: Iterable[tuple[str, str]]) -> bytes:
    """Build the text of these pairs."""
    return b"".join(f"{key}={value}\0".encode() for key, value in pairs)


def split(text: bytes, limit_bytes: int) -> list[bytes]:
    """Split a text into data segments of at most ``limit_bytes``, for PDUs with the C bit (RFC 7143 section 6.2)."""
    return [text[start : start + limit_bytes] for start in range(0, len(text), limit_bytes)] or [b""]
