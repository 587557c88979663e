"""The plan of a copy: what comes next, what is done with zeros, and up to where the target's copy is durable.

The shell asks for :meth:`CopyPlan.next_step`, does what it says, several steps at a time, and reports each by
:meth:`CopyPlan.done`. Offsets count from the beginning of what is copied, in bytes.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

Buffer = bytes | bytearray | memoryview

GRANULE_BYTES: Final = 64 << 10
"""Zeros in data are looked for in pieces of this size; shorter runs of zeros are copied as data."""

_ZEROS: Final = bytearray(GRANULE_BYTES)

UNBOUNDED: Final = 1 << 63
"""The length of a copy whose source does not say how long it is."""


class Side(Enum):
    """One of the two ends of a copy."""

    SOURCE = "source"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class Run:
    """A range of an end. ``zero``: it is known to read as zeros; else nothing is known of it."""

    offset: int
    length: int
    zero: bool

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Ask:
    """Step: find out which runs an end has from ``offset`` on, and give them to :meth:`CopyPlan.mapped`."""

    side: Side
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Move:
    """Step: read the range of the source, and write it.

    ``target_zero``: the whole range of the target reads as zeros, so zeros need not be written.
    """

    offset: int
    length: int
    target_zero: bool

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True)
class Zero:
    """Step: have the range of the target read as zeros; the source need not be read."""

    offset: int
    length: int

    @property
    def end(self) -> int:
        """The offset after the last byte."""
        return self.offset + self.length


Step = Ask | Move | Zero


class CopyPlan:
    """The plan of one copy.

    Args:
        length: how much is copied; UNBOUNDED where the source will tell by :meth:`source_ends`.
        begin: everything before it is on the target already, durable: where a copy that was broken off goes on.
        chunk: the most that one Move has; every Move but the last ends on a multiple of it, or where a hole begins.
        align: runs of zeros begin and end on multiples of it, at most ``chunk``; what is left over is moved as data.
        zero_chunk: the most that one Zero has.
        maps: the ends that are asked for their runs.
        assume_zero: the target reads as zeros wherever this copy has not written.
    """

    def __init__(
        self,
        length: int,
        *,
        begin: int = 0,
        chunk: int,
        align: int = 1,
        zero_chunk: int = 256 << 20,
        maps: frozenset[Side] = frozenset(),
        assume_zero: bool = False,
    ) -> None:
        if not (0 <= begin <= length and 0 < align <= chunk and chunk % align == 0 and zero_chunk % align == 0):
            raise ValueError("a plan of ranges that do not fit one another")
        self.length = length
        self.durable = begin
        """Before this offset the target's copy is complete and on stable storage."""
        self.moved_bytes = 0
        """Bytes that were read from the source."""
        self.zeroed_bytes = 0
        self.skipped_bytes = 0
        """Bytes that read as zeros at both ends already."""
        self.unflushed_bytes = 0
        """Bytes of steps that were done since the last flush began."""
        self._at = begin
        self._begin = begin
        self._chunk = chunk
        self._align = align
        self._zero_chunk = zero_chunk
        self._maps = maps
        self._assume_zero = assume_zero
        self._runs: dict[Side, deque[Run]] = {Side.SOURCE: deque(), Side.TARGET: deque()}
        self._open: dict[int, Move | Zero] = {}

    # --- what comes next

    def next_step(self) -> Step | None:
        """Give the next step; None when there is no more to begin. What follows an Ask depends on its answer."""
        while self._at < self.length:
            for side in Side:
                if side in self._maps and self._run_at(side, self._at) is None:
                    return Ask(side, self._at, self.length - self._at)
            zeros = self._zeros_at(Side.SOURCE, self._at)
            if not zeros:
                return self._begun(self._move())
            target_zeros = self._zeros_at(Side.TARGET, self._at)
            if not target_zeros:
                return self._begun(Zero(self._at, min(zeros, self._zero_chunk, self._until_target_zeros(zeros))))
            skipped = min(zeros, target_zeros)
            self.skipped_bytes += skipped
            self._at += skipped
        return None

    def mapped(self, side: Side, runs: Iterable[Run]) -> None:
        """Take the answer to an Ask: runs in order, without a gap from its offset on; at least one byte."""
        known = self._runs[side]
        for run in runs:
            if run.length > 0:
                known.append(run)

    def source_ends(self, offset: int) -> None:
        """The source has no more than so many bytes: nothing from there on is begun, and steps under way that reach
        beyond have a shorter range."""
        self.length = min(self.length, max(offset, self._begin))
        self._at = min(self._at, self.length)

    def _begun(self, step: Move | Zero) -> Move | Zero:
        self._open[step.offset] = step
        self._at = step.end
        return step

    def _move(self) -> Move:
        at, chunk = self._at, self._chunk
        end = min(self.length, at - at % chunk + chunk)
        edge = self._next_zeros(Side.SOURCE, at)
        if edge is not None:
            end = min(end, edge)
        return Move(at, end - at, self._zeros_at(Side.TARGET, at) >= end - at)

    def _run_at(self, side: Side, offset: int) -> Run | None:
        runs = self._runs[side]
        while runs and runs[0].end <= offset:
            runs.popleft()
        return runs[0] if runs else None

    def _zeros_at(self, side: Side, offset: int) -> int:
        """How many bytes from an offset on are known to be zeros, up to a multiple of the alignment or to the end."""
        if side is Side.TARGET and self._assume_zero:
            return self.length - offset
        self._run_at(side, offset)
        end = offset
        for run in self._runs[side]:
            if not run.zero:
                break
            end = run.end
        return self._zeros_until(end) - offset if self._zeros_until(end) > offset else 0

    def _zeros_until(self, end: int) -> int:
        return self.length if end >= self.length else end - end % self._align

    def _next_zeros(self, side: Side, offset: int) -> int | None:
        """Where, after an offset that is none, zeros begin that are known of: a multiple of the alignment."""
        for run in self._runs[side]:
            start = -(-run.offset // self._align) * self._align
            if run.zero and start > offset and self._zeros_until(run.end) > start:
                return start
        return None

    def _until_target_zeros(self, zeros: int) -> int:
        edge = self._next_zeros(Side.TARGET, self._at)
        return zeros if edge is None else min(zeros, edge - self._at)

    # --- what is done

    def done(self, step: Move | Zero) -> None:
        """The target holds the step's range now, if not yet on stable storage."""
        del self._open[step.offset]
        length = max(0, min(step.end, self.length) - step.offset)
        if isinstance(step, Move):
            self.moved_bytes += length
        else:
            self.zeroed_bytes += length
        self.unflushed_bytes += length

    @property
    def done_bytes(self) -> int:
        """How much of the length is dealt with, in whichever order."""
        return self._begin + self.moved_bytes + self.zeroed_bytes + self.skipped_bytes

    @property
    def frontier(self) -> int:
        """Everything before this offset is done."""
        return min(self._open, default=min(self._at, self.length))

    def flush_begins(self) -> int:
        """Give the mark of a flush that begins now: what it will have made durable when it has ended well."""
        self.unflushed_bytes = 0
        return self.frontier

    def flush_ended(self, mark: int) -> None:
        """The flush that began with this mark has ended well."""
        self.durable = max(self.durable, mark)

    @property
    def complete(self) -> bool:
        """Whether the whole copy is durable."""
        return self.durable >= self.length


def pieces(data: Buffer, granule: int = GRANULE_BYTES) -> list[tuple[int, int, bool]]:
    """Cut data into what is zeros and what is not: (offset, length, zero), in order and without a gap. Cuts are on
    multiples of ``granule``."""
    found: list[tuple[int, int, bool]] = []
    view, zeros = memoryview(data), _ZEROS if granule == GRANULE_BYTES else bytearray(granule)
    start, state = 0, None
    for at in range(0, len(view), granule):
        part = view[at : at + granule]
        # bytearray compares by memcmp, and ends at the first byte that differs; memoryview would go byte by byte.
        zero = (zeros if len(part) == granule else zeros[: len(part)]) == part
        if zero is not state:
            if state is not None:
                found.append((start, at - start, state))
            start, state = at, zero
    if state is not None:
        found.append((start, len(view) - start, state))
    return found
