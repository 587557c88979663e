"""ROD tokens: blocks as they are at one moment, named by 512 bytes, to be written elsewhere (SBC-3 5.7, 5.46)."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from initiator.errors import MalformedAnswer
from initiator.scsi.extended_copy import CopyStatus, parse_status_lid4
from initiator.scsi.provisioning import Extent

TOKEN_BYTES: Final = 512
ANSWER_BYTES: Final = 32 + 255 + 4 + 2 + TOKEN_BYTES

_COMMAND: Final = struct.Struct(">BB4xIIBB")
_RANGE: Final = struct.Struct(">QI4x")
_POPULATE: Final = struct.Struct(">HBxII2xH")
_WRITE: Final = struct.Struct(">HB5xQ512s6xH")
_RECEIVE: Final = struct.Struct(">BBI4xIBB")


@dataclass(frozen=True, slots=True)
class TokenAnswer:
    """RECEIVE ROD TOKEN INFORMATION: how the command with this identifier went, and the token that it made."""

    status: CopyStatus
    token: bytes | None


def populate_cdb(list_identifier: int, parameter_list_length: int) -> bytes:
    """POPULATE TOKEN (SBC-3 section 5.7)."""
    return _COMMAND.pack(0x83, 0x10, list_identifier, parameter_list_length, 0, 0)


def write_cdb(list_identifier: int, parameter_list_length: int) -> bytes:
    """WRITE USING TOKEN (SBC-3 section 5.46)."""
    return _COMMAND.pack(0x83, 0x11, list_identifier, parameter_list_length, 0, 0)


def receive_cdb(list_identifier: int) -> bytes:
    """RECEIVE ROD TOKEN INFORMATION (SPC-4 section 6.25)."""
    return _RECEIVE.pack(0x84, 0x07, list_identifier, ANSWER_BYTES, 0, 0)


def populate_list(extents: Sequence[Extent], *, inactivity_timeout_s: int = 0) -> bytes:
    """Build the parameter list of POPULATE TOKEN; with a timeout of 0 the target's own holds."""
    ranges = _ranges(extents)
    return _POPULATE.pack(14 + len(ranges), 0, inactivity_timeout_s, 0, len(ranges)) + ranges


def write_list(token: bytes, extents: Sequence[Extent], *, offset_blocks: int = 0, delete: bool = False) -> bytes:
    """Build the parameter list of WRITE USING TOKEN: the token's blocks from an offset on; ``delete`` ends it after."""
    ranges = _ranges(extents)
    return _WRITE.pack(534 + len(ranges), delete << 1, offset_blocks, token, len(ranges)) + ranges


def _ranges(extents: Sequence[Extent]) -> bytes:
    return b"".join(_RANGE.pack(extent.lba, extent.blocks) for extent in extents)


def parse_answer(data: bytes) -> TokenAnswer:
    """Parse RECEIVE ROD TOKEN INFORMATION.

    Raises:
        MalformedAnswer: it is shorter than it says, or its token has another length than tokens have.
    """
    status = parse_status_lid4(data)
    at = 32 + data[13]
    length = int.from_bytes(data[at : at + 4], "big")
    if not length:
        return TokenAnswer(status, None)
    token = bytes(data[at + 6 : at + 4 + length])
    if len(token) != TOKEN_BYTES:
        raise MalformedAnswer(f"a ROD token of {len(token)} bytes")
    return TokenAnswer(status, token)
