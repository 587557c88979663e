"""A SCSI disk of the kernel as the fence of `csvd.storage.iscsi.fence` wants one: its reservations, and a reset.

To the disk all processes of a host are one initiator: a registration is that of the host.
"""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Sequence
from typing import Final, TypeVar, cast

from twisted.internet.defer import Deferred

from csvd.storage.device.scsi_generic import Done, Ioctl, reset_unit, run_command
from csvd.storage.file_jobs import FileJob
from csvd.storage.pool import DiskPool, Manner
from initiator import CommandFailed, InitiatorError, Miscompare, ReservationConflict, TaskManagementFunction
from initiator.reservations import Reservations
from initiator.scsi import cdb, sense
from initiator.scsi.sense import Sense, SenseKey
from initiator.unit import LogicalUnit

T = TypeVar("T")

TIMEOUT_S: Final = 30.0
_TRIES: Final = 8
"""Unit attentions that may come before an answer."""

_GOOD: Final = 0x00
_CHECK_CONDITION: Final = 0x02
_RESERVATION_CONFLICT: Final = 0x18


class DeviceUnit:
    """The logical unit behind an open block device.

    Args:
        fd: of the whole disk, open for writing.
        pool: where its calls block.
        ioctl: that of fcntl.
    """

    def __init__(self, fd: int, pool: DiskPool, *, ioctl: Ioctl = fcntl.ioctl) -> None:
        self.lun = 0
        self.reservations = Reservations(cast(LogicalUnit, self))
        self._fd = fd
        self._ioctl = ioctl
        self._lane = pool.lane(_run_jobs)

    @property
    def road(self) -> DeviceUnit:
        """What task management functions go by."""
        return self

    async def ask(self, cdb_bytes: bytes, room_bytes: int, *, timeout_s: float | None = None) -> bytes:
        """Run a command that gives data."""
        done = await self._in_thread(lambda: self.run_now(cdb_bytes, room_bytes=room_bytes, timeout_s=timeout_s))
        return done.data

    async def tell(self, cdb_bytes: bytes, data: bytes, *, timeout_s: float | None = None) -> None:
        """Run a command that sends data."""
        await self._in_thread(lambda: self.run_now(cdb_bytes, data_out=data, timeout_s=timeout_s))

    async def task_management(self, function: TaskManagementFunction, *, lun: int) -> None:
        """LOGICAL UNIT RESET."""
        assert (function, lun) == (TaskManagementFunction.LOGICAL_UNIT_RESET, 0)
        await self._in_thread(lambda: _as_initiator(lambda: reset_unit(self._fd, ioctl=self._ioctl)))

    async def compare_and_write(self, lba: int, compare: bytes, write: bytes) -> None:
        """COMPARE AND WRITE of one block, with FUA.

        Raises:
            Miscompare: it holds something else.
            InitiatorError: it is unknown whether it was written.
        """
        await self.tell(cdb.compare_and_write(lba, 1, fua=True), compare + write)

    def run_now(
        self, cdb_bytes: bytes, *, data_out: bytes = b"", room_bytes: int = 0, timeout_s: float | None = None
    ) -> Done:
        """In a thread.

        Raises:
            InitiatorError: it was not done.
        """
        limit_s = TIMEOUT_S if timeout_s is None else timeout_s
        for _ in range(_TRIES):
            done = _as_initiator(
                lambda: run_command(
                    self._fd,
                    cdb_bytes,
                    data_out=data_out,
                    room_bytes=room_bytes,
                    timeout_s=limit_s,
                    ioctl=self._ioctl,
                )
            )
            if done.status == _GOOD:
                return done
            found = sense.parse(done.sense) if done.status == _CHECK_CONDITION else None
            # It says what has happened before: the command was not done.
            if found is None or found.key != SenseKey.UNIT_ATTENTION:
                raise _failure(cdb_bytes, done.status, found)
        raise _failure(cdb_bytes, done.status, found)

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing of it is under way."""
        return self._lane.when_idle()

    def _in_thread(self, work: Callable[[], T]) -> Deferred[T]:
        found: list[T] = []
        job = FileJob(lambda: found.append(work()))
        return self._lane.submit(job, Manner.SINGLE_FILE).addCallback(lambda _: found[0])


def _failure(cdb_bytes: bytes, status: int, found: Sense | None) -> CommandFailed:
    kind = CommandFailed
    if status == _RESERVATION_CONFLICT:
        kind = ReservationConflict
    elif found is not None and found.key == SenseKey.MISCOMPARE:
        kind = Miscompare
    return kind(cdb.name_of(cdb_bytes), status, found)


def _as_initiator(work: Callable[[], T]) -> T:
    try:
        return work()
    except OSError as error:
        why = os.strerror(error.errno) if error.errno else str(error)
        raise InitiatorError("the kernel did not send a SCSI command", why=why) from error


def _run_jobs(batch: Sequence[FileJob]) -> None:
    """In a thread."""
    for job in batch:
        try:
            job.work()
        except InitiatorError as error:
            job.error = error
