"""Disks that nodes share: one store of blocks, and each process's way to it.

A write takes its time, and its blocks come to the store one by one, in any order. When the process that sent it is
killed, what has not come yet may still come, late, or never. Who may write is up to the store only where its fence is
one that the store enforces; the lock of a file tells of a process, and keeps nobody off.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred

from csvd.shared_disk import FILE_LOCK, NO_FENCE, OSD_BLOCKLIST, PERSISTENT_RESERVATION, FenceProof, NotProven
from csvd.storage.disk import DIFFERS, FENCED, DiskCapabilities, StorageError
from tests.sim.world import Process, World

if TYPE_CHECKING:
    from typing_extensions import Buffer

BLOCK_BYTES: Final = 4096
FENCES: Final = (FILE_LOCK, PERSISTENT_RESERVATION, OSD_BLOCKLIST, NO_FENCE)


@dataclass(slots=True)
class _Write:
    """A write on its way."""

    disk: SimDisk
    operation: str
    blocks: list[tuple[int, bytes]]
    done: Deferred[None]
    is_aborted: bool = False
    error: StorageError | None = None


@dataclass(frozen=True, slots=True)
class Landing:
    """A block that has come to the store."""

    store: Store
    disk: SimDisk
    number: int
    before: bytes
    data: bytes
    first: bytes
    """The first block of the write that it is of."""


@dataclass(slots=True)
class Store:
    """What all nodes see.

    Attributes:
        fence_kind: one of FENCES.
        landed: called with every block that has come, after it is there.
        proven: called with every proof that a node is off.
    """

    world: World
    name: str
    uuid: str
    size_bytes: int
    fence_kind: str
    random: Random
    landed: Callable[[Landing], None] = lambda landing: None
    proven: Callable[[Store, SimDisk, FenceProof], None] = lambda store, disk, proof: None
    blocks: dict[int, bytes] = field(default_factory=dict)
    locks: dict[int, SimDisk] = field(default_factory=dict)
    registered: dict[str, SimDisk] = field(default_factory=dict)
    under_way: list[_Write] = field(default_factory=list)
    slow_s: dict[str, float] = field(default_factory=dict)
    failing: set[str] = field(default_factory=set)

    def read(self, offset_bytes: int, length_bytes: int) -> bytes:
        """What is there now."""
        numbers = range(offset_bytes // BLOCK_BYTES, (offset_bytes + length_bytes - 1) // BLOCK_BYTES + 1)
        data = b"".join(self.blocks.get(number, bytes(BLOCK_BYTES)) for number in numbers)
        begin = offset_bytes - numbers[0] * BLOCK_BYTES
        return data[begin : begin + length_bytes]

    def latency_s(self, node: str) -> float:
        """How long a request of a node takes on its way."""
        delay_s = self.random.uniform(0.0001, 0.001)
        if self.random.random() < 0.02:
            delay_s *= 30
        return delay_s + self.random.random() * self.slow_s.get(node, 0.0)

    @property
    def is_enforced(self) -> bool:
        """Whether the store itself refuses the writes of a node that was fenced."""
        return self.fence_kind in (PERSISTENT_RESERVATION, OSD_BLOCKLIST)


class SimDisk:
    """A process's way to a store: csvd.storage.disk's Disk, ComparingDisk and FencingDisk."""

    read_only = False

    def __init__(self, store: Store, process: Process) -> None:
        self.store = store
        self.process = process
        self.number = 0
        self.joined_at_s: float | None = None
        """When this process was last given its place, in real time."""
        self._idle: list[Deferred[None]] = []
        process.endings.append(self._ended)

    @property
    def url(self) -> str:
        """The name it was opened by."""
        return self.store.name

    @property
    def size_bytes(self) -> int:
        """Its size."""
        return self.store.size_bytes

    @property
    def capabilities(self) -> DiskCapabilities:
        """What it can do."""
        return DiskCapabilities(
            discard=False,
            write_zeroes=False,
            volatile_cache=False,
            fence=self.store.fence_kind,
            shared_between="hosts",
            physical_block_bytes=BLOCK_BYTES,
        )

    # Reading and writing

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        """Fill the buffer."""

        def fill() -> None:
            buffer[:] = self.store.read(offset_bytes, len(buffer))

        return self._ask("read", fill)

    def write_from(self, buffers: Sequence[Buffer], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        """Write whole blocks."""
        data = b"".join(bytes(buffer) for buffer in buffers)
        assert offset_bytes % BLOCK_BYTES == len(data) % BLOCK_BYTES == 0
        first = offset_bytes // BLOCK_BYTES
        blocks = [(first + at // BLOCK_BYTES, data[at : at + BLOCK_BYTES]) for at in range(0, len(data), BLOCK_BYTES)]
        write = _Write(self, "write", blocks, Deferred())
        if not self.process.is_alive:
            return write.done
        self.store.under_way.append(write)
        store = self.store
        last_s = 0.0
        # Big writes come in a few pieces: more would cost time, and show no more.
        pieces = _pieces(blocks, store.random)
        store.random.shuffle(pieces)
        for piece in pieces:
            landing_s = store.latency_s(self.process.name)
            last_s = max(last_s, landing_s)
            store.world.later(landing_s, self._land, write, piece)
        store.world.later(last_s, self._all_landed, write)
        return write.done

    def flush(self) -> Deferred[None]:
        """The store has no cache that forgets."""
        return self._ask("flush", lambda: None)

    def read_compared(self, offset_bytes: int) -> Deferred[bytes]:
        """A block as it is now."""
        return self._ask("read", lambda: self.store.read(offset_bytes, BLOCK_BYTES))

    def compare_and_write(self, offset_bytes: int, expected: bytes, new: bytes) -> Deferred[None]:
        """Write a block if it holds the expected one, in one step."""

        def work() -> None:
            if self.store.read(offset_bytes, BLOCK_BYTES) != expected:
                raise StorageError("compare and write", DIFFERS, where=self.url)
            self._check_may_write("compare and write")
            self._put(offset_bytes // BLOCK_BYTES, new, new)

        return self._ask("compare and write", work)

    # Fencing

    def join(self, node: str, number: int = 0) -> Deferred[None]:
        """Take the place of a node."""

        def work() -> None:
            store = self.store
            if store.fence_kind == FILE_LOCK:
                holder = store.locks.get(number)
                if holder is not None and holder is not self:
                    raise StorageError("join", errno.EBUSY, where=self.url, why="another process has the place")
                store.locks[number] = self
            elif store.is_enforced:
                store.registered[node] = self
            self.number = number
            self.joined_at_s = store.world.now_s

        return self._ask("join", work)

    def leave(self) -> Deferred[None]:
        """Give the place up, after what is under way has ended."""
        left: Deferred[None] = Deferred()
        self._when_idle().addCallback(lambda _: self._ask("leave", self._let_go).chainDeferred(left))
        return left

    def fence(self, node: str, number: int = 0) -> Deferred[FenceProof]:
        """Keep a node off, or prove that it is."""

        def work() -> FenceProof:
            store = self.store
            if self.joined_at_s is None or number == self.number:
                raise StorageError("fence", errno.EINVAL, where=self.url)
            if store.fence_kind == FILE_LOCK:
                if number in store.locks:
                    raise NotProven(f"{node} can not be said to be off the disk: its lock is held", where=self.url)
            elif store.registered.get(self.process.name) is not self:
                raise StorageError("fence", FENCED, where=self.url)
            else:
                store.registered.pop(node, None)
                for write in store.under_way:
                    if write.disk.process.name == node:
                        write.is_aborted = True
            proof = FenceProof(store.fence_kind, node, "the simulation saw it", self.process.clock.boottime())
            store.proven(store, self, proof)
            return proof

        return self._ask("fence", work)

    def is_gone(self, node: str, number: int = 0) -> Deferred[bool]:
        """Whether nobody has the place of a number."""
        store = self.store
        return self._ask("look", lambda: store.fence_kind == FILE_LOCK and number not in store.locks)

    def close(self) -> Deferred[None]:
        """Let go."""
        return self.leave()

    # How

    def _ask(self, operation: str, work: Callable[[], Any]) -> Deferred[Any]:
        """Have something done at the store, and the answer come back."""
        answer: Deferred[Any] = Deferred()
        if self.process.is_alive:
            delay_s = self.store.latency_s(self.process.name)
            self.store.world.later(delay_s, self._at_store, operation, work, answer)
        return answer

    def _at_store(self, operation: str, work: Callable[[], Any], answer: Deferred[Any]) -> None:
        store = self.store
        if not self.process.is_alive and store.random.random() < 0.5:
            return  # It never left the host.
        if operation in ("join", "leave", "fence", "look") and not self.process.is_alive:
            return  # A system call of a process that is no more.
        try:
            if self.process.name in store.failing:
                raise StorageError(operation, errno.EIO, where=self.url)
            result = work()
        except (StorageError, NotProven) as error:
            self._back(answer.errback, error)
        else:
            self._back(answer.callback, result)

    def _back(self, call: Callable[..., object], *arguments: Any) -> None:
        delay_s = self.store.latency_s(self.process.name)
        self.store.world.later(delay_s, call, *arguments, owner=self.process)

    def _check_may_write(self, operation: str) -> None:
        store = self.store
        if store.is_enforced and store.registered.get(self.process.name) is not self:
            raise StorageError(operation, FENCED, where=self.url)

    def _land(self, write: _Write, piece: list[tuple[int, bytes]]) -> None:
        if write.is_aborted or write.error is not None:
            return
        try:
            if self.process.name in self.store.failing:
                raise StorageError("write", errno.EIO, where=self.url)
            self._check_may_write("write")
        except StorageError as error:
            write.error = error
            return
        for number, data in piece:
            self._put(number, data, write.blocks[0][1])

    def _put(self, number: int, data: bytes, first: bytes) -> None:
        store = self.store
        before = store.blocks.get(number, b"")
        store.blocks[number] = data
        store.landed(Landing(store, self, number, before, data, first))

    def _all_landed(self, write: _Write) -> None:
        self.store.under_way.remove(write)
        if write.is_aborted and write.error is None:
            write.error = StorageError("write", FENCED, where=self.url)
        if write.error is not None:
            self._back(write.done.errback, write.error)
        else:
            self._back(write.done.callback, None)
        if not any(other.disk is self for other in self.store.under_way):
            idle, self._idle = self._idle, []
            for one in idle:
                one.callback(None)

    def _when_idle(self) -> Deferred[None]:
        idle: Deferred[None] = Deferred()
        if any(write.disk is self for write in self.store.under_way):
            self._idle.append(idle)
        else:
            idle.callback(None)
        return idle

    def _let_go(self) -> None:
        store = self.store
        if store.locks.get(self.number) is self:
            del store.locks[self.number]
        if store.registered.get(self.process.name) is self:
            del store.registered[self.process.name]
        self.number = 0
        self.joined_at_s = None

    def _ended(self, *, power_cut: bool) -> None:
        """The process is no more: what it had sent may still come, and the lock is free after the last of it."""
        store = self.store
        for write in store.under_way:
            if write.disk is self and store.random.random() < 0.5:
                write.is_aborted = True  # Pieces that came before stay: it is torn.
        if power_cut:
            # The server of the files must first believe that the host is gone.
            pause_s = store.random.uniform(0.5, 3.0)
            self._when_idle().addCallback(lambda _: store.world.later(pause_s, self._lock_free))
        else:
            self._when_idle().addCallback(lambda _: self._lock_free())

    def _lock_free(self) -> None:
        store = self.store
        if store.locks.get(self.number) is self:
            del store.locks[self.number]


def _pieces(blocks: list[tuple[int, bytes]], random: Random) -> list[list[tuple[int, bytes]]]:
    """A few runs of blocks."""
    if len(blocks) <= 1:
        return [blocks]
    cuts = sorted({random.randrange(1, len(blocks)) for _ in range(3)} | {1})
    return [blocks[low:high] for low, high in zip([0, *cuts], [*cuts, len(blocks)], strict=True)]
