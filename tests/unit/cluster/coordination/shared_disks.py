"""A shared disk in memory, with the fence of a file: a lock for each number, which a process has or has not."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock

from csvd.errors import CsvdError
from csvd.shared_disk import (
    FILE_LOCK,
    MAXIMUM_RECORDS_BYTES,
    NO_FENCE,
    FenceProof,
    NotProven,
    OwnerBlock,
    OwnerChanged,
    RecordSlot,
)

T = TypeVar("T")


class DiskError(CsvdError):
    """The disk failed, as a test wants it to."""


class Platter:
    """What all nodes see: the blocks, the locks, and who has been fenced."""

    def __init__(self, clock: Clock, *, fence_kind: str = FILE_LOCK, delay_s: float = 0.0) -> None:
        self.clock = clock
        self.fence_kind = fence_kind
        self.delay_s = delay_s
        self.owner = OwnerBlock()
        self.slots = [RecordSlot(), RecordSlot()]
        self.locks: dict[int, DiskInMemory] = {}
        self.fenced: set[str] = set()
        self.writes: list[tuple[float, str, str]] = []
        self.failing: set[str] = set()

    def newest(self) -> RecordSlot:
        """The newer slot."""
        return max(self.slots, key=lambda slot: (slot.epoch, slot.sequence))


class DiskInMemory:
    """One process's way to the platter. `crash` is the end of the process: its locks are free, its writes are lost."""

    url = "memory"
    uuid = "00000000-0000-0000-0000-000000000001"

    def __init__(self, platter: Platter, node: str) -> None:
        self._platter = platter
        self.node = node
        self.number = 0
        self.is_crashed = False

    @property
    def fence_kind(self) -> str:
        return self._platter.fence_kind

    def crash(self) -> None:
        self.is_crashed = True
        if self._platter.locks.get(self.number) is self:
            del self._platter.locks[self.number]

    def join(self, node: str, number: int) -> Deferred[None]:
        def work() -> None:
            holder = self._platter.locks.get(number)
            if holder is not None and holder is not self:
                raise DiskError(f"the lock of number {number} is another process's")
            self.number = number
            self._platter.locks[number] = self
            self._platter.fenced.discard(node)

        return self._later(work)

    def leave(self) -> Deferred[None]:
        def work() -> None:
            if self._platter.locks.get(self.number) is self:
                del self._platter.locks[self.number]

        return self._later(work)

    def fence(self, node: str, number: int) -> Deferred[FenceProof]:
        def work() -> FenceProof:
            kind = self._platter.fence_kind
            if kind == NO_FENCE:
                raise NotProven("there is no fence")
            if kind == FILE_LOCK:
                if number in self._platter.locks:
                    raise NotProven(f"the lock of number {number} is held")
                return FenceProof(kind, node, "its lock was free", self._platter.clock.seconds())
            self._platter.fenced.add(node)
            return FenceProof(kind, node, "its key is gone", self._platter.clock.seconds())

        return self._later(work)

    def is_gone(self, node: str, number: int) -> Deferred[bool]:
        return self._later(lambda: self._platter.fence_kind == FILE_LOCK and number not in self._platter.locks)

    def read_owner(self) -> Deferred[OwnerBlock]:
        return self._later(lambda: self._platter.owner)

    def write_owner(self, expected: OwnerBlock, new: OwnerBlock) -> Deferred[None]:
        def work() -> None:
            self._check_place()
            if self._platter.owner != expected:
                raise OwnerChanged(self._platter.owner, where=self.url)
            self._platter.owner = new
            self._platter.writes.append((self._platter.clock.seconds(), self.node, "owner"))

        return self._later(work)

    def read_records(self) -> Deferred[RecordSlot]:
        return self._later(self._platter.newest)

    def write_records(self, slot: RecordSlot) -> Deferred[None]:
        assert len(slot.data) <= MAXIMUM_RECORDS_BYTES

        def work() -> None:
            self._check_place()
            older = min((0, 1), key=lambda one: (self._platter.slots[one].epoch, self._platter.slots[one].sequence))
            self._platter.slots[older] = slot
            self._platter.writes.append((self._platter.clock.seconds(), self.node, "records"))

        return self._later(work)

    def close(self) -> Deferred[None]:
        return self.leave()

    def _check_place(self) -> None:
        if self._platter.locks.get(self.number) is not self or self.node in self._platter.fenced:
            raise DiskError("this node has no place on the disk")

    def _later(self, work: Callable[[], T]) -> Deferred[T]:
        """Do it after the delay of the disk; never, where the process has ended by then."""
        if not self._platter.delay_s:
            if self.is_crashed:
                return Deferred()
            try:
                if self.node in self._platter.failing:
                    raise DiskError("the disk failed")
                return succeed(work())
            except CsvdError as error:
                return fail(error)
        done: Deferred[T] = Deferred()

        def do() -> None:
            if self.is_crashed:
                return
            try:
                if self.node in self._platter.failing:
                    raise DiskError("the disk failed")
                result = work()
            except CsvdError as error:
                done.errback(error)
            else:
                done.callback(result)

        self._platter.clock.callLater(self._platter.delay_s, do)
        return done
