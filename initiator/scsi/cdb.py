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
    0x15: "MODE SELECT(6)",
    0x1B: "START STOP UNIT",
    0x25: "READ CAPACITY(10)",
    0x28: "READ(10)",
    0x2A: "WRITE(10)",
    0x2F: "VERIFY(10)",
    0x35: "SYNCHRONIZE CACHE(10)",
    0x41: "WRITE SAME(10)",
    0x42: "UNMAP",
    0x4D: "LOG SENSE",
    0x55: "MODE SELECT(10)",
    0x5A: "MODE SENSE(10)",
    0x5E: "PERSISTENT RESERVE IN",
    0x5F: "PERSISTENT RESERVE OUT",
    0x83: "THIRD-PARTY COPY OUT",
    0x84: "THIRD-PARTY COPY IN",
    0x88: "READ(16)",
    0x89: "COMPARE AND WRITE",
    0x8A: "WRITE(16)",
    0x8F: "VERIFY(16)",
    0x91: "SYNCHRONIZE CACHE(16)",
    0x93: "WRITE SAME(16)",
    0x9E: "SERVICE ACTION IN(16)",
    0xA0: "REPORT LUNS",
    0xA3: "MAINTENANCE IN",
    0xA4: "MAINTENANCE OUT",
}

_SERVICE_ACTIONS: Final = {
    (0x5E, 0x00): "PERSISTENT RESERVE IN, READ KEYS",
    (0x5E, 0x01): "PERSISTENT RESERVE IN, READ RESERVATION",
    (0x5E, 0x02): "PERSISTENT RESERVE IN, REPORT CAPABILITIES",
    (0x5E, 0x03): "PERSISTENT RESERVE IN, READ FULL STATUS",
    (0x5F, 0x00): "PERSISTENT RESERVE OUT, REGISTER",
    (0x5F, 0x01): "PERSISTENT RESERVE OUT, RESERVE",
    (0x5F, 0x02): "PERSISTENT RESERVE OUT, RELEASE",
    (0x5F, 0x03): "PERSISTENT RESERVE OUT, CLEAR",
    (0x5F, 0x04): "PERSISTENT RESERVE OUT, PREEMPT",
    (0x5F, 0x05): "PERSISTENT RESERVE OUT, PREEMPT AND ABORT",
    (0x5F, 0x06): "PERSISTENT RESERVE OUT, REGISTER AND IGNORE EXISTING KEY",
    (0x5F, 0x07): "PERSISTENT RESERVE OUT, REGISTER AND MOVE",
    (0x83, 0x00): "EXTENDED COPY(LID1)",
    (0x83, 0x01): "EXTENDED COPY(LID4)",
    (0x83, 0x10): "POPULATE TOKEN",
    (0x83, 0x11): "WRITE USING TOKEN",
    (0x84, 0x00): "RECEIVE COPY STATUS(LID1)",
    (0x84, 0x03): "RECEIVE COPY OPERATING PARAMETERS",
    (0x84, 0x05): "RECEIVE COPY STATUS(LID4)",
    (0x84, 0x07): "RECEIVE ROD TOKEN INFORMATION",
    (0x9E, 0x10): "READ CAPACITY(16)",
    (0x9E, 0x12): "GET LBA STATUS",
    (0xA3, 0x0A): "REPORT TARGET PORT GROUPS",
    (0xA3, 0x0C): "REPORT SUPPORTED OPERATION CODES",
    (0xA4, 0x0A): "SET TARGET PORT GROUPS",
}
"""Names of what an operation code does by its service action (SPC-4 annex E)."""


def name_of(cdb: bytes) -> str:
    """Give the name of a CDB's command, for messages."""
    if not cdb:
        return "SCSI command"
    named = _SERVICE_ACTIONS.get((cdb[0], cdb[1] & 0x1F)) if len(cdb) > 1 else None
    return named or NAMES.get(cdb[0], f"SCSI command {cdb[0]:#04x}")


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


def synchronize_cache(lba: int = 0, blocks: int = 0, *, immediate: bool = False) -> bytes:
    """SYNCHRONIZE CACHE(10) or (16); 0 blocks means up to the last (SBC-3 sections 5.25 and 5.26)."""
    flags = 0x02 if immediate else 0
    if lba <= 0xFFFFFFFF and blocks <= 0xFFFF:
        return _CDB10.pack(0x35, flags, lba, 0, blocks, 0)
    return _CDB16.pack(0x91, flags, lba, blocks, 0, 0)


def verify(lba: int, blocks: int, *, byte_check: bool = False) -> bytes:
    """VERIFY(10) or (16); with ``byte_check`` (BYTCHK 01b) against data that is sent (SBC-3 sections 5.28 and 5.30)."""
    flags = 0x02 if byte_check else 0
    if lba <= 0xFFFFFFFF and blocks <= 0xFFFF:
        return _CDB10.pack(0x2F, flags, lba, 0, blocks, 0)
    return _CDB16.pack(0x8F, flags, lba, blocks, 0, 0)


def write_same(lba: int, blocks: int, *, unmap: bool = False, anchor: bool = False, no_data_out: bool = False) -> bytes:
    """WRITE SAME(16); ``no_data_out`` (NDOB) writes zeros and sends no block (SBC-3 section 5.44)."""
    return _CDB16.pack(0x93, anchor << 4 | unmap << 3 | no_data_out, lba, blocks, 0, 0)


def unmap(parameter_list_length: int, *, anchor: bool = False) -> bytes:
    """UNMAP (SBC-3 section 5.27)."""
    return _CDB10.pack(0x42, anchor, 0, 0, parameter_list_length, 0)


def compare_and_write(lba: int, blocks: int, *, fua: bool = False) -> bytes:
    """COMPARE AND WRITE: the data is as many blocks to compare, then as many to write (SBC-3 section 5.2)."""
    return struct.pack(">BBQBBBBBB", 0x89, FUA if fua else 0, lba, 0, 0, 0, blocks, 0, 0)


def get_lba_status(lba: int, allocation_length: int) -> bytes:
    """GET LBA STATUS (SBC-3 section 5.4)."""
    return _CDB16.pack(0x9E, 0x12, lba, allocation_length, 0, 0)


def report_supported_operation_codes(
    allocation_length: int,
    *,
    operation_code: int | None = None,
    service_action: int | None = None,
    timeouts: bool = False,
) -> bytes:
    """REPORT SUPPORTED OPERATION CODES: all commands, or one by its code and service action (SPC-4 section 6.35)."""
    options = 0 if operation_code is None else 1 if service_action is None else 2
    flags = timeouts << 7 | options
    return struct.pack(
        ">BBBBHIBB", 0xA3, 0x0C, flags, operation_code or 0, service_action or 0, allocation_length, 0, 0
    )


def request_sense(allocation_length: int, *, descriptor: bool = False) -> bytes:
    """REQUEST SENSE (SPC-4 section 6.39)."""
    return struct.pack(">BBBBBB", 0x03, descriptor, 0, 0, allocation_length, 0)


def start_stop_unit(
    start: bool, *, load_or_eject: bool = False, power_condition: int = 0, immediate: bool = False
) -> bytes:
    """START STOP UNIT (SBC-3 section 5.25)."""
    return struct.pack(">BBBBBB", 0x1B, immediate, 0, 0, power_condition << 4 | load_or_eject << 1 | start, 0)
