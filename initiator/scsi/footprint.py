"""The blocks that a command may change: what two writes are compared by (SBC-3 section 5)."""

from __future__ import annotations

import struct
from typing import Final

Footprint = tuple[int, int]
"""The first block that may change, and the one after the last."""

NOTHING: Final[Footprint] = (0, 0)
EVERYTHING: Final[Footprint] = (0, 1 << 65)
"""All blocks, and what is not a block: mode pages, reservations, what nobody knows."""

_READING: Final = frozenset(
    {
        *(0x00, 0x03, 0x08, 0x12, 0x1A, 0x25, 0x28, 0x2F, 0x34, 0x35, 0x37, 0x3C, 0x4D, 0x5A, 0x5E, 0x84, 0x88, 0x8F),
        *(0x90, 0x91, 0x9E, 0xA0, 0xA3, 0xA8, 0xAF, 0xB7),
    }
)
"""Commands that change nothing: reads, questions, and those about the caches."""

_FORMS: Final = {
    0x2A: (struct.Struct(">2xIxH"), False),
    0x2E: (struct.Struct(">2xIxH"), False),
    0x41: (struct.Struct(">2xIxH"), True),
    0x8A: (struct.Struct(">2xQI"), False),
    0x8E: (struct.Struct(">2xQI"), False),
    0x93: (struct.Struct(">2xQI"), True),
    0xAA: (struct.Struct(">2xII"), False),
    0xAE: (struct.Struct(">2xII"), False),
    0x89: (struct.Struct(">2xQ3xB"), False),
}
"""Address and number of blocks of the commands that write; whether 0 blocks mean "up to the last"."""

_UNMAP: Final = 0x42
_UNMAP_HEADER_BYTES: Final = 8
_UNMAP_DESCRIPTOR: Final = struct.Struct(">QI4x")


def footprint(cdb: bytes, data_out: bytes | memoryview = b"") -> Footprint:
    """Give the range of blocks that a command may change; for a list of ranges the one that holds them all.

    A command that this table does not know may change everything. Never raises.
    """
    code = cdb[0] if cdb else 0xFF
    if code in _READING:
        return NOTHING
    if code == _UNMAP:
        return _unmapped(data_out)
    form = _FORMS.get(code)
    if form is None or len(cdb) < form[0].size:
        return EVERYTHING
    lba, blocks = form[0].unpack_from(cdb)
    if not blocks and form[1]:
        return lba, EVERYTHING[1]
    return (lba, lba + blocks) if blocks else NOTHING


def overlap(one: Footprint, other: Footprint) -> bool:
    """Whether two footprints have a block in common."""
    return one[0] < other[1] and other[0] < one[1]


def _unmapped(data: bytes | memoryview) -> Footprint:
    whole = len(data) - len(data) % _UNMAP_DESCRIPTOR.size + _UNMAP_HEADER_BYTES
    first, end = EVERYTHING[1], 0
    for at in range(_UNMAP_HEADER_BYTES, min(whole, len(data) - _UNMAP_DESCRIPTOR.size + 1), _UNMAP_DESCRIPTOR.size):
        lba, blocks = _UNMAP_DESCRIPTOR.unpack_from(data, at)
        if blocks:
            first, end = min(first, lba), max(end, lba + blocks)
    return (first, end) if first < end else NOTHING
