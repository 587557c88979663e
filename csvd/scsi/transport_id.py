"""iSCSI TransportIDs: how persistent reservations write the initiator port of an I_T nexus (SPC-4 7.6.4.6)."""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from construct import Int8ub, Int16ub, Struct

from csvd.scsi.reservations import MAXIMUM_REGISTRATIONS, TRANSPORT_IDS, invalid_in_list
from csvd.scsi.sense import Asc, illegal_request

_ISCSI: Final = 0x05
_DEVICE_FORMAT: Final = 0x00
_PORT_FORMAT: Final = 0x40
_LEAST_BYTES: Final = 20
_MOST_NAME_BYTES: Final = 223

TRANSPORT_ID_HEADER: Final = Struct(
    "format_code_and_protocol_identifier" / Int8ub,
    "reserved" / Int8ub,
    "additional_length" / Int16ub,
)
# As TRANSPORT_ID_HEADER: READ FULL STATUS makes a thousand, and a list may have as many.
_HEADER = struct.Struct(">BxH")

_ISID: Final = re.compile(r"[0-9a-fA-F]{1,12}\Z")


class InitiatorName(NamedTuple):
    """What a TransportID names.

    Args:
        name: iSCSI name of the initiator, in lower case as names are compared.
        isid: which of its ports; None for all that are known.
    """

    name: str
    isid: bytes | None

    @property
    def port(self) -> str:
        """The SCSI initiator port name."""
        assert self.isid is not None
        return f"{self.name},i,0x{self.isid.hex()}"


def encode_transport_id(initiator_port: str) -> bytes:
    """The TransportID of an initiator port, in the format with its ISID."""
    text = initiator_port.encode() + b"\0"
    length = max(_LEAST_BYTES, len(text) + -len(text) % 4)
    return _HEADER.pack(_PORT_FORMAT | _ISCSI, length) + text.ljust(length, b"\0")


def parse_transport_ids(data: bytes) -> list[InitiatorName]:
    """Take a list of TransportIDs apart.

    Raises:
        CheckCondition: INVALID FIELD IN PARAMETER LIST: one is cut off, of another protocol, or names nobody.
            INSUFFICIENT REGISTRATION RESOURCES: there are more of them than may be registered.
    """
    found: list[InitiatorName] = []
    offset = 0
    while offset < len(data):
        if len(data) - offset < _HEADER.size:
            raise invalid_in_list(TRANSPORT_IDS)
        if len(found) == MAXIMUM_REGISTRATIONS:
            raise illegal_request(Asc.INSUFFICIENT_REGISTRATION_RESOURCES)
        kind, length = _HEADER.unpack_from(data, offset)
        begin = offset + _HEADER.size
        offset = begin + length
        if length < _LEAST_BYTES or length % 4 or offset > len(data):
            raise invalid_in_list(TRANSPORT_IDS)
        found.append(_parse_one(kind, data[begin:offset]))
    return found


def _parse_one(kind: int, text: bytes) -> InitiatorName:
    try:
        # The name ends at its null; what is behind it is not looked at.
        name = text[: text.index(0)].decode("utf-8")
    except (ValueError, UnicodeDecodeError) as error:
        raise invalid_in_list(TRANSPORT_IDS) from error
    if kind == _DEVICE_FORMAT | _ISCSI and _is_name(name):
        return InitiatorName(name.lower(), None)
    name, separator, isid = name.rpartition(",i,0x")
    if kind == _PORT_FORMAT | _ISCSI and separator and _is_name(name) and _ISID.match(isid):
        return InitiatorName(name.lower(), int(isid, 16).to_bytes(6))
    raise invalid_in_list(TRANSPORT_IDS)


def _is_name(name: str) -> bool:
    return name.isprintable() and " " not in name and 1 <= len(name.encode()) <= _MOST_NAME_BYTES
