"""Two images compared byte by byte; where both ends are known to hold zeros, nothing is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredLock

from initiator.images.end import SourceEnd
from initiator.images.plan import Ask, Buffer, CopyPlan, Move, Side, Zero
from initiator.images.waiting import answer
from initiator.parallel import all_of

SHOWN_BYTES: Final = 16
"""Of each side, from the first byte that differs on."""


@dataclass(frozen=True, slots=True)
class Difference:
    """The first byte that differs: where, from the beginning of what is compared, and what is there."""

    offset: int
    first: bytes
    second: bytes


class Comparison:
    """One comparison of two ends.

    Args:
        plan: as for a copy from the first to the second; a Zero of it has no more than ``chunk``.
        lanes: ranges that are read at once; each has two buffers of ``chunk``.
        progressed: is told the number of bytes that are dealt with.
    """

    def __init__(
        self,
        plan: CopyPlan,
        first: SourceEnd,
        second: SourceEnd,
        *,
        first_offset: int,
        second_offset: int,
        chunk: int,
        lanes: int,
        progressed: Callable[[int], None] | None = None,
    ) -> None:
        self._plan = plan
        self._ends = {Side.SOURCE: (first, first_offset), Side.TARGET: (second, second_offset)}
        self._chunk = chunk
        self._lanes = lanes
        self._progressed = progressed
        self._turn = DeferredLock()
        self._zeros = bytearray(chunk)
        self._found: Difference | None = None
        self._stopping = False

    async def run(self) -> Difference | None:
        """Compare; give the first difference, None when there is none.

        Raises:
            CsvdError, OSError: one of the ends can not be read.
        """
        running: list[Deferred[None]] = [Deferred.fromCoroutine(self._lane()) for _ in range(self._lanes)]
        await all_of(running)
        return self._found

    async def _lane(self) -> None:
        buffers = bytearray(self._chunk), bytearray(self._chunk)
        try:
            while (step := await self._next()) is not None:
                await self._compare(step, *buffers)
                self._plan.done(step)
                if self._progressed is not None:
                    self._progressed(self._plan.done_bytes)
        except BaseException:
            self._stopping = True
            raise

    async def _next(self) -> Move | Zero | None:
        await self._turn.acquire()
        try:
            while not self._stopping:
                step = self._plan.next_step()
                if not isinstance(step, Ask):
                    return step
                await answer(self._plan, step, *self._ends[step.side])
            return None
        finally:
            self._turn.release()

    async def _compare(self, step: Move | Zero, buffer: bytearray, other: bytearray) -> None:
        first = second = self._zeros
        reads: list[Deferred[Any]] = []
        if isinstance(step, Move):
            first = buffer
            reads.append(Deferred.fromCoroutine(self._read(Side.SOURCE, step, first)))
        if not (isinstance(step, Move) and step.target_zero):
            second = other
            reads.append(Deferred.fromCoroutine(self._read(Side.TARGET, step, second)))
        await all_of(reads)
        if step.length < self._chunk:
            first, second = first[: step.length], second[: step.length]
        if first != second:
            at = first_difference(first, second)
            shown = (bytes(buffer[at : at + SHOWN_BYTES]) for buffer in (first, second))
            self._differs(Difference(step.offset + at, *shown))

    async def _read(self, side: Side, step: Move | Zero, buffer: bytearray) -> None:
        end, begin = self._ends[side]
        await end.read_into(begin + step.offset, memoryview(buffer)[: step.length])

    def _differs(self, found: Difference) -> None:
        # Steps begin in order: every range before this one is done, or under way and may differ, too.
        self._stopping = True
        if self._found is None or found.offset < self._found.offset:
            self._found = found


def first_difference(first: Buffer, second: Buffer) -> int:
    """Give the index of the first byte in which two buffers of one length differ.

    Raises:
        ValueError: they are equal.
    """
    one, other = bytes(first), bytes(second)
    if one == other:
        raise ValueError("the two are equal")
    low, high = 0, len(one)
    while high - low > 1:
        middle = (low + high) // 2
        if one[low:middle] == other[low:middle]:
            low = middle
        else:
            high = middle
    return low
