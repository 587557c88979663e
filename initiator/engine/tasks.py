"""SCSI tasks under way: Data-In, R2T and SCSI Response, each checked against its command (RFC 7143 section 11)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from csvd.iscsi.codes import FINAL, RESERVED_TAG, DataInFlag, Opcode
from csvd.iscsi.keys import SessionParameters
from csvd.iscsi.layouts import PACKING
from initiator.engine.framing import SKIP
from initiator.engine.output import DataOutSequence, Output
from initiator.engine.requests import GOOD, Command, Event, Request
from initiator.engine.session import SessionState
from initiator.errors import ProtocolViolation

REMEMBERED: Final = 1024
"""Tags of requests that ended by a Reject, or by a function on another connection: what the target may still say of
them is no violation."""

_DATA_IN: Final = PACKING[Opcode.DATA_IN].unpack_from
_RESPONSE: Final = PACKING[Opcode.SCSI_RESPONSE].unpack_from
_R2T: Final = PACKING[Opcode.R2T].unpack_from
_STATUS: Final = int(DataInFlag.STATUS)
_UNDERFLOW: Final = int(DataInFlag.UNDERFLOW)
_OVERFLOW: Final = int(DataInFlag.OVERFLOW)


class TaskSet:
    """The commands of a connection, from the moment they are sent to their status."""

    def __init__(
        self,
        session: SessionState,
        output: Output,
        outstanding: dict[int, Request],
        emit: Callable[[Event], None],
    ) -> None:
        self.gone: deque[int] = deque(maxlen=REMEMBERED)
        self._session = session
        self._outstanding = outstanding
        self._output = output
        self._emit = emit
        self.placing: Command | None = None
        """The command whose Data-In is just under way."""
        self._max_burst_bytes = 0
        self._max_r2t = 0

    def open(self, parameters: SessionParameters) -> None:
        """Begin the full-feature phase."""
        self._max_burst_bytes = parameters.max_burst_length
        self._max_r2t = parameters.max_outstanding_r2t

    def detach(self, command: Command) -> bool:
        """Let go of the buffers of a command that nobody waits for; give whether Data-In for it is just under way."""
        command.detached = True
        command.data_in = None
        return self.placing is command

    def place(self, header: bytes | bytearray, at: int, length: int) -> memoryview:
        """Give the memory for the data segment of a Data-In."""
        _, _, _, _, _, tag, _, _, _, _, data_sn, offset, _ = _DATA_IN(header, at)
        command = self._command(tag)
        if command is None:
            return SKIP
        self.placing = command
        memory = command.data_in
        if memory is None:
            if command.detached:
                return SKIP
            raise ProtocolViolation(f"Data-In for task {tag:#x}, which reads nothing")
        if data_sn != command.data_sn or offset != command.received:
            raise ProtocolViolation(
                f"Data-In {data_sn} at offset {offset} came where {command.data_sn} at {command.received} was due"
            )
        end = offset + length
        if end > command.length:
            raise ProtocolViolation(f"Data-In up to byte {end} of a buffer of {command.length}")
        command.data_sn = data_sn + 1
        command.received = end
        return memory[offset:end]

    def data_in(self, header: bytes | bytearray, at: int) -> None:
        """A Data-In is complete, and its data in place."""
        self.placing = None
        _, flags, status, length, _, tag, _, stat_sn, exp_cmd_sn, max_cmd_sn, _, _, residual = _DATA_IN(header, at)
        session = self._session
        if max_cmd_sn != session.max_cmd_sn or exp_cmd_sn != session.exp_cmd_sn:
            session.window_moved(exp_cmd_sn, max_cmd_sn)
        if not flags & _STATUS:
            if not length:
                raise ProtocolViolation("a Data-In with neither data nor status")
            return
        self._output.status_came(stat_sn)
        if not flags & FINAL:
            raise ProtocolViolation("a Data-In with status that is not the last of its sequence")
        command = self._command(tag)
        if command is not None:
            self._end(command, flags, status, residual)

    def response(self, header: bytes | bytearray, at: int, data: bytes) -> None:
        """A SCSI Response."""
        fields = _RESPONSE(header, at)
        _, flags, response, status, _, tag, _, stat_sn, exp_cmd_sn, max_cmd_sn, _, _, residual = fields
        session = self._session
        self._output.status_came(stat_sn)
        if max_cmd_sn != session.max_cmd_sn or exp_cmd_sn != session.exp_cmd_sn:
            session.window_moved(exp_cmd_sn, max_cmd_sn)
        command = self._command(tag)
        if command is None:
            return
        if data:
            command.sense = sense_of(data)
        command.response = response
        self._end(command, flags, status, residual)

    def r2t(self, header: bytes | bytearray, at: int) -> None:
        """A Ready To Transfer: its data joins the output."""
        _, _, _, _, tag, transfer_tag, _, exp_cmd_sn, max_cmd_sn, r2t_sn, offset, length = _R2T(header, at)
        self._session.window_moved(exp_cmd_sn, max_cmd_sn)
        command = self._command(tag)
        if command is None:
            return
        if command.detached:
            return  # its data is no longer ours to send; the abort is on its way
        if not len(command.data_out) or transfer_tag == RESERVED_TAG:
            raise ProtocolViolation(f"R2T for task {tag:#x}, which writes nothing, or without a tag")
        if r2t_sn != command.r2t_sn or offset != command.solicited:
            raise ProtocolViolation(
                f"R2T {r2t_sn} at offset {offset} came where {command.r2t_sn} at {command.solicited} was due"
            )
        if not 0 < length <= self._max_burst_bytes or offset + length > command.length:
            raise ProtocolViolation(
                f"R2T asks for {length} bytes at {offset} of {command.length}, with bursts of {self._max_burst_bytes}"
            )
        if command.r2t_open >= self._max_r2t:
            raise ProtocolViolation(f"R2T {r2t_sn} while {command.r2t_open} are open, and {self._max_r2t} are agreed")
        command.r2t_sn += 1
        command.r2t_open += 1
        command.solicited = offset + length
        self._output.sequences.append(DataOutSequence(command, transfer_tag, offset, offset + length))

    def _command(self, tag: int) -> Command | None:
        """Find a command; None when it has ended already, and what comes for it still is to be ignored."""
        request = self._outstanding.get(tag)
        if isinstance(request, Command):
            return request
        if tag in self.gone:
            return None
        raise ProtocolViolation(f"the target answers task {tag:#x}, which is not under way")

    def _end(self, command: Command, flags: int, status: int, count: int) -> None:
        command.status = status
        under, over = flags & _UNDERFLOW, flags & _OVERFLOW
        if under or over:
            if under and over:
                raise ProtocolViolation("a status with both underflow and overflow")
            if under and count > command.length:
                raise ProtocolViolation(f"a residual of {count} bytes of a buffer of {command.length}")
            command.residual = count if under else -count
        if status == GOOD and command.response == 0 and not command.detached:
            missing = command.residual if under else 0
            if command.data_in is not None:
                if command.received + missing != command.length:
                    raise ProtocolViolation(
                        f"GOOD after {command.received} bytes of {command.length}, with a residual of {missing}"
                    )
            elif command.sent + missing < command.length:
                raise ProtocolViolation(
                    f"GOOD before {command.length} bytes were taken: {command.sent} sent, a residual of {missing}"
                )
        self.finish(command)

    def finish(self, command: Command) -> None:
        """Take a command out and give it back to the caller."""
        del self._outstanding[command.tag]
        command.done = True
        self._emit(command)


def sense_of(data: bytes) -> bytes:
    """Give the sense data of a data segment: two bytes of length stand before it (RFC 7143 section 11.4.7.2).

    Raises:
        ProtocolViolation: the length runs past the segment.
    """
    length = int.from_bytes(data[:2], "big")
    if len(data) < 2 + length:
        raise ProtocolViolation(f"sense data of {length} bytes in a segment of {len(data)}")
    return data[2 : 2 + length]
