"""The bytes of iSCSI that the bench's own client sends: a login, commands made once and patched, Data-Out (RFC 7143).

Nothing of csvd or of its initiator is used: what is measured does not measure itself.
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from crc32c import crc32c

BHS_BYTES: Final = 48
SECTOR_BYTES: Final = 512
NO_TAG: Final = 0xFFFFFFFF
NOP_OUT, SCSI_COMMAND, LOGIN, DATA_OUT, LOGOUT = 0x00, 0x01, 0x03, 0x05, 0x06
NOP_IN, SCSI_RESPONSE, LOGIN_RESPONSE, DATA_IN, R2T = 0x20, 0x21, 0x23, 0x25, 0x31
READ_16, WRITE_16, FUA = 0x88, 0x8A, 0x08
FINAL, READ, WRITE, SIMPLE, STATUS = 0x80, 0x40, 0x20, 0x01, 0x01
ISID_RANDOM: Final = 0x80
IMMEDIATE: Final = 0x40
TO_FULL_FEATURE: Final = 0x87
"""Login flags: T, CSG operational negotiation, NSG full feature phase."""
TIMEOUT_S: Final = 30.0
UNIT_ATTENTIONS: Final = 8
SEGMENT_BYTES: Final = 262144
"""MaxRecvDataSegmentLength, FirstBurstLength and MaxBurstLength that are asked for: libiscsi's."""

COMMAND: Final = struct.Struct(">BBxxIQIIIIBBQIxx")
"""SCSI Command: opcode, flags, lengths, LUN, tag, expected length, CmdSN, ExpStatSN, CDB of 16 bytes."""
PATCH: Final = struct.Struct(">IIHQ")
"""What changes from use to use of a command, from byte 24 on: CmdSN, ExpStatSN, CDB bytes 0-1, LBA."""
PATCH_OFFSET: Final = 24
DATA_OUT_PDU: Final = struct.Struct(">BBxxIQII4xI4xII4x")
"""SCSI Data-Out: opcode, flags, lengths, LUN, tag, transfer tag, ExpStatSN, DataSN, offset."""
ANSWER: Final = struct.Struct(">BBxBI8xI4xIII")
"""Of any answer: opcode, flags, status, lengths, tag, StatSN, ExpCmdSN, MaxCmdSN."""
R2T_REST: Final = struct.Struct(">I16xII")
"""R2T from byte 20 on: transfer tag, offset, length."""
LOGIN_PDU: Final = struct.Struct(">BBBBI6sHIHxxII16x")
NOP_PDU: Final = struct.Struct(">BBxxIQIIII16x")

Buffer = bytes | bytearray | memoryview


class WireFailed(Exception):
    """The target refused, closed the connection, or sent what does not belong there."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a disk is: `iscsi://HOST:PORT/IQN/LUN`."""

    host: str
    port: int
    target: str
    lun: int

    @classmethod
    def of(cls, url: str) -> Place:
        """
        Raises:
            WireFailed: the URL has another form.
        """
        scheme, _, rest = url.partition("://")
        parts = rest.split("/")
        host, colon, port = parts[0].rpartition(":")
        if scheme != "iscsi" or len(parts) != 3 or not (colon and port.isdigit() and parts[2].isdigit()):
            raise WireFailed(f"{url} is not iscsi://HOST:PORT/IQN/LUN")
        return cls(host, int(port), parts[1], int(parts[2]))

    @property
    def lun_field(self) -> int:
        """The LUN as it stands in a header (SAM-5 section 4.7.7.4: peripheral device addressing)."""
        return self.lun << 48


@dataclass(frozen=True, slots=True)
class Agreed:
    """What login left in force, as far as a sender of data must know."""

    segment_bytes: int
    first_burst_bytes: int
    immediate_data: bool
    initial_r2t: bool
    data_digest: bool

    @classmethod
    def of(cls, keys: Mapping[str, str], *, digests: bool) -> Agreed:
        """
        Args:
            keys: what the target answered and declared.
            digests: whether a data digest was asked for.

        Raises:
            WireFailed: a data digest was asked for and refused.
        """
        if digests and keys.get("DataDigest") != "CRC32C":
            raise WireFailed(f"the target does no data digests: DataDigest={keys.get('DataDigest')}")
        return cls(
            segment_bytes=int(keys.get("MaxRecvDataSegmentLength", "8192")),
            first_burst_bytes=min(SEGMENT_BYTES, int(keys.get("FirstBurstLength", str(SEGMENT_BYTES)))),
            immediate_data=keys.get("ImmediateData", "Yes") == "Yes",
            initial_r2t=keys.get("InitialR2T", "No") == "Yes",
            data_digest=digests,
        )


def padded(length: int) -> int:
    return (length + 3) & ~3


def digest(data: Buffer, before: int = 0) -> int:
    return int(crc32c(data, before))


def read_command(tag: int, lun_field: int, block_bytes: int) -> bytearray:
    """READ(16) of `block_bytes`, to be patched."""
    return bytearray(
        COMMAND.pack(
            *(SCSI_COMMAND, FINAL | READ | SIMPLE, 0, lun_field, tag, block_bytes, 0, 0),
            *(READ_16, 0, 0, block_bytes // SECTOR_BYTES),
        )
    )


def write_command(tag: int, lun_field: int, payload: memoryview, agreed: Agreed) -> bytearray:
    """WRITE(16) with all that may follow it unasked: immediate data, then Data-Out up to FirstBurstLength."""
    immediate = min(len(payload), agreed.segment_bytes, agreed.first_burst_bytes) if agreed.immediate_data else 0
    unasked = immediate if agreed.initial_r2t else min(len(payload), agreed.first_burst_bytes)
    alone = FINAL if unasked == immediate else 0
    image = bytearray(
        COMMAND.pack(
            *(SCSI_COMMAND, alone | WRITE | SIMPLE, immediate, lun_field, tag, len(payload), 0, 0),
            *(WRITE_16, 0, 0, len(payload) // SECTOR_BYTES),
        )
    )
    for piece in _segment(payload[:immediate], agreed):
        image += piece
    for piece in data_out(tag, lun_field, NO_TAG, payload, immediate, unasked - immediate, agreed):
        image += piece
    return image


def data_out(
    tag: int, lun_field: int, transfer_tag: int, payload: memoryview, offset: int, length: int, agreed: Agreed
) -> Iterator[Buffer]:
    """One sequence of Data-Out: the header of each PDU, then its data."""
    end, number = offset + length, 0
    while offset < end:
        count = min(agreed.segment_bytes, end - offset)
        flags = FINAL if offset + count == end else 0
        yield DATA_OUT_PDU.pack(DATA_OUT, flags, count, lun_field, tag, transfer_tag, 0, number, offset)
        yield from _segment(payload[offset : offset + count], agreed)
        offset, number = offset + count, number + 1


def _segment(data: memoryview, agreed: Agreed) -> Iterator[Buffer]:
    """Data as it stands behind a header; a block is a multiple of 4 bytes, so there is no padding."""
    if data:
        yield data
        if agreed.data_digest:
            yield digest(data).to_bytes(4, "little")


@dataclass(slots=True)
class Login:
    """A session that is logged in: its blocking socket, what was agreed, and the numbers of its next command."""

    sock: socket.socket
    agreed: Agreed
    cmd_sn: int
    stat_sn: int
    max_cmd_sn: int


def log_in(place: Place, name: str, *, digests: bool = False) -> Login:
    """Connect and log in, without authentication; then ask until the logical unit has no more to tell.

    Raises:
        WireFailed: the target refused.
        OSError: it is not there.
    """
    sock = socket.create_connection((place.host, place.port), TIMEOUT_S)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    keys, stat_sn = _negotiate(sock, _wanted(place, name, digests=digests))
    session = Login(sock, Agreed.of(keys, digests=digests), 1, stat_sn, 1)
    for _ in range(UNIT_ATTENTIONS):
        if not _test_unit_ready(session, place):
            return session
    raise WireFailed("the logical unit is not ready")


def log_out(sock: socket.socket, cmd_sn: int, stat_sn: int) -> None:
    """Logout, its answer, and the end of the connection."""
    sock.settimeout(TIMEOUT_S)
    sock.sendall(NOP_PDU.pack(LOGOUT | IMMEDIATE, FINAL, 0, 0, 0, 0, cmd_sn, stat_sn))
    receive_pdu(sock)
    sock.close()


def _wanted(place: Place, name: str, *, digests: bool) -> dict[str, str]:
    return {
        "InitiatorName": name,
        "TargetName": place.target,
        "SessionType": "Normal",
        "HeaderDigest": "None",
        "DataDigest": "CRC32C" if digests else "None",
        "InitialR2T": "No",
        "ImmediateData": "Yes",
        "MaxRecvDataSegmentLength": str(SEGMENT_BYTES),
        "MaxBurstLength": str(SEGMENT_BYTES),
        "FirstBurstLength": str(SEGMENT_BYTES),
        "MaxOutstandingR2T": "1",
        "MaxConnections": "1",
        "DefaultTime2Wait": "2",
        "DefaultTime2Retain": "0",
        "ErrorRecoveryLevel": "0",
        "DataPDUInOrder": "Yes",
        "DataSequenceInOrder": "Yes",
    }


def _negotiate(sock: socket.socket, wanted: Mapping[str, str]) -> tuple[dict[str, str], int]:
    """Operational negotiation, then to the full feature phase. Gives the target's keys and the next ExpStatSN."""
    text = "".join(f"{key}={value}\0" for key, value in wanted.items()).encode()
    isid = bytes([ISID_RANDOM]) + os.urandom(5)
    keys: dict[str, str] = {}
    exp_stat_sn = 0
    # A target that has more to say gets empty requests.
    for _ in range(8):
        header = LOGIN_PDU.pack(LOGIN | IMMEDIATE, TO_FULL_FEATURE, 0, 0, len(text), isid, 0, 0, 0, 1, exp_stat_sn)
        sock.sendall(header + text + bytes(padded(len(text)) - len(text)))
        answer, data = receive_pdu(sock)
        if answer[0] != LOGIN_RESPONSE or answer[36]:
            raise WireFailed(f"login refused: opcode {answer[0]:#x}, status {answer[36:38].hex()}")
        exp_stat_sn = int.from_bytes(answer[24:28], "big") + 1
        pairs = (pair.partition("=") for pair in data.decode("latin-1").split("\0") if pair)
        keys.update({key: value for key, _, value in pairs})
        if answer[1] & TO_FULL_FEATURE == TO_FULL_FEATURE:
            return keys, exp_stat_sn
        text = b""
    raise WireFailed("login does not end")


def _test_unit_ready(session: Login, place: Place) -> int:
    """TEST UNIT READY; gives its status."""
    command = COMMAND.pack(
        *(SCSI_COMMAND, FINAL | SIMPLE, 0, place.lun_field, 0, 0, session.cmd_sn, session.stat_sn, 0, 0, 0, 0)
    )
    session.sock.sendall(command)
    header, _ = receive_pdu(session.sock, data_digest=session.agreed.data_digest)
    opcode, _, status, _, _, stat_sn, _, session.max_cmd_sn = ANSWER.unpack_from(header)
    if opcode != SCSI_RESPONSE:
        raise WireFailed(f"TEST UNIT READY was answered by opcode {opcode:#x}")
    session.cmd_sn += 1
    session.stat_sn = stat_sn + 1
    return int(status)


def receive_pdu(sock: socket.socket, *, data_digest: bool = False) -> tuple[bytes, bytes]:
    """One PDU from a blocking socket: its header, and its data without padding."""
    header = _receive(sock, BHS_BYTES)
    length = int.from_bytes(header[5:8], "big")
    rest = padded(length) + (4 if data_digest and length else 0)
    return header, _receive(sock, rest)[:length]


def _receive(sock: socket.socket, count: int) -> bytes:
    parts: list[bytes] = []
    while count:
        part = sock.recv(count)
        if not part:
            raise WireFailed("the target closed the connection")
        parts.append(part)
        count -= len(part)
    return b"".join(parts)
