"""A bounded pool of threads in which the disks block, so that the reactor never does.

A hand-off to a thread and back costs 20 µs where both processors are awake and 130 where one sleeps, many times a 4 KiB
write. So the jobs that one reactor pass submits for a disk go to a thread as one batch, and all batches that are done
when the reactor gets to it come back with one `callFromThread`.
"""

from __future__ import annotations

import errno
from collections import deque
from collections.abc import Callable, Sequence
from enum import Enum
from typing import Any, Final, Generic, Protocol, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger

from csvd.storage.disk import StorageError
from csvd.storage.loop_calls import loop_calls
from csvd.storage.threads import WorkerThreads

_log = Logger()


class PoolReactor(Protocol):
    """What the pool needs of a reactor."""

    def callLater(self, delay: float, callable: Callable[..., Any], *args: object) -> Any:  # noqa: A002, N802
        """Call it `delay` seconds later, in the reactor thread."""

    def callFromThread(self, callable: Callable[..., Any], *args: object) -> Any:  # noqa: A002, N802
        """Call it in the reactor thread, from any thread."""


class Threads(Protocol):
    """What the pool needs of a thread pool."""

    def start(self) -> Any:
        """Begin."""

    def stop(self) -> Any:
        """End the threads, after what they are at."""

    def callInThread(self, func: Callable[..., Any], *args: object) -> Any:  # noqa: N802
        """Call it in one of the threads."""

    def have(self, count: int) -> Any:
        """Have at least so many threads from now on."""


class Manner(Enum):
    """How jobs of one lane go to the threads."""

    TOGETHER = "the jobs of a pass in one thread, in order"
    APART = "the jobs of a pass spread over the free threads: each will wait for the device"
    SINGLE_FILE = "in one thread, in order, and no other such batch of the lane until it is done"


class Job:
    """Something to do in a thread. The runner sets `error` where it failed.

    Args:
        length_bytes: how much it transfers.
        holds_up: while it is under way, others who use the disk may have to wait inside the kernel.
    """

    __slots__ = ("deferred", "error", "holds_up", "length_bytes")

    def __init__(self, length_bytes: int = 0, *, holds_up: bool = False) -> None:
        self.length_bytes = length_bytes
        self.holds_up = holds_up
        self.error: Exception | None = None
        self.deferred: Deferred[None] = Deferred()


JobT = TypeVar("JobT", bound=Job)

OWN_THREADS: Final = 2
"""Batches that a lane may have under way whatever other lanes have: one can wait for the device, and another go on. A
disk that hangs (a network file system whose server is gone) takes no more from the others than what they share."""


class Lane(Generic[JobT]):
    """The jobs of one disk. `DiskPool.lane` makes it.

    Attributes:
        holding_up: how many unfinished jobs hold up others.
        under_way: how many of its batches are in threads.
    """

    def __init__(self, pool: DiskPool, run: Callable[[Sequence[JobT]], None]) -> None:
        self.run = run
        self.holding_up = 0
        self.under_way = 0
        self._pool = pool
        self._queues: dict[Manner, deque[JobT]] = {manner: deque() for manner in Manner}
        self._single_file_under_way = False
        self._unfinished = 0
        self._idle: list[Deferred[None]] = []

    def submit(self, job: JobT, manner: Manner) -> Deferred[None]:
        """Run a job in a thread after this reactor pass. Fires with None, or fails with its `error`."""
        if self._pool.stopped:
            return fail(StorageError("submit", errno.ESHUTDOWN, where="storage pool", why="the pool was stopped"))
        self._queues[manner].append(job)
        self._unfinished += 1
        self.holding_up += job.holds_up
        self._pool.submitted(self)
        return job.deferred

    def when_idle(self) -> Deferred[None]:
        """Fires when no job of the lane is left."""
        if not self._unfinished:
            return succeed(None)
        waiter: Deferred[None] = Deferred()
        self._idle.append(waiter)
        return waiter

    def has_next(self) -> bool:
        """Whether `take` has something to give."""
        return any(self._may_go(manner) for manner in Manner)

    def take(self, free_threads: int, batch_jobs: int, batch_bytes: int) -> tuple[Manner, list[JobT]]:
        """The next batch, in its manner. The manner that was served goes to the back."""
        manner = next(manner for manner in self._queues if self._may_go(manner))
        queue = self._queues.pop(manner)
        self._queues[manner] = queue
        most = min(batch_jobs, len(queue))
        if manner is Manner.APART:
            most = min(most, -(-len(queue) // free_threads))
        self._single_file_under_way |= manner is Manner.SINGLE_FILE
        batch = [queue.popleft()]
        room_bytes = batch_bytes - batch[0].length_bytes
        while len(batch) < most and queue[0].length_bytes <= room_bytes:
            batch.append(queue.popleft())
            room_bytes -= batch[-1].length_bytes
        return manner, batch

    def finished(self, manner: Manner, batch: Sequence[JobT]) -> None:
        """A batch came back; `settle` follows."""
        if self.holding_up:
            self.holding_up -= sum(job.holds_up for job in batch)
        if manner is Manner.SINGLE_FILE:
            self._single_file_under_way = False

    def settle(self, batch: Sequence[JobT]) -> None:
        """Fire the results of a batch that came back."""
        for job in batch:
            if job.error is None:
                job.deferred.callback(None)
            else:
                job.deferred.errback(job.error)
        # Not before: what was told to of these jobs may have submitted others, as a write that must be durable does.
        self._unfinished -= len(batch)
        if not self._unfinished:
            waiters, self._idle = self._idle, []
            for waiter in waiters:
                waiter.callback(None)

    def _may_go(self, manner: Manner) -> bool:
        if manner is Manner.SINGLE_FILE and self._single_file_under_way:
            return False
        return bool(self._queues[manner])


class DiskPool:
    """Threads for all disks of a node.

    At most `threads` batches of a lane are under way; the rest waits in the lanes and goes in larger batches. All but
    the first `OWN_THREADS` of each lane share what is left of `threads`: no lane waits for another one's disk, and one
    that is alone has all. Lanes take turns. Nothing is refused: when `queue_limit` jobs are unfinished the listeners of
    `on_pressure` are told to submit no more, and at half of it to go on.

    Args:
        reactor: the node's.
        threads: how many batches of one lane may block at once.
        queue_limit: how many jobs may be unfinished before there is pressure.
        batch_jobs, batch_bytes: the most that one batch holds, so that no result waits for too many others.
        thread_pool: the threads; `WorkerThreads` when None.
    """

    def __init__(
        self,
        reactor: PoolReactor,
        *,
        threads: int = 8,
        queue_limit: int = 1024,
        batch_jobs: int = 64,
        batch_bytes: int = 4 << 20,
        thread_pool: Threads | None = None,
    ) -> None:
        self.stopped = False
        self.reactor: Any = reactor
        """The node's: a disk that talks over a network needs more of it than the pool does."""
        self._calls: PoolReactor = reactor
        self._back: deque[tuple[Lane[Any], Manner, list[Any]]] = deque()
        """Batches that are done; the threads add to it."""
        self._back_is_told = False
        self._own = min(OWN_THREADS, threads)
        self._shared = threads - self._own
        """How many batches there may be beyond each lane's own."""
        self._borrowed = 0
        """How many there are."""
        self._queue_limit = queue_limit
        self._batch_jobs = batch_jobs
        self._batch_bytes = batch_bytes
        self._thread_pool = thread_pool or WorkerThreads(threads, "csvd-storage")
        self._ready: dict[Lane[Any], None] = {}
        self._dispatch_is_due = False
        self._under_way = 0
        self._unfinished = 0
        self._under_pressure = False
        self._listeners: list[Callable[[bool], None]] = []
        self._drained: list[Deferred[None]] = []
        self._thread_pool.start()

    @property
    def unfinished(self) -> int:
        """Jobs submitted and not settled."""
        return self._unfinished

    @property
    def under_pressure(self) -> bool:
        """Whether callers should submit no more for now."""
        return self._under_pressure

    def on_pressure(self, listener: Callable[[bool], None]) -> Callable[[], None]:
        """Call it with True when callers should submit no more, and with False when they may again.

        Returns:
            A function that takes the listener off again.
        """
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def lane(self, run: Callable[[Sequence[JobT]], None]) -> Lane[JobT]:
        """A lane for one disk; `run` carries out a batch of its jobs, in a thread."""
        return Lane(self, run)

    def stop(self) -> Deferred[None]:
        """Refuse new jobs, wait for those submitted, and end the threads. Close the disks first; stop once."""
        self.stopped = True
        done: Deferred[None] = Deferred()
        done.addCallback(lambda _: self._thread_pool.stop())
        if self._unfinished:
            self._drained.append(done)
        else:
            done.callback(None)
        return done

    def submitted(self, lane: Lane[Any]) -> None:
        """A lane got a job: dispatch at the end of this reactor pass."""
        self._unfinished += 1
        self._ready[lane] = None
        if not self._dispatch_is_due:
            self._dispatch_is_due = True
            if self._calls is self.reactor:
                # Not before: perhaps the loop does not run yet.
                self._calls = loop_calls(self.reactor) or self.reactor
            self._calls.callLater(0, self._dispatch_now)
        if self._unfinished >= self._queue_limit and not self._under_pressure:
            self._set_pressure(under_pressure=True)

    def dispatch(self) -> None:
        """Give what was submitted to threads now, and not at the end of this pass."""
        self._dispatch()

    def tell(self, function: Callable[..., Any], *args: object) -> None:
        """From a thread: call it in the loop, before what this thread is at is said to be done."""
        self._calls.callFromThread(function, *args)

    def _dispatch_now(self) -> None:
        self._dispatch_is_due = False
        self._dispatch()

    def _dispatch(self) -> None:
        kept: list[Lane[Any]] = []
        while self._ready:
            lane = next(iter(self._ready))
            del self._ready[lane]
            free = self._free(lane)
            if not free:
                kept.append(lane)
            elif lane.has_next():
                manner, batch = lane.take(free, self._batch_jobs, self._batch_bytes)
                self._ready[lane] = None
                self._hand_over(lane, manner, batch)
        self._ready.update(dict.fromkeys(kept))

    def _free(self, lane: Lane[Any]) -> int:
        """How many batches of a lane may begin now."""
        return max(0, self._own - lane.under_way) + self._shared - self._borrowed

    def _hand_over(self, lane: Lane[Any], manner: Manner, batch: list[Any]) -> None:
        self._borrowed += lane.under_way >= self._own
        lane.under_way += 1
        self._under_way += 1
        self._thread_pool.have(self._under_way)
        self._thread_pool.callInThread(self._work, lane, manner, batch)

    def _work(self, lane: Lane[Any], manner: Manner, batch: list[Any]) -> None:
        """In a thread."""
        try:
            lane.run(batch)
        except Exception as fault:  # noqa: BLE001 - a fault of the runner must not leave its callers waiting
            _log.failure("a disk's runner failed on a batch of {count} jobs", count=len(batch))
            for job in batch:
                job.error = job.error or StorageError("run", errno.EIO, where="storage pool", why=repr(fault))
        self._back.append((lane, manner, batch))
        if not self._back_is_told:
            self._back_is_told = True
            self._calls.callFromThread(self._came_back)

    def _came_back(self) -> None:
        # First: what a thread adds from now on is told anew, and at worst is taken along here already.
        self._back_is_told = False
        settled: list[tuple[Lane[Any], list[Any]]] = []
        while self._back:
            lane, manner, batch = self._back.popleft()
            self._under_way -= 1
            lane.under_way -= 1
            self._borrowed -= lane.under_way >= self._own
            self._unfinished -= len(batch)
            lane.finished(manner, batch)
            if lane.has_next():
                self._ready[lane] = None
            settled.append((lane, batch))
        # The threads go on while the results are told.
        self._dispatch()
        for lane, batch in settled:
            lane.settle(batch)
        if self._under_pressure and self._unfinished <= self._queue_limit // 2:
            self._set_pressure(under_pressure=False)
        if not self._unfinished:
            waiters, self._drained = self._drained, []
            for waiter in waiters:
                waiter.callback(None)

    def _set_pressure(self, *, under_pressure: bool) -> None:
        self._under_pressure = under_pressure
        for listener in list(self._listeners):
            listener(under_pressure)
