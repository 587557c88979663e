"""Task attributes, ranges that another has, and aborts, from the wire to a slow disk."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.iscsi.codes import Opcode, TaskManagementFunction, TaskManagementResponse
from csvd.iscsi.connection import TargetConnection
from csvd.iscsi.node import NetworkEntity, TargetNode
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.range_locks import Claim, Claims
from csvd.scsi.target_device import TargetDevice
from csvd.storage.memory import MemoryDisk
from csvd.target.executor import Executor
from csvd.target.steps import StepRunner
from tests.fake_adapter import FakeAdapter
from tests.iscsi_wire import BLOCK_BYTES, DISK_BYTES, TARGET, End, Pdu, pdu

ORDERED, HEAD_OF_QUEUE = 2, 3
SIMPLE_WRITE, ORDERED_WRITE, HEAD_WRITE = 0xA1, 0xA0 | ORDERED, 0xA0 | HEAD_OF_QUEUE


class SlowDisk(MemoryDisk):
    """Writes wait until the test lets them go on."""

    def __init__(self) -> None:
        super().__init__(DISK_BYTES)
        self.writes: list[tuple[int, Callable[[], Any], Deferred[None]]] = []

    def write_nowait(self, buffers: Sequence[Any], offset_bytes: int) -> bool:
        return False

    def write_from(self, buffers: Sequence[Any], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        """Wait."""
        ended: Deferred[None] = Deferred()
        write = super().write_from
        self.writes.append((offset_bytes, lambda: write(buffers, offset_bytes, fua=fua), ended))
        return ended

    @property
    def waiting(self) -> list[int]:
        """Blocks at which writes are under way."""
        return [offset_bytes // BLOCK_BYTES for offset_bytes, _, _ in self.writes]

    def finish(self) -> None:
        """End the oldest write."""
        _, write, ended = self.writes.pop(0)
        write()
        ended.callback(None)


class Adapter(FakeAdapter):
    """What the executor sees of a connection."""

    def __init__(self, room: Room, engine: TargetConnection) -> None:
        super().__init__()
        self.room, self.engine = room, engine

    def proceed(self) -> None:
        self.room.run(self.engine)


class Room:
    """A target with a slow disk, without a network."""

    def __init__(self) -> None:
        self.disk = SlowDisk()
        self.unit = LogicalUnit(0, self.disk, BLOCK_BYTES, DISK_BYTES // BLOCK_BYTES, Identity(serial="room"))
        self.device = TargetDevice({0: self.unit}, name=TARGET)
        self.target = TargetNode(TARGET, self.device)
        self.entity = NetworkEntity([self.target], entropy=lambda count: bytes(count))
        self.executor: Any = Executor(self.device, StepRunner(Clock(), None, lambda unit, nexuses, done: done()))

    def run(self, engine: TargetConnection) -> None:
        """Execute what is ready."""
        while engine.ready:
            self.executor.execute(Adapter(self, engine), engine.ready.pop(0))

    def login(self, name: str = "iqn.2026-11.test:initiator", **keys: str) -> End:
        end = End(cast(Any, self))
        names = {"InitiatorName": name, "TargetName": TARGET, "InitialR2T": "No"} | keys
        (answer,) = end.ask(end.login_pdu(names))
        assert answer.status == 0
        (attention,) = end.ask(end.command(bytes(16)))
        assert attention.status == 2
        return end

    def take(self, first_block: int, blocks: int) -> Claims:
        """Have a range for oneself."""
        claims = Claims((Claim(self.unit.locks, first_block * BLOCK_BYTES, blocks * BLOCK_BYTES, True),))
        claims.acquire(lambda: None)
        return claims


@pytest.fixture
def room() -> Room:
    return Room()


def write(end: End, block: int, flags: int = SIMPLE_WRITE) -> bytes:
    return end.write(block, 1, b"w" * BLOCK_BYTES, flags=flags)


def function(code: int, referenced: int = 0) -> bytes:
    return pdu(
        Opcode.TASK_MANAGEMENT_REQUEST,
        opcode=0x42,
        function=0x80 | code,
        initiator_task_tag=900,
        referenced_task_tag=referenced,
    )


def tags(answers: list[Pdu]) -> list[int]:
    return [answer.initiator_task_tag for answer in answers]


def test_an_ordered_task_waits_for_those_before_it_and_those_behind_it_wait_for_it(room: Room) -> None:
    end = room.login()
    end.feed(write(end, 1) + write(end, 2) + write(end, 3, ORDERED_WRITE) + write(end, 4))
    assert room.disk.waiting == [1, 2]
    room.disk.finish()
    assert room.disk.waiting == [2]
    room.disk.finish()
    assert room.disk.waiting == [3]
    room.disk.finish()
    assert room.disk.waiting == [4]
    room.disk.finish()
    assert tags(end.answers()) == [2, 3, 4, 5]


def test_a_task_at_the_head_of_the_queue_begins_at_once(room: Room) -> None:
    end = room.login()
    end.feed(write(end, 1) + write(end, 2, ORDERED_WRITE) + write(end, 3, HEAD_WRITE))
    assert room.disk.waiting == [1, 3]


def test_the_order_holds_across_nexuses(room: Room) -> None:
    end, other = room.login(), room.login("iqn.2026-11.test:other")
    end.feed(write(end, 1))
    other.feed(write(other, 2, ORDERED_WRITE))
    end.feed(write(end, 3))
    assert room.disk.waiting == [1]
    room.disk.finish()
    assert room.disk.waiting == [2]


def test_who_may_not_see_a_logical_unit_has_no_place_in_its_queue_and_resets_nothing(room: Room) -> None:
    stranger = "iqn.2026-11.test:other"
    end, other = room.login(), room.login(stranger)
    room.device.set_mask(lambda identity, number: identity.initiator_name != stranger)
    end.feed(write(end, 1))
    (refused,) = other.ask(other.command(bytes(16), flags=0x80 | ORDERED))
    assert refused.status == 2
    end.feed(write(end, 2))
    assert room.disk.waiting == [1, 2]
    for code in (TaskManagementFunction.TARGET_WARM_RESET, TaskManagementFunction.TARGET_COLD_RESET):
        (answer,) = other.ask(function(code))
        assert answer.response == TaskManagementResponse.FUNCTION_AUTHORIZATION_FAILED
    room.disk.finish()
    room.disk.finish()
    assert [answer.status for answer in end.answers()] == [0, 0]


def test_the_abort_of_a_task_that_waits_its_turn_does_not_wait_for_the_long_one_before_it(room: Room) -> None:
    end = room.login()
    end.feed(write(end, 1) + write(end, 2, ORDERED_WRITE) + write(end, 3))
    (answer,) = end.ask(function(TaskManagementFunction.ABORT_TASK, 3))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    assert room.disk.waiting == [1, 3]
    room.disk.finish()
    room.disk.finish()
    assert tags(end.answers()) == [2, 4]
    assert not room.executor.busy


def test_the_abort_of_a_task_that_waits_for_a_range_does_not_wait_for_who_has_it(room: Room) -> None:
    end = room.login()
    claims = room.take(0, 8)
    assert end.ask(write(end, 1)) == []
    assert end.ask(end.command(bytes.fromhex("28000000000000000100") + bytes(6), expected=512, flags=0xC0)) == []
    for tag in (2, 3):
        (answer,) = end.ask(function(TaskManagementFunction.ABORT_TASK, tag))
        assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    claims.release()
    assert room.disk.waiting == []
    assert not room.executor.busy
    assert room.unit.locks.held == room.unit.locks.waiting == {}


def test_a_reset_aborts_what_waits_at_once_and_answers_after_what_the_disk_works_on(room: Room) -> None:
    end, other = room.login(), room.login("iqn.2026-11.test:other")
    claims = room.take(8, 8)
    end.feed(write(end, 1) + write(end, 8))
    other.feed(write(other, 2, ORDERED_WRITE) + write(other, 3))
    assert end.ask(function(TaskManagementFunction.LOGICAL_UNIT_RESET)) == []
    assert room.disk.waiting == [1]
    room.disk.finish()
    (answer,) = end.answers()
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    claims.release()
    assert room.disk.waiting == []
    assert other.answers() == []
    assert not room.executor.busy
    (attention,) = other.ask(other.command(bytes(16)))
    assert attention.status == 2


def test_a_session_that_ends_leaves_nothing_that_waits(room: Room) -> None:
    end = room.login()
    claims = room.take(8, 8)
    end.feed(write(end, 8) + write(end, 1, ORDERED_WRITE))
    end.engine.end()
    assert not room.target.leaving
    claims.release()
    assert room.disk.waiting == []
    assert not room.executor.busy
    assert room.device.servers[0].task_set.is_free


def test_with_tas_the_aborted_tasks_of_another_nexus_end_with_task_aborted(room: Room) -> None:
    end, other = room.login(), room.login("iqn.2026-11.test:other")
    # MODE SELECT(6) of the Control mode page with TAS.
    select = bytes((0x15, 0x10, 0, 0, 16, 0)) + bytes(10)
    sense = end.ask(end.command(bytes((0x1A, 8, 0x0A, 0, 255, 0)) + bytes(10), expected=255, flags=0xC0))[0].data
    page = bytearray(sense[4:16])
    page[0] &= 0x3F
    page[5] |= 0x40
    (answer,) = end.ask(end.command(select, expected=16, flags=0xA0, data=bytes(4) + bytes(page)))
    assert answer.status == 0
    other.ask(other.command(bytes(16)))
    other.feed(write(other, 1))
    end.feed(write(end, 2))
    assert end.ask(function(TaskManagementFunction.CLEAR_TASK_SET)) == []
    room.disk.finish()
    room.disk.finish()
    (told,) = other.answers()
    assert (told.opcode, told.status) == (Opcode.SCSI_RESPONSE, 0x40)
    (answer,) = end.answers()
    assert answer.opcode == Opcode.TASK_MANAGEMENT_RESPONSE
    (quiet,) = other.ask(other.command(bytes(16)))
    assert quiet.status == 0


def test_query_asynchronous_event_and_i_t_nexus_reset(room: Room) -> None:
    end = room.login(iSCSIProtocolLevel="2")
    (answer,) = end.ask(function(TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT))
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    assert end.ask(write(end, 1)) == []
    assert end.ask(function(TaskManagementFunction.I_T_NEXUS_RESET)) == []
    room.disk.finish()
    (answer,) = end.answers()
    assert answer.response == TaskManagementResponse.FUNCTION_COMPLETE
    (answer,) = end.ask(function(TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT))
    assert answer.response == TaskManagementResponse.FUNCTION_SUCCEEDED
    assert answer.additional_response_information == bytes((0x16, 0x29, 0x07))
    (attention,) = end.ask(end.command(bytes(16)))
    assert (attention.data[2 + 12], attention.data[2 + 13]) == (0x29, 0x07)


@pytest.mark.parametrize(("level", "functions"), [("1", b"\xda\x00"), ("2", b"\xde\x07")])
def test_the_report_of_task_management_functions_follows_the_protocol_level(
    room: Room, level: str, functions: bytes
) -> None:
    end = room.login(iSCSIProtocolLevel=level)
    (answer,) = end.ask(end.command(bytes.fromhex("A30D00000000000000100000") + bytes(4), expected=16, flags=0xC0))
    assert answer.data[:2] == functions
