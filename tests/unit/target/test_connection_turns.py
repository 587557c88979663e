"""What one connection may take from the others: time of the loop, and memory. Each bound is held where it is worst."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.iscsi.codes import IMMEDIATE, Opcode, TaskManagementFunction
from csvd.iscsi.pdu_input import PDUS_A_TURN
from csvd.iscsi.receiver import BUFFER_BYTES
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.task_set import ORDERED
from csvd.storage.memory import MemoryDisk
from csvd.target.connection import HELD_BYTES, READS_A_TURN, TURN_BYTES, TURN_NS, ServerConnection
from csvd.target.export import Export
from csvd.target.express import SCRATCH_BYTES
from csvd.target.service import TargetService
from tests.iscsi_wire import BLOCK_BYTES, TARGET, Pdu, pdu
from tests.unit.target.turns_rig import Client, FairReactor

DISK_BYTES = 64 << 20
MOST_TURNS = 10_000
SOCKET_BYTES = 1 << 20


class HeldDisk(MemoryDisk):
    """Durable writes wait until the test lets them go on; everything else is at hand. Reads may fail by a fault."""

    def __init__(self) -> None:
        super().__init__(DISK_BYTES)
        self.capabilities = replace(self.capabilities, volatile_cache=True)
        self.held: list[Deferred[None]] = []
        self.reads_until_fault = -1

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        if not self.reads_until_fault:
            raise ZeroDivisionError
        self.reads_until_fault -= 1
        return super().read_nowait(buffer, offset_bytes)

    def flush(self) -> Deferred[None]:
        self.held.append(Deferred())
        return self.held[-1]


class Rig:
    """A service on a reactor that the test turns."""

    def __init__(self) -> None:
        self.reactor = FairReactor()
        self.disk = HeldDisk()
        self.unit = LogicalUnit(0, self.disk, BLOCK_BYTES, DISK_BYTES // BLOCK_BYTES, Identity())
        self.service = TargetService(self.reactor, [Export(TARGET, [self.unit])])
        self.clients: list[Client] = []

    def client(self, **keys: str) -> Client:
        self.clients.append(Client(self, len(self.clients) + 1, **keys))
        return self.clients[-1]

    def close(self) -> None:
        for client in self.clients:
            client.close()


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def held_bytes(connection: ServerConnection) -> int:
    """What a connection holds in answers, counted piece by piece."""
    waiting = sum(map(len, connection._unsent)) + sum(map(len, connection.engine.output))
    assert connection._unsent_bytes == sum(map(len, connection._unsent))
    return waiting + connection.held_bytes


def flood_of_pings(client: Client, count: int) -> bytes:
    return b"".join(client.ping(tag) for tag in range(count))


def flood_of_functions(client: Client, count: int) -> bytes:
    fields = {
        "opcode": IMMEDIATE | Opcode.TASK_MANAGEMENT_REQUEST,
        "function": 0x80 | TaskManagementFunction.ABORT_TASK,
        "referenced_task_tag": 99,
        "cmd_sn": client.end.cmd_sn,
    }
    return b"".join(pdu(Opcode.TASK_MANAGEMENT_REQUEST, initiator_task_tag=tag, **fields) for tag in range(count))


def flood_of_resets(client: Client, count: int) -> bytes:
    fields = {
        "opcode": IMMEDIATE | Opcode.TASK_MANAGEMENT_REQUEST,
        "function": 0x80 | TaskManagementFunction.LOGICAL_UNIT_RESET,
        "cmd_sn": client.end.cmd_sn,
    }
    return b"".join(pdu(Opcode.TASK_MANAGEMENT_REQUEST, initiator_task_tag=tag, **fields) for tag in range(count))


def flood_of_rejects(_client: Client, count: int) -> bytes:
    return pdu(Opcode.NOP_OUT, opcode=0x1F) * count


FLOODS = [flood_of_pings, flood_of_functions, flood_of_resets, flood_of_rejects]


@pytest.mark.parametrize("flood", FLOODS)
@pytest.mark.parametrize("keys", [{}, {"HeaderDigest": "CRC32C,None"}])
def test_small_requests_by_the_thousand_leave_the_loop_to_others_in_between(
    rig: Rig, flood: Callable[[Client, int], bytes], keys: dict[str, str]
) -> None:
    greedy, other = rig.client(**keys), rig.client()
    count = BUFFER_BYTES // 52
    greedy.say(flood(greedy, count))
    answers: list[Pdu] = []
    turns = 0
    while len(answers) < count:
        other.say(other.ping())
        rig.reactor.turn()
        assert len(other.answers()) == 1, "in every turn"
        come = greedy.answers()
        assert 0 < len(come) <= 2 * PDUS_A_TURN, "in one turn of the loop, of which the late turn is one"
        answers += come
        turns += 1
        assert turns < MOST_TURNS
    assert [answer.stat_sn for answer in answers] == [(answers[0].stat_sn + n) & 0xFFFFFFFF for n in range(count)]


def test_what_is_to_be_ignored_takes_no_more_of_a_turn_than_what_is_answered(rig: Rig) -> None:
    greedy, other = rig.client(), rig.client()
    beyond = [greedy.end.read(0, 8, cmd_sn=greedy.end.cmd_sn + 5000) for _ in range(BUFFER_BYTES // 48)]
    greedy.say(b"".join(beyond))
    receiver = greedy.end.engine.receiver
    greedy.connection.doRead()
    assert receiver.start <= PDUS_A_TURN * 48
    for _ in range(2 * len(beyond) // PDUS_A_TURN):
        rig.reactor.turn()
    assert receiver.is_empty
    greedy.say(greedy.end.read(0, 8))
    other.say(other.ping())
    rig.reactor.turn()
    assert len(other.answers()) == 1
    assert greedy.answers() == [], "its CmdSN comes behind those"


def test_reads_beyond_every_window_are_done_in_turns_and_in_order(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody answers as fast as one who does not look at the window can ask, so the time of a turn is what ends it."""
    greedy, other = rig.client(), rig.client()
    clock = itertools.count(0, TURN_NS // 2)
    monkeypatch.setattr("csvd.target.connection.perf_counter_ns", lambda: next(clock))
    count = 2 * BUFFER_BYTES // 48
    greedy.say(b"".join(greedy.end.read(0, 1) for _ in range(count)))
    tags: list[int] = []
    for _ in range(MOST_TURNS):
        other.say(other.end.read(0, 1))
        rig.reactor.turn()
        assert len(other.answers()) == 1, "in every turn"
        come = greedy.answers()
        assert sum(len(answer.data) + 48 for answer in come) <= 6 * SCRATCH_BYTES
        tags += [answer.initiator_task_tag for answer in come]
        if len(tags) == count:
            break
    assert tags == list(range(2, count + 2))


def test_large_reads_of_one_connection_are_done_in_turns(rig: Rig) -> None:
    greedy, other = rig.client(), rig.client()
    count = 60
    greedy.say(b"".join(greedy.end.read(0, 512) for _ in range(count)))
    sent = 0
    for _ in range(MOST_TURNS):
        greedy.connection.turn_bytes = 0
        greedy.connection.doRead()
        greedy.listen()
        assert greedy.connection.turn_bytes <= TURN_BYTES + 512 * BLOCK_BYTES
        other.say(other.end.read(0, 8))
        rig.reactor.turn()
        assert len(other.answers()) == 1
        greedy.listen()
        sent = len(greedy.heard)
        if sent == count * (512 * BLOCK_BYTES + 48):
            break
    assert len([answer for answer in greedy.answers() if answer.flags & 1]) == count


def test_writes_that_keep_coming_are_taken_in_turns(rig: Rig) -> None:
    greedy, other = rig.client(), rig.client()
    count = 600
    greedy.say(b"".join(greedy.end.write(8 * n, 8, bytes(4096)) for n in range(count)))
    answers: list[Pdu] = []
    for _ in range(MOST_TURNS):
        before = len(answers)
        other.say(other.ping())
        rig.reactor.turn()
        greedy.say()
        assert len(other.answers()) == 1
        answers += greedy.answers()
        assert len(answers) - before <= READS_A_TURN * BUFFER_BYTES // 4096
        if len(answers) == count:
            break
    assert [answer.initiator_task_tag for answer in answers] == list(range(2, count + 2))


@pytest.mark.parametrize("blocks", [1, 8, 128, 512, 2048])
@pytest.mark.parametrize("keys", [{}, {"DataDigest": "CRC32C,None"}])
def test_a_peer_that_reads_nothing_holds_no_more_than_its_share_whatever_it_asks_for(
    rig: Rig, blocks: int, keys: dict[str, str]
) -> None:
    greedy, other = rig.client(**keys), rig.client()
    most, said = 0, 0
    for _ in range(40 if keys else 400):
        if not greedy.unsaid:
            greedy.say(b"".join(greedy.end.read(0, blocks) for _ in range(200)))
            said += 200
        greedy.say()
        other.say(other.ping())
        rig.reactor.turn()
        assert len(other.answers()) == 1
        most = max(most, held_bytes(greedy.connection))
    assert most <= HELD_BYTES + max(SCRATCH_BYTES, blocks * BLOCK_BYTES) + 64 * 48
    if not keys:
        assert most > HELD_BYTES // 2
        assert greedy.connection not in rig.reactor.readers
        assert greedy.connection in rig.reactor.writers
        assert said * 48 < HELD_BYTES, "the rest of what it says stays with it"


def test_reads_that_wait_behind_an_ordered_task_hold_no_more_than_the_share_of_their_connection(rig: Rig) -> None:
    client = rig.client()
    cdb = bytes((0x2A, 0x08, 0, 0, 0, 0, 0, 0, 1)) + bytes(7)
    client.say(client.end.command(cdb, expected=512, flags=0xA0 | ORDERED, data=bytes(512)))
    count = 40
    client.say(b"".join(client.end.read(0, 2048) for _ in range(count)))
    for _ in range(5):
        rig.reactor.turn()
    assert rig.disk.held
    assert HELD_BYTES // 2 < held_bytes(client.connection) <= HELD_BYTES + (1 << 20)
    rig.disk.held.pop().callback(None)
    most = held_bytes(client.connection)
    for _ in range(MOST_TURNS):
        rig.reactor.turn()
        most = max(most, held_bytes(client.connection))
        client.listen()
        if len(client.heard) >= count * (1 << 20) + 48:
            break
    assert most <= HELD_BYTES + (1 << 20) + 64 * 48
    answers = client.answers()
    assert [answer.initiator_task_tag for answer in answers if answer.flags & 1][-count:] == list(range(3, count + 3))
    assert client.connection.held_bytes == 0


def test_a_task_that_goes_while_it_waits_gives_back_what_it_would_have_held(rig: Rig) -> None:
    client = rig.client()
    cdb = bytes((0x2A, 0x08, 0, 0, 0, 0, 0, 0, 1)) + bytes(7)
    client.say(client.end.command(cdb, expected=512, flags=0xA0 | ORDERED, data=bytes(512)))
    client.say(client.end.read(0, 2048) + client.end.read(0, 2048))
    rig.reactor.turn()
    assert client.connection.held_bytes == 2 << 20
    client.say(flood_of_resets(client, 1))
    rig.reactor.turn()
    assert client.connection.held_bytes == 0
    rig.disk.held.pop().callback(None)
    rig.reactor.turn()
    assert [answer.opcode for answer in client.answers()] == [Opcode.TASK_MANAGEMENT_RESPONSE]
    assert client.connection.held_bytes == 0


def test_a_fault_of_ours_in_the_middle_of_a_turn_shows_nothing_of_it_to_others(rig: Rig) -> None:
    rig.disk._write((b"secret!!" * 64,), 0)
    unlucky, other = rig.client(), rig.client()
    rig.disk.reads_until_fault = 3
    unlucky.say(b"".join(unlucky.end.read(0, 1) for _ in range(6)))
    unlucky.connection._readable()
    assert unlucky.connection.disconnected
    rig.disk.reads_until_fault = -1
    other.say(other.end.read(1, 1))
    rig.reactor.turn()
    (answer,) = other.answers()
    assert answer.data == bytes(BLOCK_BYTES)


def test_a_connection_that_is_lost_in_the_middle_of_its_answers_takes_nothing_of_others_with_it(rig: Rig) -> None:
    rig.disk._write((bytes(range(256)) * 64,), 0)
    lost, other = rig.client(), rig.client()

    class BrokenSocket:
        """Takes a part of the answers, then it is gone."""

        def __init__(self, sock: socket.socket) -> None:
            self.sock = sock
            self.left = 1000

        def __getattr__(self, name: str) -> Any:
            return getattr(self.sock, name)

        def sendmsg(self, buffers: Sequence[Any]) -> int:
            return self.send(b"".join(buffers))

        def send(self, data: Any) -> int:
            if not self.left:
                raise ConnectionResetError
            count = self.sock.send(data[: self.left])
            self.left -= count
            return count

    sock: Any = BrokenSocket(lost.connection._socket)
    lost.connection._socket = sock
    for blocks in (1, 32, 512):
        lost.say(lost.end.read(0, blocks) + lost.ping() + lost.end.read(0, blocks))
    other.say(other.end.read(0, 32) + other.ping() + other.end.read(1, 32))
    rig.reactor.turn()
    rig.reactor.turn()
    assert lost.connection.disconnected
    answers = other.answers()
    assert [answer.opcode for answer in answers] == [Opcode.DATA_IN, Opcode.NOP_IN, Opcode.DATA_IN]
    assert [answer.data for answer in answers if answer.data] == [
        bytes(range(256)) * 64,
        (bytes(range(256)) * 64)[512:] + bytes(512),
    ]
    assert ServerConnection.scratch.used == 0


def test_an_answer_that_came_late_goes_before_those_of_the_turn_that_comes_first(rig: Rig) -> None:
    client = rig.client()
    cdb = bytes((0x2A, 0x08, 0, 0, 0, 0, 0, 0, 1)) + bytes(7)
    client.say(client.end.command(cdb, expected=512, flags=0xA1, data=bytes(512)))
    rig.reactor.turn()
    rig.disk.held.pop().callback(None)
    client.say(client.end.read(0, 1))
    client.connection.doRead()
    rig.reactor.turn()
    answers = client.answers()
    assert [answer.opcode for answer in answers] == [Opcode.SCSI_RESPONSE, Opcode.DATA_IN]
    assert answers[1].stat_sn == answers[0].stat_sn + 1
