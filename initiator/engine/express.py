"""The road of a small READ's answer: one Data-In that has all of the data and the status with it.

That is what a target answers a READ with where the data fits one PDU (RFC 7143 section 11.7.2). The batch that one read
of the socket brought is taken in one loop, without a call for each PDU. Whatever differs in anything is left to the
usual path, which knows what is wrong with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from csvd.iscsi.codes import BHS_BYTES, FINAL, DataInFlag, Opcode
from csvd.iscsi.layouts import PACKING
from initiator.engine.output import Output
from initiator.engine.requests import Command, Event, Request
from initiator.engine.session import SERIAL_MASK, SessionState

_DATA_IN: Final = PACKING[Opcode.DATA_IN].unpack_from
_OPCODE: Final = int(Opcode.DATA_IN)
_FLAGS: Final = int(FINAL | DataInFlag.STATUS)


class Express:
    """Takes whole answers to READs out of the staging buffer of one connection, without digests."""

    def __init__(
        self,
        session: SessionState,
        output: Output,
        outstanding: dict[int, Request],
        emit: Callable[[Event], None],
    ) -> None:
        self._session = session
        self._output = output
        self._outstanding = outstanding
        self._emit = emit

    def take(self, staging: bytearray, view: memoryview, start: int, end: int) -> int:
        """Take the answers from ``start`` on, up to the first PDU that is none of this kind; give where that begins.

        Raises:
            ProtocolViolation: one acknowledges commands that were never sent.
        """
        session, output = self._session, self._output
        outstanding = self._outstanding
        while end - start > BHS_BYTES and staging[start] == _OPCODE:
            (_, flags, status, length, _, tag, _, stat_sn, exp_cmd_sn, max_cmd_sn, data_sn, offset, _) = _DATA_IN(
                staging, start
            )
            begin = start + BHS_BYTES
            following = begin + (length + 3 & ~3)
            if flags != _FLAGS or status or data_sn or offset or following > end or stat_sn != output.exp_stat_sn:
                return start
            command = outstanding.get(tag)
            # Its type first: the tag may be of a request that is no command.
            if type(command) is not Command or command.length != length or command.received:
                return start
            memory = command.data_in
            if memory is None:
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
