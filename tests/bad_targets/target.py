"""A target that behaves, until the one request at which it does not."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from csvd.iscsi import text
from csvd.iscsi.codes import Opcode
from initiator.errors import InitiatorError, SessionLost
from tests.unit.initiator.target_script import Pdu, pdu
from tests.unit.initiator.tiny_target import TinyConnection, TinyTarget

NO_TAG: Final = 0xFFFFFFFF
READ: Final = 0x28
WRITE: Final = 0x2A

Saying = Callable[["BadConnection", Pdu], Iterator[bytes]]
"""What it says to a request: pieces, sent one after the other until the initiator hangs up."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt.

    Attributes:
        on: at which request it begins: its Opcode, or, where it is a command, the opcode of its CDB.
        work: what the initiator is doing: see test_bad_targets.
        ends: the error that it must end with; None when it must succeed.
        says: part of its text.
        memory_mib: what all of it may take at most.
        again: it says it to every such request, not to the first alone.
    """

    name: str
    say: Saying
    on: int
    work: str
    ends: type[InitiatorError] | None = SessionLost
    says: str = ""
    memory_mib: float = 4.0
    again: bool = False


class BadConnection(TinyConnection):
    """One connection of a bad target."""

    def number(self, opcode: Opcode, data: bytes = b"", *, counts: bool = True, **fields: Any) -> bytes:
        """Build a PDU with the right sequence numbers, unless others are given; with a status it takes a StatSN."""
        numbers = {"stat_sn": self.stat_sn, "exp_cmd_sn": self.cmd_sn, "max_cmd_sn": self.cmd_sn + 31}
        self.stat_sn += counts
        return pdu(opcode, data, **numbers | fields)

    def login(self, request: Pdu, keys: dict[str, str] | bytes = b"", **fields: Any) -> bytes:
        """Build a Login Response; by default the last one."""
        data = keys if isinstance(keys, bytes) else text.build(keys.items())
        values = {
            "flags": 0x87 if request.flags & 0x0C else 0x00,
            "isid": request.isid,
            "tsih": 1,
            "initiator_task_tag": request.initiator_task_tag,
        }
        return self.number(Opcode.LOGIN_RESPONSE, data, **values | fields)

    def data_in(self, request: Pdu, data: bytes, offset: int = 0, data_sn: int = 0, **fields: Any) -> bytes:
        """Build a Data-In without status, or, with flags 0x81, with one."""
        values = {
            "flags": 0,
            "initiator_task_tag": request.initiator_task_tag,
            "target_transfer_tag": NO_TAG,
            "data_sn": data_sn,
            "buffer_offset": offset,
        }
        values |= fields
        return self.number(Opcode.DATA_IN, data, counts=bool(values["flags"] & 1), **values)

    def status(self, request: Pdu, status: int = 0, data: bytes = b"", **fields: Any) -> bytes:
        """Build a SCSI Response."""
        values = {"initiator_task_tag": request.initiator_task_tag, "status": status}
        return self.number(Opcode.SCSI_RESPONSE, data, **values | fields)

    def r2t(self, request: Pdu, offset: int, length: int, r2t_sn: int = 0, **fields: Any) -> bytes:
        """Build a Ready To Transfer."""
        values = {
            "initiator_task_tag": request.initiator_task_tag,
            "target_transfer_tag": 0x1000 + r2t_sn,
            "r2t_sn": r2t_sn,
            "buffer_offset": offset,
            "desired_data_transfer_length": length,
        }
        return self.number(Opcode.R2T, counts=False, **values | fields)

    def text(self, request: Pdu, data: bytes, **fields: Any) -> bytes:
        """Build a Text Response; by default the last one."""
        values = {"initiator_task_tag": request.initiator_task_tag, "target_transfer_tag": NO_TAG}
        return self.number(Opcode.TEXT_RESPONSE, data, **values | fields)

    def respond(self, request: Pdu) -> bytes:
        target = self.target
        assert isinstance(target, BadTarget)
        attempt = target.attempt
        is_command = request.opcode is Opcode.SCSI_COMMAND
        wanted = (
            is_command and request.cdb[0] == attempt.on if type(attempt.on) is int else request.opcode is attempt.on
        )
        if not wanted:
            return super().respond(request)
        if target.begun and not attempt.again:
            return super().respond(request)
        target.begun += 1
        for piece in attempt.say(self, request):
            self.sock.sendall(piece)
        return b""


class BadTarget(TinyTarget):
    """Makes one attempt; to all else it is a good one."""

    def __init__(self, attempt: Attempt) -> None:
        self.attempt = attempt
        self.begun = 0
        super().__init__()

    def connected(self, sock: socket.socket) -> TinyConnection:
        return BadConnection(self, sock)


def silence(connection: BadConnection, request: Pdu) -> Iterator[bytes]:
    """Say nothing any more, until the initiator hangs up."""
    with suppress(OSError):
        while connection.sock.recv(65536):
            pass
    yield b""


def drop_by_drop(data: bytes, every_s: float = 0.1) -> Iterator[bytes]:
    """Say something a byte at a time."""
    for byte in data:
        yield bytes((byte,))
        time.sleep(every_s)
