from __future__ import annotations

import hashlib
import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from initiator.errors import InitiatorError
from initiator.images.comparison import SHOWN_BYTES, Comparison, Difference, first_difference
from initiator.images.manifest import Manifest, parse_manifest
from initiator.images.plan import CopyPlan, Side
from tests.unit.initiator.images.test_images_transfer import CHUNK, Ends, Memory, image_of


def compared(first: bytes, second: bytes, *, seed: int, fail_at: int | None = None) -> tuple[Any, Memory, Memory]:
    """Compare two images whose reads end in any order; give the outcome and both ends."""
    ends = Ends(seed)
    one, other = Memory("one", first, ends), Memory("other", second, ends)
    if fail_at is not None:
        other.fail = lambda call: OSError(5, "I/O error") if call[:2] == ("read", fail_at) else None
    plan = CopyPlan(len(first), chunk=CHUNK, align=512, zero_chunk=CHUNK, maps=frozenset(Side))
    comparison = Comparison(plan, one, other, first_offset=0, second_offset=0, chunk=CHUNK, lanes=4)
    outcome: list[Any] = []
    Deferred.fromCoroutine(comparison.run()).addBoth(outcome.append)
    while ends.step():
        pass
    return outcome[0], one, other


@pytest.mark.parametrize("seed", range(10))
def test_equal_images_have_no_difference(seed: int) -> None:
    image = image_of(random.Random(seed))
    assert compared(image, image, seed=seed)[0] is None


@pytest.mark.parametrize("seed", range(20))
def test_the_first_difference_is_found_whatever_ends_first(seed: int) -> None:
    chance = random.Random(seed)
    first = image_of(chance)
    second = bytearray(first)
    places = sorted(chance.randrange(len(first)) for _ in range(3))
    for at in places:
        second[at] ^= 1 + chance.randrange(255)
    found, _, _ = compared(first, bytes(second), seed=seed)
    at = places[0]
    assert isinstance(found, Difference)
    assert found.offset == at
    assert first[at : at + SHOWN_BYTES].startswith(found.first)
    assert second[at : at + SHOWN_BYTES].startswith(found.second)
    assert found.first[0] != found.second[0]


def test_what_both_ends_know_to_be_zeros_is_not_read() -> None:
    found, one, other = compared(bytes(8 * CHUNK), bytes(8 * CHUNK), seed=1)
    assert found is None
    assert {call[0] for call in one.calls + other.calls} == {"runs"}


def test_zeros_on_one_side_only_are_a_difference() -> None:
    for first, second in ((bytes(CHUNK), b"\0" * 700 + b"\1" * 3396), (b"\0" * 700 + b"\1" * 3396, bytes(CHUNK))):
        assert compared(first, second, seed=1)[0].offset == 700


def test_an_end_that_can_not_be_read_is_an_error_not_a_difference() -> None:
    image = b"\1" * 8 * CHUNK
    found, _, _ = compared(image, image, seed=3, fail_at=3 * CHUNK)
    assert isinstance(found, Failure)
    assert isinstance(found.value, OSError)


@given(st.binary(min_size=1, max_size=300), st.data())
def test_the_index_of_the_first_byte_that_differs(data: bytes, draw: st.DataObject) -> None:
    at = draw.draw(st.integers(0, len(data) - 1))
    other = bytearray(data)
    other[at] ^= 0x80
    assert first_difference(data, other) == at
    with pytest.raises(ValueError, match="equal"):
        first_difference(data, data)


DIGESTS = tuple(hashlib.sha256(bytes([n])).hexdigest() for n in range(3))
MANIFEST = Manifest("sha256", 2500, 1000, DIGESTS)


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert parse_manifest(MANIFEST.text(), "here") == MANIFEST
    assert parse_manifest(MANIFEST.text().replace(DIGESTS[0], DIGESTS[0].upper()), "here") == MANIFEST


def test_the_first_range_that_differs_is_found() -> None:
    assert MANIFEST.difference(MANIFEST) is None
    assert MANIFEST.difference(Manifest("sha256", 2500, 1000, (DIGESTS[0], DIGESTS[2], DIGESTS[1]))) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[" * 100_000,
        MANIFEST.text().replace("sha256", "md4"),
        MANIFEST.text().replace("2500", "3500"),
        MANIFEST.text().replace("2500", "-1"),
        MANIFEST.text().replace("1000", "0"),
        MANIFEST.text().replace(DIGESTS[1], DIGESTS[1][:-1]),
        MANIFEST.text().replace('"version": 1', '"version": 2'),
    ],
)
def test_what_is_no_manifest_is_refused(text: str) -> None:
    with pytest.raises(InitiatorError, match="no manifest"):
        parse_manifest(text, "here")
