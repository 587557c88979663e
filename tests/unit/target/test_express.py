"""The express path: what it takes, what it leaves to the others, and that nobody can tell the difference."""

from __future__ import annotations

import contextlib
import errno
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.iscsi.codes import LoginStatus, Opcode
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.iscsi.session import Task
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.sense import Asc
from csvd.scsi.target_device import TargetDevice
from csvd.storage.disk import Buffer, StorageError
from csvd.storage.memory import MemoryDisk
from csvd.target.connection import ServerConnection
from csvd.target.executor import Executor
from csvd.target.express import EXPRESS_BYTES, MERGED_WRITES
from csvd.target.statistics import totals_of
from csvd.target.steps import StepRunner
from tests.iscsi_wire import BLOCK_BYTES, TARGET, TEST_UNIT_READY, End, Pdu, Wire, cdb10, digested, parse_pdus, pdu
from tests.unit.target.fake_reactor import FakeReactor

DISK_BYTES = 4 << 20
READ, WRITE = 0xC0, 0xA0


class WatchedDisk(MemoryDisk):
    """Notes what is written at once, and can be made to have nothing at hand."""

    def __init__(self) -> None:
        super().__init__(DISK_BYTES)
        self.waits = False
        self.written: list[tuple[int, int]] = []

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        return not self.waits and super().read_nowait(buffer, offset_bytes)

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        waits, self.waits = self.waits, False
        done = super().read_into(buffer, offset_bytes)
        self.waits = waits
        return done

    def write_nowait(self, buffers: Sequence[Buffer], offset_bytes: int) -> bool:
        if self.waits:
            return False
        self.written.append((offset_bytes, sum(map(len, buffers))))
        return super().write_nowait(buffers, offset_bytes)


class CountingExecutor(Executor):
    """Knows which commands came the usual way."""

    usual: list[int]

    def execute(self, connection: ServerConnection, task: Task) -> None:
        self.usual.append(task.cdb[0])
        super().execute(connection, task)


class Rig:
    """A session on a real pair of sockets, with a real device over a disk in memory."""

    def __init__(self, disk: WatchedDisk | None = None, **keys: str) -> None:
        self.reactor = FakeReactor()
        self.disk = disk or WatchedDisk()
        self.unit = LogicalUnit(0, self.disk, BLOCK_BYTES, DISK_BYTES // BLOCK_BYTES, Identity(serial="express"))
        self.device = TargetDevice({0: self.unit})
        runner = StepRunner(self.reactor, None, lambda _unit, _nexuses, done: done())
        self.executor = CountingExecutor(self.device, runner)
        self.executor.usual = []
        wire = Wire()
        wire.target = TargetNode(TARGET, self.device)
        wire.entity = NetworkEntity([wire.target], entropy=lambda count: bytes(range(count)))
        self.peer, near = socket.socketpair()
        self.peer.setblocking(False)
        near.setblocking(False)
        self.end = End(wire)
        self.connection = ServerConnection(self.reactor, near, self.end.engine, lambda _: self.executor, lambda _: None)
        names = {"InitiatorName": "iqn.2026-11.test:i", "TargetName": TARGET, "InitialR2T": "No"}
        (answer,) = self.ask(self.end.login_pdu(names | {"MaxRecvDataSegmentLength": "262144"} | keys))
        assert answer.status == LoginStatus.SUCCESS
        if not keys:
            self.power_on()

    def power_on(self) -> None:
        """Hear of the unit attention condition of power on."""
        (attention,) = self.ask(self.end.command(cdb10(TEST_UNIT_READY, 0, 0)))
        assert attention.status == 2
        self.executor.usual.clear()

    def ask(self, *requests: bytes) -> list[Pdu]:
        return parse_pdus(self.exchange(*requests))

    def exchange(self, *requests: bytes) -> bytes:
        rest, received = memoryview(b"".join(requests)), b""
        for _ in range(1000):
            if rest:
                with contextlib.suppress(BlockingIOError):
                    rest = rest[self.peer.send(rest) :]
            self.reactor.turn()
            while True:
                try:
                    piece = self.peer.recv(1 << 20)
                except BlockingIOError:
                    break
                if not piece:
                    return received
                received += piece
            if not rest and not self.connection._unsent and not self.connection._turn_is_due:
                break
        return received

    def close(self) -> None:
        self.peer.close()
        self.connection.abort()


@pytest.fixture(autouse=True)
def unhurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """A pause of the machine ends no turn: what is left over for the next one may go the usual way."""
    monkeypatch.setattr("csvd.target.connection.TURN_NS", 1 << 60)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def pattern(number: int, length_bytes: int) -> bytes:
    return bytes((number + place) % 251 for place in range(16)) * (length_bytes // 16)


def serials(answers: Sequence[Pdu]) -> list[tuple[int, int, int]]:
    return [(answer.stat_sn, answer.exp_cmd_sn, answer.max_cmd_sn) for answer in answers]


def cdb16(opcode: int, block: int, blocks: int, flags: int = 0) -> bytes:
    return bytes((opcode, flags)) + block.to_bytes(8) + blocks.to_bytes(4) + bytes(2)


def test_reads_are_answered_in_their_order_with_their_data_and_numbers(rig: Rig) -> None:
    for number in range(8):
        rig.disk._write((pattern(number, 4096),), number * 4096)
    stat_sn, cmd_sn = rig.end.engine.stat_sn, rig.end.cmd_sn
    answers = rig.ask(*[rig.end.read(8 * number, 8) for number in (3, 0, 7, 1)])
    assert rig.executor.usual == []
    assert [answer.opcode for answer in answers] == [Opcode.DATA_IN] * 4
    assert [answer.data for answer in answers] == [pattern(number, 4096) for number in (3, 0, 7, 1)]
    assert [answer.flags for answer in answers] == [0x81] * 4
    assert [answer.initiator_task_tag for answer in answers] == [cmd_sn + number for number in range(4)]
    assert {answer.target_transfer_tag for answer in answers} == {0xFFFFFFFF}
    assert serials(answers) == [(stat_sn + n, cmd_sn + 1 + n, cmd_sn + 64 + n) for n in range(4)]


def test_writes_with_their_data_are_on_the_disk_before_their_answers(rig: Rig) -> None:
    stat_sn, cmd_sn = rig.end.engine.stat_sn, rig.end.cmd_sn
    places = (5, 100, 7)
    answers = rig.ask(*[rig.end.write(place, 1, pattern(place, 512)) for place in places])
    assert rig.executor.usual == []
    assert [answer.opcode for answer in answers] == [Opcode.SCSI_RESPONSE] * 3
    assert [(answer.response, answer.status, answer.flags) for answer in answers] == [(0, 0, 0x80)] * 3
    assert serials(answers) == [(stat_sn + n, cmd_sn + 1 + n, cmd_sn + 64 + n) for n in range(3)]
    for place in places:
        buffer = bytearray(512)
        rig.disk.read_nowait(memoryview(buffer), place * 512)
        assert buffer == pattern(place, 512)
    assert rig.disk.written == [(place * 512, 512) for place in places]


def test_the_sixteen_byte_forms_are_taken_too(rig: Rig) -> None:
    data = pattern(9, 8192)
    write = rig.end.command(cdb16(0x8A, 64, 16), expected=8192, flags=WRITE, data=data)
    read = rig.end.command(cdb16(0x88, 64, 16, 0x10), expected=8192, flags=READ)
    written, answer = rig.ask(write, read)
    assert (written.status, answer.data, rig.executor.usual) == (0, data, [])


def test_adjacent_writes_go_to_the_disk_as_one_and_are_answered_each(rig: Rig) -> None:
    numbers = (4, 5, 6, 20, 21, 3)
    answers = rig.ask(*[rig.end.write(number, 1, pattern(number, 512)) for number in numbers])
    assert len(answers) == 6
    assert rig.disk.written == [(4 * 512, 3 * 512), (20 * 512, 2 * 512), (3 * 512, 512)]
    (read,) = rig.ask(rig.end.read(3, 4))
    assert read.data == b"".join(pattern(number, 512) for number in (3, 4, 5, 6))


def test_not_more_writes_are_merged_than_the_kernel_takes(rig: Rig) -> None:
    window = 60
    for first in (0, window):
        rig.ask(*[rig.end.write(first + number, 1, pattern(number, 512)) for number in range(window)])
    assert all(length <= MERGED_WRITES * 512 for _, length in rig.disk.written)
    assert sum(length for _, length in rig.disk.written) == 2 * window * 512


def test_what_reads_and_writes_in_turn_sees_its_own_writes(rig: Rig) -> None:
    requests = []
    for number in range(10):
        requests += [rig.end.write(number % 3, 1, pattern(number, 512)), rig.end.read(number % 3, 1)]
    answers = rig.ask(*requests)
    assert [answer.data for answer in answers[1::2]] == [pattern(number, 512) for number in range(10)]
    assert rig.executor.usual == []


def test_a_disk_that_has_nothing_at_hand_is_asked_the_usual_way(rig: Rig) -> None:
    rig.disk.waits = True
    written, read = rig.ask(rig.end.write(2, 1, pattern(1, 512)), rig.end.read(2, 1))
    assert (written.status, read.data) == (0, pattern(1, 512))
    assert rig.executor.usual == [0x2A, 0x28]


def test_a_disk_that_did_not_take_a_write_is_offered_no_other_in_that_turn(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []

    def write_nowait(_buffers: Sequence[Buffer], offset_bytes: int) -> bool:
        asked.append(offset_bytes)
        return False

    monkeypatch.setattr(rig.disk, "write_nowait", write_nowait)
    answers = rig.ask(*[rig.end.write(3 * number, 1, pattern(number, 512)) for number in range(20)])
    assert [answer.status for answer in answers] == [0] * 20
    # The executor asks again for each; the express path does not.
    assert (asked, len(rig.executor.usual)) == ([0, *(3 * 512 * number for number in range(20))], 20)


def test_writes_that_the_disk_refuses_behind_others_are_not_answered_twice(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = rig.disk.write_nowait
    monkeypatch.setattr(
        rig.disk, "write_nowait", lambda buffers, offset_bytes: offset_bytes < 8192 and take(buffers, offset_bytes)
    )
    numbers = (1, 2, 9, 16, 17, 3)
    cmd_sn, stat_sn = rig.end.cmd_sn, rig.end.engine.stat_sn
    answers = rig.ask(*[rig.end.write(number, 1, pattern(number, 512)) for number in numbers])
    assert sorted(answer.initiator_task_tag for answer in answers) == list(range(cmd_sn, cmd_sn + 6))
    assert [answer.stat_sn for answer in answers] == list(range(stat_sn, stat_sn + 6))
    reads = rig.ask(*[rig.end.read(number, 1) for number in numbers])
    assert [read.data for read in reads] == [pattern(number, 512) for number in numbers]


Odd = Callable[[Rig], tuple[bytes, int]]


def odd(name: str, make: Callable[[Rig], bytes], status: int = 0) -> Any:
    return pytest.param(make, status, id=name)


def immediate_read(end: End) -> bytes:
    request = end.read(0, 1, opcode=0x41)
    end.cmd_sn -= 1
    return request


ODD_COMMANDS = [
    odd("read with fua", lambda rig: rig.end.command(cdb16(0x88, 0, 1, 0x08), expected=512, flags=READ)),
    odd("ordered", lambda rig: rig.end.read(0, 1, flags=READ | 2)),
    odd("head of queue", lambda rig: rig.end.read(0, 1, flags=READ | 3)),
    odd("aca", lambda rig: rig.end.read(0, 1, flags=READ | 4), 2),
    odd("immediate", lambda rig: immediate_read(rig.end)),
    odd("naca", lambda rig: rig.end.command(cdb10(0x28, 0, 1)[:9] + b"\x04" + bytes(6), expected=512, flags=READ), 2),
    odd("protection", lambda rig: rig.end.command(cdb16(0x88, 0, 1, 0x20), expected=512, flags=READ), 2),
    odd("behind the end", lambda rig: rig.end.read(DISK_BYTES // 512, 1), 2),
    odd("over the end", lambda rig: rig.end.write(DISK_BYTES // 512 - 1, 2, bytes(1024)), 2),
    odd("no blocks", lambda rig: rig.end.read(0, 0)),
    odd("shorter than expected", lambda rig: rig.end.read(0, 1, expected=1024)),
    odd("longer than expected", lambda rig: rig.end.read(0, 2, expected=512)),
    odd("a read without its flag", lambda rig: rig.end.read(0, 1, flags=0x80)),
    odd("an unknown lun", lambda rig: rig.end.read(0, 1, lun=5 << 48), 2),
    odd("large", lambda rig: rig.end.read(0, EXPRESS_BYTES // 512 + 1)),
]


@pytest.mark.parametrize(("make", "status"), ODD_COMMANDS)
def test_what_is_unusual_in_any_way_is_left_to_the_others(rig: Rig, make: Callable[[Rig], bytes], status: int) -> None:
    (before,) = rig.ask(rig.end.read(8, 1))
    answers = rig.ask(make(rig))
    assert answers[-1].status == status
    assert len(rig.executor.usual) == 1
    (behind,) = rig.ask(rig.end.read(8, 1))
    assert behind.stat_sn == before.stat_sn + 2
    assert len(rig.executor.usual) == 1


def test_nothing_overtakes_an_ordered_task(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[int] = []
    read_nowait = rig.disk.read_nowait

    def noted(buffer: memoryview, offset_bytes: int) -> bool:
        order.append(offset_bytes // 512)
        return read_nowait(buffer, offset_bytes)

    monkeypatch.setattr(rig.disk, "read_nowait", noted)
    answers = rig.ask(rig.end.read(1, 1), rig.end.read(2, 1, flags=READ | 2), rig.end.read(3, 1), rig.end.read(4, 1))
    assert (order, len(answers), rig.executor.usual) == ([1, 2, 3, 4], 4, [0x28])


def test_a_command_behind_one_of_another_kind_is_taken_again(rig: Rig) -> None:
    commands = [rig.end.read(0, 1), rig.end.command(cdb10(TEST_UNIT_READY, 0, 0)), rig.end.read(1, 1)]
    assert [answer.opcode for answer in rig.ask(*commands)] == [Opcode.DATA_IN, Opcode.SCSI_RESPONSE, Opcode.DATA_IN]
    assert rig.executor.usual == [TEST_UNIT_READY]


def test_a_unit_attention_condition_is_told_before_anything_is_read(rig: Rig) -> None:
    rig.device.servers[0].establish(Asc.CAPACITY_DATA_HAS_CHANGED)
    first, second = rig.ask(rig.end.read(0, 1), rig.end.read(0, 1))
    assert (first.status, second.opcode, rig.executor.usual) == (2, Opcode.DATA_IN, [0x28])


def test_a_unit_that_is_write_protected_takes_no_write_here(rig: Rig) -> None:
    rig.device.servers[0].write_protected = True
    (answer,) = rig.ask(rig.end.write(0, 1, bytes(512)))
    assert (answer.status, rig.executor.usual, rig.disk.written) == (2, [0x2A], [])


class FlushedByHand(WatchedDisk):
    """Flushes when the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.capabilities = replace(self.capabilities, volatile_cache=True)
        self.flushes: list[Deferred[None]] = []

    def flush(self) -> Deferred[None]:
        done: Deferred[None] = Deferred()
        self.flushes.append(done)
        return done


@pytest.fixture
def durable() -> Iterator[Rig]:
    rig = Rig(disk=FlushedByHand())
    yield rig
    rig.close()


def fua_write(rig: Rig, number: int) -> bytes:
    cdb = cdb16(0x8A, number, 1, 0x08)
    return rig.end.command(cdb, expected=512, flags=WRITE, data=pattern(number, 512))


def flushes(rig: Rig) -> list[Deferred[None]]:
    assert isinstance(rig.disk, FlushedByHand)
    return rig.disk.flushes


@pytest.mark.parametrize("write_through", [False, True])
def test_writes_that_must_be_durable_are_answered_behind_one_flush(durable: Rig, write_through: bool) -> None:
    rig = durable
    make = fua_write
    if write_through:
        rig.device.servers[0].write_through = True
        make = lambda rig, number: rig.end.write(number, 1, pattern(number, 512))  # noqa: E731
    stat_sn = rig.end.engine.stat_sn
    assert rig.ask(*[make(rig, number) for number in (3, 4, 9)]) == []
    assert rig.disk.written == [(3 * 512, 1024), (9 * 512, 512)]
    (read,) = rig.ask(rig.end.read(4, 1))
    assert read.data == pattern(4, 512)
    assert read.max_cmd_sn == read.exp_cmd_sn + 64 - 3 - 1
    (flush,) = flushes(rig)
    flush.callback(None)
    answers = rig.ask()
    assert [(answer.opcode, answer.status) for answer in answers] == [(Opcode.SCSI_RESPONSE, 0)] * 3
    assert [answer.stat_sn for answer in answers] == [stat_sn + 1 + n for n in range(3)]
    assert answers[-1].max_cmd_sn == answers[-1].exp_cmd_sn + 63
    assert rig.executor.usual == []
    assert not rig.executor.busy
    row = {name: totals for _, name, totals in rig.executor.statistics.commands()}
    assert sum(totals.bytes_out for totals in row.values()) == 1536


def test_a_disk_that_loses_nothing_with_the_power_need_not_flush(rig: Rig) -> None:
    (answer,) = rig.ask(fua_write(rig, 1))
    assert (answer.status, rig.executor.usual, rig.disk.written) == (0, [], [(512, 512)])


def test_a_flush_that_fails_fails_all_that_waited_for_it(durable: Rig) -> None:
    durable.ask(fua_write(durable, 1), fua_write(durable, 2))
    flushes(durable)[0].errback(StorageError("flush", errno.EIO, where="test"))
    answers = durable.ask()
    assert [(answer.status, answer.data[4] & 0xF) for answer in answers] == [(2, 3)] * 2
    assert not durable.executor.busy
    assert durable.device.servers[0].task_set.begun == 0


def test_a_write_that_waits_for_its_flush_can_be_aborted_and_is_waited_for(durable: Rig) -> None:
    durable.ask(fua_write(durable, 1))
    tag = durable.end.cmd_sn - 1
    fields = {"opcode": 0x42, "function": 0x81, "referenced_task_tag": tag, "initiator_task_tag": 500}
    assert durable.ask(pdu(Opcode.TASK_MANAGEMENT_REQUEST, cmd_sn=durable.end.cmd_sn, ref_cmd_sn=tag, **fields)) == []
    flushes(durable)[0].callback(None)
    (answer,) = durable.ask()
    assert (answer.opcode, answer.response) == (Opcode.TASK_MANAGEMENT_RESPONSE, 0)


def test_an_ordered_task_waits_for_the_writes_before_it_to_be_durable(durable: Rig) -> None:
    durable.ask(fua_write(durable, 1))
    assert durable.ask(durable.end.read(0, 1, flags=READ | 2)) == []
    flushes(durable)[0].callback(None)
    assert [answer.opcode for answer in durable.ask()] == [Opcode.SCSI_RESPONSE, Opcode.DATA_IN]


def test_no_more_writes_wait_for_a_flush_than_the_queue_has_places(durable: Rig) -> None:
    durable.ask(*[fua_write(durable, 2 * number) for number in range(64)])
    session = durable.end.engine.session
    assert session is not None
    assert len(session.tasks) == 64
    assert session.max_cmd_sn == session.exp_cmd_sn - 1
    for flush in flushes(durable):
        flush.callback(None)
    assert len(durable.ask()) == 64
    assert not session.tasks


def test_a_unit_that_is_gone_is_not_read(rig: Rig) -> None:
    rig.ask(rig.end.read(0, 1))
    rig.device.remove_unit(0)
    (answer,) = rig.ask(rig.end.read(0, 1))
    assert answer.status == 2


def test_a_range_that_somebody_has_for_himself_is_waited_for(rig: Rig) -> None:
    rig.unit.locks.contended = True
    rig.ask(rig.end.read(0, 1))
    assert rig.executor.usual == [0x28]


def test_a_command_that_is_not_the_next_one_is_held_and_those_behind_it_too(rig: Rig) -> None:
    first, second, third = (rig.end.read(8 * number, 1) for number in range(3))
    assert rig.ask(second, third) == []
    answers = rig.ask(first)
    assert [answer.initiator_task_tag for answer in answers] == [rig.end.cmd_sn - 3 + n for n in range(3)]
    (answer,) = rig.ask(rig.end.read(0, 1))
    assert answer.max_cmd_sn == answer.exp_cmd_sn + 63


def test_a_tag_that_is_in_use_is_rejected_as_ever(rig: Rig) -> None:
    opened = rig.end.write(0, 8, flags=WRITE)
    (r2t,) = rig.ask(opened)
    assert r2t.opcode == Opcode.R2T
    (reject,) = rig.ask(rig.end.read(0, 1, initiator_task_tag=r2t.initiator_task_tag))
    assert reject.opcode == Opcode.REJECT


def test_what_lies_between_commands_is_done_in_its_place(rig: Rig) -> None:
    nop = pdu(Opcode.NOP_OUT, opcode=0x40, initiator_task_tag=77, target_transfer_tag=0xFFFFFFFF, cmd_sn=rig.end.cmd_sn)
    one = rig.end.read(0, 1)
    two = rig.end.command(cdb10(TEST_UNIT_READY, 0, 0))
    three = rig.end.read(1, 1)
    answers = rig.ask(one, nop, two, three)
    assert sorted(answer.opcode for answer in answers) == [0x20, 0x21, 0x25, 0x25]
    assert [answer.stat_sn for answer in answers] == sorted(answer.stat_sn for answer in answers)
    assert rig.executor.usual == [TEST_UNIT_READY]


def test_more_answers_than_the_buffer_holds_go_out_in_their_order(rig: Rig) -> None:
    for number in range(40):
        rig.disk._write((pattern(number, 32768),), number * 32768)
    answers = rig.ask(*[rig.end.read(64 * number, 64) for number in range(40)])
    assert [answer.data[:32] for answer in answers] == [pattern(number, 32) for number in range(40)]
    assert rig.executor.usual == []
    assert ServerConnection.scratch.used == 0


def test_answers_that_the_socket_does_not_take_are_kept_and_the_buffer_is_free_for_others(rig: Rig) -> None:
    other = Rig()
    rig.disk._write((pattern(1, 65536),), 0)
    other.disk._write((pattern(2, 65536),), 0)
    for _ in range(30):
        rig.peer.send(rig.end.read(0, 128))
        rig.reactor.turn()
    assert rig.connection._unsent_bytes > 0
    (answer,) = other.ask(other.end.read(0, 128))
    assert answer.data == pattern(2, 65536)
    answers = rig.ask()
    assert [answer.data for answer in answers] == [pattern(1, 65536)] * 30
    other.close()


def test_numbers_that_wrap_are_taken_over_the_wrap(rig: Rig) -> None:
    session = rig.end.engine.session
    assert session is not None
    start = 2**32 - 5
    rig.end.engine.stat_sn = start
    rig.end.cmd_sn = session.exp_cmd_sn = start
    session.max_cmd_sn = start + 63 & 0xFFFFFFFF
    answers = rig.ask(*[rig.end.read(0, 1) for _ in range(10)])
    assert [answer.stat_sn for answer in answers] == [start + n & 0xFFFFFFFF for n in range(10)]
    assert [answer.exp_cmd_sn for answer in answers] == [start + 1 + n & 0xFFFFFFFF for n in range(10)]
    assert [answer.max_cmd_sn for answer in answers] == [start + 64 + n & 0xFFFFFFFF for n in range(10)]
    rig.executor.usual.clear()
    rig.ask(rig.end.read(0, 1))
    assert rig.executor.usual == []


def test_what_is_answered_here_is_counted(rig: Rig) -> None:
    rig.ask(*[rig.end.read(0, 2) for _ in range(3)], *[rig.end.write(0, 1, bytes(512)) for _ in range(2)])
    row = {name: totals for _, name, totals in rig.executor.statistics.commands()}
    assert (row["READ(10)"].count, row["READ(10)"].bytes_in) == (3, 3072)
    assert (row["WRITE(10)"].count, row["WRITE(10)"].bytes_out) == (2, 1024)
    assert totals_of([rig.connection.counter.row]).count == 6


def test_a_thin_unit_that_is_written_to_is_watched(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    rig.unit.thin = True
    seen: list[int] = []
    monkeypatch.setattr(rig.executor, "changed", lambda transfer, _: seen.append(transfer.length_bytes))
    rig.ask(rig.end.write(0, 1, bytes(512)), rig.end.write(8, 2, bytes(1024)))
    assert seen == [1536]


def test_a_connection_with_a_header_digest_has_no_express_path() -> None:
    rig = Rig(HeaderDigest="CRC32C")
    assert rig.connection._express is None
    rig.close()


@pytest.mark.parametrize("pieces", [1, 7])
def test_with_a_data_digest_reads_are_taken_and_writes_are_checked_first(pieces: int) -> None:
    rig = Rig(DataDigest="CRC32C")
    (attention,) = parse_pdus(rig.exchange(rig.end.command(cdb10(TEST_UNIT_READY, 0, 0))), data_digest=True)
    assert attention.status == 2
    rig.executor.usual.clear()
    requests = [
        digested(rig.end.write(4, 2, pattern(4, 1024)), header_digest=False),
        rig.end.read(4, 2),
        rig.end.read(4, 1),
    ]
    stream, received = b"".join(requests), b""
    for number in range(pieces):
        received += rig.exchange(stream[number * len(stream) // pieces : (number + 1) * len(stream) // pieces])
    written, *reads = parse_pdus(received, data_digest=True)
    assert written.status == 0
    assert [read.data for read in reads] == [pattern(4, 1024), pattern(4, 1024)[:512]]
    assert rig.executor.usual == [0x2A]
    damaged = bytearray(digested(rig.end.write(4, 1, pattern(9, 512)), header_digest=False))
    damaged[60] ^= 1
    rig.exchange(bytes(damaged))
    assert rig.disk.written == [(4 * 512, 1024)]
    rig.close()


def test_immediate_data_that_was_not_agreed_is_left_to_the_engine() -> None:
    rig = Rig(ImmediateData="No")
    rig.power_on()
    (reject,) = rig.ask(rig.end.write(0, 1, bytes(512)))
    assert reject.opcode == Opcode.REJECT
    rig.close()
