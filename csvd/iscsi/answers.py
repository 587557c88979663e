"""What the target sends for a task: R2T, Data-In and SCSI Response (RFC 7143 sections 11.4, 11.7 and 11.8).

The data path: headers are packed by derived structs, and payload goes out as the views that it came in.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.iscsi.codes import FINAL, RESERVED_TAG, CommandFlag, DataInFlag, Opcode, ResponseFlag
from csvd.iscsi.layouts import PACKING
from csvd.iscsi.payload import sliceable
from csvd.iscsi.session import Session, Task

if TYPE_CHECKING:
    from csvd.iscsi.connection import TargetConnection
    from csvd.iscsi.payload import Piece

_SCSI_RESPONSE: Final = PACKING[Opcode.SCSI_RESPONSE]
_DATA_IN: Final = PACKING[Opcode.DATA_IN]
_R2T: Final = PACKING[Opcode.R2T]

_READ: Final = int(CommandFlag.READ)
_DATA_IN_LAST: Final = int(FINAL | DataInFlag.STATUS)
_TASK_ABORTED: Final = 0x40
"""SCSI status (SAM-5 section 5.3.1)."""


class Answers:
    """The answers of one connection."""

    def __init__(self, connection: TargetConnection) -> None:
        self._connection = connection
        self._session: Session = None  # type: ignore[assignment]  # set by begin(), before there is a task
        self.segment_bytes = 0
        self.burst_bytes = 0

    def begin(self, session: Session) -> None:
        """Enter full-feature phase, or take other parameters."""
        self._session = session
        self.segment_bytes = self._connection.parameters.max_recv_data_segment_length
        self.burst_bytes = session.parameters.max_burst_length

    def ready_to_transfer(self, task: Task) -> None:
        """Send one R2T (RFC 7143 section 11.8). It carries the next StatSN without taking it."""
        session = self._session
        session.next_transfer_tag = session.next_transfer_tag % 0x7FFFFFFF + 1
        length = min(self.burst_bytes, task.wanted - task.received)
        task.target_transfer_tag = session.next_transfer_tag
        task.burst_end = task.received + length
        task.data_sn = 0
        self._connection.add_header(
            _R2T.pack(
                Opcode.R2T,
                FINAL,
                0,
                task.lun,
                task.initiator_task_tag,
                task.target_transfer_tag,
                self._connection.stat_sn,
                session.exp_cmd_sn,
                session.max_cmd_sn,
                task.r2t_sn,
                task.received,
                length,
            )
        )
        task.r2t_sn += 1

    def data_in(self, task: Task, data: Piece, size: int) -> None:
        """See :meth:`TargetConnection.data_in`."""
        expected = task.expected_length
        send = min(size, expected) if task.flags & _READ else 0
        if not send:
            self._scsi_response(task, 0, b"", size)
            return
        connection, session = self._connection, self._session
        if task.aborted or connection.closing:
            self.abandon(task)
            return
        session.end(task)
        add_header = connection.add_header
        exp_cmd_sn, max_cmd_sn = session.exp_cmd_sn, session.max_cmd_sn
        segment, burst = self.segment_bytes, self.burst_bytes
        offset = data_sn = 0
        view = data if len(data) == send <= segment else sliceable(data)
        while True:
            length = min(segment, send - offset, burst - offset % burst)
            end = offset + length
            if end == send:
                break
            flags = FINAL if end % burst == 0 else 0
            add_header(
                _DATA_IN.pack(
                    Opcode.DATA_IN,
                    flags,
                    0,
                    length,
                    0,
                    task.initiator_task_tag,
                    RESERVED_TAG,
                    0,
                    exp_cmd_sn,
                    max_cmd_sn,
                    data_sn,
                    offset,
                    0,
                )
            )
            connection.add_data(view[offset:end])
            offset = end
            data_sn += 1
        flags = _DATA_IN_LAST
        residual = 0
        if size != expected:
            flags |= DataInFlag.OVERFLOW if size > expected else DataInFlag.UNDERFLOW
            residual = abs(size - expected)
        add_header(
            _DATA_IN.pack(
                Opcode.DATA_IN,
                flags,
                0,
                length,
                0,
                task.initiator_task_tag,
                RESERVED_TAG,
                connection.next_stat_sn(),
                exp_cmd_sn,
                max_cmd_sn,
                data_sn,
                offset,
                residual,
            )
        )
        connection.add_data(view[offset:send] if offset or len(view) != send else view)

    def respond(self, task: Task, status: int, sense: bytes) -> None:
        """See :meth:`TargetConnection.respond`."""
        self._scsi_response(task, status, sense, task.data_out_length if status == 0 else 0)

    def _scsi_response(self, task: Task, status: int, sense: bytes, transferred: int) -> None:
        """``transferred``: the bytes that the command moves, or would move into a long enough buffer."""
        if task.aborted or self._connection.closing:
            self.abandon(task)
            return
        self._session.end(task)
        self._put_response(task, status, sense, transferred)

    def _put_response(self, task: Task, status: int, sense: bytes, transferred: int) -> None:
        connection, session = self._connection, self._session
        flags, residual = int(FINAL), 0
        if transferred != task.expected_length:
            flags |= ResponseFlag.OVERFLOW if transferred > task.expected_length else ResponseFlag.UNDERFLOW
            residual = abs(transferred - task.expected_length)
        data = len(sense).to_bytes(2) + sense if sense else b""
        connection.add_header(
            _SCSI_RESPONSE.pack(
                Opcode.SCSI_RESPONSE,
                flags,
                0,
                status,
                len(data),
                task.initiator_task_tag,
                0,
                connection.next_stat_sn(),
                session.exp_cmd_sn,
                session.max_cmd_sn,
                0,
                0,
                residual,
            )
        )
        if data:
            connection.add_data(data)

    def abandon(self, task: Task) -> None:
        """End an aborted task: without an answer, but where TAS says that its initiator is to be told."""
        task.session.end(task)
        if task.abort_is_told and not self._connection.closing:
            self._put_response(task, _TASK_ABORTED, b"", 0)
            self._connection.wake()
        for ended in task.on_end:
            ended()
