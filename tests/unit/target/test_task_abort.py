"""Tasks that wait in a task set, and those that PREEMPT AND ABORT ends: nobody waits for one who waits for him."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.iscsi.session import ENDED, EXECUTING, Task, abort
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.lun import encode_lun, lun_spellings
from csvd.scsi.outcome import Status
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.task_set import ORDERED, SIMPLE
from csvd.storage.memory import MemoryDisk
from csvd.target.executor import Executor
from csvd.target.export import Export
from csvd.target.service import TargetService
from csvd.target.steps import StepRunner
from tests.fake_adapter import FakeAdapter
from tests.unit.scsi.reserving_host import WE, Host, parameter_list

READ = bytes.fromhex("28 00 00 00 00 00 00 00 01 00").ljust(16, b"\0")


class SlowDisk(MemoryDisk):
    """Reads wait until the test lets them."""

    def __init__(self) -> None:
        super().__init__(65536)
        self.reads: list[Deferred[None]] = []
        self.lengths: list[int] = []

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        return False

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        self.reads.append(Deferred())
        self.lengths.append(buffer.nbytes)
        return self.reads[-1]


class FakeSession:
    """What a task and its executor need of a session."""

    def __init__(self, nexus: str) -> None:
        self.nexus = nexus
        self.ended: list[Task] = []

    def end(self, task: Task) -> None:
        task.state = ENDED
        if task.leave_queue is not None:
            task.leave_queue()
        self.ended.append(task)


class FakeConnection(FakeAdapter):
    """What they need of a connection."""

    def __init__(self) -> None:
        super().__init__()
        self.engine = self
        self.ready: list[Task] = []
        self.answers: list[tuple[Task, int]] = []
        self.abandoned: list[Task] = []

    def respond(self, task: Task, status: int, sense: bytes = b"") -> None:
        if task.aborted:
            self.abandon(task)
            return
        self.answers.append((task, status))
        task.session.end(task)

    def abandon(self, task: Task) -> None:
        self.abandoned.append(task)
        task.session.end(task)
        for ended in task.on_end:
            ended()

    def data_in(self, task: Task, *_: Any) -> None:
        self.respond(task, 0)


class Rig:
    def __init__(self) -> None:
        self.disk = SlowDisk()
        unit = LogicalUnit(0, self.disk, 512, 128, Identity(), keeps=True)
        self.keeping: list[Deferred[None]] = []
        self.device = TargetDevice({0: unit}, name="iqn.2026-11.test:target")
        self.tasks: list[Task] = []
        self.clock = Clock()
        self.executor = Executor(self.device, StepRunner(self.clock, self, self._abort))
        self.connection: Any = FakeConnection()

    def keep(self, _unit: LogicalUnit, _name: str, _value: Any) -> Deferred[None]:
        """The state directory: it takes its time."""
        self.keeping.append(Deferred())
        return self.keeping[-1]

    def _abort(self, unit: LogicalUnit, nexuses: Sequence[str], done: Any) -> None:
        luns = set(lun_spellings(unit.number))
        abort([task for task in self.tasks if task.lun in luns and task.session.nexus in nexuses], done)

    def begin(self, host: Host, cdb: bytes, attribute: int = SIMPLE, data: bytes = b"", expected: int = 512) -> Task:
        session: Any = FakeSession(host.nexus)
        task = Task(session, self.connection, 0x40 | attribute, encode_lun(0), len(self.tasks), expected, 0, cdb)
        task.data = memoryview(data)
        task.data_out_length = len(data)
        self.tasks.append(task)
        self.executor.execute(self.connection, task)
        return task

    def status(self, task: Task) -> int | None:
        return dict(self.connection.answers).get(task)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def preempt_and_abort(key: int, preempted: int) -> tuple[bytes, bytes]:
    return bytes((0x5F, 0x05, WE, 0, 0, 0, 0, 0, 24, 0)).ljust(16, b"\0"), parameter_list(key, preempted)


@pytest.mark.parametrize(("expected", "read"), [(0, 0), (1, 512), (512, 512), (513, 1024), (1024, 1024), (5000, 1024)])
def test_no_more_than_is_expected_is_read_but_whole_blocks(rig: Rig, expected: int, read: int) -> None:
    two_blocks = bytes.fromhex("28 00 00 00 00 00 00 00 02 00").ljust(16, b"\0")
    task = rig.begin(Host(rig.device, "a"), two_blocks, expected=expected)
    assert rig.disk.lengths == [read]
    rig.disk.reads[0].callback(None)
    assert rig.status(task) == Status.GOOD


def test_preempt_and_abort_waits_for_the_disk_and_the_reply_of_the_preempted_does_not_come(rig: Rig) -> None:
    a, b = Host(rig.device, "a"), Host(rig.device, "b")
    a.register(0, 0xA)
    b.register(0, 0xB)
    read = rig.begin(a, READ)
    cdb, data = preempt_and_abort(0xB, 0xA)
    preempting = rig.begin(b, cdb, data=data)
    assert rig.status(preempting) is None
    assert read.aborted
    rig.disk.reads[0].callback(None)
    assert rig.status(preempting) == Status.GOOD
    assert rig.status(read) is None
    assert not rig.executor.busy


def test_preempt_and_abort_does_not_wait_for_an_ordered_task_that_waits_for_it(rig: Rig) -> None:
    a, b, c = (Host(rig.device, name) for name in "abc")
    a.register(0, 0xA, aptpl=True)
    b.register(0, 0xB, aptpl=True)
    cdb, data = preempt_and_abort(0xB, 0xA)
    preempting = rig.begin(b, cdb, data=data)
    assert len(rig.keeping) == 1, "it is at the state directory when the next tasks come"
    ordered = rig.begin(a, READ, ORDERED)
    behind = rig.begin(c, READ)
    assert rig.disk.reads == []
    rig.keeping[0].callback(None)
    assert rig.status(preempting) == Status.GOOD
    assert ordered.aborted
    assert ordered.state == ENDED
    rig.disk.reads[0].callback(None)
    assert rig.status(behind) == Status.GOOD
    assert not rig.executor.busy


def test_two_that_preempt_one_another_both_end(rig: Rig) -> None:
    a, b = Host(rig.device, "a"), Host(rig.device, "b")
    a.register(0, 0xA, aptpl=True)
    b.register(0, 0xB, aptpl=True)
    cdb, data = preempt_and_abort(0xB, 0xA)
    first = rig.begin(b, cdb, data=data)
    cdb, data = preempt_and_abort(0xA, 0xB)
    second = rig.begin(a, cdb, data=data)
    rig.keeping[0].callback(None)
    assert rig.status(first) == Status.GOOD
    assert rig.status(second) == Status.RESERVATION_CONFLICT, "it came too late"
    assert not rig.executor.busy


def test_an_ordered_task_of_the_preempted_that_is_queued_first_goes_at_once(rig: Rig) -> None:
    a, b, c = (Host(rig.device, name) for name in "abc")
    a.register(0, 0xA)
    b.register(0, 0xB)
    slow = rig.begin(c, READ)
    ordered = rig.begin(a, READ, ORDERED)
    behind = rig.begin(c, READ)
    assert behind.state != EXECUTING
    abort([ordered], lambda: None)
    assert ordered.state == ENDED
    assert behind.state == EXECUTING, "nothing stands before it any more"
    for read in rig.disk.reads:
        read.callback(None)
    assert (rig.status(slow), rig.status(behind), rig.status(ordered)) == (Status.GOOD, Status.GOOD, None)
    assert not rig.executor.busy


def test_all_of_a_task_set_can_be_aborted_and_none_of_it_begins(rig: Rig) -> None:
    a = Host(rig.device, "a")
    slow = rig.begin(a, READ)
    waiting = [rig.begin(a, READ, ORDERED if number % 2 else SIMPLE) for number in range(1, 50)]
    done: list[bool] = []
    abort(rig.tasks, lambda: done.append(True))
    assert [task.state for task in waiting] == [ENDED] * 49
    assert sorted(map(id, rig.connection.abandoned)) == sorted(map(id, waiting)), "each once"
    assert done == []
    rig.disk.reads[0].callback(None)
    assert done == [True]
    assert len(rig.disk.reads) == 1
    assert slow.state == ENDED
    task_set = rig.device.task_set_of(a.nexus, encode_lun(0))
    assert task_set is not None
    assert task_set.is_free
    assert task_set.begun == 0
    assert not rig.executor.busy


def test_an_ordered_task_to_a_lun_that_its_initiator_may_not_see_neither_waits_nor_has_others_wait(rig: Rig) -> None:
    a, b = Host(rig.device, "a"), Host(rig.device, "b")
    rig.device.set_mask(lambda identity, _number: identity.initiator_name == b.initiator_name)
    slow = rig.begin(b, READ)
    hidden = rig.begin(a, READ, ORDERED)
    assert rig.status(hidden) == Status.CHECK_CONDITION
    behind = rig.begin(b, READ)
    assert len(rig.disk.reads) == 2
    for read in rig.disk.reads:
        read.callback(None)
    assert (rig.status(slow), rig.status(behind)) == (Status.GOOD, Status.GOOD)
    assert not rig.executor.busy


def test_targets_of_one_unit_are_one_to_preempt_and_abort() -> None:
    units = [LogicalUnit(number, MemoryDisk(4096), 512, 8, Identity(serial="one")) for number in (0, 3)]
    names = ["iqn.2026-11.test:first", "iqn.2026-11.test:second"]
    exports = [Export(name, [unit]) for name, unit in zip(names, units, strict=True)]
    service = TargetService(Clock(), exports)
    first, second = (service.device(name).servers for name in names)
    assert first[0].reservations is second[3].reservations
    asked: list[tuple[str, set[int], Sequence[str], Any]] = []
    for name, node in service.entity.targets.items():

        def note(luns: Any, nexuses: Any, done: Any, name: str = name) -> None:
            asked.append((name, set(luns), nexuses, done))

        node.abort_tasks = note  # type: ignore[method-assign]
    done: list[bool] = []
    service._abort(units[0], ["x"], lambda: done.append(True))
    assert [(name, luns) for name, luns, _, _ in asked] == [
        (names[0], set(lun_spellings(0))),
        (names[1], set(lun_spellings(3))),
    ]
    asked[0][3]()
    assert done == []
    asked[1][3]()
    assert done == [True]
