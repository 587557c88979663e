from __future__ import annotations

import itertools
import re
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from csvd.shared_disk import MAXIMUM_RECORDS_BYTES, OwnerBlock
from csvd.storage.cluster_disk import layout, record_slots
from csvd.storage.cluster_disk.errors import AreaError
from csvd.storage.cluster_disk.layout import (
    BLOCK_BYTES,
    Superblock,
    pack_owner,
    pack_superblock,
    parse_owner,
    parse_superblock,
)

GUIDE = Path(__file__).parents[4] / "docs" / "cluster-disk.md"
WHERE = "/srv/shared.img"
HERE, ELSEWHERE = UUID(int=7), UUID(int=8)
SUPERBLOCK = Superblock(HERE, "shared", 1 << 30)
OWNER = OwnerBlock(epoch=9, node="node-1", number=3, is_released=True)


def rows(heading: str) -> list[list[str]]:
    """The cells of the first table under a heading of the guide."""
    text = GUIDE.read_text().split(heading, 1)[1]
    table = re.search(r"^\|(?:.*\n\|)*.*$", text, re.MULTILINE)
    assert table is not None
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in table[0].splitlines()[2:]]


def number(text: str) -> int:
    return int(text.replace(",", ""))


def fields(structure: Any) -> list[tuple[int, int, str]]:
    """Offset, length and name of each field of a layout."""
    lengths = [part.sizeof() for part in structure.subcons]
    ends = itertools.accumulate(lengths)
    return [
        (end - length, length, part.name) for end, length, part in zip(ends, lengths, structure.subcons, strict=True)
    ]


@pytest.mark.parametrize(
    ("heading", "structure"),
    [
        ("## Superblock", layout._SUPERBLOCK),
        ("## Owner block", layout._OWNER),
        ("## Record slots", record_slots._HEADER),
    ],
)
def test_the_guide_tells_every_field_of_a_structure(heading: str, structure: Any) -> None:
    told = rows(heading)
    names = [row for row in told if row[2]]
    assert [(number(row[0]), number(row[1]), row[2]) for row in names] == fields(structure)
    sums = [row for row in told if "CRC-32C" in row[3]]
    assert [row[:2] for row in sums] == [["508", "4"]]
    assert names[0][3] == f"`{fields(structure) and structure.subcons[0].subcon.value.decode()}`"


def test_the_guide_tells_the_places_that_the_superblock_has() -> None:
    told = {row[2]: row[3] for row in rows("## Superblock")}
    assert {name: number(told[name]) for name in layout._PLACES} == layout._PLACES


def test_the_guide_tells_the_area_without_a_gap() -> None:
    told = rows("# The format of a shared disk")
    places = [number(row[0]) for row in told]
    ends = [at + number(row[1]) for at, row in zip(places, told[:-1], strict=False)]
    assert ends == places[1:]
    assert places == [
        layout.SUPERBLOCK_OFFSET,
        layout.OWNER_OFFSET,
        layout.MEMBERS_OFFSET,
        layout.MEMBERS_OFFSET + 32 * BLOCK_BYTES,
        layout.COPY_OFFSET,
        *layout.SLOT_OFFSETS,
        layout.SLOT_OFFSETS[1] + layout.SLOT_BYTES,
        layout.DATA_OFFSET,
    ]
    assert f"{record_slots.MOST_DATA_BYTES:,} bytes of data" in GUIDE.read_text()


def test_the_slots_have_room_for_all_that_a_coordinator_may_keep() -> None:
    assert record_slots.MOST_DATA_BYTES >= 4 << 20
    assert record_slots.MOST_DATA_BYTES >= MAXIMUM_RECORDS_BYTES


@pytest.mark.parametrize("name", ["", "x", "disk", "ß" * 31])
def test_a_superblock_is_read_as_it_was_written(name: str) -> None:
    superblock = Superblock(HERE, name, 1 << 50)
    block = pack_superblock(superblock)
    assert len(block) == BLOCK_BYTES
    assert not any(block[512:])
    assert parse_superblock(block, WHERE) == superblock


@pytest.mark.parametrize("owner", [OwnerBlock(), OWNER, OwnerBlock((1 << 63) + 5, "n" * 63, 32)])
def test_an_owner_block_is_read_as_it_was_written(owner: OwnerBlock) -> None:
    block = pack_owner(owner, HERE)
    assert len(block) == BLOCK_BYTES
    assert not any(block[512:]), "a step compares the first 512 bytes"
    assert parse_owner(block, HERE, WHERE) == owner


def test_what_is_too_long_is_refused() -> None:
    with pytest.raises(AreaError, match="63 bytes at most"):
        pack_superblock(Superblock(HERE, "x" * 64, 1 << 30))
    with pytest.raises(AreaError, match="63 bytes at most"):
        pack_owner(OwnerBlock(1, "ß" * 32, 1), HERE)


def test_any_damaged_byte_is_found() -> None:
    superblock, owner = pack_superblock(SUPERBLOCK), pack_owner(OWNER, HERE)
    for at in range(512):
        damage = bytes([superblock[at] ^ 0x40])
        assert parse_superblock(superblock[:at] + damage + superblock[at + 1 :], WHERE) is None
        damage = bytes([owner[at] ^ 0x01])
        with pytest.raises(AreaError, match="checksum is wrong"):
            parse_owner(owner[:at] + damage + owner[at + 1 :], HERE, WHERE)
    assert parse_superblock(bytes(BLOCK_BYTES), WHERE) is None
    with pytest.raises(AreaError, match="damaged"):
        parse_owner(bytes(BLOCK_BYTES), HERE, WHERE)


def sealed(block: bytes, at: int, value: bytes) -> bytes:
    """A block with other bytes somewhere, and the sum that goes with them."""
    return layout.sealed((block[:at] + value + block[at + len(value) :])[: layout._CHECKED_BYTES])


@pytest.mark.parametrize(
    ("at", "value"), [(8, bytes([0, 0, 0, 2])), (144, bytes([0, 0, 0, 1, 0, 0, 0, 0])), (32, b"\x02\xff\xff")]
)
def test_another_format_is_told(at: int, value: bytes) -> None:
    with pytest.raises(AreaError, match="a format that this csvd does not know") as refused:
        parse_superblock(sealed(pack_superblock(SUPERBLOCK), at, value), WHERE)
    assert str(refused.value).startswith(WHERE) or WHERE in str(refused.value)


def test_the_owner_block_of_another_area_does_not_count() -> None:
    with pytest.raises(AreaError, match="that of another area"):
        parse_owner(pack_owner(OWNER, ELSEWHERE), HERE, WHERE)
    for at, value in ((8, bytes([0, 0, 0, 2])), (13, b"\x02"), (14, b"\x01"), (40, b"\x40"), (40, b"\x01\xff")):
        with pytest.raises(AreaError, match="damaged"):
            parse_owner(sealed(pack_owner(OWNER, HERE), at, value), HERE, WHERE)
