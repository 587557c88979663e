"""Full-feature phase at the target: commands, their data, and what goes with them (RFC 7143 sections 4.2 to 4.6, 11).

READ and WRITE are the data path: headers are unpacked and packed by derived structs, one :class:`Task` is made for a
command, and payload is passed on as memoryviews.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Final

from csvd.iscsi.codes import (
    BHS_BYTES,
    FINAL,
    IMMEDIATE,
    RESERVED_TAG,
    CommandFlag,
    LogoutReason,
    LogoutResponse,
    Opcode,
    RejectReason,
    TaskFault,
)
from csvd.iscsi.errors import PduRejected
from csvd.iscsi.events import EventKind
from csvd.iscsi.layouts import PACKING
from csvd.iscsi.session import COLLECTING, Session, Task, abort
from csvd.iscsi.task_management import TaskManagement
from csvd.iscsi.text_exchange import TextExchange

if TYPE_CHECKING:
    from csvd.iscsi.connection import TargetConnection

_SCSI_COMMAND: Final = PACKING[Opcode.SCSI_COMMAND]
_SCSI_RESPONSE: Final = PACKING[Opcode.SCSI_RESPONSE]
_DATA_OUT: Final = PACKING[Opcode.DATA_OUT]
_DATA_IN: Final = PACKING[Opcode.DATA_IN]
_R2T: Final = PACKING[Opcode.R2T]
_NOP_OUT: Final = PACKING[Opcode.NOP_OUT]
_NOP_IN: Final = PACKING[Opcode.NOP_IN]
_LOGOUT_REQUEST: Final = PACKING[Opcode.LOGOUT_REQUEST]
_LOGOUT_RESPONSE: Final = PACKING[Opcode.LOGOUT_RESPONSE]

# Plain numbers for the data path: an IntFlag makes an object of each result.
_READ: Final = int(CommandFlag.READ)
_WRITE: Final = int(CommandFlag.WRITE)

_ACA: Final = 0x04
"""Of the ATTR field: set in ACA and in what is reserved."""

IMMEDIATE_TASKS: Final = 16
"""Immediate commands taken beyond the window, which does not bound them (RFC 7143 section 4.2.2.1)."""

_NOWHERE: Final = memoryview(bytearray())


class FullFeature:
    """The handlers of full-feature phase for one connection."""

    def __init__(self, connection: TargetConnection) -> None:
        self._connection = connection
        self._session: Session = None  # type: ignore[assignment]  # set by begin(), before any handler can run
        self._answers = connection.answers
        self._task_management = TaskManagement(connection)
        self._text = TextExchange(connection)
        self._logout_is_under_way = False

    def begin(self, session: Session) -> dict[int, Callable[[memoryview, int, int, int], None]]:
        """Enter full-feature phase; give the handlers by opcode. What is not among them is rejected."""
        self._session = session
        self._answers.begin(session)
        handlers = {
            Opcode.NOP_OUT: self._in_order(self._nop_out),
            Opcode.TEXT_REQUEST: self._in_order(self._text.request),
            Opcode.LOGOUT_REQUEST: self._in_order(self._logout_request),
        }
        if not session.discovery:
            handlers |= {
                Opcode.SCSI_COMMAND: self._scsi_command,
                Opcode.DATA_OUT: self._data_out,
                Opcode.TASK_MANAGEMENT_REQUEST: self._in_order(self._task_management.request),
                Opcode.SNACK_REQUEST: self._snack_request,
            }
        return {int(opcode): handler for opcode, handler in handlers.items()}

    def parameters_changed(self) -> None:
        """Take what now holds for this connection; the next answer obeys it."""
        self._answers.begin(self._session)

    def _in_order(self, handler: Callable[[bytes, bytes], None]) -> Callable[[memoryview, int, int, int], None]:
        """Make a handler that obeys the CmdSN order from one that takes a header and its data.

        CmdSN stands at byte 24 in every request that has one.
        """

        def in_turn(header: bytes, data: bytes) -> None:
            # Its turn may come with another PDU, which must not be rejected in its place.
            try:
                handler(header, data)
            except PduRejected as error:
                self._connection.rejected(error, header)

        def run(view: memoryview, start: int, header_bytes: int, data_bytes: int) -> None:
            header = bytes(view[start : start + BHS_BYTES])
            data = bytes(view[start + header_bytes : start + header_bytes + data_bytes])
            if header[0] & IMMEDIATE:
                handler(header, data)
            else:
                cmd_sn = int.from_bytes(header[24:28])
                self._session.order(cmd_sn, lambda: in_turn(header, data), self._connection)

        return run

    # SCSI Command and its data

    def _scsi_command(self, view: memoryview, start: int, header_bytes: int, data_bytes: int) -> None:
        task = self._new_task(view, start, data_bytes)
        if task is None:
            return
        if data_bytes:
            begin = start + header_bytes
            kept = task.wanted if data_bytes > task.wanted else data_bytes
            if kept == task.wanted:
                # All the command takes has come with it: no buffer to fill, one copy out of the receive buffer.
                task.data = bytes(view[begin : begin + kept])
            else:
                task.data[:kept] = view[begin : begin + kept]
            task.received = data_bytes
        self._admit(task)

    def _new_task(self, view: memoryview, start: int, data_bytes: int) -> Task | None:
        """Make the task of a SCSI Command and settle how its Data-Out comes; None where it is to be ignored."""
        opcode, flags, _, lun, tag, expected_length, cmd_sn, _, cdb = _SCSI_COMMAND.unpack_from(view, start)
        session = self._session
        # An additional header segment is passed over: it would carry the rest of a CDB of more than 16 bytes, whose
        # operation code the SCSI layer refuses. A Reject would leave a gap in CmdSN that Linux does not close.
        if tag in session.tasks:
            raise PduRejected(RejectReason.TASK_IN_PROGRESS, f"task tag {tag:#x} is in use")
        if opcode & IMMEDIATE:
            if len(session.tasks) >= session.queue_depth + IMMEDIATE_TASKS:
                raise PduRejected(RejectReason.IMMEDIATE_COMMAND_REJECT, "too many immediate commands")
        elif not session.in_window(cmd_sn):
            return None
        task = Task(session, self._connection, flags, lun, tag, expected_length, cmd_sn, cdb)
        task.immediate = task.delivered = bool(opcode & IMMEDIATE)
        if flags & _WRITE:
            self._expect_data_out(task, data_bytes)
            if flags & _READ and expected_length:
                self._refuse(task, TaskFault.BIDIRECTIONAL)
        elif data_bytes:
            raise PduRejected(RejectReason.PROTOCOL_ERROR, "immediate data with a command that does not write")
        elif not flags & _READ:
            # A command that moves data although the initiator expects none gets its residual all the same.
            task.data_out_length = self._data_out_length(task)
        if flags & _ACA:
            self._refuse(task, TaskFault.ACA_WITHOUT_CONDITION)
        session.tasks[tag] = task
        return task

    def _refuse(self, task: Task, fault: TaskFault) -> None:
        """Let a new task fail, once its unsolicited data has been read over; a Reject would leave a gap in CmdSN."""
        task.fault = fault
        task.wanted = task.data_out_length = 0
        task.data = b""

    def _expect_data_out(self, task: Task, immediate_bytes: int) -> None:
        session = self._session
        parameters = session.parameters
        expected = task.expected_length
        first_burst = min(parameters.first_burst_length, expected)
        if immediate_bytes and not parameters.immediate_data:
            raise PduRejected(RejectReason.PROTOCOL_ERROR, "immediate data after ImmediateData=No")
        if immediate_bytes > first_burst:
            raise PduRejected(RejectReason.PROTOCOL_ERROR, f"{immediate_bytes} bytes of immediate data")
        if not task.flags & FINAL:
            if parameters.initial_r2t:
                raise PduRejected(RejectReason.PROTOCOL_ERROR, "unsolicited data after InitialR2T=Yes")
            task.unsolicited = immediate_bytes < first_burst
            task.burst_end = first_burst
        task.data_out_length = self._data_out_length(task)
        task.wanted = min(expected, task.data_out_length)
        if immediate_bytes < task.wanted:
            # What may come unsolicited is kept from now on; the rest gets its buffer with its R2T.
            kept = task.wanted if task.wanted <= first_burst else first_burst
            if task.unsolicited or immediate_bytes:
                task.data = memoryview(bytearray(kept))

    def _data_out_length(self, task: Task) -> int:
        """What the command takes; where its CDB does not say, what the initiator means to send, up to a limit."""
        assert self._session.target is not None
        length: int = self._session.target.router.data_out_length(task.lun, task.cdb)
        return length if length >= 0 else min(task.expected_length, -length)

    def _admit(self, task: Task) -> None:
        """Put a new task in order, and on its way as far as its data allows."""
        if task.delivered:
            if not task.aborted:  # while the rest of its immediate data came
                self._go_on(task)
        elif self._session.take_next(task.cmd_sn):
            self._deliver(task)
        else:
            self._session.order(task.cmd_sn, lambda: self._deliver(task), self._connection)

    def _deliver(self, task: Task) -> None:
        task.delivered = True
        if not task.aborted:
            self._go_on(task)

    def _go_on(self, task: Task) -> None:
        """Ready when all data is there; else ask for the next burst, once the unsolicited one is through."""
        if task.unsolicited or not task.delivered:
            return
        if task.received >= task.wanted:
            self._session.ready(task)
        elif task.r2t_bytes:
            # It has its share of the budget: behind a task that waits for one it would wait for itself.
            self._answers.ready_to_transfer(task)
        else:
            self._session.r2t_waiting[task] = None
            self._session.grant()

    def place(
        self, opcode: int, view: memoryview, start: int, data_bytes: int
    ) -> tuple[memoryview, Callable[[bool], None]]:
        """Settle where the data segment of a PDU goes that has not come whole.

        Gives the destination, and what to call when all of the segment is there: with True, or with False where its
        digest says that it is not what was sent.

        Raises:
            PduRejected, ConnectionFailure: as the whole PDU would.
        """
        if opcode == Opcode.SCSI_COMMAND:
            return self._place_immediate_data(self._new_task(view, start, data_bytes), data_bytes)
        checked = self._check_data_out(view, start, data_bytes)
        if checked is None:
            return _NOWHERE, _ignore
        task, final = checked
        begin = task.received
        kept = max(0, min(data_bytes, task.wanted - begin))
        destination = task.data[begin : begin + kept] if kept else _NOWHERE

        def data_is_here(sound: bool) -> None:
            if sound:
                self._took_data_out(task, data_bytes, final)
            elif not task.aborted:
                self._spoil(task, TaskFault.PROTOCOL_SERVICE_CRC_ERROR, "a data digest error", final=final)

        return destination, data_is_here

    def _place_immediate_data(self, task: Task | None, data_bytes: int) -> tuple[memoryview, Callable[[bool], None]]:
        if task is None:
            return _NOWHERE, _ignore
        kept = min(data_bytes, task.wanted)
        if kept and not len(task.data):
            task.data = memoryview(bytearray(kept))

        def command_is_whole(sound: bool) -> None:
            if sound:
                task.received = data_bytes
                self._admit(task)
            else:  # it counts as never received (RFC 7143 section 7.8)
                task.aborted = True
                task.session.end(task)

        return (task.data[:kept] if kept else _NOWHERE), command_is_whole

    def _data_out(self, view: memoryview, start: int, header_bytes: int, data_bytes: int) -> None:
        checked = self._check_data_out(view, start, data_bytes)
        if checked is None:
            return
        task, final = checked
        begin = task.received
        kept = min(data_bytes, task.wanted - begin)
        if kept > 0:
            source = start + header_bytes
            task.data[begin : begin + kept] = view[source : source + kept]
        self._took_data_out(task, data_bytes, final)

    def _check_data_out(self, view: memoryview, start: int, data_bytes: int) -> tuple[Task, bool] | None:
        """Check a Data-Out against what was asked for; None where its task is gone (aborted, or ended early).

        The LUN field is not looked at: Windows was seen to send a wrong one.
        """
        _, flags, _, _, tag, transfer_tag, _, data_sn, buffer_offset = _DATA_OUT.unpack_from(view, start)
        task = self._session.tasks.get(tag)
        if task is None or task.aborted:
            return None
        if task.connection is not self._connection:
            # The data of a task comes by the connection that its command came by (RFC 7143 section 4.2.5.1).
            raise PduRejected(RejectReason.PROTOCOL_ERROR, f"Data-Out of another connection's task {tag:#x}")
        solicited = transfer_tag != RESERVED_TAG
        if task.state != COLLECTING or (solicited and transfer_tag != task.target_transfer_tag):
            raise PduRejected(RejectReason.INVALID_PDU_FIELD, f"Data-Out that nobody asked for, task {tag:#x}")
        if not solicited and not task.unsolicited:
            raise PduRejected(RejectReason.PROTOCOL_ERROR, f"unexpected unsolicited data, task {tag:#x}")
        final = bool(flags & FINAL)
        if task.fault is not None:
            self._spoil(task, task.fault, "", final=final)
            return None
        end = buffer_offset + data_bytes
        if (
            data_sn != task.data_sn
            or buffer_offset != task.received
            or end > task.burst_end
            or (final and solicited and end != task.burst_end)
        ):
            # DataPDUInOrder and DataSequenceInOrder are Yes, and at ErrorRecoveryLevel 0 a PDU can not be asked for
            # again (RFC 7143 section 7.8). The task fails when its burst has ended; the session goes on, for the
            # framing is sound.
            fault = TaskFault.DATA_PHASE_ERROR
            if not solicited and end > task.burst_end:
                fault = TaskFault.UNEXPECTED_UNSOLICITED_DATA
            due = f"{task.data_sn} from {task.received} up to {task.burst_end}"
            self._spoil(task, fault, f"Data-Out {data_sn} for {buffer_offset}..{end} where {due} was due", final=final)
            return None
        return task, final

    def _spoil(self, task: Task, fault: TaskFault, what: str, *, final: bool) -> None:
        """Let a task fail when its burst has come to its end; until then the rest of it is only read over."""
        if task.fault is None:
            task.fault = fault
            self._connection.tell(EventKind.TASK_FAILURE, f"{what}: task {task.initiator_task_tag:#x} fails")
        if final:
            task.unsolicited = False
            task.target_transfer_tag = RESERVED_TAG
            task.received = task.wanted
            self._go_on(task)

    def _took_data_out(self, task: Task, data_bytes: int, final: bool) -> None:
        task.received += data_bytes
        task.data_sn += 1
        if not final or task.aborted:
            return
        task.unsolicited = False
        task.target_transfer_tag = RESERVED_TAG
        task.data_sn = 0
        self._go_on(task)

    # NOP, SNACK and Logout

    def _snack_request(self, view: memoryview, start: int, header_bytes: int, data_bytes: int) -> None:
        raise PduRejected(RejectReason.SNACK_REJECT, "nothing is sent again at ErrorRecoveryLevel 0")

    def _nop_out(self, header: bytes, data: bytes) -> None:
        _, _, _, lun, tag, transfer_tag, _, _ = _NOP_OUT.unpack(header)
        if tag == RESERVED_TAG:  # the answer to a NOP-In of ours, or a mere ExpStatSN (RFC 7143 section 11.18)
            if transfer_tag != RESERVED_TAG:
                self._connection.answered()
            return
        echo = data[: self._connection.parameters.max_recv_data_segment_length]
        exp_cmd_sn, max_cmd_sn = self._connection.window()
        self._connection.add_header(
            _NOP_IN.pack(
                Opcode.NOP_IN,
                FINAL,
                len(echo),
                lun,
                tag,
                RESERVED_TAG,
                self._connection.next_stat_sn(),
                exp_cmd_sn,
                max_cmd_sn,
            )
        )
        self._connection.add_data(echo)

    def _logout_request(self, header: bytes, data: bytes) -> None:
        _, reason_byte, _, tag, cid, _, _ = _LOGOUT_REQUEST.unpack(header)
        reason = reason_byte & 0x7F
        session = self._session
        if self._logout_is_under_way:
            raise PduRejected(RejectReason.PROTOCOL_ERROR, "a logout before the one before it is answered")
        leaving = list(session.connections.values())
        if reason == LogoutReason.CLOSE_CONNECTION:
            leaving = [session.connections[cid]] if cid in session.connections else []
        elif reason not in (LogoutReason.CLOSE_SESSION, LogoutReason.REMOVE_CONNECTION_FOR_RECOVERY):
            raise PduRejected(RejectReason.INVALID_PDU_FIELD, f"no logout reason {reason}")
        if reason == LogoutReason.REMOVE_CONNECTION_FOR_RECOVERY:
            self._logout_response(tag, LogoutResponse.RECOVERY_NOT_SUPPORTED, [])
        elif not leaving:
            self._logout_response(tag, LogoutResponse.CID_NOT_FOUND, [])
        else:
            # The answer says that nothing of them is under way any more.
            tasks = [task for task in session.tasks.values() if task.connection in leaving]
            if session.target is not None:  # what lost connections have left behind counts, too
                tasks += [task for task in session.target.leaving if task.session is session]
            self._logout_is_under_way = True
            abort(tasks, partial(self._leave, tag, leaving, whole=reason == LogoutReason.CLOSE_SESSION))

    def _leave(self, tag: int, leaving: list[TargetConnection], *, whole: bool) -> None:
        """Nothing is under way any more for connections that leave. With the last one the nexus ends, and the answer
        says that to other nodes, too: who hears of it may look there at once."""
        session = self._session
        whole = whole or not [each for each in session.connections.values() if each not in leaving]

        def closed() -> None:
            self._logout_is_under_way = False
            # A connection that has joined meanwhile belongs to the session that ends.
            gone = list(session.connections.values()) if whole else leaving
            self._logout_response(tag, LogoutResponse.CLOSED, gone)

        if whole and session.target is not None and session.target.sessions.get(session.tsih) is session:
            session.target.router.release_elsewhere(session.nexus, closed)
        else:
            closed()

    def _logout_response(self, tag: int, response: LogoutResponse, leaving: list[TargetConnection]) -> None:
        connection, session = self._connection, self._session
        connection.add_header(
            _LOGOUT_RESPONSE.pack(
                Opcode.LOGOUT_RESPONSE,
                FINAL,
                response,
                0,
                tag,
                connection.next_stat_sn(),
                session.exp_cmd_sn,
                session.max_cmd_sn,
                session.parameters.default_time2wait,
                session.parameters.default_time2retain,
            )
        )
        for each in leaving:
            each.tell(EventKind.LOGOUT, f"connection {each.cid}")
            each.end()
            each.wake()
        connection.wake()


def _ignore(sound: bool) -> None:
    return None
