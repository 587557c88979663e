"""Sealed secrets: unreadable without the key, and in another place."""

from __future__ import annotations

import base64
from collections.abc import Callable

import pytest

from csvd.cluster.data_keys import DataKeys
from csvd.errors import ConfigError
from csvd.exports.sealing import MAX_SEALED_CHARACTERS, NoKey, SealBroken, Sealing, key_of, name_of

SECRET = b"a very secret secret"


def entropy() -> Callable[[int], bytes]:
    count = 0

    def some(length: int) -> bytes:
        nonlocal count
        count += 1
        return count.to_bytes(length)

    return some


def test_a_secret_opens_with_the_key_for_what_it_was_sealed_for_alone() -> None:
    sealing = Sealing(DataKeys([bytes(32)]), entropy())
    sealed = sealing.seal(SECRET, "secret of t")
    assert sealing.open(sealed, "secret of t") == SECRET
    assert SECRET not in base64.b64decode(sealed.partition(":")[2])
    with pytest.raises(SealBroken):
        sealing.open(sealed, "secret of u")
    with pytest.raises(SealBroken):
        Sealing(DataKeys([b"k" * 32]), entropy()).open(sealed, "secret of t")


def test_the_same_secret_is_another_text_each_time() -> None:
    sealing = Sealing(DataKeys([bytes(32)]), entropy())
    assert sealing.seal(SECRET, "p") != sealing.seal(SECRET, "p")


def test_whatever_is_changed_in_it_it_does_not_open() -> None:
    sealing = Sealing(DataKeys([bytes(32)]), entropy())
    key, _, text = sealing.seal(SECRET, "p").partition(":")
    data = base64.b64decode(text)
    for place in range(len(data)):
        changed = bytearray(data)
        changed[place] ^= 1
        with pytest.raises(SealBroken):
            sealing.open(f"{key}:{base64.b64encode(bytes(changed)).decode()}", "p")
    for wrong in ("", "AAAA", "not base64 !", "é", "A" * (MAX_SEALED_CHARACTERS + 4)):
        with pytest.raises(SealBroken):
            sealing.open(wrong, "p")


def test_without_a_key_nothing_is_sealed_and_nothing_opens() -> None:
    sealed = Sealing(DataKeys([bytes(32)]), entropy()).seal(SECRET, "p")
    for do in (lambda: Sealing(None, entropy()).seal(SECRET, "p"), lambda: Sealing(None, entropy()).open(sealed, "p")):
        with pytest.raises(NoKey):
            do()


def test_a_key_of_another_length_is_none() -> None:
    with pytest.raises(ConfigError):
        DataKeys([bytes(16)])


def test_what_is_sealed_names_its_key_and_is_sealed_with_another_one_for_the_same_place() -> None:
    keys = DataKeys([bytes(32), b"n" * 32])
    old, new = keys.ids
    sealing = Sealing(keys, entropy())
    sealed = sealing.seal(SECRET, "p")
    again = sealing.resealed(sealed, "p", new)
    assert (key_of(sealed), key_of(again)) == (old, new)
    assert sealing.open(again, "p") == SECRET
    assert sealing.resealed(again, "p", new) == again
    assert name_of(again, "p") == name_of(sealed, "p")
    assert name_of(sealing.seal(SECRET, "p"), "p") != name_of(sealed, "p")
    assert name_of(sealed, "q") != name_of(sealed, "p")
    without = Sealing(DataKeys([bytes(32)]), entropy())
    with pytest.raises(SealBroken, match=f"the key {new} for a secret is not here"):
        without.open(again, "p")
    with pytest.raises(SealBroken, match=f"the key {new} for a secret is not here"):
        without.resealed(sealed, "p", new)
    with pytest.raises(SealBroken):
        Sealing(DataKeys([b"n" * 32]), entropy()).resealed(sealed, "p", new)


def test_what_an_earlier_csvd_sealed_names_no_key_and_opens_with_whichever_it_is() -> None:
    sealed = Sealing(DataKeys([bytes(32)]), entropy()).seal(SECRET, "p").partition(":")[2]
    sealing = Sealing(DataKeys([b"n" * 32, bytes(32)]), entropy())
    assert key_of(sealed) == ""
    assert sealing.open(sealed, "p") == SECRET
    assert key_of(sealing.resealed(sealed, "p", sealing.keys.current if sealing.keys else "")) != ""
    with pytest.raises(SealBroken):
        Sealing(DataKeys([b"n" * 32]), entropy()).open(sealed, "p")
