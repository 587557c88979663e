"""The calls of an IscsiDisk that are under way, and what becomes of them when another node has them aborted.

PREEMPT AND ABORT ends the commands of the node that is fenced, a LOGICAL UNIT RESET those of all, and where TAS is 0
the target says nothing of them any more (SAM-5 section 5.6): they would wait for their timeout. Only a unit attention
tells, with the next command that the node sends. So a node that has joined and waits for long sends one.
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
"""After so long a call is waited for no longer without asking whether it was aborted."""
ANSWERS_S: Final = 1.0
"""Within so long after it has told of it, a target answers what it has not aborted."""

_CHANGES: Final = ("write", "unmap", "write zeroes")


class _Call:
    """One of them."""

    __slots__ = ("deferred", "given_up", "offset_bytes", "operation", "started_s", "was_fenced")

    def __init__(self, operation: str, offset_bytes: int, started_s: float) -> None:
        self.operation = operation
        self.offset_bytes = offset_bytes
        self.started_s = started_s
        self.given_up = self.was_fenced = False
        self.deferred: Deferred[Any]


class Calls:
    """All of one disk.

    Args:
        ask: sends a command to the LUN that brings its unit attentions; called while `watching`.
        where: the disk, for messages; ``block_bytes`` is that of its LUN.

    Attributes:
        watching: whether other nodes may have them aborted.
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

    def aborted(self, *, was_fenced: bool) -> None:
        """Another node has aborted what was under way: it will be answered soon, or never.

        Args:
            was_fenced: by keeping this node off.
        """
        self._reactor.callLater(ANSWERS_S, self._give_up, list(self._under_way), was_fenced)

    def _give_up(self, calls: list[_Call], was_fenced: bool) -> None:
        for call in calls:
            if call in self._under_way:
                call.given_up, call.was_fenced = True, was_fenced
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
            number = FENCED if call.was_fenced and call.operation in _CHANGES else errno.EAGAIN
            why = "this node was fenced meanwhile" if call.was_fenced else "another node had it aborted"
            raise StorageError(call.operation, number, where=self._where, offset_bytes=call.offset_bytes, why=why)
        return result
