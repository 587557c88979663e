"""TransportIDs: how persistent reservations name an initiator port (SPC-4 section 7.6.4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from initiator.errors import InitiatorError, MalformedAnswer

PROTOCOLS: Final = {
    0x0: "fc",
    0x1: "spi",
    0x2: "ssa",
    0x3: "sbp",
    0x4: "srp",
    0x5: "iscsi",
    0x6: "sas",
    0x7: "adt",
    0x8: "ata",
    0x9: "uas",
    0xA: "sop",
}
"""PROTOCOL IDENTIFIER (SPC-4 section 7.6.1)."""

ISCSI: Final = 0x05

_PORT_FORMAT: Final = 0x40
_OTHER_BYTES: Final = 24
_LEAST_NAME_BYTES: Final = 20
_MOST_NAME_BYTES: Final = 248
_SEPARATOR: Final = ",i,0x"


@dataclass(frozen=True, slots=True)
class TransportId:
    """An initiator port.

    Of iSCSI: ``name`` is the initiator's iSCSI name, and ``isid`` its session's in hex, empty for all of its ports. Of
    another protocol ``name`` is empty, and ``raw`` tells all.
    """

    protocol: int
    name: str
    isid: str
    raw: bytes

    @property
    def text(self) -> str:
        """The form for people: the SCSI initiator port name of iSCSI (RFC 7143 section 4.4.1), else bytes in hex."""
        if self.protocol == ISCSI and self.name:
            return f"{self.name}{_SEPARATOR}{self.isid}" if self.isid else self.name
        return f"{PROTOCOLS.get(self.protocol, f'protocol {self.protocol}')}:{self.raw[1:].hex()}"


def iscsi(name: str, isid: bytes | None = None) -> bytes:
    """Build the TransportID of an iSCSI initiator, or of the one port of it that has this ISID.

    Raises:
        InitiatorError: the name is no iSCSI name of 1 to 223 bytes.
    """
    text = name.encode()
    if not 0 < len(text) <= 223 or b"\0" in text:
        raise InitiatorError(f"{name[:80]!r} is no name of an initiator")
    kind = ISCSI
    if isid is not None:
        kind |= _PORT_FORMAT
        text += f"{_SEPARATOR}{isid.hex()}".encode()
    text += b"\0"
    length = max(_LEAST_NAME_BYTES, len(text) + -len(text) % 4)
    return bytes((kind, 0)) + length.to_bytes(2, "big") + text.ljust(length, b"\0")


def parse(data: bytes) -> TransportId:
    """Parse the TransportID at the beginning of data.

    Raises:
        MalformedAnswer: it is shorter than it says.
    """
    if len(data) < 4:
        raise MalformedAnswer(f"a TransportID of {len(data)} bytes")
    protocol = data[0] & 0x0F
    if protocol != ISCSI:
        if len(data) < _OTHER_BYTES:
            raise MalformedAnswer(f"a TransportID of {len(data)} bytes")
        return TransportId(protocol, "", "", bytes(data[:_OTHER_BYTES]))
    end = 4 + int.from_bytes(data[2:4], "big")
    if end > len(data) or end > 4 + _MOST_NAME_BYTES:
        raise MalformedAnswer(f"a TransportID of {end} bytes in {len(data)}")
    text = bytes(data[4:end]).split(b"\0")[0].decode("utf-8", "replace")
    text = "".join(c if c.isprintable() else "?" for c in text)
    name, _, isid = text.partition(_SEPARATOR) if data[0] & 0xC0 == _PORT_FORMAT else (text, "", "")
    return TransportId(protocol, name, isid, bytes(data[:end]))
