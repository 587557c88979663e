"""A peer that means no good: raw bytes to a real daemon, and a sentence on what came back."""

from __future__ import annotations

import socket
from typing import Any

from csvd.iscsi import text
from csvd.iscsi.codes import BHS_BYTES, LoginStatus, Opcode, RejectReason
from csvd.iscsi.layouts import LAYOUTS
from tests.iscsi_wire import INITIATOR, ISID, pdu

NO_TAG = 0xFFFFFFFF
QUIET_S = 1.0
SENSE_KEYS = {
    0x2: "NOT READY",
    0x4: "HARDWARE ERROR",
    0x5: "ILLEGAL REQUEST",
    0x6: "UNIT ATTENTION",
    0xB: "ABORTED COMMAND",
}
SENSE_CODES = {
    0x1A00: "PARAMETER LIST LENGTH ERROR",
    0x2000: "INVALID COMMAND OPERATION CODE",
    0x2400: "INVALID FIELD IN CDB",
    0x2500: "LOGICAL UNIT NOT SUPPORTED",
    0x2600: "INVALID FIELD IN PARAMETER LIST",
    0x4B00: "DATA PHASE ERROR",
}


class Peer:
    """One connection.

    Args:
        portal: host and port.
        target: the name of the target to log in to.
    """

    def __init__(self, portal: tuple[str, int], target: str, *, source: str = "127.0.0.1") -> None:
        self.portal = portal
        self.target = target
        self.cmd_sn = 1
        self._received = b""
        self._socket = socket.create_connection(portal, timeout=10, source_address=(source, 0))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self) -> Peer:
        return self

    def again(self) -> Peer:
        """Another connection to the same portal."""
        return Peer(self.portal, self.target)

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    @property
    def names(self) -> dict[str, str]:
        return {"InitiatorName": INITIATOR, "SessionType": "Normal", "TargetName": self.target}

    def send(self, data: bytes) -> None:
        """Send, as far as the other side takes it."""
        try:
            self._socket.sendall(data)
        except OSError:
            return

    def login_pdu(self, data: bytes, *, flags: int = 0x87, **fields: Any) -> bytes:
        values = {"opcode": 0x43, "flags": flags, "isid": ISID, "cmd_sn": self.cmd_sn} | fields
        return pdu(Opcode.LOGIN_REQUEST, data, **values)

    def login(self, **keys: str) -> None:
        """Log in to the target as anybody may, and take the unit attention of the first LUNs."""
        self.send(self.login_pdu(text.build((self.names | keys).items())))
        answer = self.next_pdu()
        assert answer is not None
        assert answer[0].status == 0, LoginStatus(answer[0].status)
        self.command(bytes(6))

    def command(self, cdb: bytes, *, data: bytes = b"", expected: int | None = None, flags: int = 0x80) -> str:
        """Send a SCSI Command with immediate data; give what came back."""
        self.send(self.command_pdu(cdb, data=data, expected=expected, flags=flags))
        return self.heard()

    def command_pdu(
        self, cdb: bytes, *, data: bytes = b"", expected: int | None = None, flags: int = 0x80, **fields: Any
    ) -> bytes:
        """Build a SCSI Command with the next CmdSN and a task tag of its own."""
        values = {
            "flags": flags | (0x20 if data else 0),
            "cdb": cdb.ljust(16, b"\0"),
            "expected_data_transfer_length": len(data) if expected is None else expected,
            "cmd_sn": self.cmd_sn,
            "initiator_task_tag": self.cmd_sn,
        }
        self.cmd_sn += 1
        return pdu(Opcode.SCSI_COMMAND, data, **values | fields)

    def heard(self, quiet_s: float = QUIET_S) -> str:
        """Everything that comes until the target is quiet, in words."""
        words = []
        while (answer := self.next_pdu(quiet_s)) is not None:
            words.append(in_words(*answer))
            if len(words) == 1:
                quiet_s = 0.2
        if self.is_closed():
            words.append("closed")
        return ", ".join(words) or "nothing"

    def next_pdu(self, quiet_s: float = 10.0) -> tuple[Any, bytes] | None:
        """Header and data of the next PDU; None when none comes in time, or the connection is closed."""
        header = self._take(BHS_BYTES, quiet_s)
        if header is None:
            return None
        fields = LAYOUTS[Opcode(header[0] & 0x3F)].parse(header)
        length = fields.lengths & 0xFFFFFF
        data = self._take(length + -length % 4, 10.0)
        assert data is not None, "a PDU was cut short"
        return fields, data[:length]

    def _take(self, count: int, quiet_s: float) -> bytes | None:
        self._socket.settimeout(quiet_s)
        while len(self._received) < count:
            try:
                piece = self._socket.recv(1 << 16)
            except (TimeoutError, ConnectionError):
                return None
            if not piece:
                return None
            self._received += piece
        taken, self._received = self._received[:count], self._received[count:]
        return taken

    def is_closed(self) -> bool:
        """Whether the target has closed the connection."""
        self._socket.settimeout(0.05)
        try:
            return self._socket.recv(1, socket.MSG_PEEK) == b""
        except TimeoutError:
            return False
        except ConnectionError:
            return True


def in_words(fields: Any, data: bytes) -> str:
    """What a PDU says."""
    opcode = Opcode(fields.opcode & 0x3F)
    match opcode:
        case Opcode.LOGIN_RESPONSE:
            return f"Login Response {fields.status:#06x} {LoginStatus(fields.status).name.replace('_', ' ')}"
        case Opcode.REJECT:
            return f"Reject {fields.reason:#04x} {RejectReason(fields.reason).name.replace('_', ' ')}"
        case Opcode.SCSI_RESPONSE if fields.status == 0x02:
            sense = data[2:]
            code = sense[12] << 8 | sense[13]
            return f"CHECK CONDITION, {SENSE_KEYS.get(sense[2], hex(sense[2]))}, {SENSE_CODES.get(code, hex(code))}"
        case Opcode.SCSI_RESPONSE:
            return f"SCSI Response, status {fields.status:#04x}"
        case Opcode.TEXT_RESPONSE:
            return "Text Response"
        case _:
            return opcode.name.replace("_", " ")
