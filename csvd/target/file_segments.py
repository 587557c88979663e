"""Large Data-In that goes from the page cache to the socket by sendfile(2), and never through this process.

The socket's queue then refers to the pages of the disk themselves. Whoever writes to them before the peer has taken
them changes what the peer receives. Between READ and WRITE that is nobody's concern: commands that are outstanding
together have no order (SAM-5 section 8), and a READ is outstanding until its last byte has come. But what claims a
range for itself (COMPARE AND WRITE, WRITE ATOMIC, ...), and an ordered task, must see the end of all READs before it.
So such a READ keeps its claim on its range, and its place in the task set, until TCP says that the peer's host has it.
That is looked at now and then, not at every acknowledgement; in order that no host waits for that again and again,
nothing is lent where exclusive claims or ordered tasks have been seen of late.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

from twisted.logger import Logger

from csvd.scsi.outcome import Transfer
from csvd.scsi.range_locks import Claims
from csvd.scsi.task_set import TaskSet
from csvd.storage.disk import Disk

if TYPE_CHECKING:
    from twisted.python.failure import Failure

    from csvd.iscsi.payload import Piece

SEGMENT_BYTES: Final = 128 * 1024
"""From this length on sendfile is cheaper than reading into a buffer and sending that, which are as many calls."""
LOOK_S: Final = 0.02
"""How often it is looked whether what was sent has come."""
MOST_LENT_S: Final = 1.0
"""How long a peer that is slow to take its data may hold up others that claim its range for themselves."""
CALM_S: Final = 10.0
"""How long nobody must have claimed a range for himself, nor sent an ordered task."""

_ACKNOWLEDGED: Final = struct.Struct("=120xQ")
"""tcpi_bytes_acked in struct tcp_info (linux/tcp.h)."""
_INT: Final = struct.Struct("=i")


class _Descriptor(Protocol):
    """A disk that has said that a range is cached has a descriptor."""

    def fileno(self) -> int: ...


class _Lent:
    """What one READ has lent to the socket."""

    __slots__ = ("claims", "ended", "since_s", "unsent_bytes")

    def __init__(self, claims: Claims, ended: Callable[[], None], length_bytes: int, now_s: float) -> None:
        self.claims = claims
        self.ended = ended
        self.unsent_bytes = length_bytes
        self.since_s = now_s


class FileSegment:
    """A range of a disk in the output of a connection: a payload of `csvd.iscsi`.

    Attributes:
        data: the bytes themselves, where it was read after all.
    """

    __slots__ = ("data", "disk", "length_bytes", "lent", "offset_bytes")

    def __init__(
        self, disk: Disk, offset_bytes: int, length_bytes: int, lent: _Lent, data: memoryview | None = None
    ) -> None:
        self.disk = disk
        self.offset_bytes = offset_bytes
        self.length_bytes = length_bytes
        self.lent = lent
        self.data = data

    def __len__(self) -> int:
        return self.length_bytes

    def __getitem__(self, part: slice, /) -> FileSegment:
        begin, end, _ = part.indices(self.length_bytes)
        data = self.data[begin:end] if self.data is not None else None
        return FileSegment(self.disk, self.offset_bytes + begin, end - begin, self.lent, data)


class FileSegments:
    """The segments of one connection.

    Args:
        reactor: for the time.
        sock: the connection's.
        go_on: called when what could not be sent at once can be, outside of any turn.
        fail: called when it can not be had: its Data-In has begun, and there is no way back.

    Attributes:
        is_used: whether there ever was one; while there was none, nothing of this is on the way of small answers.
        is_reading: a segment that was to be sent is no longer cached, and is being read: nothing is sent before it.
    """

    log = Logger()

    def __init__(self, reactor: Any, sock: socket.socket, go_on: Callable[[], None], fail: Callable[[], None]) -> None:
        self.is_used = False
        self.is_reading = False
        self._reactor = reactor
        self._socket = sock
        self._go_on = go_on
        self._fail = fail
        self._lent: dict[_Lent, None] = {}
        self._sent: list[_Lent] = []
        """Sent since it was looked last."""
        self._leaving: list[_Lent] = []
        """Sent before that: back when `_leaving_bytes` are acknowledged."""
        self._leaving_bytes = 0
        self._newest: _Lent | None = None
        """Was cached a moment ago."""
        self._look_due: Any = None
        self._interference: dict[int, tuple[int, float]] = {}
        self._is_lost = False

    def lend(
        self, transfer: Transfer, length_bytes: int, task_set: TaskSet, ended: Callable[[], None]
    ) -> FileSegment | None:
        """Have a READ answered from the page cache; None where it must be read.

        Args:
            length_bytes: what the initiator expects of it.
            task_set: of the logical unit.
            ended: called when the READ is over for others of its task set.
        """
        unit = transfer.logical_unit
        disk: Disk = unit.device
        offset_bytes = transfer.offset_bytes
        now_s = self._reactor.seconds()
        if transfer.fua or unit.locks.contended or not task_set.is_free or not self._is_calm(unit, task_set, now_s):
            return None
        if not disk.cached(offset_bytes, length_bytes):
            return None
        lent = _Lent(unit.locks.share(offset_bytes, transfer.length_bytes), ended, length_bytes, now_s)
        self.is_used = True
        self._newest = lent
        self._lent[lent] = None
        if self._look_due is None:
            self._look_due = self._reactor.callLater(LOOK_S, self._look)
        return FileSegment(disk, offset_bytes, length_bytes, lent)

    def _is_calm(self, unit: Any, task_set: TaskSet, now_s: float) -> bool:
        count = unit.locks.exclusive_count + task_set.ordered_count
        seen = self._interference.get(unit.number)
        if seen is None or seen[0] != count:
            seen = self._interference[unit.number] = count, now_s if count else -CALM_S
        return now_s - seen[1] >= CALM_S

    def send(self, pieces: Sequence[Piece]) -> int:
        """Send pieces of output, as ``sendmsg``; gives how many bytes the socket took.

        Raises:
            OSError: as ``sendmsg``; or a disk became shorter, or could not be read.
        """
        sent, plain = 0, []
        try:
            for piece in pieces:
                if type(piece) is not FileSegment:
                    plain.append(piece)
                elif piece.data is not None:
                    plain.append(piece.data)
                else:
                    if piece.lent is not self._newest and not self._is_at_hand(piece):
                        break
                    if plain:
                        count = self._socket.sendmsg(cast(Any, plain), (), socket.MSG_MORE)
                        sent += count
                        if count < sum(map(len, plain)):
                            return sent
                        plain = []
                    count = self._send_file(piece)
                    sent += count
                    if count < piece.length_bytes:
                        return sent
            if plain:
                sent += self._socket.sendmsg(cast(Any, plain))
        except (BlockingIOError, InterruptedError):
            return sent
        finally:
            self._newest = None
        return sent

    def _send_file(self, piece: FileSegment) -> int:
        descriptor = cast(_Descriptor, piece.disk).fileno()
        count = os.sendfile(self._socket.fileno(), descriptor, piece.offset_bytes, piece.length_bytes)
        if not count:
            raise OSError(errno.EIO, "the disk has become shorter")
        self._gone(piece.lent, count)
        return count

    def _gone(self, lent: _Lent, count: int) -> None:
        """So many bytes of it are no longer to be sent from the disk."""
        lent.unsent_bytes -= count
        if not lent.unsent_bytes and lent in self._lent:
            self._sent.append(lent)

    def _is_at_hand(self, piece: FileSegment) -> bool:
        """Whether sendfile would not wait; else it is read in the pool."""
        if self.is_reading:
            return False
        if piece.disk.cached(piece.offset_bytes, piece.length_bytes):
            return True
        self.is_reading = True
        data = memoryview(bytearray(piece.length_bytes))
        work = piece.disk.read_into(data, piece.offset_bytes)
        work.addCallbacks(self._was_read, self._was_not_read, callbackArgs=(piece, data))
        return False

    def _was_read(self, _: None, piece: FileSegment, data: memoryview) -> None:
        self.is_reading = False
        self._have(piece, data)
        if not self._is_lost:
            self._go_on()

    def _was_not_read(self, failure: Failure) -> None:
        self.is_reading = False
        if not self._is_lost:
            self.log.warn("what was promised to an initiator can not be read: {error}", error=failure.value)
            self._fail()

    def _have(self, piece: FileSegment, data: memoryview) -> None:
        piece.data = data
        self._gone(piece.lent, piece.length_bytes)

    def read_out(self, pieces: Sequence[Any]) -> None:
        """Take back what has waited for its peer for long: read what is still cached."""
        oldest_s = self._reactor.seconds() - MOST_LENT_S
        for piece in pieces:
            if type(piece) is FileSegment and piece.data is None and piece.lent.since_s < oldest_s:
                data = memoryview(bytearray(piece.length_bytes))
                if not piece.disk.read_nowait(data, piece.offset_bytes):
                    return
                self._have(piece, data)

    def _look(self) -> None:
        """Give back what has come to the peer's host, or takes too long."""
        self._look_due = None
        acknowledged, queued = self._progress()
        if self._leaving and acknowledged >= self._leaving_bytes:
            self._return(self._leaving)
            self._leaving = []
        if not self._leaving and self._sent:
            self._leaving, self._sent = self._sent, []
            self._leaving_bytes = acknowledged + queued
        oldest_s = self._reactor.seconds() - MOST_LENT_S
        self._return([lent for lent in self._lent if lent.since_s < oldest_s])
        if self._lent and self._look_due is None:
            self._look_due = self._reactor.callLater(LOOK_S, self._look)

    def _progress(self) -> tuple[int, int]:
        """How many bytes the peer's host has acknowledged in all, and how many wait for that."""
        try:
            (acknowledged,) = _ACKNOWLEDGED.unpack(
                self._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _ACKNOWLEDGED.size)
            )
            (queued,) = _INT.unpack(fcntl.ioctl(self._socket.fileno(), termios.TIOCOUTQ, bytes(_INT.size)))
        except (OSError, struct.error):
            return 0, 0  # not TCP, or an old kernel: it has come when it is looked twice
        return acknowledged, queued

    def _return(self, lents: Sequence[_Lent]) -> None:
        for lent in lents:
            if lent in self._lent:
                del self._lent[lent]
                lent.claims.release()
                lent.ended()

    def lost(self) -> None:
        """The socket is closed."""
        self._is_lost = True
        if self._look_due is not None:
            self._look_due.cancel()
            self._look_due = None
        self._return(list(self._lent))
