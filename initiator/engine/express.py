"""The road of a READ's answer that is one Data-In: all of the data, and the status with it.

That is what a target answers a READ with where the data fits one PDU (RFC 7143 section 11.7.2). What stands in the
batch that one read of the socket brought is taken in one loop, without a call for each PDU; of one that is longer, the
data is awaited where the caller wants it. Whatever differs in anything is left to the usual path, which knows what is
wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from csvd.iscsi.codes import BHS_BYTES, FINAL, DataInFlag, Opcode
from csvd.iscsi.layouts import PACKING
from initiator.engine.output import Output
from initiator.engine.requests import Command, Event, Request
from initiator.engine.session import SERIAL_MASK, SessionState
from initiator.engine.tasks import TaskSet

_DATA_IN: Final = PACKING[Opcode.DATA_IN].unpack_from
_OPCODE: Final = int(Opcode.DATA_IN)
_FLAGS: Final = int(FINAL | DataInFlag.STATUS)


class Express:
    """Takes answers to READs out of the staging buffer of one connection, without digests.

    Args:
        segment_limit: the longest data segment that the target may send.
    """

    def __init__(
        self,
        session: SessionState,
        output: Output,
        outstanding: dict[int, Request],
        tasks: TaskSet,
        emit: Callable[[Event], None],
        segment_limit: int,
    ) -> None:
        self.begun: memoryview | None = None
        """Where the data of the answer goes whose beginning alone stands in the staging buffer."""
        self._session = session
        self._output = output
        self._outstanding = outstanding
        self._tasks = tasks
        self._emit = emit
        self._segment_limit = segment_limit
        self._command: Command | None = None
        self._window = (0, 0)

    def take(self, staging: bytearray, view: memoryview, start: int, end: int) -> int:
        """Take the answers from ``start`` on, up to the first PDU that is none of this kind or is not all here; give
        where that begins. If it is of this kind, ``begun`` is set.

        Raises:
            ProtocolViolation: one acknowledges commands that were never sent.
        """
        session, output = self._session, self._output
        outstanding = self._outstanding
        while end - start >= BHS_BYTES and staging[start] == _OPCODE:
            (_, flags, status, length, _, tag, _, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn, offset, _) = _DATA_IN(
                staging, start
            )
            if flags != _FLAGS or status or data_sn or offset or stat_sn != output.exp_stat_sn:
                return start
            command = outstanding.get(tag)
            # Its type first: the tag may be of a request that is no command.
            if type(command) is not Command or command.length != length or command.received:
                return start
            memory = command.data_in
            if memory is None or length > self._segment_limit:
                return start
            begin = start + BHS_BYTES
            following = begin + (length + 3 & ~3)
            if following > end:
                if not length & 3:
                    self._begin(command, memory, exp_cmd_sn, max_cmd_sn)
                return start
            if max_cmd_sn != session.max_cmd_sn or exp_cmd_sn != session.exp_cmd_sn:
                session.window_moved(exp_cmd_sn, max_cmd_sn)
            output.exp_stat_sn = (stat_sn + 1) & SERIAL_MASK
            memory[:] = view[begin : begin + length]
            command.received = length
            command.data_sn = 1
            command.done = True
            del outstanding[tag]
            self._emit(command)
            start = following
        return start

    def _begin(self, command: Command, memory: memoryview, exp_cmd_sn: int, max_cmd_sn: int) -> None:
        self.begun = memory
        self._command = self._tasks.placing = command
        self._window = exp_cmd_sn, max_cmd_sn
        command.data_sn = 1
        command.received = command.length

    def end(self) -> bool:
        """All data of the answer that was begun is in place: end its command. False where that has ended otherwise
        meanwhile, and the usual path is to take the PDU.

        Raises:
            ProtocolViolation: it acknowledges commands that were never sent.
        """
        command, self._command, self.begun = self._command, None, None
        if command is None or command.detached or self._outstanding.get(command.tag) is not command:
            return False
        session, output = self._session, self._output
        self._tasks.placing = None
        exp_cmd_sn, max_cmd_sn = self._window
        if max_cmd_sn != session.max_cmd_sn or exp_cmd_sn != session.exp_cmd_sn:
            session.window_moved(exp_cmd_sn, max_cmd_sn)
        # That its StatSN was due was seen in the beginning, and nothing has come between.
        output.exp_stat_sn = (output.exp_stat_sn + 1) & SERIAL_MASK
        command.done = True
        del self._outstanding[command.tag]
        self._emit(command)
        return True
