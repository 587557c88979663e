"""A small iSCSI target on loopback TCP, in threads: for tests of the client and of the program."""

from __future__ import annotations

import hashlib
import socket
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from csvd.iscsi import text
from csvd.iscsi.codes import BHS_BYTES, Opcode
from tests.unit.initiator.target_script import Pdu, parse_pdus, pdu

NAME = "iqn.2026-11.test:tiny"
BLOCK_BYTES = 512
RESET = b"\0\x12\x70\0\x06" + bytes(9) + b"\x29\0\0\0\0\0"
INVALID = b"\0\x12\x70\0\x05" + bytes(9) + b"\x20\0\0\0\0\0"
SECRET = b"opensesame12345"


class TinyTarget:
    """Serves one disk in memory.

    ``before``, where it is set, is asked for every PDU that comes; what it gives is sent instead of the usual answer.
    To hang up it raises ConnectionError.
    """

    def __init__(
        self, *, blocks: int = 8192, chap_user: str = "", redirect_to: str = "", maximum_blocks: int = 0
    ) -> None:
        self.disk = bytearray(blocks * BLOCK_BYTES)
        self.chap_user = chap_user
        self.redirect_to = redirect_to
        self.maximum_blocks = maximum_blocks
        self.before: Callable[[Pdu], bytes | None] | None = None
        self.commands: list[bytes] = []
        self.logins = 0
        self.logouts = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"iscsi://127.0.0.1:{self.port}/{NAME}/0"

    def close(self) -> None:
        for sock in (self._listener, *self._connections):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def connected(self, sock: socket.socket) -> TinyConnection:
        """Give what serves a new connection."""
        return TinyConnection(self, sock)

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                sock, _ = self._listener.accept()
                self._connections.append(sock)
                threading.Thread(target=self.connected(sock).run, daemon=True).start()


class TinyConnection:
    """One connection, served in order."""

    def __init__(self, target: TinyTarget, sock: socket.socket) -> None:
        self.target = target
        self.sock = sock
        self.stat_sn = 1
        self.cmd_sn = 1
        self.attention = True
        self.proven = False
        self.writes: dict[int, tuple[int, bytearray]] = {}

    def run(self) -> None:
        with suppress(OSError), self.sock:
            while True:
                request = self.receive()
                answer = self.target.before(request) if self.target.before is not None else None
                if request.opcode is Opcode.SCSI_COMMAND:
                    self.cmd_sn = request.cmd_sn + 1
                self.sock.sendall(self.respond(request) if answer is None else answer)
                if request.opcode is Opcode.LOGOUT_REQUEST:
                    return

    def receive(self) -> Pdu:
        """Wait for a request."""
        header = self._exactly(BHS_BYTES)
        length = int.from_bytes(header[5:8], "big")
        (request,) = parse_pdus(header + self._exactly(length + 3 & ~3))
        return request

    def _exactly(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self.sock.recv(count - len(data))
            if not part:
                raise ConnectionError
            data += part
        return bytes(data)

    def _pdu(self, opcode: Opcode, data: bytes = b"", *, counts: bool = True, **fields: Any) -> bytes:
        numbers = {"stat_sn": self.stat_sn, "exp_cmd_sn": self.cmd_sn, "max_cmd_sn": self.cmd_sn + 31}
        self.stat_sn += counts
        return pdu(opcode, data, **numbers | fields)

    def respond(self, request: Pdu) -> bytes:
        tag = {"initiator_task_tag": request.initiator_task_tag}
        match request.opcode:
            case Opcode.LOGIN_REQUEST:
                return self._login(request)
            case Opcode.TEXT_REQUEST:
                pairs = [("TargetName", NAME), ("TargetAddress", f"127.0.0.1:{self.target.port},1")]
                return self._pdu(Opcode.TEXT_RESPONSE, text.build(pairs), **tag, target_transfer_tag=0xFFFFFFFF)
            case Opcode.NOP_OUT:
                return self._pdu(Opcode.NOP_IN, request.data, **tag, target_transfer_tag=0xFFFFFFFF)
            case Opcode.LOGOUT_REQUEST:
                self.target.logouts += 1
                return self._pdu(Opcode.LOGOUT_RESPONSE, **tag)
            case Opcode.TASK_MANAGEMENT_REQUEST:
                return self._pdu(Opcode.TASK_MANAGEMENT_RESPONSE, **tag)
            case Opcode.DATA_OUT:
                return self._data_out(request)
            case _:
                return self._command(request)

    # --- login

    def _login(self, request: Pdu) -> bytes:
        fields: dict[str, Any] = {"initiator_task_tag": request.initiator_task_tag, "isid": request.isid}
        security = request.flags & 0x0C == 0
        self.target.logins += 1
        if self.target.redirect_to:
            moved = text.build([("TargetAddress", self.target.redirect_to)])
            return self._pdu(Opcode.LOGIN_RESPONSE, moved, flags=request.flags & 0x0C, **fields | {"status": 0x0101})
        if self.target.chap_user and security:
            return self._chap(request.keys, fields)
        if self.target.chap_user and not self.proven:
            return self._pdu(Opcode.LOGIN_RESPONSE, flags=4, **fields | {"status": 0x0201})
        answer = {
            "TargetPortalGroupTag": "1",
            "TargetAlias": "tiny",
            "MaxRecvDataSegmentLength": "65536",
            "InitialR2T": "Yes",
            "ImmediateData": "Yes",
            "MaxBurstLength": "65536",
            "FirstBurstLength": "8192",
        }
        return self._pdu(Opcode.LOGIN_RESPONSE, text.build(answer.items()), flags=0x87, tsih=1, **fields)

    def _chap(self, keys: dict[str, str], fields: dict[str, Any]) -> bytes:
        if "AuthMethod" in keys:
            return self._pdu(Opcode.LOGIN_RESPONSE, b"AuthMethod=CHAP\0", flags=0, **fields)
        if "CHAP_A" in keys:
            challenge = b"CHAP_A=7\0CHAP_I=9\0CHAP_C=0x0123456789abcdef\0"
            return self._pdu(Opcode.LOGIN_RESPONSE, challenge, flags=0, **fields)
        want = hashlib.sha256(b"\x09" + SECRET + bytes.fromhex("0123456789abcdef")).hexdigest()
        self.proven = keys == {"CHAP_N": self.target.chap_user, "CHAP_R": "0x" + want}
        if self.proven:
            return self._pdu(Opcode.LOGIN_RESPONSE, flags=0x81, **fields)
        return self._pdu(Opcode.LOGIN_RESPONSE, flags=0, **fields | {"status": 0x0201})

    # --- commands

    def _command(self, request: Pdu) -> bytes:
        opcode, cdb, disk = request.cdb[0], request.cdb, self.target.disk
        self.target.commands.append(cdb)
        start, length = int.from_bytes(cdb[2:6], "big") * BLOCK_BYTES, int.from_bytes(cdb[7:9], "big") * BLOCK_BYTES
        if self.attention and opcode not in (0x12, 0xA0):
            self.attention = False
            return self._status(request.initiator_task_tag, 2, RESET)
        match opcode:
            case 0x00 | 0x35:
                return self._status(request.initiator_task_tag)
            case 0x28:
                return self._data_in(request, bytes(disk[start : start + length]))
            case 0x2A:
                return self._write(request, start)
        answer = self._facts(cdb)
        return (
            self._status(request.initiator_task_tag, 2, INVALID) if answer is None else self._data_in(request, answer)
        )

    def _facts(self, cdb: bytes) -> bytes | None:
        blocks = len(self.target.disk) // BLOCK_BYTES
        match cdb[0]:
            case 0x12 if not cdb[1]:
                return bytes.fromhex("0000060200000002") + b"TEST    TINY            1   "
            case 0x12:
                limits = bytes(4) + self.target.maximum_blocks.to_bytes(4, "big") + bytes(52)
                pages = {
                    0x00: b"\x00\x80\x83\xb0\xb1",
                    0x80: b"serial-1",
                    0x83: bytes.fromhex("010300083000000100000001"),
                    0xB0: limits,
                    0xB1: b"\x00\x01" + bytes(58),
                }
                body = pages.get(cdb[2])
                return None if body is None else bytes((0, cdb[2])) + len(body).to_bytes(2, "big") + body
            case 0x9E:
                return (blocks - 1).to_bytes(8, "big") + BLOCK_BYTES.to_bytes(4, "big") + b"\0\x03" + bytes(18)
            case 0xA0:
                return bytes.fromhex("0000001000000000") + bytes(8) + bytes.fromhex("0001000000000000")
            case 0x1A:
                return bytes.fromhex("17000000081204") + bytes(17)
        return None

    def _status(self, tag: int, status: int = 0, data: bytes = b"") -> bytes:
        return self._pdu(Opcode.SCSI_RESPONSE, data, initiator_task_tag=tag, status=status)

    def _data_in(self, request: Pdu, data: bytes) -> bytes:
        room, tag = request.expected_data_transfer_length, request.initiator_task_tag
        fields = {"initiator_task_tag": tag, "target_transfer_tag": 0xFFFFFFFF}
        data = data[:room]
        parts = [data[at : at + 65536] for at in range(0, len(data), 65536)]
        stream = b"".join(
            self._pdu(Opcode.DATA_IN, part, counts=False, flags=0, data_sn=n, buffer_offset=n * 65536, **fields)
            for n, part in enumerate(parts[:-1])
        )
        flags, last = 0x81 | (2 if len(data) < room else 0), len(parts) - 1
        numbers: dict[str, Any] = {"data_sn": last, "buffer_offset": last * 65536, "residual_count": room - len(data)}
        return stream + self._pdu(Opcode.DATA_IN, parts[-1], flags=flags, **numbers, **fields)

    def _write(self, request: Pdu, start: int) -> bytes:
        data = bytearray(request.expected_data_transfer_length)
        data[: len(request.data)] = request.data
        self.writes[request.initiator_task_tag] = (start, data)
        return self._more(request.initiator_task_tag, len(request.data), 0)

    def _data_out(self, request: Pdu) -> bytes:
        _, data = self.writes[request.initiator_task_tag]
        end = request.buffer_offset + len(request.data)
        data[request.buffer_offset : end] = request.data
        if not request.flags & 0x80:
            return b""
        return self._more(request.initiator_task_tag, end, request.target_transfer_tag + 1)

    def _more(self, tag: int, have: int, r2t_sn: int) -> bytes:
        start, data = self.writes[tag]
        if have < len(data):
            fields: dict[str, Any] = {
                "initiator_task_tag": tag,
                "target_transfer_tag": r2t_sn,
                "r2t_sn": r2t_sn,
                "buffer_offset": have,
            }
            length = min(65536, len(data) - have)
            return self._pdu(Opcode.R2T, counts=False, desired_data_transfer_length=length, **fields)
        self.target.disk[start : start + len(data)] = data
        del self.writes[tag]
        return self._status(tag)
