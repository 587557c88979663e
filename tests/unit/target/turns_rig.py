"""Sessions on pairs of sockets with a service, on a reactor that the test turns: for tests of who has which turn."""

from __future__ import annotations

import contextlib
import socket
from typing import Protocol

from csvd.iscsi.codes import IMMEDIATE, RESERVED_TAG, Opcode
from csvd.target.connection import ServerConnection
from csvd.target.service import TargetService
from tests.iscsi_wire import TARGET, TEST_UNIT_READY, End, Pdu, Wire, cdb10, digested, parse_pdus, pdu
from tests.unit.target.fake_reactor import FakeReactor

SOCKET_BYTES = 1 << 20


class Served(Protocol):
    """What a client needs."""

    @property
    def reactor(self) -> FairReactor:
        """Turned by the test."""

    @property
    def service(self) -> TargetService:
        """With the target of tests.iscsi_wire."""


class FairReactor(FakeReactor):
    """What is asked for in a turn comes in the next one, as in a real reactor."""

    def turn(self) -> None:
        for reader in list(self.readers):
            self._drop(reader, reader.doRead())
        for writer in list(self.writers):
            self._drop(writer, writer.doWrite())
        due = [call for call in self.calls if call.getTime() <= self.seconds()]
        for call in due:
            if call.active():
                self.calls.remove(call)
                call.called = 1
                call.func(*call.args, **call.kw)


class Client:
    """One session with the service, over a pair of sockets."""

    def __init__(self, rig: Served, number: int, **keys: str) -> None:
        self._rig = rig
        self.sock, near = socket.socketpair()
        for sock in (self.sock, near):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SOCKET_BYTES)
        wire = Wire()
        wire.entity = rig.service.entity
        self.end = End(wire, peer=f"192.0.2.{number}:1")
        service = rig.service
        self.connection = ServerConnection(rig.reactor, near, self.end.engine, service._executor_of, lambda _: None)
        self._digests = {"header_digest": False, "data_digest": False}
        self.unsaid = bytearray()
        self.heard = bytearray()
        names = {"InitiatorName": f"iqn.2026-11.test:{number}", "TargetName": TARGET, "InitialR2T": "No"}
        self.say(self.end.login_pdu(names | {"MaxRecvDataSegmentLength": "262144"} | keys))
        rig.reactor.turn()
        (answer,) = self.answers()
        assert answer.status == 0
        self._digests = {"header_digest": "HeaderDigest" in keys, "data_digest": "DataDigest" in keys}
        self.say(self.end.command(cdb10(TEST_UNIT_READY, 0, 0)))
        rig.reactor.turn()
        (attention,) = self.answers()
        assert attention.status == 2

    def say(self, data: bytes = b"") -> None:
        """Write what the socket takes."""
        self.unsaid += digested(data, **self._digests) if any(self._digests.values()) else data
        with contextlib.suppress(BlockingIOError):
            while self.unsaid:
                del self.unsaid[: self.sock.send(self.unsaid)]

    def listen(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while piece := self.sock.recv(1 << 20):
                self.heard += piece

    def answers(self) -> list[Pdu]:
        """What has come since the last call, where it is whole."""
        self.listen()
        answers = parse_pdus(bytes(self.heard), **self._digests)
        self.heard.clear()
        return answers

    def ping(self, tag: int = 7) -> bytes:
        fields = {"flags": 0x80, "initiator_task_tag": tag, "target_transfer_tag": RESERVED_TAG}
        return pdu(Opcode.NOP_OUT, opcode=IMMEDIATE, cmd_sn=self.end.cmd_sn, **fields)

    def close(self) -> None:
        self.sock.close()
        self.connection.abort()
