"""The layout of the area: superblock and owner block. PURE. docs/cluster-disk.md tells it with every offset.

Integers are big-endian. Every structure is in the first 512 bytes of a block of 4096, whose rest is zeros: a disk
writes a sector whole or not at all, whichever of the two its sectors are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import crc32c
from construct import Bytes, Const, ConstructError, GreedyString, Int8ub, Int32ub, Int64ub, Padded, Prefixed, Struct

from csvd.shared_disk import OwnerBlock
from csvd.storage.cluster_disk.errors import AreaError

BLOCK_BYTES: Final = 4096
SECTOR_BYTES: Final = 512
VERSION: Final = 1

SUPERBLOCK_OFFSET: Final = 0
OWNER_OFFSET: Final = 4096
MEMBERS_OFFSET: Final = 8192
"""A block for each of the 32 members, which this version leaves zeros."""
COPY_OFFSET: Final = 0xFF000
"""Of the second superblock: the last block of the first mebibyte."""
SLOT_OFFSETS: Final = (1 << 20, 6 << 20)
SLOT_BYTES: Final = 5 << 20
DATA_OFFSET: Final = 16 << 20
"""Where the area ends, and the volumes begin."""

LONGEST_NAME_BYTES: Final = 63
_CHECKED_BYTES: Final = SECTOR_BYTES - 4

_SUPERBLOCK_MAGIC: Final = b"csvddisk"
_OWNER_MAGIC: Final = b"csvdownr"

_HEAD: Final = Struct("magic" / Bytes(8), "version" / Int32ub)

_SUPERBLOCK: Final = Struct(
    "magic" / Const(_SUPERBLOCK_MAGIC),
    "version" / Const(VERSION, Int32ub),
    "block_bytes" / Int32ub,
    "uuid" / Bytes(16),
    "name" / Padded(64, Prefixed(Int8ub, GreedyString("utf8"))),
    "size_bytes" / Int64ub,
    "owner_offset" / Int64ub,
    "members_offset" / Int64ub,
    "first_slot_offset" / Int64ub,
    "second_slot_offset" / Int64ub,
    "slot_bytes" / Int64ub,
    "data_offset" / Int64ub,
    "copy_offset" / Int64ub,
)

_PLACES: Final = {
    "block_bytes": BLOCK_BYTES,
    "owner_offset": OWNER_OFFSET,
    "members_offset": MEMBERS_OFFSET,
    "first_slot_offset": SLOT_OFFSETS[0],
    "second_slot_offset": SLOT_OFFSETS[1],
    "slot_bytes": SLOT_BYTES,
    "data_offset": DATA_OFFSET,
    "copy_offset": COPY_OFFSET,
}
"""What this version has where. It is written down, so that a later one may have it elsewhere."""

_OWNER: Final = Struct(
    "magic" / Const(_OWNER_MAGIC),
    "version" / Const(VERSION, Int32ub),
    "number" / Int8ub,
    "is_released" / Int8ub,
    "reserved" / Const(bytes(2)),
    "uuid" / Bytes(16),
    "epoch" / Int64ub,
    "node" / Padded(64, Prefixed(Int8ub, GreedyString("utf8"))),
)


@dataclass(frozen=True, slots=True)
class Superblock:
    """What the area says of itself.

    Args:
        uuid: made when it was formatted.
        name: of the disk, for people; the register has the one that counts.
        size_bytes: of the disk when it was formatted.
    """

    uuid: UUID
    name: str
    size_bytes: int


def pack_superblock(superblock: Superblock) -> bytes:
    """The block.

    Raises:
        AreaError: the name is too long.
    """
    if len(superblock.name.encode()) > LONGEST_NAME_BYTES:
        raise AreaError(f"the name of a disk has {LONGEST_NAME_BYTES} bytes at most", where=superblock.name)
    return sealed(
        _SUPERBLOCK.build(
            _PLACES | {"uuid": superblock.uuid.bytes, "name": superblock.name, "size_bytes": superblock.size_bytes}
        )
    )


def parse_superblock(block: bytes, where: str) -> Superblock | None:
    """Read a superblock; None where there is none, or a damaged one.

    Raises:
        AreaError: it is sound, and of a format that this program does not know.
    """
    if not is_sound(block, _SUPERBLOCK_MAGIC):
        return None
    version = _HEAD.parse(block).version
    found = _parsed(_SUPERBLOCK, block) if version == VERSION else None
    if found is None or _places(found) != _PLACES:
        raise AreaError(
            "the area of the disk is of a format that this csvd does not know",
            where=where,
            why=f"its version is {version}, this program's is {VERSION}",
            hint="use the csvd that formatted it, or a newer one",
        )
    return Superblock(UUID(bytes=found.uuid), found.name, found.size_bytes)


def _places(found: Any) -> dict[str, int]:
    return {name: found[name] for name in _PLACES}


def pack_owner(owner: OwnerBlock, uuid: UUID) -> bytes:
    """The owner block.

    Raises:
        AreaError: the id of the node is too long.
    """
    if len(owner.node.encode()) > LONGEST_NAME_BYTES:
        raise AreaError(f"the id of a node has {LONGEST_NAME_BYTES} bytes at most", where=owner.node)
    return sealed(
        _OWNER.build(
            {
                "number": owner.number,
                "is_released": int(owner.is_released),
                "uuid": uuid.bytes,
                "epoch": owner.epoch,
                "node": owner.node,
            }
        )
    )


def parse_owner(block: bytes, uuid: UUID, where: str) -> OwnerBlock:
    """Read an owner block.

    Raises:
        AreaError: it is damaged, or that of another area: who may act is not known, and so nobody may.
    """
    found = _parsed(_OWNER, block) if is_sound(block, _OWNER_MAGIC) else None
    if found is None or found.uuid != uuid.bytes or found.is_released > 1:
        raise AreaError(
            "the owner block of the disk is damaged",
            where=where,
            why="it is that of another area" if found is not None else "its checksum is wrong",
            hint="see docs/cluster-disk.md, When something is damaged",
        )
    return OwnerBlock(found.epoch, found.node, found.number, bool(found.is_released))


def sealed(content: bytes) -> bytes:
    """A block of it, with the CRC-32C of the rest in the last four bytes of its first sector."""
    body = content.ljust(_CHECKED_BYTES, b"\0")
    return (body + crc32c.crc32c(body).to_bytes(4, "big")).ljust(BLOCK_BYTES, b"\0")


def is_sound(block: bytes, magic: bytes) -> bool:
    """Whether a block is one of this kind, as it was sealed."""
    sum_ = int.from_bytes(block[_CHECKED_BYTES:SECTOR_BYTES], "big")
    return block.startswith(magic) and crc32c.crc32c(block[:_CHECKED_BYTES]) == sum_


def _parsed(kind: Any, block: bytes) -> Any:
    try:
        return kind.parse(block)
    except (ConstructError, UnicodeDecodeError):
        return None
