"""Framing: from bytes off the wire to whole PDUs, without assembling what is large (RFC 7143 section 11.2).

The buffer is the receiver's own; the adapter asks for :meth:`Receiver.buffers`, receives into them and says how many
bytes came. PDUs are parsed in place by offsets. A data segment that has not come whole can be *placed*: the rest of it
is received straight into its destination, with the receiver's own buffer behind it for what follows.
"""

from __future__ import annotations

from typing import Final

from csvd.iscsi.codes import BHS_BYTES

BUFFER_BYTES: Final = 128 * 1024
LOGIN_BUFFER_BYTES: Final = 8 * 1024
"""Until the login is through, which is cheap to begin and to leave lying about."""


class Receiver:
    """The receive buffer of one connection: ``buffer[start:end]`` holds what was not parsed yet."""

    def __init__(self, buffer_bytes: int = LOGIN_BUFFER_BYTES) -> None:
        self._usual_bytes = buffer_bytes
        self.buffer = bytearray(buffer_bytes)
        self.view = memoryview(self.buffer)
        self.start = 0
        self.end = 0
        self.placing: memoryview | None = None
        """The rest of a data segment's destination; None when nothing is being placed."""
        self.skip = 0
        """Bytes to drop before the next header: a data segment nobody wants, or padding."""

    @property
    def is_empty(self) -> bool:
        """Whether all that was received is taken, and a header comes next."""
        return self.start == self.end and self.at_header

    @property
    def at_header(self) -> bool:
        """Whether what comes next is a header."""
        return self.placing is None and not self.skip

    def renew(self) -> bytearray:
        """Begin the empty buffer anew, and give it to receive into."""
        self.start = self.end = 0
        if len(self.buffer) != self._usual_bytes:
            self._resize(self._usual_bytes)
        return self.buffer

    def buffers(self) -> list[memoryview]:
        """Give where to receive: the destination of a placed segment first, then the own buffer."""
        if self.start == self.end:
            self.renew()
        elif self.end == len(self.buffer):
            self._make_room()
        own = self.view[self.end :]
        return [own] if self.placing is None else [self.placing, own]

    def use(self, buffer_bytes: int) -> None:
        """Receive into a buffer of this length from the next call of :meth:`buffers` on, once the present one is empty.

        With 0 nothing is received any more: what is there is forgotten.
        """
        self._usual_bytes = buffer_bytes
        if not buffer_bytes:
            self.start = self.end
            self.placing = None
            self._resize(0)

    def received(self, count: int) -> bool:
        """Take ``count`` received bytes; give whether a placed segment is complete with them, or none was under way."""
        if self.placing is not None:
            placed = min(count, len(self.placing))
            self.placing = self.placing[placed:]
            count -= placed
            if self.placing:
                return False
            self.placing = None
        self.end += count
        return True

    def drop_skipped(self) -> bool:
        """Drop what is to be skipped, as far as it has come; give whether all of it has."""
        if self.skip:
            dropped = min(self.skip, self.end - self.start)
            self.skip -= dropped
            self.start += dropped
        return self.skip == 0

    def place(self, data_offset: int, skip: int, destination: memoryview) -> None:
        """Begin to place the data segment of the PDU at ``start``: what is there is copied, the rest comes directly.

        Args:
            data_offset: how far behind ``start`` the segment begins.
            skip: bytes to drop behind the destination: what of the segment does not fit, and padding.
        """
        self.start += data_offset
        here = min(self.end - self.start, len(destination))
        destination[:here] = self.view[self.start : self.start + here]
        self.start += here
        self.skip = skip
        if here < len(destination):
            self.placing = destination[here:]

    def need(self, total_bytes: int) -> None:
        """Make sure that a PDU of ``total_bytes`` at ``start`` will fit the buffer."""
        if total_bytes > len(self.buffer):
            self._resize(total_bytes)
        elif self.start + total_bytes > len(self.buffer):
            self._make_room()

    def _make_room(self) -> None:
        left = self.end - self.start
        if self.start == 0 and left == len(self.buffer):
            self._resize(len(self.buffer) + BHS_BYTES)
            return
        self.buffer[:left] = self.buffer[self.start : self.end]
        self.start, self.end = 0, left

    def _resize(self, size: int) -> None:
        # A new object, for a bytearray with a live memoryview can not change its size.
        left = self.end - self.start
        buffer = bytearray(size)
        buffer[:left] = self.view[self.start : self.end]
        self.buffer, self.view = buffer, memoryview(buffer)
        self.start, self.end = 0, left
