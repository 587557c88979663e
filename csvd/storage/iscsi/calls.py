"""The calls of an IscsiDisk that are under way, and what becomes of them when the node is fenced.

PREEMPT AND ABORT ends the commands of the node that is fenced, and where TAS is 0 the target says nothing of them any
more (SAM-5 section 5.6): they would wait for their timeout. Only the unit attention REGISTRATIONS PREEMPTED tells, with
the next command that the node sends. So a node that has joined and waits for long sends one.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Coroutine
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred, succeed
from twisted.python.failure import Failure

from csvd.storage.disk import FENCED, StorageError
from csvd.storage.iscsi.errors import storage_error
from initiator import InitiatorError

T = TypeVar("T")

ASK_S: Final = 2.0
"""After so long a call is waited for no longer without asking whether the node was fenced."""
ANSWERS_S: Final = 1.0
"""Within so long after a fence was told of, a target answers what it has not aborted."""

_CHANGES: Final = ("write", "unmap", "write zeroes")


class _Call:
    """One of them."""

    __slots__ = ("deferred", "given_up", "offset_bytes", "operation", "started_s")

    def __init__(self, operation: str, offset_bytes: int, started_s: float) -> None:
        self.operation = operation
        self.offset_bytes = offset_bytes
        self.started_s = started_s
        self.given_up = False
        self.deferred: Deferred[Any]


class Calls:
    """All of one disk.

    Args:
        ask: sends a command to the LUN that brings its unit attentions; called while `watching`.
        where: the disk, for messages; ``block_bytes`` is that of its LUN.

    Attributes:
        watching: whether the node can be fenced.
    """

    def __init__(self, reactor: Any, ask: Callable[[], None], *, where: str, block_bytes: int) -> None:
        self.watching = False
        self._reactor = reactor
        self._ask = ask
        self._where = where
        self._block_bytes = block_bytes
        self._under_way: dict[_Call, None] = {}
        self._idle: list[Deferred[None]] = []
        self._look: Any = None

    def run(self, operation: str, offset_bytes: int, work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        """Run a call; what the initiator could not do becomes a StorageError."""
        call = _Call(operation, offset_bytes, self._reactor.seconds())
        self._under_way[call] = None
        if self.watching and self._look is None:
            self._look = self._reactor.callLater(ASK_S, self._look_at_the_oldest)
        deferred = Deferred.fromCoroutine(work)
        call.deferred = deferred
        return deferred.addBoth(self._ended, call)

    def when_idle(self) -> Deferred[None]:
        """Fires when none is left."""
        if not self._under_way:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._idle.append(waiter)
        return waiter

    def fenced(self) -> None:
        """The node was fenced: what is under way will be answered soon, or never."""
        self._reactor.callLater(ANSWERS_S, self._give_up, list(self._under_way))

    def _give_up(self, calls: list[_Call]) -> None:
        for call in calls:
            if call in self._under_way:
                call.given_up = True
                call.deferred.cancel()

    def _look_at_the_oldest(self) -> None:
        self._look = None
        if not self._under_way or not self.watching:
            return
        # Calls are in the order in which they began.
        oldest = next(iter(self._under_way))
        if self._reactor.seconds() - oldest.started_s >= ASK_S:
            self._ask()
        self._look = self._reactor.callLater(ASK_S, self._look_at_the_oldest)

    def _ended(self, result: T | Failure, call: _Call) -> T | Failure:
        del self._under_way[call]
        if not self._under_way:
            if self._look is not None:
                self._look.cancel()
                self._look = None
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                waiter.callback(None)
        if not isinstance(result, Failure):
            return result
        error = result.value
        if isinstance(error, InitiatorError):
            where = self._where
            size, offset_bytes = self._block_bytes, call.offset_bytes
            raise storage_error(call.operation, error, where=where, offset_bytes=offset_bytes, block_bytes=size)
        if call.given_up and isinstance(error, CancelledError):
            number = FENCED if call.operation in _CHANGES else errno.EAGAIN
            why = "this node was fenced meanwhile"
            raise StorageError(call.operation, number, where=self._where, offset_bytes=call.offset_bytes, why=why)
        return result
