from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError
from twisted.internet.task import Clock

from initiator.disk import Disk
from initiator.engine.requests import Command
from initiator.errors import (
    CommandAbortedByTarget,
    CommandFailed,
    InitiatorError,
    MalformedAnswer,
    ResidualMismatch,
    SessionLost,
)
from initiator.options import SessionOptions
from initiator.road import Finished
from initiator.scsi.answers import Capacity
from initiator.scsi.inquiry import BlockLimits, RawPage
from initiator.unit import UNIT_ATTENTIONS
from tests.unit.initiator.session_script import Outcome

BUSY, TASK_SET_FULL, TASK_ABORTED, RESERVATION_CONFLICT, CHECK_CONDITION = 0x08, 0x28, 0x40, 0x18, 0x02
MIB = 1 << 20


def fixed_sense(key: int, asc: int, ascq: int = 0) -> bytes:
    return bytes((0x70, 0, key)) + bytes(9) + bytes((asc, ascq)) + bytes(4)


class StubRoad:
    """A road whose answers a function gives: data, a (status, sense), or nothing yet."""

    where = "iqn.2026-11.test:stub"

    def __init__(self, answer: Callable[[Command], Any], **options: Any) -> None:
        self.reactor = Clock()
        self.options = SessionOptions(**options)
        self.answer = answer
        self.commands: list[Command] = []
        self.waiting: list[tuple[Command, Finished]] = []
        self.deadlines: list[float] = []
        self.closed = 0

    def start(self, command: Command, deadline_s: float, finished: Finished) -> None:
        self.commands.append(command)
        self.deadlines.append(deadline_s)
        answer = self.answer(command)
        if answer is None:
            self.waiting.append((command, finished))
        else:
            self.reactor.callLater(0, self.end, command, finished, answer)
            self.reactor.advance(0)

    def cancel(self, command: Command) -> None:
        self.waiting = [(each, finished) for each, finished in self.waiting if each is not command]

    def end(self, command: Command, finished: Finished, answer: Any) -> None:
        if isinstance(answer, InitiatorError):
            command.error = answer
        elif isinstance(answer, tuple):
            command.status, command.sense = answer
        elif command.data_in is not None:
            data = answer[: command.length]
            command.data_in[: len(data)] = data
            command.received = len(data)
            command.residual = command.length - len(data)
        finished(command)

    async def close(self) -> None:
        self.closed += 1


def disk_on(
    answer: Callable[[Command], Any], *, blocks: int = 1 << 20, limit: int = 0, **options: Any
) -> tuple[Disk, Any]:
    """Give a disk of this many blocks whose capacity has been read."""
    session: Any = StubRoad(capacity_answer(blocks), **options)
    disk = Disk(session, 0)
    disk.limits = BlockLimits(maximum_transfer_length=limit)
    assert isinstance(Outcome(disk.read_capacity()).result, Capacity)
    session.answer = answer
    session.commands.clear()
    session.deadlines.clear()
    return disk, session


def capacity_answer(blocks: int) -> Callable[[Command], bytes]:
    return lambda _: (blocks - 1).to_bytes(8, "big") + (512).to_bytes(4, "big") + bytes(20)


def zeros(command: Command) -> bytes:
    return bytes(command.length)


def spans(session: Any) -> list[tuple[int, int]]:
    """Give address and count of the READ(10) and WRITE(10) commands that were sent."""
    return [(int.from_bytes(c.cdb[2:6], "big"), int.from_bytes(c.cdb[7:9], "big")) for c in session.commands]


def test_a_range_is_cut_into_commands_of_a_mebibyte() -> None:
    disk, session = disk_on(zeros)
    assert Outcome(disk.read(5, 5000)).result == bytes(5000 * 512)
    assert spans(session) == [(5, 2048), (2053, 2048), (4101, 904)]


def test_a_range_is_cut_where_the_target_says() -> None:
    disk, session = disk_on(zeros, limit=100)
    Outcome(disk.write(0, bytes(250 * 512)))
    assert spans(session) == [(0, 100), (100, 100), (200, 50)]


def test_not_more_commands_at_once_than_the_queue_depth() -> None:
    disk, session = disk_on(lambda _: None, queue_depth=3)
    outcome = Outcome(disk.read_into(0, bytearray(10 * MIB)))
    assert len(session.waiting) == 3
    while session.waiting:
        command, done = session.waiting.pop(0)
        session.end(command, done, bytes(command.length))
        assert len(session.waiting) <= 3
    assert outcome.result is None
    assert len(session.commands) == 10


def test_a_failing_part_ends_the_call_only_when_the_others_have_ended() -> None:
    disk, session = disk_on(lambda _: None, queue_depth=3)
    outcome = Outcome(disk.read_into(0, bytearray(10 * MIB)))
    first, second, third = session.waiting
    session.end(*second, (CHECK_CONDITION, fixed_sense(3, 0x11)))
    assert outcome.waiting
    session.end(*first, bytes(MIB))
    session.end(*third, bytes(MIB))
    assert isinstance(outcome.result, CommandFailed)
    assert outcome.result.sense_key == 3
    assert len(session.commands) == 3, "nothing more was begun"


def test_a_cancelled_call_cancels_its_parts() -> None:
    disk, session = disk_on(lambda _: None, queue_depth=3)
    outcome = Outcome(disk.write(0, bytes(10 * MIB)))
    outcome.deferred.cancel()
    assert isinstance(outcome.result, CancelledError)
    assert len(session.commands) == 3
    assert session.waiting == [], "all of them"


def test_a_write_sends_views_of_the_data() -> None:
    disk, session = disk_on(zeros)
    data = bytes(3 * MIB)
    Outcome(disk.write(0, data, fua=True))
    assert all(command.data_out.obj is data for command in session.commands)
    assert all(command.cdb[1] == 0x08 for command in session.commands)


def test_nothing_to_move_is_nothing_sent() -> None:
    disk, session = disk_on(zeros)
    assert Outcome(disk.read(7, 0)).result == b""
    assert Outcome(disk.write(7, b"")).result is None
    assert session.commands == []


@pytest.mark.parametrize(("lba", "blocks"), [(-1, 1), (0, -1), (1 << 20, 1), ((1 << 20) - 1, 2)])
def test_what_is_not_on_the_disk_is_refused_before_anything_is_sent(lba: int, blocks: int) -> None:
    disk, session = disk_on(zeros)
    assert isinstance(Outcome(disk.read(lba, blocks)).result, InitiatorError)
    assert session.commands == []


def test_a_write_beyond_the_end_is_refused_before_anything_is_sent() -> None:
    disk, session = disk_on(zeros)
    assert isinstance(Outcome(disk.write((1 << 20) - 1, bytes(1024))).result, InitiatorError)
    assert session.commands == []


def test_data_that_is_not_of_whole_blocks_is_refused() -> None:
    disk, session = disk_on(zeros)
    assert isinstance(Outcome(disk.write(0, bytes(513))).result, InitiatorError)
    assert isinstance(Outcome(disk.read_into(0, bytearray(100))).result, InitiatorError)
    assert session.commands == []


def test_a_read_that_leaves_something_over_fails() -> None:
    disk, _ = disk_on(lambda command: bytes(command.length - 512))
    outcome = Outcome(disk.read(0, 8))
    assert isinstance(outcome.result, ResidualMismatch)
    assert "512" in str(outcome.result)


# --- what is repeated


def test_unit_attentions_are_repeated_after() -> None:
    answers: list[Any] = [(CHECK_CONDITION, fixed_sense(6, 0x29)), (CHECK_CONDITION, fixed_sense(6, 0x2A, 1))]
    disk, session = disk_on(lambda command: answers.pop(0) if answers else bytes(command.length))
    assert Outcome(disk.read(0, 1)).result == bytes(512)
    assert len(session.commands) == 3


def test_unit_attentions_without_end_fail() -> None:
    disk, session = disk_on(lambda _: (CHECK_CONDITION, fixed_sense(6, 0x29)))
    outcome = Outcome(disk.test_unit_ready())
    assert isinstance(outcome.result, CommandFailed)
    assert (outcome.result.sense_key, outcome.result.asc) == (6, 0x29)
    assert len(session.commands) == UNIT_ATTENTIONS + 1


@pytest.mark.parametrize("answer", [(BUSY, b""), (TASK_SET_FULL, b""), (CHECK_CONDITION, fixed_sense(2, 4, 1))])
def test_a_busy_device_is_asked_again_later(answer: Any) -> None:
    answers = [answer] * 3
    disk, session = disk_on(lambda command: answers.pop(0) if answers else bytes(command.length))
    outcome = Outcome(disk.read(0, 1))
    assert outcome.waiting
    for _ in range(4):
        session.reactor.advance(0.05)
    assert outcome.result == bytes(512)
    assert len(session.commands) == 4


def test_a_device_that_stays_busy_fails_before_the_deadline() -> None:
    disk, session = disk_on(lambda _: (BUSY, b""))
    outcome = Outcome(disk.flush(timeout_s=3))
    for _ in range(30):
        session.reactor.advance(0.1)
    assert isinstance(outcome.result, CommandFailed)
    assert outcome.result.status == BUSY
    assert session.deadlines == pytest.approx([3.0] * len(session.deadlines)), "one deadline for the whole call"


def test_a_command_that_another_host_has_ended_is_sent_again_where_that_does_no_harm() -> None:
    answers: list[Any] = [(TASK_ABORTED, b"")]
    disk, session = disk_on(lambda command: answers.pop(0) if answers else bytes(command.length))
    outcome = Outcome(disk.read(0, 1))
    session.reactor.advance(0.05)
    assert outcome.result == bytes(512)
    assert len(session.commands) == 2
    answers.append((TASK_ABORTED, b""))
    failed = Outcome(disk.compare_and_write(0, bytes(512), bytes(512)))
    assert isinstance(failed.result, CommandAbortedByTarget)
    assert len(session.commands) == 3


@pytest.mark.parametrize("answer", [(RESERVATION_CONFLICT, b""), (CHECK_CONDITION, fixed_sense(5, 0x24))])
def test_a_definite_no_is_not_repeated(answer: Any) -> None:
    disk, session = disk_on(lambda _: answer)
    assert isinstance(Outcome(disk.read(0, 1)).result, CommandFailed)
    assert len(session.commands) == 1


def test_a_target_failure_is_not_repeated() -> None:
    def fail(command: Command) -> bytes:
        command.response = 1
        return b""

    disk, session = disk_on(fail)
    outcome = Outcome(disk.flush())
    assert isinstance(outcome.result, CommandFailed)
    assert outcome.result.response == 1
    assert len(session.commands) == 1


def test_a_lost_session_is_told() -> None:
    disk, _ = disk_on(lambda _: SessionLost("gone"))
    assert isinstance(Outcome(disk.read(0, 1)).result, SessionLost)


def test_a_raw_command_is_run_once() -> None:
    disk, session = disk_on(lambda _: (CHECK_CONDITION, fixed_sense(6, 0x29)))
    outcome = Outcome(disk.command(b"\x00" * 6))
    assert isinstance(outcome.result, CommandFailed)
    assert outcome.result.command == "TEST UNIT READY"
    assert len(session.commands) == 1


def test_a_raw_command_gives_its_data() -> None:
    disk, _ = disk_on(lambda _: b"abc")
    assert Outcome(disk.command(b"\x12\0\0\0\x10\0", data_in_bytes=16)).result == b"abc"
    assert Outcome(disk.command(b"\x2a" + bytes(9), data_out=bytes(512))).result == b""


# --- opening


class Device:
    """A device that answers the commands of an opening."""

    def __init__(self, **changes: Any) -> None:
        self.inquiry = bytes.fromhex("0000060200000002") + b"TEST    STUB            1   "
        self.pages: dict[int, bytes] = {0x00: b"\x00\xb0", 0xB0: bytes(4) + (64).to_bytes(4, "big") + bytes(52)}
        self.capacity_16: Any = (99).to_bytes(8, "big") + (4096).to_bytes(4, "big") + bytes(20)
        self.capacity_10: Any = (49).to_bytes(4, "big") + (512).to_bytes(4, "big")
        self.mode: Any = bytes.fromhex("17000000081204") + bytes(17)
        self.luns = bytes(8)
        vars(self).update(changes)

    def __call__(self, command: Command) -> Any:
        cdb = command.cdb
        match cdb[0]:
            case 0x00:
                return b""
            case 0x12 if not cdb[1]:
                return self.inquiry
            case 0x12:
                body = self.pages.get(cdb[2])
                refused = (CHECK_CONDITION, fixed_sense(5, 0x24))
                return refused if body is None else bytes((0, cdb[2])) + len(body).to_bytes(2, "big") + body
            case 0x9E:
                return self.capacity_16
            case 0x25:
                return self.capacity_10
            case 0x1A:
                return self.mode
            case 0xA0:
                return self.luns
        raise AssertionError(cdb)


def opened(**changes: Any) -> tuple[Outcome, Any]:
    session: Any = StubRoad(Device(**changes))
    return Outcome(Disk.open(session, 0)), session


def test_an_opened_disk_knows_its_size_and_limits() -> None:
    outcome, session = opened()
    disk = outcome.result
    assert isinstance(disk, Disk)
    assert (disk.block_count, disk.block_bytes, disk.size_bytes) == (100, 4096, 409600)
    assert disk.limits.maximum_transfer_length == 64
    session.commands.clear()
    session.answer = zeros
    Outcome(disk.read(0, 100))
    assert spans(session) == [(0, 64), (64, 36)]


@pytest.mark.parametrize(
    ("inquiry", "words"),
    [(b"\x7f" + bytes(35), "not there"), (b"\x05" + bytes(35), "CD/DVD"), (b"\x20" + bytes(35), "not")],
)
def test_what_is_no_disk_is_not_opened(inquiry: bytes, words: str) -> None:
    outcome, _ = opened(inquiry=inquiry)
    assert isinstance(outcome.result, InitiatorError)
    assert words in str(outcome.result)


def test_a_device_without_vpd_pages_is_opened_without_limits() -> None:
    outcome, _ = opened(pages={})
    assert outcome.result.limits == BlockLimits()


def test_an_old_device_is_asked_for_its_small_capacity() -> None:
    outcome, _ = opened(capacity_16=(CHECK_CONDITION, fixed_sense(5, 0x20)))
    assert outcome.result.capacity == Capacity(50, 512, 512)


def test_a_capacity_that_is_refused_for_another_reason_fails() -> None:
    outcome, _ = opened(capacity_16=(CHECK_CONDITION, fixed_sense(2, 0x3A)))
    assert isinstance(outcome.result, CommandFailed)
    assert outcome.result.asc == 0x3A


def test_a_small_capacity_that_does_not_say_fails() -> None:
    outcome, _ = opened(capacity_16=(CHECK_CONDITION, fixed_sense(5, 0x20)), capacity_10=b"\xff\xff\xff\xff\0\0\2\0")
    assert isinstance(outcome.result, CommandFailed)


def test_an_impossible_capacity_fails() -> None:
    outcome, _ = opened(capacity_16=bytes(32))
    assert isinstance(outcome.result, MalformedAnswer)


def test_a_long_page_is_asked_for_again_with_room() -> None:
    outcome, session = opened(pages={0x00: b"\x00", 0x89: bytes(range(256)) * 2})
    session.commands.clear()
    page = Outcome(outcome.result.vpd(0x89)).result
    assert page == RawPage(0x89, bytes(range(256)) * 2)
    assert [int.from_bytes(command.cdb[3:5], "big") for command in session.commands] == [255, 516]


def test_the_write_cache_is_asked_for() -> None:
    outcome, _ = opened()
    assert Outcome(outcome.result.write_cache_enabled()).result is True
    outcome, _ = opened(mode=(CHECK_CONDITION, fixed_sense(5, 0x24)))
    assert Outcome(outcome.result.write_cache_enabled()).result is False
    outcome, _ = opened(mode=(CHECK_CONDITION, fixed_sense(4, 0x44)))
    assert isinstance(Outcome(outcome.result.write_cache_enabled()).result, CommandFailed)


def test_a_long_list_of_luns_is_asked_for_again_with_room() -> None:
    entries = b"".join((0x4000 | number).to_bytes(2, "big") + bytes(6) for number in range(1000))
    outcome, session = opened(luns=len(entries).to_bytes(4, "big") + bytes(4) + entries)
    session.commands.clear()
    assert Outcome(outcome.result.report_luns()).result == list(range(1000))
    assert [command.length for command in session.commands] == [4096, 8008]


def test_leaving_the_block_logs_out() -> None:
    outcome, session = opened()

    async def use(disk: Disk) -> int:
        async with disk as same:
            return same.block_count

    assert Outcome(use(outcome.result)).result == 100
    assert session.closed == 1
