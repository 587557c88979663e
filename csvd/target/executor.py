"""From a task to its answer: the SCSI device says what to do, a disk does it."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.iscsi.session import EXECUTING, Task
from csvd.scsi.outcome import FLUSH, READ, Reply, Transfer
from csvd.storage.disk import Disk, StorageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from twisted.internet.defer import Deferred

    from csvd.scsi.target_device import TargetDevice
    from csvd.target.connection import ServerConnection


class Executor:
    """Executes the tasks of one target.

    What a disk can answer from memory is answered at once; everything else comes back by a Deferred, and never holds up
    the loop.
    """

    log = Logger()

    def __init__(self, device: TargetDevice) -> None:
        self._device = device
        self.executing = 0
        """Tasks that a disk is working on."""

    def execute(self, connection: ServerConnection, task: Task) -> None:
        """Execute one task and answer it on its connection, now or later."""
        task.state = EXECUTING
        if task.data_spoiled:
            self._reply(connection, task, self._device.data_phase_failed(task.lun))
            return
        outcome = self._device.start(task.session.nexus, task.lun, task.cdb, task.data)
        if type(outcome) is Transfer:
            if outcome.operation == READ:
                self._read(connection, task, outcome)
            else:
                self._change(connection, task, outcome)
            return
        assert isinstance(outcome, Reply)
        self._reply(connection, task, outcome)

    def _reply(self, connection: ServerConnection, task: Task, reply: Reply) -> None:
        if reply.data_in and not reply.status:
            connection.engine.data_in(task, reply.data_in)
        else:
            connection.engine.respond(task, reply.status, reply.sense)

    def _read(self, connection: ServerConnection, task: Task, transfer: Transfer) -> None:
        disk: Disk = transfer.logical_unit.device
        # No more is read than is sent: a short expectation must not cost a long read.
        length = min(transfer.length_bytes, task.expected_length) if task.is_read else 0
        buffer = memoryview(bytearray(length))
        if not transfer.fua and disk.read_nowait(buffer, transfer.offset_bytes):
            connection.turn_bytes += length
            connection.engine.data_in(task, buffer, transfer.length_bytes)
            return
        if transfer.fua and disk.capabilities.volatile_cache:
            # What FUA reads must be what a power cut leaves (SBC-3 section 5.8).
            done = disk.flush().addCallback(lambda _: disk.read_into(buffer, transfer.offset_bytes))
        else:
            done = disk.read_into(buffer, transfer.offset_bytes)
        self._answer_when(
            done,
            lambda: connection.engine.data_in(task, buffer, transfer.length_bytes),
            connection,
            task,
            transfer,
            held_bytes=length,
        )

    def _change(self, connection: ServerConnection, task: Task, transfer: Transfer) -> None:
        disk: Disk = transfer.logical_unit.device
        if transfer.operation == FLUSH:
            done = disk.flush()
        else:
            # An initiator that expects to send less than the CDB says sends whole blocks of it, or nothing.
            data = task.data
            if len(data) != transfer.length_bytes:
                block_bytes = transfer.logical_unit.block_bytes
                data = data[: len(data) // block_bytes * block_bytes]
            done = disk.write_from((data,), transfer.offset_bytes, fua=transfer.fua)
        self._answer_when(done, lambda: connection.engine.respond(task, 0), connection, task, transfer)

    def _answer_when(
        self,
        done: Deferred[None],
        answer: Callable[[], None],
        connection: ServerConnection,
        task: Task,
        transfer: Transfer,
        *,
        held_bytes: int = 0,
    ) -> None:
        """Answer when the disk is done; until then its connection holds ``held_bytes`` for the answer."""
        self.executing += 1
        connection.held_bytes += held_bytes

        def ended(result: Failure | None) -> None:
            self.executing -= 1
            connection.held_bytes -= held_bytes
            if isinstance(result, Failure):
                self._failed(connection, task, transfer, result)
            else:
                answer()
            connection.proceed()

        done.addBoth(ended)

    def _failed(self, connection: ServerConnection, task: Task, transfer: Transfer, failure: Failure) -> None:
        """Turn what a disk could not do into sense data; a fault of ours is logged, and is a hardware error to them."""
        if failure.check(StorageError):
            error = failure.value
            assert isinstance(error, StorageError)
            reply = self._device.storage_failed(transfer, error.errno, failed_offset_bytes=error.offset_bytes)
            self.log.warn("{task}: {error}", task=task, error=error)
        else:
            reply = self._device.storage_failed(transfer, errno.EIO)
            self.log.failure("executing {task} failed", failure, task=task)
        self._reply(connection, task, reply)
