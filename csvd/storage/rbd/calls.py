"""Asynchronous calls of librbd: bounded in number and bytes, each with a deadline, and told in the loop by batches.

librbd tells that a call is done in a thread of its own, which has to get the interpreter's lock for that. So it only
puts the result into a queue, and all that is there when the loop gets to it is told at once.

A call that is late fails with ETIMEDOUT. It can not be called back: librbd ends it when it pleases, and it keeps its
place among those under way until then, so that a cluster that is gone for long takes no more memory than one that is
busy. What it writes is a copy, and what it reads is a buffer of librbd's own: nothing of the caller's is touched after
the deadline. Whether a write that was late is on the disk is unknown.

python3-rbd makes no transfer without a copy: `aio_read` brings `bytes`, which are copied into the caller's buffer, and
`aio_write` takes `bytes`, into which the caller's buffers are copied.
"""

from __future__ import annotations

import errno
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from csvd.storage.disk import FENCED, Buffer, StorageError
from csvd.storage.loop_calls import loop_calls
from csvd.storage.rbd.blocking import errno_of, storage_error

MOST_CALLS: Final = 128
MOST_BYTES: Final = 64 << 20
"""What is under way of one disk at most; one call may be larger. The rest waits, and the callers keep its memory."""

_NOTHING: Final = memoryview(b"")

_log = Logger()

OP_TIMEOUT_PART: Final = 0.9
"""Ceph itself gives an operation up after this part of the deadline, and does not send it again after that: so what the
caller is told of as late does not reach the disk when the network comes back, unless it was on its way already."""


class Call(ABC):
    """One call. Subclasses say what is called, and what becomes of the result.

    Attributes:
        expires_s: its deadline, on the reactor's clock.
        is_over: whether the caller was told.
        tell_done: called with the call, its result and, of a read, the bytes, when librbd is done with it.
    """

    __slots__ = ("deferred", "expires_s", "is_over", "length_bytes", "offset_bytes", "operation", "tell_done")

    may_change_data = False

    def __init__(self, operation: str, offset_bytes: int = 0, length_bytes: int = 0) -> None:
        self.operation = operation
        self.offset_bytes = offset_bytes
        self.length_bytes = length_bytes
        self.expires_s = 0.0
        self.is_over = False
        self.deferred: Deferred[None] = Deferred()
        self.tell_done: Callable[[Call, int, bytes | None], None]

    @abstractmethod
    def begin(self, image: Any) -> None:
        """Hand it to librbd, which calls `done` when it is done unless this raises."""

    def done(self, completion: Any, data: bytes | None = None) -> None:
        """In a thread of librbd, which has nobody to tell of an exception: there is none."""
        self.tell_done(self, completion.get_return_value(), data)

    def take(self, result: int, data: bytes | None) -> int:
        """Take the result, zero or more. Returns an errno, 0 for none."""
        return 0

    def let_go(self) -> None:  # noqa: B027 - there are calls that hold nothing
        """Nobody waits any more: hold nothing of the caller's."""

    @property
    def held_bytes(self) -> int:
        """How much memory it takes while it is under way."""
        return 0


class ReadCall(Call):
    """Fill a buffer."""

    __slots__ = ("_buffer",)

    def __init__(self, buffer: memoryview, offset_bytes: int) -> None:
        super().__init__("read", offset_bytes, buffer.nbytes)
        self._buffer = buffer

    @property
    def held_bytes(self) -> int:
        """As much as it reads."""
        return self.length_bytes

    def begin(self, image: Any) -> None:
        """Read."""
        image.aio_read(self.offset_bytes, self.length_bytes, self.done)

    def take(self, result: int, data: bytes | None) -> int:
        """Copy what was read; EIO when the image has become shorter than that."""
        if data is None or len(data) != self.length_bytes:
            return errno.EIO
        self._buffer[:] = data
        return 0

    def let_go(self) -> None:
        """Let go of the buffer."""
        self._buffer = _NOTHING


class WriteCall(Call):
    """Write buffers one after the other."""

    __slots__ = ("_buffers",)

    may_change_data = True

    def __init__(self, buffers: Sequence[Buffer], offset_bytes: int) -> None:
        super().__init__("write", offset_bytes, sum(map(len, buffers)))
        self._buffers: Sequence[Buffer] = buffers

    @property
    def held_bytes(self) -> int:
        """As much as it writes."""
        return self.length_bytes

    def begin(self, image: Any) -> None:
        """Write a copy, which lives as long as librbd needs it."""
        data = b"".join(self._buffers)
        self._buffers = (data,)
        image.aio_write(data, self.offset_bytes, self.done)


class UnmapCall(Call):
    """Give a range back."""

    __slots__ = ()

    may_change_data = True

    def begin(self, image: Any) -> None:
        """Discard."""
        image.aio_discard(self.offset_bytes, self.length_bytes, self.done)


class ZeroCall(Call):
    """Make a range read as zeros."""

    __slots__ = ()

    may_change_data = True

    def begin(self, image: Any) -> None:
        """Write zeros; what librbd can give back of the range it gives back."""
        image.aio_write_zeroes(self.offset_bytes, self.length_bytes, self.done)


class FlushCall(Call):
    """Make durable what was acknowledged."""

    __slots__ = ()

    def begin(self, image: Any) -> None:
        """Flush."""
        image.aio_flush(self.done)


class RbdCalls:
    """The calls of one image.

    Args:
        image: of rbd, open.
        reactor: the node's.
        deadline_s: how long a call may take, from the submission on.
        where: the disk, in errors.
        most_calls, most_bytes: how much may be under way.

    Attributes:
        image: the next calls go to it.
        is_fenced: the cluster has refused a call as one of a client on its blocklist. Everything fails from then on.
        unknown_writes: how many calls that change data ended with their deadline: they may or may not have been
            carried out.
    """

    def __init__(
        self,
        image: Any,
        reactor: Any,
        *,
        deadline_s: float,
        where: str,
        most_calls: int = MOST_CALLS,
        most_bytes: int = MOST_BYTES,
    ) -> None:
        self.image = image
        self.is_fenced = False
        self.unknown_writes = 0
        self._reactor = reactor
        self._calls: Any = reactor
        self._deadline_s = deadline_s
        self._where = where
        self._most_calls = most_calls
        self._most_bytes = most_bytes
        self._waiting: deque[Call] = deque()
        self._open: dict[Call, None] = {}
        """Calls whose callers wait, by age."""
        self._under_way = 0
        self._under_way_bytes = 0
        self._back: deque[tuple[Call, int, bytes | None]] = deque()
        """Calls that are done; librbd's threads add to it."""
        self._back_is_told = False
        self._timer: Any = None
        self._quiet: list[Deferred[None]] = []

    @property
    def under_way(self) -> int:
        """Calls that librbd has, those that are over for their callers too."""
        return self._under_way

    def submit(self, call: Call) -> Deferred[None]:
        """Begin a call now or when there is room. Fires when it is done, fails with a StorageError."""
        if self.is_fenced:
            return fail(self._error(call, FENCED))
        call.expires_s = self._reactor.seconds() + self._deadline_s
        self._open[call] = None
        if self._timer is None:
            self._timer = self._reactor.callLater(self._deadline_s, self._expire)
        self._waiting.append(call)
        self._begin_waiting()
        return call.deferred

    def when_quiet(self) -> Deferred[None]:
        """Fires when no caller waits any more; late calls may be under way still."""
        if not self._open:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._quiet.append(waiter)
        return waiter

    def _begin_waiting(self) -> None:
        waiting = self._waiting
        while waiting:
            call = waiting[0]
            if call.is_over:
                waiting.popleft()
                continue
            if self._under_way >= self._most_calls:
                return
            if self._under_way and self._under_way_bytes + call.held_bytes > self._most_bytes:
                return
            waiting.popleft()
            self._begin(call)

    def _begin(self, call: Call) -> None:
        if self._calls is self._reactor:
            # Not before: perhaps the loop does not run yet.
            self._calls = loop_calls(self._reactor) or self._reactor
        self._under_way += 1
        self._under_way_bytes += call.held_bytes
        call.tell_done = self._done_in_thread
        try:
            call.begin(self.image)
        except Exception as error:  # noqa: BLE001 - whatever it is, librbd did not take the call
            if not hasattr(error, "errno"):
                _log.failure("librbd did not take a call")
            self._back.append((call, -errno_of(error), None))
            if not self._back_is_told:
                self._back_is_told = True
                self._calls.callLater(0, self._came_back)

    def _done_in_thread(self, call: Call, result: int, data: bytes | None) -> None:
        self._back.append((call, result, data))
        if self._back_is_told:
            return
        self._back_is_told = True
        try:
            self._calls.callFromThread(self._came_back)
        except RuntimeError:
            # The loop is closed: the process is about to end, and nobody waits.
            _log.debug("a call of librbd came back after the end of the loop")

    def _came_back(self) -> None:
        # First: what a thread adds from now on is told anew, and at worst is taken along here already.
        self._back_is_told = False
        settled: list[tuple[Call, int]] = []
        while self._back:
            call, result, data = self._back.popleft()
            self._under_way -= 1
            self._under_way_bytes -= call.held_bytes
            if call.is_over:
                continue
            self._close(call)
            settled.append((call, -result if result < 0 else call.take(result, data)))
        if any(number == errno.ESHUTDOWN for _, number in settled):
            self.fence()
        # The cluster goes on while the results are told.
        self._begin_waiting()
        for call, number in settled:
            self._settle(call, number)
        self._tell_quiet()

    def fence(self) -> None:
        """The cluster takes nothing more from this client: what waits would only be told the same."""
        self.is_fenced = True
        waiting, self._waiting = self._waiting, deque()
        for call in waiting:
            if not call.is_over:
                self._close(call)
                self._settle(call, FENCED)

    def _expire(self) -> None:
        """At the deadline of the oldest call there was."""
        self._timer = None
        now_s = self._reactor.seconds()
        late: list[Call] = []
        for call in self._open:
            if call.expires_s > now_s:
                break
            late.append(call)
        for call in late:
            self._close(call)
            call.let_go()
        # Calls that were never begun let go of the callers' memory.
        self._begin_waiting()
        if self._open:
            oldest = next(iter(self._open))
            self._timer = self._reactor.callLater(max(0.0, oldest.expires_s - now_s), self._expire)
        for call in late:
            self._settle(call, errno.ETIMEDOUT)
        self._tell_quiet()

    def _close(self, call: Call) -> None:
        call.is_over = True
        del self._open[call]

    def _settle(self, call: Call, number: int) -> None:
        if number == 0:
            call.deferred.callback(None)
            return
        if number == errno.ETIMEDOUT and call.may_change_data:
            self.unknown_writes += 1
        call.deferred.errback(self._error(call, number))

    def _tell_quiet(self) -> None:
        if self._open:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        waiters, self._quiet = self._quiet, []
        for waiter in waiters:
            waiter.callback(None)

    def _error(self, call: Call, number: int) -> StorageError:
        why = f"the cluster did not answer within {self._deadline_s:g} s" if number == errno.ETIMEDOUT else ""
        return storage_error(call.operation, number, where=self._where, offset_bytes=call.offset_bytes, why=why)
