from __future__ import annotations

import struct

import pytest

from initiator.scsi import cdb
from initiator.scsi.footprint import EVERYTHING, NOTHING, footprint, overlap


@pytest.mark.parametrize(
    ("command", "expected"),
    [
        (cdb.write(7, 3), (7, 10)),
        (cdb.write(1 << 40, 5), (1 << 40, (1 << 40) + 5)),
        (cdb.write(7, 0), NOTHING),
        (struct.pack(">BBIBHB", 0x2E, 0, 7, 0, 3, 0), (7, 10)),
        (struct.pack(">BBIBHB", 0x41, 0, 7, 0, 3, 0), (7, 10)),
        (struct.pack(">BBIBHB", 0x41, 0, 7, 0, 0, 0), (7, EVERYTHING[1])),
        (struct.pack(">BBQIBB", 0x93, 0, 7, 3, 0, 0), (7, 10)),
        (struct.pack(">BBIIBB", 0xAA, 0, 7, 3, 0, 0), (7, 10)),
        (struct.pack(">BBQBBBBBB", 0x89, 0, 7, 0, 0, 0, 3, 0, 0), (7, 10)),
        (cdb.read(7, 3), NOTHING),
        (cdb.synchronize_cache(), NOTHING),
        (cdb.TEST_UNIT_READY, NOTHING),
        (cdb.inquiry(255), NOTHING),
        (bytes((0x5F, 0)) + bytes(8), EVERYTHING),
        (bytes((0x15,)) + bytes(5), EVERYTHING),
        (b"\xc1" + bytes(9), EVERYTHING),
        (b"", EVERYTHING),
        (b"\x8a\0", EVERYTHING),
    ],
)
def test_a_command_changes_the_blocks_that_its_cdb_names(command: bytes, expected: tuple[int, int]) -> None:
    assert footprint(command) == expected


def test_an_unmap_changes_at_most_what_lies_between_its_first_and_its_last_block() -> None:
    ranges = struct.pack(">QI4x", 100, 8) + struct.pack(">QI4x", 20, 1) + struct.pack(">QI4x", 5000, 0)
    data = struct.pack(">HH4x", 6 + len(ranges), len(ranges)) + ranges
    command = struct.pack(">BBIBHB", 0x42, 0, 0, 0, len(data), 0)
    assert footprint(command, data) == (20, 108)
    assert footprint(command, data[:-1]) == (20, 108)
    assert footprint(command, data[:8]) == NOTHING
    assert footprint(command, memoryview(data)) == (20, 108)


def test_footprints_overlap_where_they_share_a_block() -> None:
    assert overlap((0, 2), (1, 3))
    assert not overlap((0, 2), (2, 3))
    assert not overlap(NOTHING, (5, 9))
    assert overlap(EVERYTHING, (5, 9))
