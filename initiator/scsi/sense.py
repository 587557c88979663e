"""Sense data, fixed and descriptor format (SPC-4 section 4.5)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final


class SenseKey(IntEnum):
    """SPC-4 section 4.5.6."""

    NO_SENSE = 0x0
    RECOVERED_ERROR = 0x1
    NOT_READY = 0x2
    MEDIUM_ERROR = 0x3
    HARDWARE_ERROR = 0x4
    ILLEGAL_REQUEST = 0x5
    UNIT_ATTENTION = 0x6
    DATA_PROTECT = 0x7
    BLANK_CHECK = 0x8
    VENDOR_SPECIFIC = 0x9
    COPY_ABORTED = 0xA
    ABORTED_COMMAND = 0xB
    RESERVED = 0xC
    VOLUME_OVERFLOW = 0xD
    MISCOMPARE = 0xE
    COMPLETED = 0xF


MEANINGS: Final = {
    0x0000: "no additional sense information",
    0x0401: "logical unit is becoming ready",
    0x0402: "logical unit not ready, initializing command required",
    0x040A: "asymmetric access state transition",
    0x040B: "target port in standby state",
    0x040C: "target port in unavailable state",
    0x0500: "logical unit does not respond to selection",
    0x0C00: "write error",
    0x0C02: "write error, auto reallocation failed",
    0x0E03: "invalid field in command information unit",
    0x1100: "unrecovered read error",
    0x1A00: "parameter list length error",
    0x1D00: "miscompare during verify operation",
    0x2000: "invalid command operation code",
    0x2100: "logical block address out of range",
    0x2400: "invalid field in CDB",
    0x2500: "logical unit not supported",
    0x2600: "invalid field in parameter list",
    0x2604: "invalid release of persistent reservation",
    0x2700: "write protected",
    0x2707: "space allocation failed write protect",
    0x2800: "not ready to ready change, medium may have changed",
    0x2900: "power on, reset or bus device reset occurred",
    0x2901: "power on occurred",
    0x2902: "SCSI bus reset occurred",
    0x2903: "bus device reset function occurred",
    0x2904: "device internal reset",
    0x2907: "I_T nexus loss occurred",
    0x2A01: "mode parameters changed",
    0x2A03: "reservations preempted",
    0x2A04: "reservations released",
    0x2A05: "registrations preempted",
    0x2A06: "asymmetric access state changed",
    0x2A07: "implicit asymmetric access state transition failed",
    0x2A09: "capacity data has changed",
    0x2C00: "command sequence error",
    0x2F00: "commands cleared by another initiator",
    0x3100: "medium format corrupted",
    0x3807: "thin provisioning soft threshold reached",
    0x3A00: "medium not present",
    0x3F03: "inquiry data has changed",
    0x3F0E: "reported LUNs data has changed",
    0x4400: "internal target failure",
    0x4500: "select or reselect failure",
    0x4700: "SCSI parity error",
    0x4900: "invalid message error",
    0x4E00: "overlapped commands attempted",
    0x5500: "system resource failure",
}
"""ASC << 8 | ASCQ to its words, for messages (SPC-4 annex F); those that a disk is likely to send."""

RESET_ASC: Final = 0x29
"""Power on, reset, or loss of the I_T nexus: what every logical unit says to a new session first."""


@dataclass(frozen=True, slots=True)
class Sense:
    """What a CHECK CONDITION says.

    ``information`` is the INFORMATION field where it is valid: for most commands the LBA at fault.
    ``deferred`` means that it concerns an earlier command.
    """

    key: SenseKey
    asc: int
    ascq: int
    information: int | None = None
    deferred: bool = False
    raw: bytes = b""

    def __str__(self) -> str:
        name = self.key.name.replace("_", " ")
        words = MEANINGS.get(self.asc << 8 | self.ascq, "")
        text = (
            f"{name}, {words} ({self.asc:02X}h/{self.ascq:02X}h)"
            if words
            else f"{name} {self.asc:02X}h/{self.ascq:02X}h"
        )
        if self.information is not None:
            text += f" at {self.information}"
        return f"deferred {text}" if self.deferred else text

    @property
    def is_reset(self) -> bool:
        """Whether this is the unit attention of a power on, a reset or a lost nexus (29h)."""
        return self.key is SenseKey.UNIT_ATTENTION and self.asc == RESET_ASC

    @property
    def capacity_changed(self) -> bool:
        """Whether this is the unit attention that the size of the disk is another (2Ah/09h)."""
        return self.key is SenseKey.UNIT_ATTENTION and (self.asc, self.ascq) == (0x2A, 0x09)

    @property
    def threshold_reached(self) -> bool:
        """Whether this is the unit attention that a thin disk has passed a threshold of its room (38h/07h)."""
        return self.key is SenseKey.UNIT_ATTENTION and (self.asc, self.ascq) == (0x38, 0x07)

    @property
    def luns_changed(self) -> bool:
        """Whether this is the unit attention that the target has other LUNs than before (3Fh/0Eh)."""
        return self.key is SenseKey.UNIT_ATTENTION and (self.asc, self.ascq) == (0x3F, 0x0E)


def parse(data: bytes) -> Sense | None:
    """Parse sense data; None when it is too short or of no known format. Never raises: any bytes may come."""
    if len(data) < 3:
        return None
    code = data[0] & 0x7F
    deferred = code in (0x71, 0x73)
    if code in (0x70, 0x71):
        asc, ascq = (data[12], data[13]) if len(data) >= 14 else (0, 0)
        valid = data[0] & 0x80 and len(data) >= 7
        information = int.from_bytes(data[3:7], "big") if valid else None
        return Sense(SenseKey(data[2] & 0x0F), asc, ascq, information, deferred, bytes(data))
    if code in (0x72, 0x73) and len(data) >= 4:
        return Sense(SenseKey(data[1] & 0x0F), data[2], data[3], _information(data), deferred, bytes(data))
    return None


def _information(data: bytes) -> int | None:
    """Find the information descriptor (SPC-4 section 4.5.2.2)."""
    at, end = 8, min(len(data), 8 + (data[7] if len(data) >= 8 else 0))
    while at + 2 <= end:
        kind, length = data[at], data[at + 1]
        if kind == 0 and length >= 10 and at + 12 <= end and data[at + 2] & 0x80:
            return int.from_bytes(data[at + 4 : at + 12], "big")
        at += 2 + length
    return None
