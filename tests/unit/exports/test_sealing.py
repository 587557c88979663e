"""Sealed secrets: unreadable without the key, and in another place."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from csvd.errors import ConfigError
from csvd.exports.sealing import MAX_SEALED_CHARACTERS, NoKey, SealBroken, Sealing

SECRET = b"a very secret secret"


def entropy() -> Callable[[int], bytes]:
    count = 0

    def some(length: int) -> bytes:
        nonlocal count
        count += 1
        return count.to_bytes(length)

    return some


def test_a_secret_opens_with_the_key_for_what_it_was_sealed_for_alone() -> None:
    sealing = Sealing(bytes(32), entropy())
    sealed = sealing.seal(SECRET, "secret of t")
    assert sealing.open(sealed, "secret of t") == SECRET
    assert SECRET not in base64.b64decode(sealed)
    with pytest.raises(SealBroken):
        sealing.open(sealed, "secret of u")
    with pytest.raises(SealBroken):
        Sealing(b"k" * 32, entropy()).open(sealed, "secret of t")


def test_the_same_secret_is_another_text_each_time() -> None:
    sealing = Sealing(bytes(32), entropy())
    assert sealing.seal(SECRET, "p") != sealing.seal(SECRET, "p")


def test_whatever_is_changed_in_it_it_does_not_open() -> None:
    sealing = Sealing(bytes(32), entropy())
    data = base64.b64decode(sealing.seal(SECRET, "p"))
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(SealBroken):
            sealing.open(base64.b64encode(bytes(changed)).decode(), "p")
    for wrong in ("", "AAAA", "not base64 !", "é", "A" * (MAX_SEALED_CHARACTERS + 4)):
        with pytest.raises(SealBroken):
            sealing.open(wrong, "p")


def test_without_a_key_nothing_is_sealed_and_nothing_opens() -> None:
    sealed = Sealing(bytes(32), entropy()).seal(SECRET, "p")
    for do in (lambda: Sealing(None, entropy()).seal(SECRET, "p"), lambda: Sealing(None, entropy()).open(sealed, "p")):
        with pytest.raises(NoKey):
            do()


def test_a_key_of_another_length_is_none() -> None:
    with pytest.raises(ConfigError):
        Sealing(bytes(16), entropy())
