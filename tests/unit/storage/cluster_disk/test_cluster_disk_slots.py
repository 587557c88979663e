from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csvd.shared_disk import RecordSlot
from csvd.storage.cluster_disk.errors import AreaError
from csvd.storage.cluster_disk.layout import BLOCK_BYTES, SLOT_BYTES
from csvd.storage.cluster_disk.record_slots import (
    MOST_DATA_BYTES,
    Header,
    data_blocks_bytes,
    newest_first,
    pack_slot,
    parse_header,
)

HERE = UUID(int=7)


def read(stored: bytes) -> RecordSlot | None:
    """What a slot is, or None where its write was torn."""
    header = parse_header(stored[:BLOCK_BYTES], HERE)
    if header is None:
        return None
    data = stored[BLOCK_BYTES : BLOCK_BYTES + data_blocks_bytes(header.length_bytes)][: header.length_bytes]
    return RecordSlot(header.epoch, header.sequence, data) if header.fits(data) else None


slots = st.builds(
    RecordSlot,
    epoch=st.integers(0, 2**63),
    sequence=st.integers(0, 2**63),
    data=st.one_of(st.binary(max_size=64), st.binary(min_size=4090, max_size=4100), st.binary(max_size=20000)),
)


@given(slots)
def test_a_slot_is_read_as_it_was_written(slot: RecordSlot) -> None:
    written = pack_slot(slot, HERE)
    assert len(written) % BLOCK_BYTES == 0
    assert len(written) <= SLOT_BYTES
    assert read(written) == slot


@given(slots, slots, st.sets(st.integers(0, 60)))
def test_a_write_of_which_some_sectors_came_and_others_not_is_the_one_or_the_other_or_torn(
    old: RecordSlot, new: RecordSlot, came: set[int]
) -> None:
    before = pack_slot(old, HERE).ljust(64 * 512, b"\0")
    after = pack_slot(new, HERE)
    stored = bytearray(before)
    for sector in came:
        piece = after[sector * 512 : sector * 512 + 512]
        stored[sector * 512 : sector * 512 + len(piece)] = piece
    assert read(bytes(stored)) in (None, old, new)


def test_the_longest_and_what_is_longer() -> None:
    longest = RecordSlot(1, 1, b"x" * MOST_DATA_BYTES)
    written = pack_slot(longest, HERE)
    assert len(written) == SLOT_BYTES
    assert read(written) == longest
    with pytest.raises(AreaError, match="too many"):
        pack_slot(RecordSlot(1, 1, b"x" * (MOST_DATA_BYTES + 1)), HERE)


def test_what_was_never_written_or_in_another_area_is_no_slot() -> None:
    assert parse_header(bytes(BLOCK_BYTES), HERE) is None
    written = pack_slot(RecordSlot(1, 1, b"data"), UUID(int=8))
    assert parse_header(written[:BLOCK_BYTES], HERE) is None


def test_a_header_whose_data_is_that_of_another_write_does_not_fit() -> None:
    one, other = pack_slot(RecordSlot(1, 1, b"one!"), HERE), pack_slot(RecordSlot(1, 2, b"two!"), HERE)
    assert read(one[:BLOCK_BYTES] + other[BLOCK_BYTES:]) is None


def test_the_newest_comes_first() -> None:
    def header(epoch: int, sequence: int) -> Header:
        return Header(epoch, sequence, 0, b"")

    assert newest_first([None, None]) == []
    assert newest_first([header(1, 1), None]) == [0]
    assert newest_first([header(1, 9), header(2, 1)]) == [1, 0]
    assert newest_first([header(2, 2), header(2, 1)]) == [0, 1]
