"""Task management at the target (RFC 7143 sections 4.2.3, 11.5 and 11.6; SAM-5 section 7).

A function that aborts tasks answers only when the tasks that a disk is already working on have ended: once it has
answered, no write of an aborted task can land any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.iscsi.codes import FINAL, Opcode, TaskManagementFunction, TaskManagementResponse
from csvd.iscsi.layouts import PACKING
from csvd.iscsi.session import EXECUTING, Session, Task

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from csvd.iscsi.connection import TargetConnection

_REQUEST: Final = PACKING[Opcode.TASK_MANAGEMENT_REQUEST]
_RESPONSE: Final = PACKING[Opcode.TASK_MANAGEMENT_RESPONSE]


class TaskManagement:
    """The task management of one connection."""

    def __init__(self, connection: TargetConnection) -> None:
        self._connection = connection

    def request(self, header: bytes, data: bytes) -> None:
        """Take a Task Management Function Request, whose turn in CmdSN order it is."""
        _, function_byte, _, lun, tag, referenced, _, _, _, _ = _REQUEST.unpack(header)
        session = self._connection.session
        assert session is not None
        assert session.target is not None
        router = session.target.router
        response = TaskManagementResponse.FUNCTION_COMPLETE
        aborted: list[Task] = []
        close_session = False
        match function_byte & 0x7F:
            case TaskManagementFunction.ABORT_TASK:
                task = session.tasks.get(referenced)
                if task is None or task.aborted:
                    response = TaskManagementResponse.TASK_DOES_NOT_EXIST
                else:
                    aborted = [task]
            case TaskManagementFunction.ABORT_TASK_SET:
                aborted = _tasks_of((session,), lun)
            case TaskManagementFunction.CLEAR_TASK_SET:
                aborted = _tasks_of(session.target.sessions.values(), lun)
                router.commands_cleared(lun, {task.session.nexus for task in aborted} - {session.nexus})
            case TaskManagementFunction.LOGICAL_UNIT_RESET:
                if router.logical_unit_reset(lun, session.nexus):
                    aborted = _tasks_of(session.target.sessions.values(), lun)
                else:
                    response = TaskManagementResponse.LUN_DOES_NOT_EXIST
            case TaskManagementFunction.TARGET_WARM_RESET | TaskManagementFunction.TARGET_COLD_RESET as function:
                router.target_reset(session.nexus)
                aborted = _tasks_of(session.target.sessions.values(), None)
                close_session = function == TaskManagementFunction.TARGET_COLD_RESET
            case TaskManagementFunction.TASK_REASSIGN:
                response = TaskManagementResponse.TASK_ALLEGIANCE_REASSIGNMENT_NOT_SUPPORTED
            case _:
                response = TaskManagementResponse.FUNCTION_NOT_SUPPORTED
        self._connection.events.append(f"task management: function {function_byte & 0x7F}, {response.name}")

        def done() -> None:
            self._respond(tag, response)
            if close_session:
                self._close_all(session)

        abort(aborted, done)

    def _respond(self, tag: int, response: TaskManagementResponse) -> None:
        connection = self._connection
        if connection.closing:
            return
        exp_cmd_sn, max_cmd_sn = connection.window()
        connection.output.append(
            _RESPONSE.pack(
                Opcode.TASK_MANAGEMENT_RESPONSE,
                FINAL,
                response,
                0,
                tag,
                connection.next_stat_sn(),
                exp_cmd_sn,
                max_cmd_sn,
            )
        )
        connection.wake()

    @staticmethod
    def _close_all(session: Session) -> None:
        """A cold reset ends every session of the target (RFC 7143 section 11.5.1)."""
        assert session.target is not None
        for each in list(session.target.sessions.values()):
            session.target.close_session(each)


def _tasks_of(sessions: Iterable[Session], lun: int | None) -> list[Task]:
    return [task for session in sessions for task in session.tasks.values() if lun is None or task.lun == lun]


def abort(tasks: list[Task], done: Callable[[], None]) -> None:
    """Abort tasks; call ``done`` when the last of those that are being executed has ended."""
    waiting = 0

    def one_ended() -> None:
        nonlocal waiting
        waiting -= 1
        if waiting == 0:
            done()

    for task in tasks:
        if task.aborted:
            continue
        task.aborted = True
        if task.state == EXECUTING:
            waiting += 1
            task.on_end += (one_ended,)
        else:
            if task in task.connection.ready:
                task.connection.ready.remove(task)
            task.session.end(task)
    if waiting == 0:
        done()
