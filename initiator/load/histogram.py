"""Latencies in log-linear buckets: bounded memory, any number of values, every percentile to within 1.6 %.

Each power of two is cut into :data:`STEPS` buckets of one width, so a bucket is never wider than 1/64 of the values in
it. Values below 64 have a bucket each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

STEP_BITS: Final = 6
STEPS: Final = 1 << STEP_BITS
VALUE_BITS: Final = 48
"""Values of more bits are counted in the last bucket: in nanoseconds that is three days."""

Range = tuple[int, int, int]
"""Least value, least value of the next range, count."""

_LIMIT: Final = (1 << VALUE_BITS) - 1
_EXACT: Final = STEP_BITS + 1


def bucket_of(value: int) -> int:
    """Give the number of a value's bucket."""
    shift = value.bit_length() - _EXACT
    return value if shift <= 0 else (shift << STEP_BITS) + (value >> shift)


def bounds_of(bucket: int) -> tuple[int, int]:
    """Give the least value of a bucket, and the least of the next one."""
    shift = (bucket >> STEP_BITS) - 1
    if shift <= 0:
        return bucket, bucket + 1
    low = (bucket - (shift << STEP_BITS)) << shift
    return low, low + (1 << shift)


BUCKETS: Final = bucket_of(_LIMIT) + 1


class Histogram:
    """Counts of whole numbers that are not negative; ``least``, ``greatest`` and ``total`` are exact."""

    __slots__ = ("count", "counts", "greatest", "least", "total")

    def __init__(self) -> None:
        self.counts = [0] * BUCKETS
        self.count = 0
        self.total = 0
        self.least = 0
        self.greatest = 0

    def add(self, value: int) -> None:
        """Count a value."""
        if value > self.greatest:
            self.greatest = value
        if value < self.least or not self.count:
            self.least = value
        self.count += 1
        self.total += value
        shift = value.bit_length() - _EXACT
        if shift <= 0:
            self.counts[value] += 1
        elif value <= _LIMIT:
            self.counts[(shift << STEP_BITS) + (value >> shift)] += 1
        else:
            self.counts[-1] += 1

    def merge(self, other: Histogram) -> None:
        """Count all values of another one, too."""
        if not other.count:
            return
        self.least = min(self.least, other.least) if self.count else other.least
        self.greatest = max(self.greatest, other.greatest)
        self.count += other.count
        self.total += other.total
        self.counts = [ours + theirs for ours, theirs in zip(self.counts, other.counts, strict=True)]

    @property
    def mean(self) -> float:
        """The mean of the values; 0 without any."""
        return self.total / self.count if self.count else 0.0

    def percentile(self, percent: float) -> int:
        """Give a value that ``percent`` of all values do not exceed: the top of its bucket, or ``greatest``; 0 without
        any value."""
        wanted, seen = percent / 100 * self.count, 0
        for bucket, count in enumerate(self.counts):
            seen += count
            if count and seen >= wanted:
                return max(self.least, min(self.greatest, bounds_of(bucket)[1] - 1))
        return self.greatest

    def buckets(self) -> Iterator[Range]:
        """Give the buckets that are not empty, from the least on."""
        for bucket, count in enumerate(self.counts):
            if count:
                yield (*bounds_of(bucket), count)


def coarse(buckets: Iterable[Range], rows: int) -> list[Range]:
    """Give neighbouring ranges that hold all values, for a picture: each power of two in one, two, four … equal parts,
    as many as there is room for in ``rows``. Ranges are as of :meth:`Histogram.buckets`; empty ones between are
    included.
    """
    values = [(low, count) for low, _, count in buckets]
    filled: list[Range] = []
    for step in range(STEP_BITS + 1):
        parts: dict[tuple[int, int], int] = {}
        for low, count in values:
            part = _part(low, step)
            parts[part] = parts.get(part, 0) + count
        filled = _filled(parts, step)
        if len(filled) <= rows:
            break
    return filled


def _part(value: int, step: int) -> tuple[int, int]:
    """The range of the step-th coarseness that a value is in; step 0 has the finest."""
    width = max(1, (1 << max(0, value.bit_length() - 1)) >> (STEP_BITS - step))
    low = value // width * width
    return low, low + width


def _filled(parts: dict[tuple[int, int], int], step: int) -> list[Range]:
    filled: list[Range] = []
    at, last = min(parts)[0] if parts else 0, max(parts)[0] if parts else -1
    while at <= last:
        part = _part(at, step)
        filled.append((*part, parts.get(part, 0)))
        at = part[1]
    return filled
