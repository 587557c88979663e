"""CDBs of the block commands, and a small logical unit, of which a test may look at every byte."""

from __future__ import annotations

import struct
from typing import Any

from csvd.scsi.logical_unit import LogicalUnit
from tests.unit.scsi import application_client

BLOCKS = 8192


def a_unit(**overrides: Any) -> LogicalUnit:
    """A 4 MiB logical unit of 512-byte blocks."""
    return application_client.a_unit(**{"block_count": BLOCKS, **overrides})


def cdb_10(operation_code: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBIBHB", operation_code, flags, lba, 0, blocks, 0)


def cdb_12(operation_code: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBIIBB", operation_code, flags, lba, blocks, 0, 0)


def cdb_16(operation_code: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBQIBB", operation_code, flags, lba, blocks, 0, 0)


def compare_and_write(lba: int, blocks: int, flags: int = 0) -> bytes:
    return struct.pack(">BBQHBBBB", 0x89, flags, lba, 0, 0, blocks, 0, 0)


def write_atomic(lba: int, blocks: int, flags: int = 0, boundary: int = 0) -> bytes:
    return struct.pack(">BBQHHBB", 0x9C, flags, lba, boundary, blocks, 0, 0)


def unmap(length: int, flags: int = 0) -> bytes:
    return struct.pack(">BBIBHB", 0x42, flags, 0, 0, length, 0)


def unmap_list(*ranges: tuple[int, int], data_length: int | None = None, descriptor_length: int | None = None) -> bytes:
    descriptors = b"".join(struct.pack(">QII", lba, blocks, 0) for lba, blocks in ranges)
    length = len(descriptors) if descriptor_length is None else descriptor_length
    whole = 6 + length if data_length is None else data_length
    return struct.pack(">HHI", whole, length, 0) + descriptors


def get_lba_status(lba: int, allocation_length: int = 1 << 16) -> bytes:
    return struct.pack(">BBQIBB", 0x9E, 0x12, lba, allocation_length, 0, 0)
