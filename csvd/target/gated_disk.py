"""The disk of a logical unit that several nodes export: nothing reaches it while this node may not act.

It counts what is under way, so that whoever closes the gate knows when the last write has ended; and refuses what comes
while the gate is closed with `FENCED`, by which the executor knows a command that is to wait. A write that waits for a
thread is looked at again there, right before it goes to the store: see `FileDisk.may_act`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar, cast

from twisted.internet.defer import Deferred, fail, succeed

from csvd.storage.disk import FENCED, MAX_RUNS, Buffer, Disk, DiskCapabilities, ResizableDisk, StorageError

T = TypeVar("T")


class GatedDisk:
    """A disk behind a gate.

    Args:
        disk: the disk itself, as `ungated`.
        admits: whether this node may act NOW.
    """

    def __init__(self, disk: Disk, admits: Callable[[], bool]) -> None:
        self.ungated = disk
        self._admits = admits
        self._begun = 0
        self._under_way: dict[int, None] = {}
        """By their numbers, in the order in which they were begun."""
        self._waiting: list[tuple[int, Deferred[None]]] = []

    @property
    def url(self) -> str:
        """The name it was opened by."""
        return self.ungated.url

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return self.ungated.size_bytes

    @property
    def read_only(self) -> bool:
        """Whether writes fail with EROFS."""
        return self.ungated.read_only

    @property
    def capabilities(self) -> DiskCapabilities:
        """What it can do."""
        return self.ungated.capabilities

    def settled(self) -> Deferred[None]:
        """Fires when all that is under way now has ended."""
        if not self._under_way:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._waiting.append((self._begun, waiter))
        return waiter

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        """See `Disk`; False while the gate is closed."""
        return self._admits() and self.ungated.read_nowait(buffer, offset_bytes)

    def write_nowait(self, buffers: Sequence[Buffer], offset_bytes: int) -> bool:
        """See `Disk`; False while the gate is closed."""
        return self._admits() and self.ungated.write_nowait(buffers, offset_bytes)

    def cached(self, _offset_bytes: int, _length_bytes: int) -> bool:
        """Never: what a socket takes from the page cache later may be older than what others have written by then."""
        return False

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        """See `Disk`."""
        return self._do("read", offset_bytes, lambda: self.ungated.read_into(buffer, offset_bytes))

    def write_from(self, buffers: Sequence[Buffer], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        """See `Disk`."""
        return self._do("write", offset_bytes, lambda: self.ungated.write_from(buffers, offset_bytes, fua=fua))

    def flush(self) -> Deferred[None]:
        """See `Disk`."""
        return self._do("flush", 0, self.ungated.flush)

    def unmap(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """See `Disk`."""
        return self._do("unmap", offset_bytes, lambda: self.ungated.unmap(offset_bytes, length_bytes))

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """See `Disk`."""
        return self._do("write zeroes", offset_bytes, lambda: self.ungated.write_zeroes(offset_bytes, length_bytes))

    def allocation(
        self, offset_bytes: int, length_bytes: int, most_runs: int = MAX_RUNS
    ) -> Deferred[list[tuple[int, int, bool]]]:
        """See `Disk`."""
        return self._do("read", offset_bytes, lambda: self.ungated.allocation(offset_bytes, length_bytes, most_runs))

    def prefetch(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """See `Disk`."""
        return self.ungated.prefetch(offset_bytes, length_bytes)

    def allocated_bytes(self) -> Deferred[int | None]:
        """See `Disk`."""
        return self.ungated.allocated_bytes()

    def identity(self) -> str:
        """See `Disk`."""
        return self.ungated.identity()

    def resize(self, size_bytes: int | None, *, full: bool = False) -> Deferred[int]:
        """See `ResizableDisk`; whoever asks has seen that it is one."""
        return cast(ResizableDisk, self.ungated).resize(size_bytes, full=full)

    def close(self) -> Deferred[None]:
        """See `Disk`."""
        return self.ungated.close()

    def _do(self, operation: str, offset_bytes: int, begin: Callable[[], Deferred[T]]) -> Deferred[T]:
        if not self._admits():
            error = StorageError(operation, FENCED, where=self.url, offset_bytes=offset_bytes, why="no lease")
            return fail(error)
        self._begun += 1
        number = self._begun
        self._under_way[number] = None
        return begin().addBoth(self._over, number)

    def _over(self, result: Any, number: int) -> Any:
        del self._under_way[number]
        if self._waiting:
            oldest = next(iter(self._under_way), self._begun + 1)
            due = [waiter for last, waiter in self._waiting if last < oldest]
            self._waiting = [(last, waiter) for last, waiter in self._waiting if last >= oldest]
            for waiter in due:
                waiter.callback(None)
        return result
