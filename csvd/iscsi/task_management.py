"""Task management at the target (RFC 7143 sections 4.2.3, 11.5 and 11.6; RFC 7144 section 6.3; SAM-5 section 7).

A function that aborts tasks answers only when the tasks that a disk is already working on have ended: once it has
answered, no write of an aborted task can land any more.

Of the steps of section 4.2.3.3 this takes: the commands that stand before the request in CmdSN order are waited for,
where they may still be under way on another connection (a reset of the target counts them as received instead); tasks
are aborted; the answer comes last. It does not wait for the Data-Out of open R2Ts: open-iscsi does not send it after
such a request, whatever was negotiated, and what still comes for a tag that is gone is known by its target transfer
tag, and read over.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from functools import partial
from typing import TYPE_CHECKING, Final, NamedTuple

from csvd.all_done import for_each
from csvd.iscsi.codes import FINAL, IMMEDIATE, Opcode, RejectReason, TaskManagementFunction, TaskManagementResponse
from csvd.iscsi.errors import PduRejected
from csvd.iscsi.events import EventKind
from csvd.iscsi.layouts import PACKING
from csvd.iscsi.session import MAX_FENCES, MAX_FUNCTIONS, Session, Task, abort

if TYPE_CHECKING:
    from csvd.iscsi.connection import TargetConnection
    from csvd.iscsi.node import TargetNode

_REQUEST: Final = PACKING[Opcode.TASK_MANAGEMENT_REQUEST]
_RESPONSE: Final = PACKING[Opcode.TASK_MANAGEMENT_RESPONSE]
_SERIAL_MASK: Final = 2**32 - 1
_SERIAL_HALF: Final = 2**31

_COMPLETE: Final = TaskManagementResponse.FUNCTION_COMPLETE
_SUCCEEDED: Final = TaskManagementResponse.FUNCTION_SUCCEEDED
_NO_LUN: Final = TaskManagementResponse.LUN_DOES_NOT_EXIST
_NO_TASK: Final = TaskManagementResponse.TASK_DOES_NOT_EXIST

_RESETS: Final = frozenset(
    {
        TaskManagementFunction.LOGICAL_UNIT_RESET,
        TaskManagementFunction.TARGET_WARM_RESET,
        TaskManagementFunction.TARGET_COLD_RESET,
        TaskManagementFunction.I_T_NEXUS_RESET,
    }
)
_WAIT_FOR_COMMANDS: Final = frozenset(
    {
        TaskManagementFunction.ABORT_TASK_SET,
        TaskManagementFunction.CLEAR_TASK_SET,
        TaskManagementFunction.LOGICAL_UNIT_RESET,
        TaskManagementFunction.QUERY_TASK_SET,
    }
)


class _Request(NamedTuple):
    """A Task Management Function Request."""

    function: int
    lun: int
    tag: int
    referenced_task_tag: int
    cmd_sn: int
    ref_cmd_sn: int


class TaskManagement:
    """The task management of one connection."""

    def __init__(self, connection: TargetConnection) -> None:
        self._connection = connection
        self._functions: dict[int, Callable[[_Request], None]] = {
            TaskManagementFunction.ABORT_TASK: self._abort_task,
            TaskManagementFunction.ABORT_TASK_SET: self._abort_task_set,
            TaskManagementFunction.CLEAR_TASK_SET: self._clear_task_set,
            TaskManagementFunction.LOGICAL_UNIT_RESET: self._logical_unit_reset,
            TaskManagementFunction.TARGET_WARM_RESET: self._target_reset,
            TaskManagementFunction.TARGET_COLD_RESET: self._target_reset,
            TaskManagementFunction.TASK_REASSIGN: self._task_reassign,
            TaskManagementFunction.QUERY_TASK: self._query_task,
            TaskManagementFunction.QUERY_TASK_SET: self._query_task_set,
            TaskManagementFunction.I_T_NEXUS_RESET: self._i_t_nexus_reset,
            TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT: self._query_asynchronous_event,
        }

    @property
    def _session(self) -> Session:
        session = self._connection.session
        assert session is not None
        return session

    @property
    def _target(self) -> TargetNode:
        target = self._session.target
        assert target is not None
        return target

    def request(self, header: bytes, data: bytes) -> None:
        """Take a Task Management Function Request, whose turn in CmdSN order it is."""
        opcode, function, _, lun, tag, referenced, cmd_sn, _, ref_cmd_sn, _ = _REQUEST.unpack(header)
        request = _Request(function & 0x7F, lun, tag, referenced, cmd_sn, ref_cmd_sn)
        session = self._session
        run = self._functions.get(request.function)
        level = session.parameters.iscsi_protocol_level
        if session.functions >= MAX_FUNCTIONS:
            self._respond(request, TaskManagementResponse.FUNCTION_REJECTED)
        elif run is None or (request.function >= TaskManagementFunction.QUERY_TASK and level < 2):
            # CLEAR ACA too: NORMACA of the standard INQUIRY data is zero, so there is no ACA condition to clear.
            self._respond(request, TaskManagementResponse.FUNCTION_NOT_SUPPORTED)
        elif opcode & IMMEDIATE and request.function in _WAIT_FOR_COMMANDS and len(session.connections) > 1:
            if len(session.fences) >= MAX_FENCES:
                raise PduRejected(RejectReason.IMMEDIATE_COMMAND_REJECT, "too many task management functions")
            session.when_received(cmd_sn, lambda: run(request))
        else:
            run(request)

    # Functions that abort

    def _abort_task(self, request: _Request) -> None:
        session = self._session
        task = session.tasks.get(request.referenced_task_tag)
        ref_cmd_sn = request.ref_cmd_sn
        if task is not None and task.lun != request.lun and task.lun not in self._luns(request.lun):
            self._respond(request, _NO_TASK)
        elif task is not None:
            self._abort(request, [task])
        elif 0 < (request.cmd_sn - ref_cmd_sn) & _SERIAL_MASK < _SERIAL_HALF and session.in_window(ref_cmd_sn):
            # It never came: it counts as received and aborted, or its CmdSN would hold up all that follow
            # (RFC 7143 section 11.6.1).
            session.order(ref_cmd_sn, _nothing)
            self._respond(request, _COMPLETE)
        else:
            self._respond(request, _NO_TASK)

    def _abort_task_set(self, request: _Request) -> None:
        luns = self._luns(request.lun)
        if luns:
            self._abort(request, _tasks_at(self._session.tasks.values(), luns))
        else:
            self._respond(request, _NO_LUN)

    def _clear_task_set(self, request: _Request) -> None:
        luns = self._luns(request.lun)
        if not luns:
            self._respond(request, _NO_LUN)
            return
        tasks = _tasks_at(self._target.all_tasks(), luns)
        others = {task.session.nexus for task in tasks} - {self._session.nexus}
        if not self._answer_others(tasks, request.lun):
            self._target.router.commands_cleared(request.lun, others)
        router, nexus = self._target.router, self._session.nexus
        self._abort(request, tasks, elsewhere=lambda done: router.clear_elsewhere(luns, nexus, done))

    def _logical_unit_reset(self, request: _Request) -> None:
        luns = self._luns(request.lun)
        if not luns:
            self._respond(request, _NO_LUN)
            return
        tasks = _tasks_at(self._target.all_tasks(), luns)
        self._answer_others(tasks, request.lun)
        router = self._target.router
        router.logical_unit_reset(request.lun, self._session.nexus)
        self._abort(request, tasks, elsewhere=lambda done: router.reset_elsewhere(luns, done))

    def _target_reset(self, request: _Request) -> None:
        """A reset of all logical units, which is not for an initiator that may not see all of them."""
        target, session = self._target, self._session
        if not target.router.sees_every_lun(session.nexus):
            self._respond(request, TaskManagementResponse.FUNCTION_AUTHORIZATION_FAILED)
            return
        # All that stands before it in CmdSN order counts as received (RFC 7143 section 4.2.3.3 b).
        session.plug(request.cmd_sn)
        tasks = target.all_tasks()
        for lun in {task.lun for task in tasks}:
            self._answer_others([task for task in tasks if task.lun == lun], lun)
        target.router.target_reset(session.nexus)
        cold = request.function == TaskManagementFunction.TARGET_COLD_RESET
        self._abort(
            request,
            tasks,
            target.drop_all_sessions if cold else None,
            elsewhere=lambda done: target.router.reset_elsewhere(None, done),
        )

    def _i_t_nexus_reset(self, request: _Request) -> None:
        session = self._session
        router = self._target.router
        router.i_t_nexus_reset(session.nexus)
        released = partial(router.release_elsewhere, session.nexus)
        self._abort(request, list(session.tasks.values()), elsewhere=released)

    def _task_reassign(self, request: _Request) -> None:
        self._respond(request, TaskManagementResponse.TASK_ALLEGIANCE_REASSIGNMENT_NOT_SUPPORTED)

    # Functions that ask (RFC 7144)

    def _query_task(self, request: _Request) -> None:
        task = self._session.tasks.get(request.referenced_task_tag)
        there = task is not None and not task.aborted and task.lun in self._luns(request.lun)
        self._respond(request, _SUCCEEDED if there else _COMPLETE)

    def _query_task_set(self, request: _Request) -> None:
        luns = self._luns(request.lun)
        if not luns:
            self._respond(request, _NO_LUN)
            return
        there = any(not task.aborted for task in _tasks_at(self._session.tasks.values(), luns))
        self._respond(request, _SUCCEEDED if there else _COMPLETE)

    def _query_asynchronous_event(self, request: _Request) -> None:
        if not self._luns(request.lun):
            self._respond(request, _NO_LUN)
            return
        information = self._target.router.pending_attention(self._session.nexus, request.lun)
        self._respond(request, _SUCCEEDED if information else _COMPLETE, information or bytes(3))

    # Parts

    def _luns(self, lun: int) -> Collection[int]:
        return self._target.router.luns_of(self._session.nexus, lun)

    def _answer_others(self, tasks: Iterable[Task], lun: int) -> bool:
        """With TAS, have the tasks of other nexuses answered with TASK ABORTED; give whether TAS is set."""
        if not self._target.router.aborted_status(lun):
            return False
        for task in tasks:
            task.abort_is_told = task.abort_is_told or task.session is not self._session
        return True

    def _abort(
        self,
        request: _Request,
        tasks: list[Task],
        then: Callable[[], None] | None = None,
        *,
        elsewhere: Callable[[Callable[[], None]], None] | None = None,
    ) -> None:
        """Abort tasks, have the same done elsewhere, and respond when both are done."""
        session = self._session
        if len(session.connections) > 1 and session.has_passed(request.cmd_sn):
            # Of this session, what stands behind the function in CmdSN order is not affected (RFC 7143 section
            # 4.2.3.3), though it may have come by another connection before the function did.
            tasks = [task for task in tasks if task.session is not session or not _is_behind(task, request.cmd_sn)]
        session.functions += 1

        def done() -> None:
            session.functions -= 1
            self._respond(request, _COMPLETE)
            if then is not None:
                then()

        if elsewhere is None:
            abort(tasks, done)
        else:
            # Both at once: the tasks of others must not wait for those of this node. But these first, or they would be
            # found as tasks of others when the word comes back.
            for_each([partial(abort, tasks), elsewhere], done)

    def _respond(self, request: _Request, response: TaskManagementResponse, information: bytes = bytes(3)) -> None:
        connection = self._connection
        kind = EventKind.RESET if request.function in _RESETS else EventKind.TASK_MANAGEMENT
        connection.tell(kind, f"{_name(request.function)}, {response.name} at LUN field {request.lun:#x}")
        if connection.closing:
            return
        exp_cmd_sn, max_cmd_sn = connection.window()
        connection.add_header(
            _RESPONSE.pack(
                Opcode.TASK_MANAGEMENT_RESPONSE,
                FINAL,
                response,
                0,
                information,
                request.tag,
                connection.next_stat_sn(),
                exp_cmd_sn,
                max_cmd_sn,
            )
        )
        connection.wake()


def _is_behind(task: Task, cmd_sn: int) -> bool:
    """Whether a task stands behind a function in CmdSN order. An immediate one has the number of the command after it,
    as the function has, so with the same number it was there first."""
    ahead = (task.cmd_sn - cmd_sn) & _SERIAL_MASK
    return ahead < _SERIAL_HALF and not (task.immediate and ahead == 0)


def _tasks_at(tasks: Iterable[Task], luns: Collection[int]) -> list[Task]:
    return [task for task in tasks if task.lun in luns]


def _name(function: int) -> str:
    try:
        return TaskManagementFunction(function).name
    except ValueError:
        return f"task management function {function}"


def _nothing() -> None:
    return None
