"""Our initiator's engine in one room, with work under way, for what a target says that nobody meant.

An input is a mode byte and what a target says. Its task tags are always the same, so what real targets said once is
understood again. Whatever it is, nothing is raised, each request ends at most once, nothing is written beside the
caller's buffer, and what ends a connection is a typed error.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Final

from csvd.iscsi import text
from csvd.iscsi.chap import Credentials
from csvd.iscsi.codes import RESERVED_TAG, Opcode, TaskManagementFunction
from csvd.iscsi.keys import OFFER
from csvd.iscsi.layouts import build
from initiator.engine.connection import InitiatorConnection
from initiator.engine.discovery import parse_targets
from initiator.engine.login import LoginSettings
from initiator.engine.requests import (
    Command,
    ConnectionFailed,
    Event,
    LoggedIn,
    Ping,
    Request,
    TaskManagement,
    TextExchange,
)
from initiator.engine.session import SessionState
from initiator.errors import InitiatorError
from tests.bench.targets import IQN
from tests.fuzz.room import with_digests

MOST_INPUT_BYTES: Final = 1 << 16
MOST_OUTPUT_BYTES: Final = 1 << 20
"""All that one input can make the engine send: its write once, in the smallest pieces, and answers to pings."""
ONE_BY_ONE: Final = 12
"""PDUs before which a target's window is small: LIO's is, until the first answers."""
READ_BYTES: Final = 18 * 512
SMALL_BYTES: Final = 512
WRITE_BYTES: Final = 60 * 512
GUARD: Final = b"\xa5" * 64
PIECES: Final = (1 << 20, 1, 47, 1000)
INITIATOR: Final = "iqn.2026-11.io.csvd.test:fuzzed"
ISID: Final = b"\x80\0\0\0\0\x07"
US: Final = Credentials("joe", b"opensesame12345")
THEM: Final = Credentials("the-target", b"battery-staple-12")

LOGGED_IN: Final = 0x01
DIGESTS: Final = 0x02
CHAP: Final = 0x10
TWO: Final = 0x20
"""Flags in the first byte of an input (CHAP only where the login is its own); bits 2 and 3 choose the length of the
pieces in which the rest comes. With TWO the session has two connections, and what follows comes by both in turns of
whole PDUs."""


class InitiatorRoom:
    """One session, and what it has asked."""

    def __init__(self, mode: int, lun: int = 0, said: bytes = b"") -> None:
        self.mode = mode
        self.asks_for_text = True
        self._stat_sn = int.from_bytes(said[24:28])
        self.session = SessionState(ISID)
        digest = "CRC32C" if mode & DIGESTS else "None"
        self.offer = replace(OFFER, header_digest=digest, data_digest=digest, max_connections=2)
        self.room = bytearray(GUARD + bytes(READ_BYTES) + GUARD + bytes(SMALL_BYTES) + GUARD)
        self.events: list[Event] = []
        self.sent_bytes = 0
        self.requests = self._requests(lun << 48)
        self.connections = [self._connection(0)]
        if mode & LOGGED_IN:
            self._canned_login(0)
        if mode & TWO and mode & LOGGED_IN:
            self.connections.append(self._connection(1))
            self._canned_login(1)

    def _connection(self, number: int) -> InitiatorConnection:
        chap = self.mode & (CHAP | LOGGED_IN) == CHAP
        settings = LoginSettings(
            initiator_name=INITIATOR,
            target_name=IQN,
            credentials=US if chap else None,
            target_credentials=THEM if chap else None,
            target_challenge=bytes(range(33)),
            offer=self.offer,
            connection_id=number,
        )
        return InitiatorConnection(self.session, settings, staging_bytes=4096)

    def _requests(self, lun: int) -> list[Request]:
        view = memoryview(self.room)
        small_at = 2 * len(GUARD) + READ_BYTES
        blocks, written = READ_BYTES // 512, WRITE_BYTES // 512
        return [
            Command(lun, bytes(6)),
            Command(
                lun, b"\x28" + bytes(6) + bytes((0, blocks, 0)), data_in=view[len(GUARD) : len(GUARD) + READ_BYTES]
            ),
            Command(lun, b"\x2a" + bytes(6) + bytes((0, written, 0)), data_out=bytes(WRITE_BYTES)),
            Command(lun, b"\x28" + bytes(7) + b"\1\0", data_in=view[small_at : small_at + SMALL_BYTES]),
            Ping(b"ping"),
            TaskManagement(TaskManagementFunction.ABORT_TASK_SET, lun),
            TextExchange(text.build([("SendTargets", IQN)]), limit=20000),
        ]

    def _canned_login(self, number: int) -> None:
        """A login as of a target that takes everything, and goes on with the StatSN that comes next."""
        keys = {"TargetPortalGroupTag": "1", "MaxRecvDataSegmentLength": "262144"}
        if self.mode & DIGESTS:
            keys |= {"HeaderDigest": "CRC32C", "DataDigest": "CRC32C"}
        if number == 0:
            keys |= {"InitialR2T": "No", "ImmediateData": "Yes", "MaxConnections": "2"}
        data = text.build(keys.items())
        fields = {
            "flags": 0x87,
            "isid": ISID,
            "tsih": 1,
            "stat_sn": self._stat_sn - 1 & 0xFFFFFFFF,
            "initiator_task_tag": self.session._next_tag - 1,
        }
        fields |= {"exp_cmd_sn": self.session.cmd_sn, "max_cmd_sn": self.session.cmd_sn + 63, "lengths": len(data)}
        self.output()
        header = build(Opcode.LOGIN_RESPONSE, **fields)
        self.take_piece(number, header + data + bytes(-len(data) % 4))

    def take(self, stream: bytes) -> None:
        """Take what the target says."""
        if self.mode & DIGESTS and self.mode & LOGGED_IN:
            stream = with_digests(stream)
        for turn, part in enumerate(self._parts(stream)):
            self.take_piece(turn % len(self.connections), part)

    def _parts(self, stream: bytes) -> Iterator[bytes]:
        """Cut what is said: after a PDU where the target goes on only when we have answered, else into pieces."""
        size = PIECES[self.mode >> 2 & 3]
        kept = b""
        count = 0
        while stream:
            digests = self.mode & DIGESTS and self.connections[0].logged_in
            pdu, stream = first_pdu(stream, 4 if digests else 0)
            kept += pdu
            count += 1
            waits = count <= ONE_BY_ONE or pdu[0] & 0x3F in (Opcode.R2T, Opcode.LOGIN_RESPONSE)
            if waits or not stream or len(self.connections) > 1:
                yield from (kept[at : at + size] for at in range(0, len(kept), size))
                kept = b""

    def take_piece(self, number: int, piece: bytes) -> None:
        """Let one connection take some bytes, and see that all is as it must be."""
        engine = self.connections[number]
        had_failed = engine.failed is not None
        events = engine.feed(piece)
        assert not (had_failed and events), events
        for index, event in enumerate(events):
            if isinstance(event, LoggedIn):
                self._send(engine)
            elif isinstance(event, ConnectionFailed):
                assert index == len(events) - 1, events
                assert isinstance(event.error, InitiatorError)
                assert str(event.error).isprintable(), event.error
            elif isinstance(event, TextExchange):
                self._parse(event)
        asked = [event for event in [*self.events, *events] if isinstance(event, Request)]
        assert len({*map(id, asked)}) == len(asked), "a request ended twice"
        self.events += events[: 64 - len(self.events)]
        self.output()
        self.check()

    def _send(self, engine: InitiatorConnection) -> None:
        turn = self.connections.index(engine)
        for request in self.requests[turn::2] if self.mode & TWO else self.requests:
            if isinstance(request, TextExchange) and not self.asks_for_text:
                self.session.new_tag()
            elif request.tag == RESERVED_TAG and engine.failed is None:
                engine.send(request)

    @staticmethod
    def _parse(exchange: TextExchange) -> None:
        with suppress(InitiatorError):
            parse_targets(bytes(exchange.answer))

    def output(self) -> bytes:
        """Take what the engine has to send."""
        sent = b""
        for engine in self.connections:
            while batch := engine.data_to_send():
                sent += b"".join(batch)
        self.sent_bytes += len(sent)
        return sent

    def check(self) -> None:
        """See that nothing grew, and nothing was written where it does not belong."""
        guards = (0, len(GUARD) + READ_BYTES, 2 * len(GUARD) + READ_BYTES + SMALL_BYTES)
        for at in guards:
            assert self.room[at : at + len(GUARD)] == GUARD, at
        for engine in self.connections:
            assert len(engine.outstanding) <= len(self.requests) + 1
            assert sum(map(len, engine.buffers())) <= READ_BYTES + 262144
        assert self.sent_bytes <= MOST_OUTPUT_BYTES + MOST_INPUT_BYTES * 3


def first_pdu(stream: bytes, digest_bytes: int = 0) -> tuple[bytes, bytes]:
    """Give the first PDU of a stream, as far as it is there, and what comes after it."""
    length = int.from_bytes(stream[5:8])
    end = 48 + digest_bytes + ((length + 3 & ~3) + digest_bytes if length else 0)
    return stream[:end], stream[end:]


def one_initiator_input(data: bytes) -> None:
    """What a fuzzer calls."""
    if not data:
        return
    room = InitiatorRoom(data[0], said=data[1:])
    room.take(data[1:MOST_INPUT_BYTES])
    for engine in room.connections:
        engine.close(InitiatorError("the input is at an end"))
        assert not engine.data_to_send()
        assert not engine.outstanding
    assert not room.session.connections
