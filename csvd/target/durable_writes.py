"""WRITEs that must be durable before their answer, and are on the express path: group commit.

Their data stands in the page cache when they are taken; what they wait for is one flush for all that one turn brought,
and the disk makes one fdatasync of the flushes of all connections that come while another one runs. Until then they are
tasks like any others: they hold their places of the command window, can be aborted, and are waited for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.python.failure import Failure

from csvd.iscsi.codes import BHS_BYTES, Opcode
from csvd.iscsi.layouts import PACKING
from csvd.iscsi.session import EXECUTING, Task
from csvd.scsi.outcome import WRITE, Transfer

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer
    from csvd.scsi.logical_unit import LogicalUnit
    from csvd.target.connection import ServerConnection
    from csvd.target.executor import Executor
    from csvd.target.statistics import Row


_SCSI_COMMAND: Final = PACKING[Opcode.SCSI_COMMAND]


class DurableWrites:
    """WRITEs of one turn to one logical unit, of one operation code.

    Args:
        executor: of their target.
        connection: that they came by.
        server: of their logical unit.
        row: their counters.
    """

    __slots__ = ("_began_ns", "_connection", "_executor", "_length_bytes", "_row", "_server", "_tasks", "_unit")

    def __init__(self, executor: Executor, connection: ServerConnection, server: DeviceServer, row: Row) -> None:
        self._executor = executor
        self._connection = connection
        self._server = server
        self._unit: LogicalUnit = server.unit
        self._row = row
        self._tasks: list[Task] = []
        self._length_bytes = 0
        self._began_ns = connection.counter.turn_ns

    def take(self, received: memoryview, start: int, count: int) -> None:
        """Take WRITEs, one behind the other in what was received, that are written and not durable yet: they enter the
        task set."""
        engine = self._connection.engine
        session = engine.session
        assert session is not None
        for _ in range(count):
            _, flags, _, lun, tag, length_bytes, cmd_sn, _, cdb = _SCSI_COMMAND.unpack_from(received, start)
            task = Task(session, engine, flags, lun, tag, length_bytes, cmd_sn, cdb)
            task.delivered = True
            task.state = EXECUTING
            task.wanted = task.received = task.data_out_length = length_bytes
            session.tasks[tag] = task
            self._length_bytes += length_bytes
            self._tasks.append(task)
            start += BHS_BYTES + length_bytes

    def begin(self) -> None:
        """Have the disk flush, and answer behind it."""
        count = len(self._tasks)
        self._executor.executing += count
        self._server.task_set.begun += count
        self._unit.device.flush().addBoth(self._flushed)

    def _flushed(self, result: Failure | None) -> None:
        connection, leave = self._connection, self._server.task_set.leave_simple
        count = len(self._tasks)
        self._executor.executing -= count
        if isinstance(result, Failure):
            for task in self._tasks:
                transfer = Transfer(WRITE, self._unit, 0, task.expected_length, True)
                self._executor.failed(connection, task, transfer, result, self._began_ns)
                leave()
        else:
            respond = connection.engine.respond
            for task in self._tasks:
                respond(task, 0)
                leave()
            connection.counter.count_many(self._row, count, self._began_ns, 0, self._length_bytes)
        connection.proceed()
