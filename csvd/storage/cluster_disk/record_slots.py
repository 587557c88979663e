"""The two record slots: a header of a block, and the data after it. PURE. See docs/cluster-disk.md.

A write goes to the older slot and leaves the newer one alone. So a write that the power, or the end of the process, has
torn costs nothing: it was never acknowledged, and the slot before it is whole. The checksum of the data is in the
header: one cannot be from one write, and the other from another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

import xxhash
from construct import Bytes, Const, ConstructError, Int32ub, Int64ub, Struct

from csvd.shared_disk import RecordSlot
from csvd.storage.cluster_disk.errors import AreaError
from csvd.storage.cluster_disk.layout import BLOCK_BYTES, SLOT_BYTES, VERSION, is_sound, sealed

MOST_DATA_BYTES: Final = SLOT_BYTES - BLOCK_BYTES

_MAGIC: Final = b"csvdrecs"

_HEADER: Final = Struct(
    "magic" / Const(_MAGIC),
    "version" / Const(VERSION, Int32ub),
    "length_bytes" / Int32ub,
    "uuid" / Bytes(16),
    "epoch" / Int64ub,
    "sequence" / Int64ub,
    "digest" / Bytes(16),
)


@dataclass(frozen=True, slots=True)
class Header:
    """What a slot says of its data.

    Args:
        epoch, sequence: as of `RecordSlot`.
        length_bytes, digest: of the data; the digest is XXH3 of 128 bits.
    """

    epoch: int
    sequence: int
    length_bytes: int
    digest: bytes

    @property
    def order(self) -> tuple[int, int]:
        """The higher, the newer."""
        return self.epoch, self.sequence

    def fits(self, data: bytes) -> bool:
        """Whether this is the data that was written with it."""
        return len(data) == self.length_bytes and xxhash.xxh3_128_digest(data) == self.digest


def pack_slot(slot: RecordSlot, uuid: UUID) -> bytes:
    """A slot as it is written: whole blocks, from the start of the slot.

    Raises:
        AreaError: it is too long.
    """
    if len(slot.data) > MOST_DATA_BYTES:
        raise AreaError(f"{len(slot.data)} bytes of records are too many", why=f"a slot has {MOST_DATA_BYTES}")
    header = _HEADER.build(
        {
            "length_bytes": len(slot.data),
            "uuid": uuid.bytes,
            "epoch": slot.epoch,
            "sequence": slot.sequence,
            "digest": xxhash.xxh3_128_digest(slot.data),
        }
    )
    return sealed(header) + slot.data + bytes(-len(slot.data) % BLOCK_BYTES)


def parse_header(block: bytes, uuid: UUID) -> Header | None:
    """Read the header of a slot; None for one that was never written in this area, or whose write was torn."""
    if not is_sound(block, _MAGIC):
        return None
    try:
        found = _HEADER.parse(block)
    except ConstructError:
        return None
    if found.uuid != uuid.bytes or found.length_bytes > MOST_DATA_BYTES:
        return None
    return Header(found.epoch, found.sequence, found.length_bytes, found.digest)


def data_blocks_bytes(length_bytes: int) -> int:
    """How many bytes of whole blocks have so much data."""
    return length_bytes + -length_bytes % BLOCK_BYTES


def newest_first(headers: Sequence[Header | None]) -> list[int]:
    """The numbers of the slots that have a header, the newest first."""
    found = [(header.order, number) for number, header in enumerate(headers) if header is not None]
    return [number for _, number in sorted(found, reverse=True)]
