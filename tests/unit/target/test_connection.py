"""The adapter of a connection, on a real pair of sockets: one write for a batch, backpressure, the end."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest

from csvd.iscsi.codes import Opcode
from csvd.iscsi.connection import TargetConnection
from csvd.iscsi.keepalive import KEEPALIVE
from csvd.iscsi.session import EXECUTING, Task
from csvd.target.connection import HELD_BYTES, LINGER_S, LOG_LINES, TURN_BYTES, ServerConnection
from csvd.target.outgoing import IOV_MAX
from tests.iscsi_wire import End, Pdu, Wire, parse_pdus, pdu
from tests.unit.target.fake_reactor import FakeReactor


class MemoryExecutor:
    """Executes tasks on the wire's memory, now or when told."""

    def __init__(self, wire: Wire) -> None:
        self.wire = wire
        self.hold = False
        self.held: list[Task] = []

    def express(self, *_: object) -> None:
        """Its tasks are all executed."""

    def execute(self, connection: ServerConnection, task: Task) -> None:
        task.state = EXECUTING
        if self.hold:
            self.held.append(task)
        else:
            self.wire.execute(task)


class Rig:
    """A connection between a socket that the test holds and the adapter under test."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.wire = Wire()
        self.executor: Any = MemoryExecutor(self.wire)
        self.peer, near = socket.socketpair()
        for sock in (self.peer, near):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
        self.requests = End(self.wire)
        """Builds the requests; its engine is the one under test."""
        self.engine: TargetConnection = self.requests.engine
        self.lost: list[ServerConnection] = []
        self.connection = ServerConnection(self.reactor, near, self.engine, lambda _: self.executor, self.lost.append)

    def ask(self, data: bytes) -> list[Pdu]:
        self.peer.sendall(data)
        self.reactor.turn()
        return self.answers()

    def answers(self) -> list[Pdu]:
        received = b""
        while True:
            try:
                piece = self.peer.recv(1 << 20)
            except BlockingIOError:
                break
            if not piece:
                break
            received += piece
            self.reactor.turn()
        return parse_pdus(received)

    def answers_now(self) -> list[Pdu]:
        """What has come, without a turn of the loop."""
        try:
            return parse_pdus(self.peer.recv(1 << 20))
        except BlockingIOError:
            return []

    def login(self) -> None:
        names = {"InitiatorName": "iqn.2026-11.test:i", "TargetName": self.wire.target.name, "InitialR2T": "No"}
        keys = names | {"MaxRecvDataSegmentLength": "262144"}
        (answer,) = self.ask(self.requests.login_pdu(keys))
        assert answer.status == 0


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.peer.close()
    rig.connection.abort()


def test_all_answers_to_what_one_receive_brought_go_out_in_one_write(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.login()
    writes: list[int] = []
    send = rig.connection._sendmsg

    def counted(buffers: list[Any]) -> int:
        writes.append(len(buffers))
        return send(buffers)

    monkeypatch.setattr(rig.connection, "_sendmsg", counted)
    answers = rig.ask(b"".join(rig.requests.read(0, 1) for _ in range(20)))
    assert [a.opcode for a in answers] == [Opcode.DATA_IN] * 20
    assert writes == [40]


def test_a_peer_that_does_not_read_is_not_read_from_and_holds_no_more_than_its_share(rig: Rig) -> None:
    rig.login()
    for _ in range(60):  # 15 MiB of answers
        rig.peer.sendall(rig.requests.read(0, 512))
        rig.reactor.turn()
    assert rig.connection not in rig.reactor.readers
    assert rig.connection in rig.reactor.writers
    assert rig.connection._unsent_bytes <= HELD_BYTES + 262144 + 48
    answers = rig.answers()
    while len([a for a in answers if a.flags & 0x01]) < 60:
        rig.reactor.turn()
        more = rig.answers()
        assert more
        answers += more
    assert [a.initiator_task_tag for a in answers if a.flags & 0x01] == list(range(1, 61))
    assert rig.connection in rig.reactor.readers
    assert rig.connection not in rig.reactor.writers


def test_an_answer_that_comes_later_is_sent_without_new_input(rig: Rig) -> None:
    rig.login()
    rig.executor.hold = True
    assert rig.ask(rig.requests.read(0, 1) + rig.requests.read(1, 1)) == []
    for task in rig.executor.held:
        rig.wire.execute(task)
        rig.connection.proceed()
    rig.reactor.advance(0)
    assert [a.opcode for a in rig.answers()] == [Opcode.DATA_IN] * 2


def test_a_task_whose_answer_is_late_waits_for_no_other(rig: Rig) -> None:
    rig.login()
    rig.executor.hold = True
    rig.ask(rig.requests.read(0, 1))
    rig.executor.hold = False
    (answer,) = rig.ask(rig.requests.read(1, 1))
    assert answer.initiator_task_tag == 2


def test_while_a_disk_is_slow_pings_are_heard_and_answered(rig: Rig) -> None:
    rig.login()
    rig.executor.hold = True
    for _ in range(40):
        rig.peer.sendall(rig.requests.read(0, 512))
        rig.reactor.turn()
    rig.connection.held_bytes = HELD_BYTES + 1
    rig.peer.sendall(rig.requests.read(0, 512))
    rig.reactor.turn()
    ping = pdu(Opcode.NOP_OUT, opcode=0x40, flags=0x80, initiator_task_tag=900, target_transfer_tag=0xFFFFFFFF)
    (answer,) = rig.ask(ping)
    assert answer.opcode == Opcode.NOP_IN


def test_one_connection_leaves_the_loop_to_others_after_its_share_of_a_turn(rig: Rig) -> None:
    rig.login()

    class CountingExecutor(MemoryExecutor):
        def execute(self, connection: ServerConnection, task: Task) -> None:
            super().execute(connection, task)
            connection.turn_bytes += TURN_BYTES // 2

    rig.executor = CountingExecutor(rig.wire)
    rig.connection._executor = None
    rig.peer.sendall(b"".join(rig.requests.read(0, 1) for _ in range(9)))
    rig.connection.doRead()
    assert len(rig.answers_now()) == 3
    answers = []
    for _ in range(4):
        rig.reactor.advance(0)
        answers += rig.answers_now()
    assert len(answers) == 6


def test_a_connection_that_is_asked_often_has_one_turn_at_a_time(rig: Rig) -> None:
    rig.login()

    class GreedyExecutor(MemoryExecutor):
        def execute(self, connection: ServerConnection, task: Task) -> None:
            super().execute(connection, task)
            connection.turn_bytes += 2 * TURN_BYTES

    rig.executor = GreedyExecutor(rig.wire)
    rig.connection._executor = None
    for _ in range(6):
        rig.peer.sendall(rig.requests.read(0, 1))
        rig.connection.doRead()
        rig.connection.proceed()
    assert len(rig.reactor.getDelayedCalls()) == 1


def test_a_peer_that_reads_nothing_for_long_is_given_up(rig: Rig) -> None:
    rig.login()
    for _ in range(8):
        rig.peer.sendall(rig.requests.read(0, 512))
        rig.reactor.turn()
    rig.connection.tick(KEEPALIVE.dead_s - 1)
    assert not rig.lost
    rig.connection.tick(KEEPALIVE.dead_s + 1)
    assert rig.lost == [rig.connection]


def test_the_time_of_a_peer_that_does_not_read_begins_when_bytes_begin_to_wait(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.login()
    rig.reactor.advance(10 * KEEPALIVE.dead_s)
    monkeypatch.setattr(rig.connection, "_sendmsg", lambda _: 0)
    rig.engine.output.extend([b"x"] * (IOV_MAX + 1))
    rig.connection.tick(rig.reactor.seconds())
    rig.connection.tick(rig.reactor.seconds() + 1)
    assert not rig.lost


def test_a_closed_socket_ends_the_session(rig: Rig) -> None:
    rig.login()
    rig.peer.close()
    rig.reactor.turn()
    assert rig.lost == [rig.connection]
    assert not rig.wire.target.sessions
    assert not rig.reactor.readers


def test_a_logout_is_answered_before_the_socket_closes(rig: Rig) -> None:
    rig.login()
    (answer,) = rig.ask(pdu(Opcode.LOGOUT_REQUEST, opcode=0x46, reason=0x80))
    assert answer.opcode == Opcode.LOGOUT_RESPONSE
    assert rig.peer.recv(1) == b""
    assert rig.lost == [rig.connection]


def test_a_peer_that_does_not_read_the_end_is_cut_off(rig: Rig) -> None:
    rig.login()
    for _ in range(8):
        rig.peer.sendall(rig.requests.read(0, 512))
        rig.reactor.turn()
    rig.engine.close()
    rig.connection.tick(1.0)
    assert not rig.lost
    rig.connection.tick(1.0 + LINGER_S + 0.1)
    assert rig.lost == [rig.connection]


def test_while_draining_nothing_more_is_taken_and_what_was_taken_is_answered(rig: Rig) -> None:
    rig.login()
    rig.executor.hold = True
    rig.ask(rig.requests.read(0, 1))
    rig.connection.drain()
    assert rig.connection not in rig.reactor.readers
    for task in rig.executor.held:
        rig.wire.execute(task)
        rig.connection.proceed()
    rig.reactor.advance(0)
    assert len(rig.answers()) == 1
    assert rig.connection.drained
    assert rig.connection not in rig.reactor.readers


def test_rubbish_closes_only_its_own_connection(rig: Rig) -> None:
    rig.peer.sendall(b"GET / HTTP/1.1\r\nHost: example\r\n\r\n" + bytes(100))
    rig.reactor.turn()
    assert rig.lost == [rig.connection]


def test_a_peer_cannot_flood_the_log(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.login()
    lines: list[str] = []

    class Log:
        def info(self, form: str, **_: object) -> None:
            lines.append(form)

        warn = info

    monkeypatch.setattr(rig.connection, "log", Log())
    answers = rig.ask(pdu(Opcode.NOP_OUT, opcode=0x1F) * 500)
    assert len(answers) == 500
    assert len(lines) <= LOG_LINES
    rig.connection.tick(1.0)
    assert "not shown" in lines[-1]
