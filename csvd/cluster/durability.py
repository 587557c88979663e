"""Holds back what must not be seen before the journal is durable, without blocking the event loop on the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from csvd.cluster.errors import JournalError
from csvd.cluster.journal import Journal

RunBlocking = Callable[[Callable[[], None]], "Deferred[None]"]
"""Runs a call that blocks on the disk, in a thread or at once; the Deferred fires in the event loop."""


class DurabilityGate:
    """Writes the journal, one write at a time, and lets actions pass when all changes made before them are durable."""

    def __init__(self, journal: Journal, run_blocking: RunBlocking, failed: Callable[[JournalError], None]) -> None:
        """
        Args:
            journal: what is written.
            run_blocking: where the writes are run.
            failed: told once when a write fails; after that nothing passes any more.
        """
        self._journal = journal
        self._run_blocking = run_blocking
        self._failed = failed
        self._waiting: deque[tuple[int, Callable[[], None]]] = deque()
        self._under_way: Deferred[None] | None = None
        self._is_closed = False

    def pass_when_durable(self, action: Callable[[], None]) -> None:
        """Do the action at once when the journal is durable, else when it is; actions keep their order."""
        if self._is_closed:
            return
        if self._journal.is_durable and not self._waiting:
            action()
            return
        self._waiting.append((self._journal.position, action))
        self.write()

    def write(self) -> None:
        """Begin to make durable what is not, unless a write is under way (which goes on with the rest by itself)."""
        if self._is_closed or self._under_way is not None:
            return
        write = self._journal.take()
        if write is None:
            return
        # The Deferred may have fired already; then `_written` runs inside of `addCallbacks`.
        under_way = self._under_way = self._run_blocking(write.run)
        under_way.addCallback(lambda _: self._journal.written(write))
        under_way.addCallbacks(self._written, self._write_failed)

    def close(self) -> Deferred[None]:
        """Drop what waits; fires when no write is under way any more."""
        self._is_closed = True
        self._waiting.clear()
        done: Deferred[None] = Deferred()
        if self._under_way is None:
            done.callback(None)
        else:
            self._under_way.addBoth(lambda _: done.callback(None))
        return done

    def _written(self, _: None) -> None:
        self._under_way = None
        while self._waiting and self._waiting[0][0] <= self._journal.durable_position:
            self._waiting.popleft()[1]()
        self.write()

    def _write_failed(self, failure: Failure) -> None:
        self._is_closed = True
        self._waiting.clear()
        error = failure.value
        if not isinstance(error, JournalError):
            error = JournalError("can not be written", why=repr(error))
        self._failed(error)
