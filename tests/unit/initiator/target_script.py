"""A target played by hand: what the engine sent, as named fields; what a target would say, as bytes."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, NamedTuple

from csvd.iscsi import text
from csvd.iscsi.codes import BHS_BYTES, Opcode
from csvd.iscsi.keys import OFFER, SessionParameters
from csvd.iscsi.layouts import LAYOUTS, build
from initiator.engine.connection import InitiatorConnection
from initiator.engine.login import LoginSettings
from initiator.engine.requests import Command, ConnectionFailed, Event
from initiator.engine.session import SessionState
from initiator.errors import InitiatorError

INITIATOR = "iqn.2026-11.test:initiator"
TARGET = "iqn.2026-11.test:disk"
ISID = b"\x80\x01\x02\x03\x04\x05"
GENEROUS = {"InitialR2T": "No", "ImmediateData": "Yes", "MaxBurstLength": "65536", "FirstBurstLength": "16384"}


class Pdu(NamedTuple):
    """A PDU that the initiator sent."""

    opcode: Opcode
    fields: Any
    data: bytes

    def __getattr__(self, name: str) -> Any:
        return self.fields[name]

    @property
    def keys(self) -> dict[str, str]:
        return text.parse_unique(self.data)


def parse_pdus(stream: bytes) -> list[Pdu]:
    """Cut a stream into PDUs."""
    pdus, start = [], 0
    while start < len(stream):
        opcode = Opcode(stream[start] & 0x3F)
        fields = LAYOUTS[opcode].parse(stream[start : start + BHS_BYTES])
        size = fields.lengths & 0xFFFFFF
        data = stream[start + BHS_BYTES : start + BHS_BYTES + size]
        assert len(data) == size
        pdus.append(Pdu(opcode, fields, data))
        start += BHS_BYTES + (size + 3 & ~3)
    return pdus


def pdu(opcode: Opcode, data: bytes = b"", /, **fields: Any) -> bytes:
    """Build a PDU of a target."""
    return build(opcode, **{"lengths": len(data), "flags": 0x80} | fields) + data + bytes(-len(data) % 4)


def settings(**changes: Any) -> LoginSettings:
    """Give login settings for the test target."""
    return LoginSettings(**{"initiator_name": INITIATOR, "target_name": TARGET} | changes)


class Script:
    """An engine and, by hand, the target at its other end."""

    def __init__(
        self,
        login: LoginSettings | None = None,
        *,
        staging_bytes: int = 4096,
        session: SessionState | None = None,
    ) -> None:
        state = session or SessionState(ISID)
        self.engine = InitiatorConnection(state, login or settings(), staging_bytes=staging_bytes)
        self.stat_sn = 100
        self.exp_cmd_sn = 1
        self.max_cmd_sn = 64

    def sent(self) -> list[Pdu]:
        """Give what the engine has to send now."""
        stream = b""
        while batch := self.engine.data_to_send():
            stream += b"".join(batch)
        return parse_pdus(stream)

    def say(self, *pdus: bytes) -> list[Event]:
        """Let the target say this; give the events."""
        return self.engine.feed(b"".join(pdus))

    def numbers(self, *, status: bool = True) -> dict[str, int]:
        """Give the sequence numbers of the next PDU; with a status it consumes a StatSN."""
        numbers = {"stat_sn": self.stat_sn, "exp_cmd_sn": self.exp_cmd_sn, "max_cmd_sn": self.max_cmd_sn}
        self.stat_sn = self.stat_sn + status & 0xFFFFFFFF
        return numbers

    # --- login

    def login_response(self, request: Pdu, keys: dict[str, str], flags: int = 0x87, **fields: Any) -> bytes:
        values: dict[str, Any] = {
            "flags": flags,
            "isid": ISID,
            "tsih": 7,
            "initiator_task_tag": request.initiator_task_tag,
        }
        return pdu(Opcode.LOGIN_RESPONSE, text.build(keys.items()), **self.numbers() | values | fields)

    def log_in(self, keys: dict[str, str] = GENEROUS) -> None:
        """Go through a login without security."""
        (request,) = self.sent()
        answer = {"TargetPortalGroupTag": "1", "MaxRecvDataSegmentLength": "8192"} | keys
        self.say(self.login_response(request, answer))
        assert self.engine.logged_in, self.engine.failed

    # --- full-feature phase

    def command(self, **fields: Any) -> Command:
        """Hand the engine a command."""
        command = Command(0, fields.pop("cdb", bytes(6)), **fields)
        self.engine.send(command)
        return command

    def data_in(self, command: Command, offset: int, data: bytes, data_sn: int, **fields: Any) -> bytes:
        status = bool(fields.get("flags", 0) & 1)
        values = {
            "flags": 0,
            "initiator_task_tag": command.tag,
            "target_transfer_tag": 0xFFFFFFFF,
            "data_sn": data_sn,
            "buffer_offset": offset,
        }
        return pdu(Opcode.DATA_IN, data, **self.numbers(status=status) | values | fields)

    def response(self, command: Command, status: int = 0, data: bytes = b"", **fields: Any) -> bytes:
        values = {"initiator_task_tag": command.tag, "status": status}
        return pdu(Opcode.SCSI_RESPONSE, data, **self.numbers() | values | fields)

    def r2t(self, command: Command, r2t_sn: int, offset: int, length: int, **fields: Any) -> bytes:
        values = {
            "initiator_task_tag": command.tag,
            "target_transfer_tag": 0x1000 + r2t_sn,
            "r2t_sn": r2t_sn,
            "buffer_offset": offset,
            "desired_data_transfer_length": length,
        }
        return pdu(Opcode.R2T, **self.numbers(status=False) | values | fields)

    def say_more(self, opcode: Opcode, data: bytes = b"", *, status: bool = True, **fields: Any) -> list[Event]:
        """Let the target say any other PDU."""
        return self.say(pdu(opcode, data, **self.numbers(status=status) | fields))


def logged_in(keys: dict[str, str] = GENEROUS, *, staging_bytes: int = 4096, **changes: Any) -> Script:
    """Give a script whose login is done."""
    script = Script(settings(**changes), staging_bytes=staging_bytes)
    script.log_in(keys)
    return script


def failure(events: list[Event]) -> InitiatorError:
    """Give the error with which the connection failed: the last event."""
    assert events
    last = events[-1]
    assert isinstance(last, ConnectionFailed)
    return last.error


def small_offer(**changes: Any) -> SessionParameters:
    """Give an offer with some values changed."""
    return replace(OFFER, **changes)
