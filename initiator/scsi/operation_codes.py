"""What REPORT SUPPORTED OPERATION CODES says (SPC-4 section 6.35)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from initiator.errors import MalformedAnswer
from initiator.scsi import cdb

COMMAND_DESCRIPTOR_BYTES: Final = 8
_TIMEOUTS_BYTES: Final = 12
_SUPPORTED: Final = (3, 5)
"""SUPPORT 011b: as a standard has it; 101b: in a vendor's way."""


@dataclass(frozen=True, slots=True)
class CommandTimeouts:
    """How long a command takes, in seconds; 0 is not reported."""

    nominal_s: int
    recommended_s: int


@dataclass(frozen=True, slots=True)
class SupportedCommand:
    """A command that the logical unit has; ``service_action`` is None where it has none."""

    operation_code: int
    service_action: int | None
    cdb_bytes: int
    timeouts: CommandTimeouts | None = None

    @property
    def name(self) -> str:
        """The command's name."""
        action = self.service_action
        if action is None or action > 0x1F:  # the service actions of operation code 7Fh are longer, and have no names
            return cdb.name_of(bytes((self.operation_code,)))
        return cdb.name_of(bytes((self.operation_code, action)))


@dataclass(frozen=True, slots=True)
class CommandSupport:
    """Whether the logical unit has one command, and which bits of its CDB it looks at."""

    supported: bool
    usage: bytes
    """CDB USAGE DATA: a bit that is set may be used; the first byte is the operation code. Empty when not supported."""
    timeouts: CommandTimeouts | None = None


def parse_all(data: bytes) -> list[SupportedCommand]:
    """Parse the list of all commands; what is cut off at its end is left out.

    Raises:
        MalformedAnswer: fewer than 4 bytes.
    """
    if len(data) < 4:
        raise MalformedAnswer(f"REPORT SUPPORTED OPERATION CODES data of {len(data)} bytes")
    end = min(len(data), 4 + int.from_bytes(data[0:4], "big"))
    found: list[SupportedCommand] = []
    at = 4
    while at + COMMAND_DESCRIPTOR_BYTES <= end:
        flags = data[at + 5]
        action = int.from_bytes(data[at + 2 : at + 4], "big") if flags & 0x01 else None
        length = int.from_bytes(data[at + 6 : at + 8], "big")
        code, at = data[at], at + COMMAND_DESCRIPTOR_BYTES
        timeouts = None
        if flags & 0x02:
            timeouts = _timeouts(data[at:end])
            at += _TIMEOUTS_BYTES
        found.append(SupportedCommand(code, action, length, timeouts))
    return found


def parse_one(data: bytes) -> CommandSupport:
    """Parse what is said of one command.

    Raises:
        MalformedAnswer: it is shorter than it says.
    """
    if len(data) < 4:
        raise MalformedAnswer(f"REPORT SUPPORTED OPERATION CODES data of {len(data)} bytes")
    if data[1] & 0x07 not in _SUPPORTED:
        return CommandSupport(False, b"")
    length = int.from_bytes(data[2:4], "big")
    if len(data) < 4 + length:
        raise MalformedAnswer(f"CDB usage data of {length} bytes in an answer of {len(data)}")
    timeouts = _timeouts(data[4 + length :]) if data[1] & 0x80 else None
    return CommandSupport(True, bytes(data[4 : 4 + length]), timeouts)


def _timeouts(data: bytes) -> CommandTimeouts | None:
    if len(data) < _TIMEOUTS_BYTES:
        return None
    return CommandTimeouts(int.from_bytes(data[4:8], "big"), int.from_bytes(data[8:12], "big"))
