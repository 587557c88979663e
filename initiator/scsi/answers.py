"""Data-In of the other commands: capacity, LUNs, mode pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from initiator.errors import MalformedAnswer
from initiator.scsi import lun

CACHING_PAGE: Final = 0x08
"""SBC-3 section 6.4.5."""

LUN_LIST_LIMIT: Final = 16384
"""LUNs that REPORT LUNS is asked for: every one that flat addressing can name."""


@dataclass(frozen=True, slots=True)
class Capacity:
    """READ CAPACITY: the size of a disk and of its blocks (SBC-3 sections 5.15 and 5.16)."""

    block_count: int
    block_bytes: int
    physical_block_bytes: int = 0
    """Bytes of a physical block; the same as ``block_bytes`` where the target does not say."""
    lowest_aligned_lba: int = 0
    provisioning_management: bool = False
    """LBPME: the disk may be thin, and UNMAP means something."""
    read_zeros: bool = False
    """LBPRZ: unmapped blocks read as zeros."""

    @property
    def size_bytes(self) -> int:
        """Blocks times block length."""
        return self.block_count * self.block_bytes


def _block_bytes(value: int) -> int:
    if not 1 <= value <= 1 << 20:
        raise MalformedAnswer(f"READ CAPACITY says that a block has {value} bytes")
    return value


def parse_capacity_10(data: bytes) -> Capacity | None:
    """Parse READ CAPACITY(10); None means that the disk is too large for it and READ CAPACITY(16) is needed.

    Raises:
        MalformedAnswer: fewer than 8 bytes, or an impossible block length.
    """
    if len(data) < 8:
        raise MalformedAnswer(f"READ CAPACITY(10) data of {len(data)} bytes")
    last = int.from_bytes(data[0:4], "big")
    size = _block_bytes(int.from_bytes(data[4:8], "big"))
    return None if last == 0xFFFFFFFF else Capacity(last + 1, size, size)


def parse_capacity_16(data: bytes) -> Capacity:
    """Parse READ CAPACITY(16).

    Raises:
        MalformedAnswer: fewer than 12 bytes, or an impossible block length.
    """
    if len(data) < 12:
        raise MalformedAnswer(f"READ CAPACITY(16) data of {len(data)} bytes")
    size = _block_bytes(int.from_bytes(data[8:12], "big"))
    data = bytes(data).ljust(32, b"\0")
    return Capacity(
        block_count=int.from_bytes(data[0:8], "big") + 1,
        block_bytes=size,
        physical_block_bytes=size << (data[13] & 0xF),
        lowest_aligned_lba=int.from_bytes(data[14:16], "big") & 0x3FFF,
        provisioning_management=bool(data[14] & 0x80),
        read_zeros=bool(data[14] & 0x40),
    )


def parse_luns(data: bytes) -> tuple[list[int], int]:
    """Parse REPORT LUNS; give the LUNs that are in the data, and the bytes that the whole list would take.

    Raises:
        MalformedAnswer: fewer than 8 bytes, or a list that is not of whole entries.
    """
    if len(data) < 8:
        raise MalformedAnswer(f"REPORT LUNS data of {len(data)} bytes")
    length = int.from_bytes(data[0:4], "big")
    if length % 8:
        raise MalformedAnswer(f"a LUN list of {length} bytes")
    end = min(len(data), 8 + length) // 8 * 8
    return [lun.decode(int.from_bytes(data[at : at + 8], "big")) for at in range(8, end, 8)], 8 + length


def parse_write_cache(data: bytes) -> bool:
    """Parse MODE SENSE(6) of the caching page; give WCE: whether the disk has a volatile write cache in use.

    Raises:
        MalformedAnswer: there is no caching page in the data.
    """
    at = 4 + data[3] if len(data) >= 4 else 0
    if len(data) < at + 3 or data[at] & 0x3F != CACHING_PAGE:
        raise MalformedAnswer("MODE SENSE gave no caching page")
    return bool(data[at + 2] & 0x04)
