"""Calls of Ceph's library that block: each in a thread of its own, each with a deadline.

They are few: connecting, opening, closing, resizing, fencing. The storage pool does not have them, for a call that
waits for a cluster that is gone may never come back, and would keep its thread, and the pool's end waits for it.
"""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from csvd.errors import CsvdError
from csvd.storage.disk import FENCED, StorageError

T = TypeVar("T")

MOST_THREADS: Final = 16
"""Of one disk: with so many calls that have not come back, the next one fails."""

WHY_FENCED: Final = "this node was fenced: the cluster takes nothing more from it until the disk is opened anew"

CAPS: Final = "a user of csvd has caps mon 'profile rbd' osd 'profile rbd pool=POOL'"

_log = Logger()


def storage_error(operation: str, number: int, *, where: str, offset_bytes: int = 0, why: str = "") -> StorageError:
    """An error of librbd or librados as ours, by its errno; 108 (EBLOCKLISTED is ESHUTDOWN) becomes FENCED."""
    if number in (errno.ESHUTDOWN, FENCED):
        number, why = FENCED, WHY_FENCED
    elif number in (errno.EPERM, errno.EACCES):
        why = f"{why or 'the user may not'}; {CAPS}"
    return StorageError(operation, number, where=where, offset_bytes=offset_bytes, why=why)


def errno_of(error: BaseException) -> int:
    """The errno that an exception of rbd or rados carries; EIO for one without."""
    number = getattr(error, "errno", None)
    return abs(number) if isinstance(number, int) and number else errno.EIO


class BlockingCalls:
    """Runs functions in threads of their own, for one disk.

    Args:
        reactor: the node's.
        deadline_s: how long a call may take where it does not say.
        where: the disk, in errors.
    """

    def __init__(self, reactor: Any, *, deadline_s: float, where: str) -> None:
        self.deadline_s = deadline_s
        self._reactor = reactor
        self._where = where
        self._running = 0
        self._idle: list[Deferred[None]] = []

    def when_idle(self) -> Deferred[None]:
        """Fires when no thread is left. With a cluster that is gone that may be never."""
        if not self._running:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._idle.append(waiter)
        return waiter

    def run(
        self,
        operation: str,
        function: Callable[[], T],
        *,
        deadline_s: float | None = None,
        too_late: Callable[[T], object] | None = None,
    ) -> Deferred[T]:
        """Run a function in a thread.

        Args:
            operation: as a `StorageError` names it.
            deadline_s: how long it may take.
            too_late: called in the thread with a result that nobody waits for any more.

        Fires with what it returns. Fails with what it raises when that is a CsvdError, with a StorageError when it is
        an error of Ceph's, and with a StorageError of ETIMEDOUT at the deadline: the thread goes on then.
        """
        if self._running >= MOST_THREADS:
            why = f"{self._running} calls before it have not come back from the cluster"
            return fail(StorageError(operation, errno.EBUSY, where=self._where, why=why))
        self._running += 1
        call = _Call(self, operation, function, too_late)
        limit_s = self.deadline_s if deadline_s is None else deadline_s
        call.timer = self._reactor.callLater(limit_s, call.expire, limit_s)
        threading.Thread(target=call.work, name="csvd-rbd", daemon=True).start()
        return call.deferred

    def error(self, operation: str, error: Exception) -> Exception:
        """What a caller is told of an exception."""
        if isinstance(error, CsvdError) or not _is_of_ceph(error):
            return error
        return storage_error(operation, errno_of(error), where=self._where, why=str(error))

    def ended(self) -> None:
        """A thread is done."""
        self._running -= 1
        if not self._running:
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                if not waiter.called:
                    waiter.callback(None)

    def late(self, operation: str, limit_s: float) -> StorageError:
        """What a caller is told at the deadline."""
        why = f"the cluster did not answer within {limit_s:g} s"
        return StorageError(operation, errno.ETIMEDOUT, where=self._where, why=why)

    def tell(self, function: Callable[..., Any], *args: object) -> None:
        """From a thread: call it in the loop."""
        try:
            self._reactor.callFromThread(function, *args)
        except RuntimeError:
            # The loop is closed: the process is about to end, and nobody waits.
            _log.debug("a call of librbd came back after the end of the loop")


class _Call:
    """One call. `work` runs in its thread, everything else in the reactor's."""

    def __init__(
        self,
        calls: BlockingCalls,
        operation: str,
        function: Callable[[], Any],
        too_late: Callable[[Any], object] | None,
    ) -> None:
        self.deferred: Deferred[Any] = Deferred(self._cancelled)
        self.timer: Any = None
        self._calls = calls
        self._operation = operation
        self._function = function
        self._too_late = too_late
        self._lock = threading.Lock()
        self._nobody_waits = False
        self._has_result = False

    def work(self) -> None:
        """Run the function."""
        calls = self._calls
        try:
            result = self._function()
        except Exception as error:  # noqa: BLE001 - whatever it is, the caller is told
            calls.tell(self._failed, calls.error(self._operation, error))
            return
        with self._lock:
            self._has_result = not self._nobody_waits
        if not self._has_result:
            self._let_go(result)
        calls.tell(self._finished, result)

    def expire(self, limit_s: float) -> None:
        """At the deadline, unless the result is on its way already."""
        if not self.deferred.called and self._give_up():
            self.deferred.errback(self._calls.late(self._operation, limit_s))

    def _cancelled(self, _: Deferred[Any]) -> None:
        self._give_up()

    def _give_up(self) -> bool:
        with self._lock:
            self._nobody_waits = not self._has_result
        return self._nobody_waits

    def _finished(self, result: Any) -> None:
        self._ended()
        if not self.deferred.called:
            self.deferred.callback(result)
        elif self._has_result:
            # It was cancelled when the result was on its way already. Letting go may block.
            threading.Thread(target=self._let_go, args=(result,), name="csvd-rbd", daemon=True).start()

    def _failed(self, error: Exception) -> None:
        self._ended()
        if not self.deferred.called:
            self.deferred.errback(error)

    def _ended(self) -> None:
        if self.timer.active():
            self.timer.cancel()
        self._calls.ended()

    def _let_go(self, result: Any) -> None:
        if self._too_late is None:
            return
        try:
            self._too_late(result)
        except Exception:  # noqa: BLE001 - nobody is left to tell
            _log.failure("letting go of what came too late failed")


def _is_of_ceph(error: Exception) -> bool:
    return type(error).__module__ in ("rados", "rbd")
