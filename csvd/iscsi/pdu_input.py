"""From a receive buffer to handlers, PDU by PDU: without digests, and with them (RFC 7143 sections 11.2 and 7.8).

Which of the two a connection has is chosen once, at the end of its login: where no digest was agreed, none costs
anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from crc32c import crc32c

from csvd.iscsi.codes import BHS_BYTES, IMMEDIATE, OPCODE_MASK, Opcode, RejectReason
from csvd.iscsi.digests import DIGEST_BYTES, digest_of, digest_text
from csvd.iscsi.errors import ConnectionFailure, PduRejected
from csvd.iscsi.layouts import LENGTHS
from csvd.iscsi.receiver import Receiver

if TYPE_CHECKING:
    from csvd.iscsi.connection import TargetConnection

OUTPUT_PIECES: Final = 2048
"""Pieces of output above which no further PDU is taken before the adapter has sent them."""

PDUS_A_TURN: Final = 256
"""PDUs that are taken before others have their turn: some milliseconds' worth of the dearest."""

PLACED_BYTES: Final = 16384
"""From this length on a data segment that has not come whole is received into its place. A shorter one is cheaper to
wait for in the receive buffer: the few bytes that have come are moved to the front of it."""

_SCSI_COMMAND: Final = int(Opcode.SCSI_COMMAND)

LOGIN_DATA_SEGMENT_BYTES: Final = 16384
"""RFC 7143 section 13.12 allows 8192 before anything is declared; a little more costs nothing."""

Handler = Callable[[Any, int, int, int], None]
"""Takes the receive buffer, where the PDU starts in it, how far behind that its data starts, and the data's length."""


class PduInput:
    """Takes the PDUs of one connection that has no digests.

    Attributes:
        handlers: by opcode.
        max_data_segment_bytes: a longer data segment ends the connection.
        stopped: no further PDU is to be taken by this object.
    """

    def __init__(self, connection: TargetConnection, receiver: Receiver, handlers: dict[int, Handler]) -> None:
        self.receiver = receiver
        self.handlers = handlers
        self.max_data_segment_bytes = LOGIN_DATA_SEGMENT_BYTES
        self.stopped = False
        self._connection = connection
        self._placed: Callable[[bool], None] | None = None
        """To be called when the data segment that is being placed is there."""

    def take(self) -> None:
        """Take all whole PDUs; begin to place a large one that has not come whole.

        Raises:
            ConnectionFailure: the connection can not go on.
        """
        receiver, connection = self.receiver, self._connection
        placed = self._placed
        if placed is not None:
            self._placed = None
            placed(True)
        left = PDUS_A_TURN
        while not self.stopped:
            if receiver.skip and not receiver.drop_skipped():
                return
            if len(connection.output) > OUTPUT_PIECES or not left:
                connection.paused = receiver.start != receiver.end
                return
            left -= 1
            start = receiver.start
            have = receiver.end - start
            if have < BHS_BYTES:
                return
            buffer = receiver.buffer
            (lengths,) = LENGTHS.unpack_from(buffer, start + 4)
            header_bytes = BHS_BYTES + (lengths >> 24) * 4
            data_bytes = lengths & 0xFFFFFF
            if data_bytes > self.max_data_segment_bytes:
                self._too_long(data_bytes)
            total = header_bytes + ((data_bytes + 3) & ~3)
            opcode = buffer[start] & OPCODE_MASK
            if opcode == _SCSI_COMMAND and connection.express():
                continue
            try:
                if have < total:
                    is_large = data_bytes >= PLACED_BYTES and have >= header_bytes
                    if is_large and self._place(opcode, start, header_bytes, data_bytes):
                        return
                    receiver.need(total)
                    return
                handler = self.handlers.get(opcode)
                if handler is None:
                    connection.unexpected(opcode)
                else:
                    handler(receiver.view, start, header_bytes, data_bytes)
            except PduRejected as error:
                connection.rejected(error, bytes(buffer[start : start + BHS_BYTES]))
                if have < total:
                    receiver.start += header_bytes
                    receiver.skip = total - header_bytes
                    continue
            receiver.start = start + total

    @property
    def in_a_pdu(self) -> bool:
        """Whether a PDU has come in part."""
        receiver = self.receiver
        return receiver.start != receiver.end or receiver.placing is not None or receiver.skip > 0

    def _too_long(self, data_bytes: int) -> None:
        raise ConnectionFailure(
            f"a data segment of {data_bytes} bytes where {self.max_data_segment_bytes} are allowed",
            where=self._connection.peer,
        )

    def _may_place(self, opcode: int) -> bool:
        return opcode in (Opcode.DATA_OUT, Opcode.SCSI_COMMAND) and opcode in self.handlers

    def _place(self, opcode: int, start: int, header_bytes: int, data_bytes: int) -> bool:
        """Begin to receive a large data segment straight into its task; False where the PDU must come whole."""
        if not self._may_place(opcode):
            return False
        receiver = self.receiver
        destination, placed = self._connection.place(opcode, receiver.view, start, data_bytes)
        receiver.place(header_bytes, ((data_bytes + 3) & ~3) - len(destination), destination)
        if receiver.placing is not None:
            self._placed = placed
        else:  # nothing of it is wanted: the rest is only skipped
            placed(True)
            receiver.drop_skipped()
        return True


class _Tail(NamedTuple):
    """What is still to come of a placed data segment."""

    header: bytes
    destination: memoryview
    surplus_bytes: int
    """Data that nobody wants, and padding: the digest covers them."""
    placed: Callable[[bool], None]


class DigestedInput(PduInput):
    """Takes the PDUs of a connection with a header digest, a data digest, or both."""

    def __init__(self, plain: PduInput, *, header_digest: bool, data_digest: bool) -> None:
        super().__init__(plain._connection, plain.receiver, plain.handlers)
        self.max_data_segment_bytes = plain.max_data_segment_bytes
        self._header_digest_bytes = DIGEST_BYTES if header_digest else 0
        self._data_digest_bytes = DIGEST_BYTES if data_digest else 0
        self._tail: _Tail | None = None
        self._crc: int | None = None
        """Over what has come of the tail's segment; None while its destination is being filled."""
        self._surplus_left = 0

    def take(self) -> None:
        """See :meth:`PduInput.take`."""
        receiver, connection = self.receiver, self._connection
        if self._tail is not None and not self._take_tail(self._tail):
            return
        left = PDUS_A_TURN
        while not self.stopped:
            if receiver.skip and not receiver.drop_skipped():
                return
            if len(connection.output) > OUTPUT_PIECES or not left:
                connection.paused = receiver.start != receiver.end
                return
            left -= 1
            start = receiver.start
            have = receiver.end - start
            if have < BHS_BYTES:
                return
            buffer = receiver.buffer
            (lengths,) = LENGTHS.unpack_from(buffer, start + 4)
            header_bytes = BHS_BYTES + (lengths >> 24) * 4
            data_offset = header_bytes + self._header_digest_bytes
            if have < data_offset:
                receiver.need(data_offset)
                return
            if self._header_digest_bytes:
                self._check_header(start, header_bytes)
            data_bytes = lengths & 0xFFFFFF
            if data_bytes > self.max_data_segment_bytes:
                self._too_long(data_bytes)
            total = data_offset + (((data_bytes + 3) & ~3) + self._data_digest_bytes if data_bytes else 0)
            opcode = buffer[start] & OPCODE_MASK
            is_bare = opcode == _SCSI_COMMAND and not data_bytes and not self._header_digest_bytes
            if is_bare and connection.express():
                continue
            try:
                if have < total:
                    if not self._place(opcode, start, data_offset, data_bytes):
                        receiver.need(total)
                        return
                    if self._tail is not None and not self._take_tail(self._tail):
                        return
                    continue
                if data_bytes and self._data_digest_bytes and not self._is_sound(start + data_offset, start + total):
                    self._damaged(start, data_bytes)
                else:
                    handler = self.handlers.get(opcode)
                    if handler is None:
                        connection.unexpected(opcode)
                    else:
                        handler(receiver.view, start, data_offset, data_bytes)
            except PduRejected as error:
                connection.rejected(error, bytes(buffer[start : start + BHS_BYTES]))
                if have < total:
                    receiver.start += data_offset
                    receiver.skip = total - data_offset
                    continue
            receiver.start = start + total

    @property
    def in_a_pdu(self) -> bool:
        """See :attr:`PduInput.in_a_pdu`."""
        return self._tail is not None or super().in_a_pdu

    def _check_header(self, start: int, header_bytes: int) -> None:
        """A header that is not what was sent has no length to trust: where the next PDU begins is not known, and at
        ErrorRecoveryLevel 0 the connection is at its end (RFC 7143 section 7.8)."""
        end = start + header_bytes
        view = self.receiver.view
        if view[end : end + DIGEST_BYTES] != digest_of(view[start:end]):
            raise ConnectionFailure("a header digest that does not fit its header", where=self._connection.peer)

    def _is_sound(self, begin: int, end: int) -> bool:
        view = self.receiver.view
        covered = end - DIGEST_BYTES
        return view[covered:end] == digest_of(view[begin:covered])

    def _damaged(self, start: int, data_bytes: int) -> None:
        """A whole PDU whose data is not what was sent."""
        header = bytes(self.receiver.view[start : start + BHS_BYTES])
        if header[0] & OPCODE_MASK == Opcode.DATA_OUT and Opcode.DATA_OUT in self.handlers:
            _, placed = self._connection.place(Opcode.DATA_OUT, self.receiver.view, start, data_bytes)
            placed(False)
        self._reject_damaged(header)

    def _reject_damaged(self, header: bytes) -> None:
        """Reject a PDU with a data digest error: the standard demands it, and that the PDU is dropped (section 7.8).

        The task of a Data-Out fails with its own sense data, and the session goes on: that is one of the two ways that
        the standard leaves, and the other one, a recovery R2T, is of ErrorRecoveryLevel 1. Any other PDU that was in
        CmdSN order leaves a gap which no initiator fills at ErrorRecoveryLevel 0 (open-iscsi only logs the Reject, and
        would let all that follows run into its time-outs), so the connection ends, and session recovery brings the
        command again at once. LIO does so too.
        """
        opcode = header[0] & OPCODE_MASK
        self._connection.rejected(PduRejected(RejectReason.DATA_DIGEST_ERROR, f"opcode {opcode:#04x}"), header)
        if opcode != Opcode.DATA_OUT and not header[0] & IMMEDIATE:
            raise ConnectionFailure("a data digest error in a PDU that has a CmdSN", where=self._connection.peer)

    def _place(self, opcode: int, start: int, header_bytes: int, data_bytes: int) -> bool:
        if not self._may_place(opcode):
            return False
        receiver = self.receiver
        header = bytes(receiver.view[start : start + BHS_BYTES])
        destination, placed = self._connection.place(opcode, receiver.view, start, data_bytes)
        surplus_bytes = ((data_bytes + 3) & ~3) - len(destination)
        receiver.place(header_bytes, 0, destination)
        self._tail = _Tail(header, destination, surplus_bytes, placed)
        self._crc = None
        return True

    def _take_tail(self, tail: _Tail) -> bool:
        """Take what follows a placed segment: surplus, padding and digest; give whether the PDU is complete."""
        receiver = self.receiver
        if receiver.placing is not None:
            return False
        if self._crc is None:
            self._crc = crc32c(tail.destination) if self._data_digest_bytes else 0
            self._surplus_left = tail.surplus_bytes
        come = min(self._surplus_left, receiver.end - receiver.start)
        if come:
            if self._data_digest_bytes:
                self._crc = crc32c(receiver.view[receiver.start : receiver.start + come], self._crc)
            receiver.start += come
            self._surplus_left -= come
        if self._surplus_left or receiver.end - receiver.start < self._data_digest_bytes:
            return False
        end = receiver.start + self._data_digest_bytes
        sound = not self._data_digest_bytes or receiver.view[receiver.start : end] == digest_text(self._crc)
        receiver.start = end
        self._tail = None
        tail.placed(sound)
        if not sound:
            self._reject_damaged(tail.header)
        return True
