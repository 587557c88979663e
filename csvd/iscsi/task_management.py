"""Task management at the target (RFC 7143 sections 4.2.3, 11.5 and 11.6; SAM-5 section 7).

A function that aborts tasks answers only when the tasks that a disk is already working on have ended: once it has
answered, no write of an aborted task can land any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.iscsi.codes import FINAL, Opcode, TaskManagementFunction, TaskManagementResponse
from csvd.iscsi.layouts import PACKING
from csvd.iscsi.session import Session, Task, abort

if TYPE_CHECKING:
    from collections.abc import Iterable

    from csvd.iscsi.connection import TargetConnection
    from csvd.iscsi.node import TargetNode

_REQUEST: Final = PACKING[Opcode.TASK_MANAGEMENT_REQUEST]
_RESPONSE: Final = PACKING[Opcode.TASK_MANAGEMENT_RESPONSE]


class TaskManagement:
    """The task management of one connection."""

    def __init__(self, connection: TargetConnection) -> None:
        self._connection = connection

    def request(self, header: bytes, data: bytes) -> None:
        """Take a Task Management Function Request, whose turn in CmdSN order it is."""
        _, function_byte, _, lun, tag, referenced, cmd_sn, _, ref_cmd_sn, _ = _REQUEST.unpack(header)
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
                if task is not None:
                    aborted = [task]
                elif (cmd_sn - ref_cmd_sn) & 0xFFFFFFFF < 0x80000000 and session.in_window(ref_cmd_sn):
                    # It never came: it counts as received and aborted, or its CmdSN would hold up all that follow
                    # (RFC 7143 section 11.6.1).
                    session.order(ref_cmd_sn, _nothing)
                else:
                    response = TaskManagementResponse.TASK_DOES_NOT_EXIST
            case TaskManagementFunction.ABORT_TASK_SET:
                aborted = _tasks_of(session.tasks.values(), lun)
            case TaskManagementFunction.CLEAR_TASK_SET:
                aborted = _tasks_of(_all_tasks(session.target), lun)
                router.commands_cleared(lun, {task.session.nexus for task in aborted} - {session.nexus})
            case TaskManagementFunction.LOGICAL_UNIT_RESET:
                if router.logical_unit_reset(lun, session.nexus):
                    aborted = _tasks_of(_all_tasks(session.target), lun)
                else:
                    response = TaskManagementResponse.LUN_DOES_NOT_EXIST
            case TaskManagementFunction.TARGET_WARM_RESET | TaskManagementFunction.TARGET_COLD_RESET as function:
                router.target_reset(session.nexus)
                aborted = _tasks_of(_all_tasks(session.target), None)
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
        connection.add_header(
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


def _all_tasks(target: TargetNode) -> list[Task]:
    """The tasks of all sessions, those that have ended too: what a disk still works on can still land."""
    return [*(task for session in target.sessions.values() for task in session.tasks.values()), *target.leaving]


def _tasks_of(tasks: Iterable[Task], lun: int | None) -> list[Task]:
    return [task for task in tasks if lun is None or task.lun == lun]


def _nothing() -> None:
    return None
