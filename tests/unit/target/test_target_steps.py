"""Running procedures: answers, faults, aborts, claims, and steps that go on in the background."""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from typing import Any

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.outcome import GOOD, Reply, Status
from csvd.scsi.procedure import (
    AbortTasks,
    Allocation,
    Background,
    DiskFault,
    Entropy,
    Extent,
    Flush,
    Keep,
    Now,
    Pause,
    Prefetch,
    Procedure,
    Read,
    Steps,
    Unmap,
    Usage,
    Write,
    WriteZeroes,
)
from csvd.scsi.range_locks import Claim
from csvd.storage.disk import StorageError
from csvd.storage.memory import MemoryDisk
from csvd.target.steps import STEPS_A_TURN, StepRunner


class Shelf:
    """Keeps values in memory, or fails."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        self.fails = False

    def keep(self, unit: LogicalUnit, name: str, value: Any) -> Deferred[None]:
        if self.fails:
            return fail(StorageError("write", errno.ENOSPC, where="shelf"))
        self.values[name] = value
        return succeed(None)


class Rig:
    def __init__(self) -> None:
        self.clock = Clock()
        self.shelf = Shelf()
        self.disk = MemoryDisk(65536)
        self.unit = LogicalUnit(0, self.disk, 512, 128, Identity())
        self.aborts: list[tuple[Sequence[str], Any]] = []
        self.runner = StepRunner(
            self.clock, self.shelf, lambda unit, nexuses, done: self.aborts.append((nexuses, done))
        )
        self.replies: list[Reply | None] = []
        self.aborted = False

    def run(self, steps: Steps, *claims: Claim) -> Callable[[], None]:
        return self.runner.run(Procedure(steps, claims), self.replies.append, lambda: self.aborted)


def test_every_request_is_carried_out_and_answered() -> None:
    rig = Rig()
    unit = rig.unit
    seen: list[Any] = []

    def steps() -> Steps:
        yield Write(unit, 512, b"x" * 512, fua=True)
        seen.append(bytes((yield Read(unit, 511, 3))))
        yield Unmap(unit, 512, 512)
        yield Write(unit, 0, b"y")
        yield WriteZeroes(unit, 0, 1)
        yield Flush(unit)
        yield Prefetch(unit, 0, 512)
        seen.append(bytes((yield Read(unit, 0, 1024))))
        seen.append((yield Allocation(unit, 0, 1024)))
        seen.append((yield Usage(unit)))
        seen.append((yield Now()))
        yield Keep(unit, "thing", {"a": 1})
        return GOOD

    rig.clock.advance(7)
    rig.run(steps())
    assert rig.replies == [GOOD]
    assert seen == [b"\0xx", bytes(1024), [Extent(0, 1024, True)], None, 7.0]
    assert rig.shelf.values == {"thing": {"a": 1}} == unit.kept


def test_a_disk_that_fails_raises_at_the_step() -> None:
    rig = Rig()
    told: list[DiskFault] = []

    def steps() -> Steps:
        try:
            yield Read(rig.unit, 65536, 512)
        except DiskFault as fault:
            told.append(fault)
        rig.shelf.fails = True
        try:
            yield Keep(rig.unit, "thing", 1)
        except DiskFault as fault:
            told.append(fault)
        return GOOD

    rig.run(steps())
    assert rig.replies == [GOOD]
    assert [(fault.operation, fault.error_number) for fault in told] == [
        ("read", errno.EINVAL),
        ("write", errno.ENOSPC),
    ]
    assert told[0].offset_bytes == 65536
    assert rig.unit.kept == {}


def test_a_fault_of_ours_is_a_hardware_error_of_its_command_alone() -> None:
    rig = Rig()

    def steps() -> Steps:
        yield Now()
        raise ZeroDivisionError

    rig.run(steps())
    assert rig.replies[0] is not None
    assert rig.replies[0].status == Status.CHECK_CONDITION
    assert rig.replies[0].sense[2] == 4


def test_an_aborted_procedure_goes_no_further_and_frees_its_ranges() -> None:
    rig = Rig()
    steps_done: list[str] = []

    def steps() -> Steps:
        yield AbortTasks(rig.unit, ("other",))
        steps_done.append("after")
        return GOOD

    rig.run(steps(), Claim(rig.unit.locks, 0, 512, True))
    assert rig.unit.locks.contended
    rig.aborted = True
    (_nexuses, done), *_ = rig.aborts
    done()
    assert rig.replies == [None]
    assert steps_done == []
    assert not rig.unit.locks.contended


def test_a_procedure_waits_until_nobody_has_its_range() -> None:
    rig = Rig()
    order: list[str] = []

    def first() -> Steps:
        yield AbortTasks(rig.unit, ())
        order.append("first")
        return GOOD

    def second() -> Steps:
        order.append("second")
        yield Now()
        return GOOD

    claim = Claim(rig.unit.locks, 0, 512, True)
    rig.run(first(), claim)
    rig.run(second(), claim)
    assert order == []
    rig.aborts[0][1]()
    assert order == ["first", "second"]


def test_a_long_procedure_gives_others_a_turn() -> None:
    rig = Rig()

    def steps() -> Steps:
        for _ in range(3 * STEPS_A_TURN):
            yield Now()
        return GOOD

    rig.run(steps())
    assert rig.replies == []
    assert rig.clock.getDelayedCalls()
    for _ in range(3):
        rig.clock.advance(0)
    assert rig.replies == [GOOD]


def test_background_steps_go_on_behind_the_answer_and_are_counted() -> None:
    rig = Rig()
    done: list[str] = []

    def behind() -> Steps:
        yield Now()
        done.append("behind")
        return GOOD

    def steps() -> Steps:
        yield Background(behind())
        return GOOD

    rig.run(steps())
    assert rig.replies == [GOOD]
    assert rig.runner.under_way == 1
    assert done == []
    rig.clock.advance(0)
    assert done == ["behind"]
    assert rig.runner.under_way == 0


def test_background_steps_wait_for_their_claims_and_keep_them_to_the_end() -> None:
    rig = Rig()
    claim = Claim(rig.unit.locks, 0, 512, True)
    order: list[str] = []

    def holder() -> Steps:
        yield AbortTasks(rig.unit, ())
        order.append("holder")
        return GOOD

    def behind() -> Steps:
        yield Pause(1.0)
        order.append("behind")
        return GOOD

    rig.run(holder(), claim)
    rig.runner.begin(Background(behind(), (claim,)))
    rig.clock.advance(5)
    assert order == []
    rig.aborts[0][1]()
    rig.clock.advance(0)
    contended = [rig.unit.locks.contended]
    rig.clock.advance(1)
    contended.append(rig.unit.locks.contended)
    assert order == ["holder", "behind"]
    assert contended == [True, False]
    assert rig.runner.under_way == 0


def test_entropy_is_as_long_as_asked_and_never_the_same() -> None:
    rig = Rig()
    drawn: list[bytes] = []

    def steps() -> Steps:
        one = yield Entropy(40)
        other = yield Entropy(40)
        drawn.extend((one, other))
        return GOOD

    rig.run(steps())
    assert [len(one) for one in drawn] == [40, 40]
    assert drawn[0] != drawn[1]


def test_a_pause_lets_its_time_pass() -> None:
    rig = Rig()

    def steps() -> Steps:
        yield Pause(0.5)
        return GOOD

    rig.run(steps())
    rig.clock.advance(0.4)
    assert rig.replies == []
    rig.clock.advance(0.2)
    assert rig.replies == [GOOD]


def test_when_the_target_stops_background_steps_go_no_further() -> None:
    rig = Rig()
    ended: list[str] = []

    def behind() -> Steps:
        try:
            yield Pause(1.0)
            ended.append("went on")
        finally:
            ended.append("closed")
        return GOOD

    rig.runner.begin(Background(behind()))
    rig.clock.advance(0)
    rig.runner.stopping = True
    rig.clock.advance(1)
    assert ended == ["closed"]
    assert rig.runner.under_way == 0


def test_steps_that_wait_for_a_range_can_be_taken_back_and_those_that_have_begun_can_not() -> None:
    rig = Rig()
    whole = Claim(rig.unit.locks, 0, 65536, True)

    def writes() -> Steps:
        yield Write(rig.unit, 0, b"x" * 512)
        return GOOD

    def waits() -> Steps:
        yield Pause(5.0)
        return GOOD

    take_back_first = rig.run(waits(), whole)
    take_back_second = rig.run(writes(), whole)
    take_back_first()
    assert rig.replies == []
    take_back_second()
    take_back_second()
    assert rig.replies == [None]
    rig.clock.advance(5.0)
    assert rig.replies == [None, GOOD]
    assert rig.unit.locks.held == rig.unit.locks.waiting == {}
    buffer = memoryview(bytearray(512))
    assert rig.disk.read_nowait(buffer, 0)
    assert not any(buffer)
