"""From the byte stream to PDUs, without a copy of large Data-In (RFC 7143 section 11.2).

The receiver hands out the memory into which the next bytes go (:meth:`Receiver.buffers`): a staging buffer for headers
and small data, and the caller's own buffer while the data segment of a Data-In is under way. So a socket's
``recvmsg_into`` puts large payloads where they belong. :meth:`Receiver.received` then says how many bytes came.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from csvd.iscsi.codes import BHS_BYTES, OPCODE_MASK
from csvd.iscsi.digests import DIGEST_BYTES, digest_of, padding_and_digest
from csvd.iscsi.layouts import LENGTHS
from initiator.errors import DamagedPdu, ProtocolViolation

STAGING_BYTES: Final = 64 * 1024
"""One read of the socket: some 15 Data-In PDUs of 4 KiB. While we take the next one the target has work again."""

LONG_BYTES: Final = 64 * 1024
BEHIND_LONG_BYTES: Final = 4096
"""What is read with the end of a long segment: the next header. Of another long one behind it more would be copied; of
short ones as many as there are should come with one call."""

SKIP: Final = memoryview(b"")
"""Given by :meth:`PduHandler.place` for data that nobody waits for any more."""

_LENGTH_MASK: Final = 0xFFFFFF


class PduHandler(Protocol):
    """What takes the PDUs."""

    def place(self, opcode: int, header: bytearray, at: int, length: int) -> memoryview | None:
        """A header with a data segment of ``length`` bytes stands at ``header[at:]``. Give the memory for the segment
        (exactly so long), ``None`` to have it collected, or :data:`SKIP`."""
        ...

    def take(self, opcode: int, header: bytearray | bytes, at: int, data: bytes) -> None:
        """The PDU is complete. ``data`` is the collected segment; empty where it was placed, skipped or absent."""
        ...


class Express(Protocol):
    """What is shown the PDUs first."""

    begun: memoryview | None
    """Set by :meth:`take` where it has begun with the PDU at which it stopped: its data segment goes there, and has no
    padding."""

    def take(self, staging: bytearray, view: memoryview, start: int, end: int) -> int:
        """Take whole PDUs that stand in ``staging[start:end]``, as many as it likes; give where the rest begins."""
        ...

    def end(self) -> bool:
        """The data that was begun with is complete; unset ``begun``. False: the handler is to take the PDU."""
        ...


class Receiver:
    """Cuts a byte stream into PDUs for a handler.

    What either of them finds wrong is raised as ProtocolViolation from :meth:`received`, or as DamagedPdu where it is a
    digest that tells so; the stream is then at an end.
    Memory: the staging buffer, and one collected segment of at most ``segment_limit`` bytes.
    """

    def __init__(self, handler: PduHandler, *, segment_limit: int, staging_bytes: int = STAGING_BYTES) -> None:
        self.segment_limit = segment_limit
        """The longest data segment taken: the MaxRecvDataSegmentLength that holds for the peer."""
        self._handler = handler
        self._staging = bytearray(staging_bytes)
        self._view = memoryview(self._staging)
        self._start = 0
        self._end = 0
        # The PDU whose data segment is under way:
        self._opcode = 0
        self._header = b""
        self._placed: memoryview | None = None
        self._collected: bytearray | None = None
        self._filled = 0
        self._left = 0
        self._padding = 0
        self._begin: Callable[[int], None] = self._begin_pdu
        self._header_digest_bytes = 0
        self._data_digest_bytes = 0
        self._express: Express | None = None
        self._last_long = False
        """Whether the segment before was a long one: another may follow, and is not to be read into the staging."""
        self._digest = b""
        """What has come of the digest of the segment under way."""

    def begin_express(self, express: Express) -> None:
        """From now on what has no digests is shown to ``express`` first."""
        if not (self._header_digest_bytes or self._data_digest_bytes):
            self._express = express

    def begin_digests(self, *, of_headers: bool, of_data: bool) -> None:
        """From the next PDU on, headers, data segments or both have a digest (RFC 7143 section 13.1)."""
        self._header_digest_bytes = DIGEST_BYTES if of_headers else 0
        self._data_digest_bytes = DIGEST_BYTES if of_data else 0
        self._begin = self._begin_digested_pdu

    def buffers(self) -> list[memoryview]:
        """Give the memory for the next bytes, in order; valid until the next call of :meth:`received`."""
        if self._placed is not None and self._left:
            behind = self._view if len(self._placed) < LONG_BYTES else self._view[:BEHIND_LONG_BYTES]
            return [self._placed[self._filled :], behind]
        if self._last_long and self._end < BEHIND_LONG_BYTES:
            return [self._view[self._end : BEHIND_LONG_BYTES]]
        return [self._view[self._end :]]

    def received(self, count: int) -> None:
        """Take the ``count`` bytes that now stand in :meth:`buffers`.

        Raises:
            ProtocolViolation: a PDU that RFC 7143 or the handler refuses.
        """
        left = self._left
        if left and self._placed is not None:
            if count < left:
                self._filled += count
                self._left = left - count
                return
            self._filled += left
            self._left = 0
            self._start, self._end = 0, count - left
        else:
            self._end += count
        self._parse()
        start, end = self._start, self._end
        if start == end:
            self._start = self._end = 0
        elif start:
            # What is left is a part of a header: data segments are always moved out of the staging buffer.
            self._staging[: end - start] = self._staging[start:end]
            self._start, self._end = 0, end - start

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take bytes by copying them in: :meth:`buffers` and :meth:`received` in one."""
        rest = memoryview(data)
        while rest:
            count = 0
            for buffer in self.buffers():
                part = min(len(buffer), len(rest) - count)
                buffer[:part] = rest[count : count + part]
                count += part
            rest = rest[count:]
            self.received(count)

    def discard_placed(self) -> None:
        """Let the rest of the segment under way go nowhere: its buffer is no longer ours."""
        if self._placed is not None:
            self._placed = None

    def _parse(self) -> None:
        express = self._express
        while True:
            if self._opcode and not self._continue_segment():
                return
            start = self._start
            if express is not None:
                self._start = start = express.take(self._staging, self._view, start, self._end)
                if express.begun is not None:
                    self._begin_expressed(express.begun, start)
                    return
            if self._end - start < BHS_BYTES:
                return
            self._begin(start)
            if self._start == start and not self._opcode:
                return

    def _begin_pdu(self, start: int) -> None:
        staging = self._staging
        opcode = staging[start] & OPCODE_MASK
        (length,) = LENGTHS.unpack_from(staging, start + 4)
        if not length:
            self._start = start + BHS_BYTES
            self._handler.take(opcode, staging, start, b"")
            return
        if length > _LENGTH_MASK:
            raise ProtocolViolation(f"PDU {opcode:#04x} has an additional header segment, which no response has")
        if length > self.segment_limit:
            raise ProtocolViolation(f"PDU {opcode:#04x} has {length} bytes of data, more than {self.segment_limit}")
        memory = self._handler.place(opcode, staging, start, length)
        begin = start + BHS_BYTES
        end = begin + length
        padded = end + (-length & 3)
        if padded <= self._end:  # the whole PDU is here: the usual case for small ones
            self._start = padded
            if memory is None:
                self._handler.take(opcode, staging, start, bytes(self._view[begin:end]))
                return
            if memory is not SKIP:
                memory[:] = self._view[begin:end]
            self._handler.take(opcode, staging, start, b"")
            return
        self._opcode = opcode | 0x100  # never 0, also for NOP-Out's
        self._header = bytes(staging[start:begin])
        self._placed = memory if memory is not SKIP else None
        self._collected = bytearray(length) if memory is None else None
        if self._collected is not None:
            self._placed = memoryview(self._collected)
        self._filled, self._left, self._padding = 0, length, -length & 3
        self._start = begin

    def _begin_expressed(self, memory: memoryview, start: int) -> None:
        """The express has begun with a PDU whose data segment goes on behind what is staged."""
        begin, end = start + BHS_BYTES, self._end
        have, length = end - begin, len(memory)
        if have > 0:
            memory[:have] = self._view[begin:end]
        self._opcode = self._staging[start] & OPCODE_MASK | 0x100
        self._header = bytes(self._staging[start:begin])
        self._placed, self._collected = memory, None
        self._filled, self._left, self._padding = have, length - have, 0
        self._start = end

    def _begin_digested_pdu(self, start: int) -> None:
        staging, view = self._staging, self._view
        opcode = staging[start] & OPCODE_MASK
        (length,) = LENGTHS.unpack_from(staging, start + 4)
        begin = start + BHS_BYTES + self._header_digest_bytes
        if begin > self._end:
            return  # the digest is not here
        if self._header_digest_bytes and view[start + BHS_BYTES : begin] != digest_of(view[start : start + BHS_BYTES]):
            raise DamagedPdu("the digest of a header does not fit it")
        if length > _LENGTH_MASK:
            raise ProtocolViolation(f"PDU {opcode:#04x} has an additional header segment, which no response has")
        if length > self.segment_limit:
            raise ProtocolViolation(f"PDU {opcode:#04x} has {length} bytes of data, more than {self.segment_limit}")
        if not length:
            self._start = begin
            self._handler.take(opcode, staging, start, b"")
            return
        memory = self._handler.place(opcode, staging, start, length)
        self._opcode = opcode | 0x100
        self._header = bytes(staging[start : start + BHS_BYTES])
        self._collected = bytearray(length) if memory is None else None
        self._placed = memoryview(self._collected) if self._collected is not None else memory
        if memory is SKIP:
            self._placed = None
        self._filled, self._left, self._padding = 0, length, -length & 3
        self._start = begin

    def _take_digest(self) -> bool:
        """Take the digest of the segment under way, and compare; give whether it is here.

        Of data that goes nowhere the digest is not looked at: nothing can be damaged.
        """
        count = self._data_digest_bytes - len(self._digest)
        self._digest += self._view[self._start : min(self._start + count, self._end)]
        self._start = min(self._start + count, self._end)
        if len(self._digest) < self._data_digest_bytes:
            return False
        digest, self._digest = self._digest, b""
        if self._placed is not None and padding_and_digest(self._placed)[-DIGEST_BYTES:] != digest:
            raise DamagedPdu(f"the digest of the data of PDU {self._opcode & OPCODE_MASK:#04x} does not fit it")
        return True

    def _continue_segment(self) -> bool:
        """Move what is staged of the segment under way; give whether the PDU is complete."""
        have = self._end - self._start
        if self._left:
            count = min(have, self._left)
            if self._placed is not None:
                self._placed[self._filled : self._filled + count] = self._view[self._start : self._start + count]
            self._filled += count
            self._left -= count
            self._start += count
            have -= count
        if self._left:
            return False
        express = self._express
        if express is not None and express.begun is not None and express.end():
            self._last_long = self._placed is not None and len(self._placed) >= LONG_BYTES
            self._opcode, self._header, self._placed = 0, b"", None
            return True
        if self._padding:
            count = min(have, self._padding)
            self._padding -= count
            self._start += count
            if self._padding:
                return False
        if self._data_digest_bytes and not self._take_digest():
            return False
        opcode, header, collected = self._opcode & OPCODE_MASK, self._header, self._collected
        self._last_long = self._placed is not None and len(self._placed) >= LONG_BYTES
        self._opcode, self._header, self._placed, self._collected = 0, b"", None, None
        self._handler.take(opcode, header, 0, bytes(collected) if collected is not None else b"")
        return True
