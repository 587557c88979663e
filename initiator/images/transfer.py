"""Runs the plan of a copy between two ends: several steps at once, flushes beside them, an end that is orderly."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Final

from twisted.internet.defer import CancelledError, Deferred, DeferredList, DeferredLock
from twisted.python.failure import Failure

from initiator.images.end import SourceEnd, TargetEnd
from initiator.images.plan import Ask, CopyPlan, Move, Side, Zero, pieces
from initiator.images.waiting import answer, pages

FLUSH_EVERY_BYTES: Final = 64 << 20
"""After so much the target is told to flush, while the copy goes on: the drive has work from the beginning, and a
copy that is broken off has lost no more than this."""

Kept = Callable[[int], Awaitable[None]]
"""Keeps how far the copy is durable."""


class Transfer:
    """One copy.

    Args:
        plan: what is to be done; offsets of it are those of the ends less their own offsets.
        lanes: steps under way at once; each has a buffer of the plan's chunk.
        sparse: zeros in data are looked for.
        keep: is told after each flush how far the copy is durable.
        progressed: is told the number of bytes that are dealt with.
    """

    def __init__(
        self,
        plan: CopyPlan,
        source: SourceEnd,
        target: TargetEnd,
        *,
        source_offset: int,
        target_offset: int,
        chunk: int,
        lanes: int,
        sparse: bool,
        keep: Kept | None = None,
        progressed: Callable[[int], None] | None = None,
        flush_every: int = FLUSH_EVERY_BYTES,
    ) -> None:
        self._plan = plan
        self._source = source
        self._target = target
        self._source_offset = source_offset
        self._target_offset = target_offset
        self._chunk = chunk
        self._lanes = lanes
        self._sparse = sparse
        self._keep = keep
        self._progressed = progressed
        self._flush_every = flush_every
        self._turn = DeferredLock()
        self._order = _Order()
        self._stopping = False
        self._flushing: Deferred[None] | None = None
        self._failure: Failure | None = None

    async def run(self) -> None:
        """Copy, flush, and return when all is durable.

        Cancelled, it lets the steps under way end, has durable what is done, and raises CancelledError. So it does when
        a step fails, with that step's error.
        """
        lanes: list[Deferred[None]] = [Deferred.fromCoroutine(self._lane()) for _ in range(self._lanes)]
        for lane in lanes:
            lane.addErrback(self._failed)
        ended = DeferredList(lanes)
        cancelled: CancelledError | None = None
        try:
            await _until(ended)
        except CancelledError as error:
            cancelled, self._stopping = error, True
            if self._source.ordered or self._target.ordered:
                raise  # who is at the other end of a pipe may let us wait for ever
            await _until(ended)
        if self._flushing is not None:
            await _until(self._flushing)
        if self._failure is None:
            if cancelled is None:
                await self._target.ends_at(self._target_offset + self._plan.length)
            await self._flush()
        if self._failure is not None:
            self._failure.raiseException()
        if cancelled is not None:
            raise cancelled

    def _failed(self, failure: Failure) -> None:
        self._failure = self._failure or failure
        self._stopping = True

    # --- steps

    async def _lane(self) -> None:
        buffer = pages(self._chunk)
        while not self._stopping:
            await self._turn.acquire()
            try:
                # Others may have stopped it while this one waited for its turn.
                step = None if self._stopping else await self._next()
                if step is None:
                    return
                if isinstance(step, Move) and self._source.ordered:
                    step = await self._read_stream(step, buffer)
                number = self._order.take()
            finally:
                self._turn.release()
            try:
                await self._do(step, buffer, number)
            except BaseException:
                self._failed(Failure())  # type: ignore[no-untyped-call]  # before the next in the order gets its turn
                raise
            finally:
                self._order.leave(number)
            self._step_done(step)

    async def _next(self) -> Move | Zero | None:
        while True:
            step = self._plan.next_step()
            if not isinstance(step, Ask):
                return step
            if step.side is Side.SOURCE:
                await answer(self._plan, step, self._source, self._source_offset)
            else:
                await answer(self._plan, step, self._target, self._target_offset)

    async def _read_stream(self, step: Move, buffer: memoryview) -> Move:
        """Read a pipe, of which only reading tells where it ends."""
        count = await self._source.read_into(step.offset, buffer[: step.length])
        if count < step.length:
            self._plan.source_ends(step.offset + count)
            return Move(step.offset, count, step.target_zero)
        return step

    async def _do(self, step: Move | Zero, buffer: memoryview, number: int) -> None:
        if isinstance(step, Move) and not self._source.ordered:
            await self._source.read_into(self._source_offset + step.offset, buffer[: step.length])
        if self._target.ordered:
            await self._order.turn_of(number)
            if self._failure is not None:
                raise CancelledError  # what was to be written before is missing
        if isinstance(step, Move):
            await self._write(step, buffer[: step.length])
        else:
            await self._target.zero(self._target_offset + step.offset, step.length)

    async def _write(self, step: Move, view: memoryview) -> None:
        at = self._target_offset + step.offset
        if not self._sparse or not (step.target_zero or self._target.zeroes_fast):
            await self._target.write(at, view)
            return
        for offset, length, zero in pieces(view):
            if not zero:
                await self._target.write(at + offset, view[offset : offset + length])
            elif not step.target_zero:
                await self._target.zero(at + offset, length)

    def _step_done(self, step: Move | Zero) -> None:
        plan = self._plan
        plan.done(step)
        if self._progressed is not None:
            self._progressed(plan.done_bytes)
        if plan.unflushed_bytes >= self._flush_every and self._flushing is None and not self._stopping:
            self._flushing = Deferred.fromCoroutine(self._flush())
            self._flushing.addBoth(self._flushed)

    # --- durability

    async def _flush(self) -> None:
        mark = self._plan.flush_begins()
        await self._target.flush()
        self._plan.flush_ended(mark)
        if self._keep is not None:
            await self._keep(self._plan.durable)

    def _flushed(self, outcome: Any) -> None:
        self._flushing = None
        if isinstance(outcome, Failure):
            self._failed(outcome)


class _Order:
    """Lets steps write in the order in which they were begun."""

    def __init__(self) -> None:
        self._taken = 0
        self._left: set[int] = set()
        self._now = 0
        self._waiting: dict[int, Deferred[None]] = {}

    def take(self) -> int:
        """Give the next number."""
        self._taken += 1
        return self._taken - 1

    async def turn_of(self, number: int) -> None:
        """Wait until all lower numbers have left."""
        if number != self._now:
            waiting = self._waiting[number] = Deferred()
            await waiting

    def leave(self, number: int) -> None:
        """This number needs no turn any more."""
        self._left.add(number)
        while self._now in self._left:
            self._left.remove(self._now)
            self._now += 1
        waiting = self._waiting.pop(self._now, None)
        if waiting is not None:
            waiting.callback(None)


async def _until(done: Deferred[Any]) -> None:
    """Wait for what others wait for too; being cancelled does not reach it."""
    waiting: Deferred[None] = Deferred()

    def passed(result: Any) -> Any:
        if not waiting.called:
            waiting.callback(None)
        return result

    done.addBoth(passed)
    await waiting
