"""A load on one LUN: as many commands under way as it is deep, for a time, each answered one followed by the next.

It goes below :class:`Disk <initiator.disk.Disk>`, straight to the road: a callback for each command, no Deferred.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred

from initiator.disk import Disk
from initiator.engine.requests import BUSY, GOOD, TASK_SET_FULL, Command
from initiator.errors import InitiatorError, ResidualMismatch, SessionClosed
from initiator.failures import failure_of
from initiator.load.histogram import Histogram
from initiator.load.workload import Commands
from initiator.scsi import cdb
from initiator.scsi import lun as luns

BACKOFF_S: Final = 0.001
"""After BUSY and TASK SET FULL."""


class Load:
    """The load of one session. ``reads`` and ``writes`` have the latencies in nanoseconds.

    Args:
        disk: of which the road is used.
        commands: what is asked.
        block_bytes: what a command moves.
        depth: commands under way at once.
        now_ns: a clock that only grows.
    """

    def __init__(
        self, disk: Disk, commands: Commands, *, block_bytes: int, depth: int, now_ns: Callable[[], int]
    ) -> None:
        self.reads = Histogram()
        self.writes = Histogram()
        self.busy = 0
        """Commands that were sent again because the target had no room for them."""
        self._road = disk.road
        self._lun = luns.encode(disk.lun)
        self._commands = commands
        self._now_ns = now_ns
        self._timeout_s = disk.road.options.timeout_s
        self._reactor: Any = disk.road.reactor
        # Whole pages: 16 bytes into one, where malloc puts what is large, is where some processors are slow to copy to.
        room = memoryview(mmap.mmap(-1, depth * block_bytes))
        self._free = [room[at : at + block_bytes] for at in range(0, len(room), block_bytes)]
        self._payload = memoryview(os.urandom(block_bytes))
        self._depth = depth
        self._under_way = 0
        self._stopping = False
        self._error: InitiatorError | None = None
        self._done: Deferred[None] = Deferred()

    def start(self) -> Deferred[None]:
        """Begin. The Deferred fires when the last command after :meth:`stop` has been answered.

        Errors: what befell the first command that failed; the load ends with it.
        """
        for _ in range(self._depth):
            self._next()
        self._check_end()
        return self._done

    def stop(self) -> None:
        """Start no more commands."""
        self._stopping = True
        self._check_end()

    def _next(self) -> None:
        commands = self._commands
        cdb_bytes = commands.next_cdb()
        if commands.is_read:
            command = Command(self._lun, cdb_bytes, data_in=self._free.pop())
            finished = self._read_done
        else:
            command = Command(self._lun, cdb_bytes, data_out=self._payload)
            finished = self._write_done
        self._start(command, finished)

    def _start(self, command: Command, finished: Callable[[Command], None]) -> None:
        command.context = self._now_ns()
        try:
            self._road.start(command, self._reactor.seconds() + self._timeout_s, finished)
        except SessionClosed as error:
            self._fail(error)
            return
        self._under_way += 1

    def _read_done(self, command: Command) -> None:
        self._under_way -= 1
        if command.error is not None or command.status or command.response or command.residual:
            self._unusual(command, self._read_done)
            return
        self.reads.add(self._now_ns() - command.context)
        if self._stopping:
            self._check_end()
            return
        assert command.data_in is not None
        self._free.append(command.data_in)
        self._next()

    def _write_done(self, command: Command) -> None:
        self._under_way -= 1
        if command.error is not None or command.status or command.response or command.residual:
            self._unusual(command, self._write_done)
            return
        self.writes.add(self._now_ns() - command.context)
        if self._stopping:
            self._check_end()
            return
        self._next()

    def _unusual(self, command: Command, finished: Callable[[Command], None]) -> None:
        if command.error is not None:
            self._fail(command.error)
        elif command.status in (BUSY, TASK_SET_FULL):
            self._again_later(command, finished)
        elif command.status == GOOD and not command.response:
            left = f"{command.residual} of {command.length} bytes over"
            self._fail(ResidualMismatch(f"{cdb.name_of(command.cdb)} left {left}"))
        else:
            self._fail(failure_of(command))
        self._check_end()

    def _again_later(self, command: Command, finished: Callable[[Command], None]) -> None:
        if self._stopping:
            return
        self.busy += 1
        again = Command(command.lun, command.cdb, data_in=command.data_in, data_out=command.data_out)
        self._under_way += 1
        self._reactor.callLater(BACKOFF_S, self._again, again, finished)

    def _again(self, command: Command, finished: Callable[[Command], None]) -> None:
        self._under_way -= 1
        if not self._stopping:
            self._start(command, finished)
        self._check_end()

    def _fail(self, error: InitiatorError) -> None:
        self._error = self._error or error
        self._stopping = True

    def _check_end(self) -> None:
        if not self._stopping or self._under_way or self._done.called:
            return
        if self._error is None:
            self._done.callback(None)
        else:
            self._done.errback(self._error)
