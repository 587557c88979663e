"""CDBs: one function a command. Each gives the bytes of the CDB, without padding."""

from __future__ import annotations

import struct
from typing import Final

_CDB10 = struct.Struct(">BBIBHB")
_CDB16 = struct.Struct(">BBQIBB")

TEST_UNIT_READY: Final = bytes(6)
"""SPC-4 section 6.47."""

FUA: Final = 0x08
"""Force unit access, in byte 1 of READ and WRITE (SBC-3 section 5.8)."""

NAMES: Final = {
    0x00: "TEST UNIT READY",
    0x03: "REQUEST SENSE",
    0x08: "READ(6)",
    0x0A: "WRITE(6)",
    0x12: "INQUIRY",
    0x1A: "MODE SENSE(6)",
    0x25: "READ CAPACITY(10)",
    0x28: "READ(10)",
    0x2A: "WRITE(10)",
    0x35: "SYNCHRONIZE CACHE(10)",
    0x41: "WRITE SAME(10)",
    0x42: "UNMAP",
    0x55: "MODE SELECT(10)",
    0x5A: "MODE SENSE(10)",
    0x5E: "PERSISTENT RESERVE IN",
    0x5F: "PERSISTENT RESERVE OUT",
    0x88: "READ(16)",
    0x89: "COMPARE AND WRITE",
    0x8A: "WRITE(16)",
    0x8F: "VERIFY(16)",
    0x91: "SYNCHRONIZE CACHE(16)",
    0x93: "WRITE SAME(16)",
    0x9E: "SERVICE ACTION IN(16)",
    0xA0: "REPORT LUNS",
    0xA3: "MAINTENANCE IN",
}


def name_of(cdb: bytes) -> str:
    """Give the name of a CDB's command, for messages."""
    if cdb[:1] == b"\x9e" and cdb[1:2] and cdb[1] & 0x1F == 0x10:
        return "READ CAPACITY(16)"
    return NAMES.get(cdb[0], f"SCSI command {cdb[0]:#04x}") if cdb else "SCSI command"


def inquiry(allocation_length: int, *, page: int | None = None) -> bytes:
    """INQUIRY, standard data or a VPD page (SPC-4 section 6.6)."""
    return struct.pack(">BBBHB", 0x12, 0 if page is None else 1, page or 0, allocation_length, 0)


def read_capacity_10() -> bytes:
    """READ CAPACITY(10) (SBC-3 section 5.15)."""
    return _CDB10.pack(0x25, 0, 0, 0, 0, 0)


def read_capacity_16(allocation_length: int = 32) -> bytes:
    """READ CAPACITY(16) (SBC-3 section 5.16)."""
    return _CDB16.pack(0x9E, 0x10, 0, allocation_length, 0, 0)


def report_luns(allocation_length: int) -> bytes:
    """REPORT LUNS, all addressable logical units (SPC-4 section 6.33)."""
    return struct.pack(">BBBBBBIBB", 0xA0, 0, 0, 0, 0, 0, allocation_length, 0, 0)


def mode_sense_6(page: int, allocation_length: int = 255) -> bytes:
    """MODE SENSE(6), current values, without block descriptors (SPC-4 section 6.13)."""
    return struct.pack(">BBBBBB", 0x1A, 0x08, page, 0, allocation_length, 0)


def read(lba: int, blocks: int) -> bytes:
    """READ(10), or READ(16) where the address or the count needs it (SBC-3 sections 5.10 and 5.13)."""
    if lba <= 0xFFFFFFFF and blocks <= 0xFFFF:
        return _CDB10.pack(0x28, 0, lba, 0, blocks, 0)
    return _CDB16.pack(0x88, 0, lba, blocks, 0, 0)


def write(lba: int, blocks: int, *, fua: bool = False) -> bytes:
    """WRITE(10), or WRITE(16) where the address or the count needs it (SBC-3 sections 5.32 and 5.34)."""
    flags = FUA if fua else 0
    if lba <= 0xFFFFFFFF and blocks <= 0xFFFF:
        return _CDB10.pack(0x2A, flags, lba, 0, blocks, 0)
    return _CDB16.pack(0x8A, flags, lba, blocks, 0, 0)


def synchronize_cache(lba: int = 0, blocks: int = 0) -> bytes:
    """SYNCHRONIZE CACHE(10) or (16); 0 blocks means up to the last (SBC-3 sections 5.25 and 5.26)."""
    if lba <= 0xFFFFFFFF and blocks <= 0xFFFF:
        return _CDB10.pack(0x35, 0, lba, 0, blocks, 0)
    return _CDB16.pack(0x91, 0, lba, blocks, 0, 0)
