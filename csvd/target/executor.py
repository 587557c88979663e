"""From a task to its answer: the SCSI device says what to do, a disk does it."""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, Final

from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.iscsi.session import EXECUTING, READY, Task
from csvd.scsi.outcome import BUSY, FLUSH, GOOD, READ, WRITE, Reply, Status, Transfer
from csvd.scsi.procedure import Procedure
from csvd.scsi.range_locks import Claim, Claims
from csvd.scsi.reservation_guard import CONFLICT
from csvd.scsi.task_set import SIMPLE, TaskSet
from csvd.storage.disk import Buffer, Disk, StorageError
from csvd.target.express import Express
from csvd.target.file_segments import SEGMENT_BYTES
from csvd.target.statistics import Row, TargetStatistics
from csvd.target.steps import AGAIN, FAULT, StepRunner, kept_off

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from csvd.scsi.target_device import TargetDevice
    from csvd.target.connection import ServerConnection

_NO_BUFFER: Final = memoryview(b"")
_ATTRIBUTE: Final = 0x07
"""The ATTR field in the flags of a SCSI Command (RFC 7143 section 11.3.1)."""


class Executor:
    """Executes the tasks of one target.

    What a disk can answer from memory is answered at once; everything else comes back by a Deferred, and never holds up
    the loop.
    """

    log = Logger()

    def __init__(self, device: TargetDevice, runner: StepRunner) -> None:
        self.device = device
        self._task_set_of = device.task_set_of
        self._runner = runner
        self.statistics = TargetStatistics(device)
        self._tables = self.statistics.tables
        self.executing = 0
        """Tasks that a disk is working on, and those that wait for their turn in a task set or at a range."""

    @property
    def busy(self) -> bool:
        """Whether anything is under way, tasks or steps that go on behind an answer."""
        return bool(self.executing or self._runner.under_way)

    def resume(self) -> None:
        """Go on with what a restart cut short."""
        for background in self.device.resumptions():
            self._runner.begin(background)

    def stop(self) -> None:
        """What goes on in the background goes no further."""
        self._runner.stopping = True

    def row(self, lun: int, operation_code: int) -> Row:
        """The counters of a command of a logical unit that is there."""
        table = self._tables.get(lun)
        row = table[operation_code] if table is not None else None
        return self.statistics.row(lun, operation_code) if row is None else row

    def express(self, connection: ServerConnection) -> Express:
        """The express path of a connection to this target."""
        return Express(connection, self)

    def execute(self, connection: ServerConnection, task: Task) -> None:
        """Execute one task and answer it on its connection, now or later."""
        attribute = task.flags & _ATTRIBUTE
        task_set = self._task_set_of(task.session.nexus, task.lun)
        if task_set is None:
            self._start(connection, task, _nothing)
            return
        if attribute <= SIMPLE and task_set.is_free and (task_set.gate is None or task_set.gate.admits()):
            task_set.begun += 1
            self._start(connection, task, task_set.leave_simple)
        else:
            self._queue(connection, task, task_set, attribute)

    def _queue(self, connection: ServerConnection, task: Task, task_set: TaskSet, attribute: int) -> None:
        """An ordered task, or one at the head of the queue, or a simple one behind an ordered one (SAM-5 8).

        While it waits it is not being executed: who aborts it need not wait for it, or PREEMPT AND ABORT would wait for
        the task of another that waits for PREEMPT AND ABORT.
        """
        self.executing += 1
        # What it will read counts from now on, or all who wait behind an ordered task would read at once at its end.
        held_bytes = task.expected_length if task.is_read else 0
        connection.held_bytes += held_bytes
        at_once = True
        openings = task_set.openings

        def begin() -> None:
            self.executing -= 1
            connection.held_bytes -= held_bytes
            task.leave_queue = None
            if task_set.openings != openings:
                self._start_if_there(connection, task, task_set, attribute)
            else:
                self._start(connection, task, lambda: task_set.leave(attribute))
            if not at_once:
                connection.proceed()

        def leave_queue() -> None:
            self.executing -= 1
            connection.held_bytes -= held_bytes
            task.leave_queue = None
            task_set.withdraw(begin)

        task.leave_queue = leave_queue
        task_set.enter(attribute, begin)
        at_once = False

    def _start_if_there(self, connection: ServerConnection, task: Task, task_set: TaskSet, attribute: int) -> None:
        """Run a task that has waited at a gate, as soon as its peer shows that it is still there.

        An initiator that was cut off, too, has perhaps given its connection up, and has done at another node what it
        asked for here, and more: what is left here is old, and must not be written over that.
        """
        self.executing += 1
        waits = True

        def leave_queue() -> None:
            nonlocal waits
            waits = False
            self.executing -= 1
            task.leave_queue = None
            task_set.leave(attribute)

        def there() -> None:
            if waits:
                self.executing -= 1
                task.leave_queue = None
                self._start(connection, task, lambda: task_set.leave(attribute))
                connection.proceed()

        task.leave_queue = leave_queue
        connection.when_there(there)

    def _start(self, connection: ServerConnection, task: Task, ended: Callable[[], None]) -> None:
        """Run it; ``ended`` is called when it is answered."""
        if task.aborted:
            ended()
            self._reply(connection, task, GOOD)  # to nobody: who aborted the task is told that it is over
            return
        task.state = EXECUTING
        if task.fault is not None:
            ended()
            self._reply(connection, task, self.device.task_failed(task.lun, *task.fault.value))
            return
        try:
            outcome = self.device.start(task.session.nexus, task.lun, task.cdb, task.data)
        except Exception:  # noqa: BLE001 - a fault of a handler costs its command, not the session
            outcome = self._handler_failed(task)
        if type(outcome) is Transfer:
            if outcome.operation == READ:
                self._read(connection, task, outcome, ended)
            elif outcome.operation == WRITE:
                self._write(connection, task, outcome, ended)
            else:
                self._begin(connection, task, outcome, ended)
        elif type(outcome) is Procedure:
            self._proceed(connection, task, outcome, ended)
        else:
            assert isinstance(outcome, Reply)
            ended()
            self._reply(connection, task, outcome)

    def _handler_failed(self, task: Task) -> Reply:
        """A fault of ours, which no peer may cause: it is logged, and a hardware error to them."""
        self.log.failure("a fault in command {cdb}", cdb=task.cdb.hex())
        return FAULT

    def _reply(self, connection: ServerConnection, task: Task, reply: Reply, began_ns: int = 0) -> None:
        if reply.status and reply.status != Status.CONDITION_MET:
            error = self.statistics.failed(task.lun, task.cdb[0], reply.status, reply.sense)
            connection.counter.errors[error] += 1
        self._count(connection, task, began_ns or connection.counter.turn_ns, len(reply.data_in))
        if reply.data_in and not reply.status:
            connection.engine.data_in(task, reply.data_in)
        else:
            connection.engine.respond(task, reply.status, reply.sense)

    def _count(self, connection: ServerConnection, task: Task, began_ns: int, bytes_in: int) -> None:
        connection.counter.count(self.row(task.lun, task.cdb[0]), began_ns, bytes_in, task.received)

    def _read(self, connection: ServerConnection, task: Task, transfer: Transfer, ended: Callable[[], None]) -> None:
        unit = transfer.logical_unit
        disk: Disk = unit.device
        # No more is read than is sent: a short expectation must not cost a long read.
        length = min(transfer.length_bytes, task.expected_length) if task.is_read else 0
        if length >= SEGMENT_BYTES and self._lend(connection, task, transfer, length, ended):
            return
        # But whole blocks: some disks have nothing else.
        whole = length + -length % unit.block_bytes
        buffer = connection.read_buffer(whole)
        if (
            not transfer.fua
            and not (unit.locks.contended and unit.locks.must_wait(transfer.offset_bytes, transfer.length_bytes))
            and disk.read_nowait(buffer, transfer.offset_bytes)
        ):
            connection.turn_bytes += length
            ended()
            connection.counter.count_run(self.row(task.lun, task.cdb[0]), 1, length, 0)
            connection.engine.data_in(task, buffer, transfer.length_bytes)
            return

        # It is read later, when the buffer of this turn is another's.
        self._begin(connection, task, transfer, ended, memoryview(bytearray(whole)))

    def _lend(
        self, connection: ServerConnection, task: Task, transfer: Transfer, length: int, ended: Callable[[], None]
    ) -> bool:
        """Answer a large READ from the page cache; see csvd.target.file_segments."""
        segments, task_set = connection.segments, self._task_set_of(task.session.nexus, task.lun)
        if segments is None or task_set is None or task.aborted or connection.engine.closing:
            return False
        segment = segments.lend(transfer, length, task_set, ended)
        if segment is None:
            return False
        connection.turn_bytes += length
        connection.counter.count_run(self.row(task.lun, task.cdb[0]), 1, length, 0)
        connection.engine.data_in(task, segment, transfer.length_bytes)
        return True

    def _write(self, connection: ServerConnection, task: Task, transfer: Transfer, ended: Callable[[], None]) -> None:
        """A WRITE that the page cache takes at once is answered at once; a thread and back would cost more."""
        if task.data_out_length != transfer.length_bytes:
            # When it came it was to be refused, so its data was not taken; the unit has grown, or appeared, since.
            ended()
            self._reply(connection, task, BUSY)
            return
        unit = transfer.logical_unit
        if (
            transfer.fua
            or (unit.locks.contended and unit.locks.must_wait(transfer.offset_bytes, transfer.length_bytes))
            or not unit.device.write_nowait((_data_out(task, transfer),), transfer.offset_bytes)
        ):
            self._begin(connection, task, transfer, ended)
            return
        connection.turn_bytes += transfer.length_bytes
        ended()
        connection.counter.count_run(self.row(task.lun, task.cdb[0]), 1, 0, task.received)
        self._changed(connection, task, transfer)

    def _begin(
        self,
        connection: ServerConnection,
        task: Task,
        transfer: Transfer,
        ended: Callable[[], None],
        buffer: memoryview = _NO_BUFFER,
    ) -> None:
        """Have the disk do it, once nobody has its range for himself; until it is answered its connection holds the
        buffer of the answer. No closures here: this is the data path of every write."""
        self.executing += 1
        connection.held_bytes += len(buffer)
        began_ns = connection.counter.turn_ns
        locks = transfer.logical_unit.locks
        if locks.contended:
            self._begin_in_turn(connection, task, transfer, ended, buffer, began_ns)
            return
        claims = locks.share(transfer.offset_bytes, transfer.length_bytes)
        work = _access(task, transfer, buffer)
        work.addBoth(self._accessed, connection, task, transfer, ended, buffer, began_ns, claims)

    def _begin_in_turn(
        self,
        connection: ServerConnection,
        task: Task,
        transfer: Transfer,
        ended: Callable[[], None],
        buffer: memoryview,
        began_ns: int,
    ) -> None:
        """The same where others claim ranges for themselves: perhaps it waits, and can be withdrawn meanwhile."""
        claims = Claims((Claim(transfer.logical_unit.locks, transfer.offset_bytes, transfer.length_bytes, False),))
        done = partial(
            self._accessed,
            connection=connection,
            task=task,
            transfer=transfer,
            ended=ended,
            buffer=buffer,
            began_ns=began_ns,
            claims=claims,
        )

        def begin() -> None:
            task.leave_queue = None
            if transfer.operation == WRITE and not task.aborted and self._is_refused_by_now(task, transfer):
                done(Failure(_Refused()))
                return
            _access(task, transfer, buffer).addBoth(done)

        task.leave_queue = lambda: done(None)
        claims.acquire(begin)

    def _accessed(
        self,
        result: Failure | None,
        connection: ServerConnection,
        task: Task,
        transfer: Transfer,
        ended: Callable[[], None],
        buffer: memoryview,
        began_ns: int,
        claims: Claims,
    ) -> None:
        """The disk is done, or the task was aborted before the disk began."""
        self.executing -= 1
        task.leave_queue = None
        connection.held_bytes -= len(buffer)
        claims.release()
        ended()
        if isinstance(result, Failure):
            if not self._waits_again(connection, task, transfer, result):
                self.failed(connection, task, transfer, result, began_ns)
        else:
            self._count(connection, task, began_ns, len(buffer))
            if transfer.operation == READ:
                connection.engine.data_in(task, buffer, transfer.length_bytes)
            else:
                self._changed(connection, task, transfer)
        connection.proceed()

    def _is_refused_by_now(self, task: Task, transfer: Transfer) -> bool:
        """Whether another nexus has reserved a clustered logical unit while this one waited, and was told that nobody
        else writes."""
        unit = transfer.logical_unit
        return unit.cluster is not None and self.device.refuses(task.session.nexus, unit)

    def _waits_again(self, connection: ServerConnection, task: Task, transfer: Transfer, failure: Failure) -> bool:
        """Whether a transfer of a clustered logical unit did not come to its disk because this node may not act now:
        then its command waits at the gate, as if it had just come."""
        if task.aborted or not kept_off(transfer.logical_unit, failure):
            return False
        self._execute_again(connection, task)
        return True

    def _execute_again(self, connection: ServerConnection, task: Task) -> None:
        task.state = READY
        self.execute(connection, task)

    def _changed(self, connection: ServerConnection, task: Task, transfer: Transfer) -> None:
        connection.engine.respond(task, 0)
        if transfer.operation == WRITE and transfer.logical_unit.thin:
            self.changed(transfer, task.session.nexus)

    def changed(self, transfer: Transfer, nexus: str) -> None:
        """A thin logical unit has been written to: perhaps it is time to see how full it is."""
        look = self.device.written(transfer, nexus)
        if look is not None:
            self._runner.begin(look)

    def _proceed(
        self, connection: ServerConnection, task: Task, procedure: Procedure, ended: Callable[[], None]
    ) -> None:
        """Run the steps of a procedure, once its ranges are its own; an aborted task goes no further."""
        if procedure.exact_data_out and task.expected_length > task.data_out_length:
            ended()
            self._reply(connection, task, self.device.data_out_too_long(task.lun))
            return
        self.executing += 1
        began_ns = connection.counter.turn_ns

        def done(reply: Reply | None) -> None:
            self.executing -= 1
            task.leave_queue = None
            ended()
            if reply is AGAIN and not task.aborted:
                self._execute_again(connection, task)
                connection.proceed()
                return
            self._reply(connection, task, reply or GOOD, began_ns)
            connection.proceed()

        refuses = partial(self.device.refuses, task.session.nexus)
        take_back = self._runner.run(procedure, done, lambda: task.aborted, refuses)
        if task.state == EXECUTING:
            task.leave_queue = take_back

    def failed(
        self, connection: ServerConnection, task: Task, transfer: Transfer, failure: Failure, began_ns: int
    ) -> None:
        """Turn what a disk could not do into sense data; a fault of ours is logged, and is a hardware error to them."""
        if failure.check(_Refused):
            reply = CONFLICT
        elif failure.check(StorageError):
            error = failure.value
            assert isinstance(error, StorageError)
            reply = self.device.storage_failed(transfer, error.errno, failed_offset_bytes=error.offset_bytes)
            self.log.warn("{task}: {error}", task=task, error=error)
        else:
            reply = self.device.storage_failed(transfer, errno.EIO)
            self.log.failure("executing {task} failed", failure, task=task)
        self._reply(connection, task, reply, began_ns)


class _Refused(Exception):
    """A command that has waited for a range is not permitted any more."""


def _data_out(task: Task, transfer: Transfer) -> Buffer:
    """What a WRITE writes."""
    data: Buffer = task.data
    if len(data) != transfer.length_bytes:
        # An initiator that expects to send less than the CDB says sends whole blocks of it, or nothing.
        block_bytes = transfer.logical_unit.block_bytes
        data = data[: len(data) // block_bytes * block_bytes]
    return data


def _access(task: Task, transfer: Transfer, buffer: memoryview) -> Deferred[None]:
    """Have the disk begin."""
    disk: Disk = transfer.logical_unit.device
    offset_bytes = transfer.offset_bytes
    if transfer.operation == WRITE:
        data = _data_out(task, transfer)
        if transfer.fua and disk.write_nowait((data,), offset_bytes):
            return disk.flush()
        return disk.write_from((data,), offset_bytes, fua=transfer.fua)
    if transfer.operation == FLUSH:
        return disk.flush()
    if transfer.fua and disk.capabilities.volatile_cache:
        return _read_durable(disk, buffer, offset_bytes)
    return disk.read_into(buffer, offset_bytes)


def _read_durable(disk: Disk, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
    """What FUA reads must be what a power cut leaves (SBC-3 section 5.8)."""
    return disk.flush().addCallback(lambda _: disk.read_into(buffer, offset_bytes))


def _nothing() -> None:
    return None
