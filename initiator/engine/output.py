"""What a connection sends: headers and views of the callers' buffers, made when the transport takes them.

Order: control PDUs first (they are immediate), then Data-Out, then commands as the window opens. The Data-Out that a
command sends unasked follows it before any other command does (RFC 7143 section 4.2.2.4).
"""

from __future__ import annotations

from collections import deque
from typing import Final

from csvd.iscsi.codes import BHS_BYTES, FINAL, RESERVED_TAG, CommandFlag, Opcode, TaskAttribute
from csvd.iscsi.digests import CRC32C, digest_of, padding_and_digest
from csvd.iscsi.keys import SessionParameters
from csvd.iscsi.layouts import PACKING, PADDING
from initiator.engine.requests import Buffer, Command, Request
from initiator.engine.session import SERIAL_MASK, SessionState
from initiator.errors import ProtocolViolation

BATCH_BUFFERS: Final = 512
"""Buffers of one batch, about: half of Linux's IOV_MAX, so that one sendmsg takes it."""

BATCH_BYTES: Final = 1 << 20
"""Bytes of one batch, about: what may stand before an answer to the target's ping."""

BATCH_SHARE: Final = 4
"""Commands that wait are worth a batch of their own when they are a fourth of those that the target has."""

_COMMAND: Final = PACKING[Opcode.SCSI_COMMAND].pack
_DATA_OUT: Final = PACKING[Opcode.DATA_OUT].pack
_READ: Final = FINAL | CommandFlag.READ | TaskAttribute.SIMPLE
_NO_DATA: Final = FINAL | TaskAttribute.SIMPLE
_WRITE: Final = CommandFlag.WRITE | TaskAttribute.SIMPLE


class DataOutSequence:
    """A run of Data-Out PDUs: what an R2T asks for, or what a command sends unasked (tag RESERVED_TAG)."""

    __slots__ = ("command", "data_sn", "end", "offset", "transfer_tag")

    def __init__(self, command: Command, transfer_tag: int, offset: int, end: int) -> None:
        self.command = command
        self.transfer_tag = transfer_tag
        self.offset = offset
        self.end = end
        self.data_sn = 0


class Output:
    """The output of one connection."""

    def __init__(self, session: SessionState, outstanding: dict[int, Request]) -> None:
        self.exp_stat_sn = 0
        self.waiting: deque[Command] = deque()
        """Commands that were not sent yet: the window or the output has no room."""
        self.control: deque[bytes] = deque()
        """Whole PDUs that go first."""
        self.replies: deque[bytes] = deque()
        """Answers to the target's pings; they go right after."""
        self.sequences: deque[DataOutSequence] = deque()
        self._session = session
        self._outstanding = outstanding
        self._open = False
        self._header_digest = self._data_digest = False
        self._segment_bytes = 0
        self._immediate_bytes = 0
        self._unsolicited_bytes = 0

    def open(self, parameters: SessionParameters) -> None:
        """Begin the full-feature phase: commands may go."""
        self._open = True
        self._header_digest = parameters.header_digest == CRC32C
        self._data_digest = parameters.data_digest == CRC32C
        self._segment_bytes = parameters.max_recv_data_segment_length
        burst = parameters.first_burst_length
        self._immediate_bytes = min(burst, self._segment_bytes) if parameters.immediate_data else 0
        self._unsolicited_bytes = self._immediate_bytes if parameters.initial_r2t else burst

    def status_came(self, stat_sn: int) -> None:
        """Count a PDU that carries a status; what is sent from now on acknowledges it.

        Raises:
            ProtocolViolation: its StatSN is not the next one. On one connection without recovery none can be missing.
        """
        if stat_sn != self.exp_stat_sn:
            raise ProtocolViolation(f"StatSN {stat_sn:#x} came where {self.exp_stat_sn:#x} was due")
        self.exp_stat_sn = (stat_sn + 1) & SERIAL_MASK

    def close(self) -> None:
        """Drop everything: the connection is at an end."""
        self._open = False
        self.control.clear()
        self.replies.clear()
        self.sequences.clear()
        self.waiting.clear()

    def ready(self) -> bool:
        """Whether there is anything to send now."""
        if self.control or self.replies or self.sequences:
            return True
        return bool(self.waiting) and self._open and self._session.window_open()

    def batch_ready(self) -> bool:
        """Whether what waits is worth a batch now, and can not wait for more: data, or a good part of the commands."""
        return bool(self.sequences) or len(self.waiting) * BATCH_SHARE >= len(self._outstanding)

    def take(self) -> list[Buffer]:
        """Give the next batch of buffers, in order; empty when there is nothing to send now."""
        out: list[Buffer] = []
        for queue in (self.control, self.replies):
            while queue:
                self._whole(queue.popleft(), out)
        if not self._open:
            return out
        budget = BATCH_BYTES
        session = self._session
        while True:
            while self.sequences and budget > 0 and len(out) < BATCH_BUFFERS:
                budget = self._advance(self.sequences[0], out, budget)
            if self.sequences or budget <= 0 or len(out) >= BATCH_BUFFERS:
                return out
            if not (self.waiting and session.window_open()):
                return out
            budget -= self._command(self.waiting.popleft(), out)

    def _whole(self, pdu: bytes, out: list[Buffer]) -> None:
        """Send a whole PDU that was built without digests."""
        if not (self._header_digest or self._data_digest):
            out.append(pdu)
            return
        header, data = pdu[:BHS_BYTES], pdu[BHS_BYTES:]
        self._header(header, out)
        if data:
            out.append(data)
            if self._data_digest:
                out.append(digest_of(data))

    def _header(self, header: bytes, out: list[Buffer]) -> None:
        out.append(header + digest_of(header) if self._header_digest else header)

    def _command(self, command: Command, out: list[Buffer]) -> int:
        session = self._session
        command.tag = tag = session.new_tag()
        command.cmd_sn = cmd_sn = session.cmd_sn
        session.cmd_sn = (cmd_sn + 1) & SERIAL_MASK
        self._outstanding[tag] = command
        length = command.length
        immediate = 0
        if command.data_in is not None:
            flags: int = _READ
        elif length:
            immediate = min(self._immediate_bytes, length)
            command.solicited = unsolicited = min(self._unsolicited_bytes, length)
            flags = _WRITE
            if unsolicited > immediate:
                self.sequences.append(DataOutSequence(command, RESERVED_TAG, immediate, unsolicited))
            else:
                flags |= FINAL
        else:
            flags = _NO_DATA
        cdb, exp_stat_sn = command.cdb.ljust(16, b"\0"), self.exp_stat_sn
        self._header(_COMMAND(0x01, flags, immediate, command.lun, tag, length, cmd_sn, exp_stat_sn, cdb), out)
        if immediate:
            self._data(command, 0, immediate, out)
        return immediate

    def _data(self, command: Command, offset: int, length: int, out: list[Buffer]) -> None:
        data = command.data_out[offset : offset + length]
        out.append(data)
        if self._data_digest:
            out.append(padding_and_digest(data))
        elif length & 3:
            out.append(PADDING[length & 3])
        command.sent = offset + length

    def _advance(self, sequence: DataOutSequence, out: list[Buffer], budget: int) -> int:
        """Send some of a sequence; give what is left of the budget."""
        command, end = sequence.command, sequence.end
        gone = command.done or command.detached
        while not gone and sequence.offset < end and budget > 0 and len(out) < BATCH_BUFFERS:
            offset = sequence.offset
            length = min(self._segment_bytes, end - offset)
            sequence.offset = offset + length
            self._header(
                _DATA_OUT(
                    0x05,
                    FINAL if sequence.offset == end else 0,
                    length,
                    command.lun,
                    command.tag,
                    sequence.transfer_tag,
                    self.exp_stat_sn,
                    sequence.data_sn,
                    offset,
                ),
                out,
            )
            sequence.data_sn += 1
            self._data(command, offset, length, out)
            budget -= length
        if gone or sequence.offset == end:
            self.sequences.popleft()
            if sequence.transfer_tag != RESERVED_TAG:
                command.r2t_open -= 1
        return budget
