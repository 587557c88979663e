from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from initiator.load.histogram import BUCKETS, STEPS, VALUE_BITS, Histogram, bounds_of, bucket_of, coarse

LATENCIES = st.lists(st.integers(0, 1 << 45), min_size=1, max_size=200)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


@given(st.integers(0, (1 << VALUE_BITS) - 1))
def test_a_value_is_in_its_bucket_which_is_narrow(value: int) -> None:
    low, high = bounds_of(bucket_of(value))
    assert low <= value < high
    assert high - low <= max(1, value / STEPS)


def test_buckets_adjoin() -> None:
    ends = [bounds_of(bucket) for bucket in range(BUCKETS)]
    assert ends[0][0] == 0
    assert all(one[1] == following[0] for one, following in itertools.pairwise(ends))
    assert [bucket_of(low) for low, _ in ends] == list(range(BUCKETS))


@given(LATENCIES, st.floats(0, 100))
def test_a_percentile_is_near_that_of_the_sorted_values(values: list[int], percent: float) -> None:
    exact = sorted(values)[max(0, math.ceil(percent / 100 * len(values)) - 1)]
    found = histogram_of(values).percentile(percent)
    assert exact <= found <= exact + max(1, exact / STEPS)
    assert found <= max(values)


@given(LATENCIES)
def test_counts_means_and_extremes_are_exact(values: list[int]) -> None:
    histogram = histogram_of(values)
    assert (histogram.count, histogram.least, histogram.greatest) == (len(values), min(values), max(values))
    assert histogram.mean == sum(values) / len(values)
    assert sum(count for *_, count in histogram.buckets()) == len(values)


@given(LATENCIES, LATENCIES)
def test_merged_ones_are_as_if_all_had_been_added_to_one(first: list[int], second: list[int]) -> None:
    merged, whole = histogram_of(first), histogram_of(first + second)
    merged.merge(histogram_of(second))
    merged.merge(Histogram())
    for name in ("count", "total", "least", "greatest", "counts"):
        assert getattr(merged, name) == getattr(whole, name)


def test_an_empty_one_has_no_figures() -> None:
    empty = Histogram()
    assert (empty.mean, empty.percentile(99), list(empty.buckets())) == (0.0, 0, [])
    empty.merge(histogram_of([5]))
    assert (empty.least, empty.greatest, empty.count) == (5, 5, 1)


def test_a_value_that_is_too_long_counts_in_the_last_bucket() -> None:
    histogram = histogram_of([1 << 60])
    assert histogram.counts[-1] == 1
    assert histogram.percentile(50) == histogram.greatest == 1 << 60


@given(LATENCIES, st.integers(1, 30))
def test_the_ranges_of_a_picture_adjoin_and_hold_every_value_once(values: list[int], rows: int) -> None:
    ranges = coarse(histogram_of(values).buckets(), rows)
    assert sum(count for *_, count in ranges) == len(values)
    assert all(one[1] == following[0] for one, following in itertools.pairwise(ranges))
    assert ranges[0][2]
    assert ranges[-1][2]
    for low, high, count in ranges:
        assert count == sum(low <= bounds_of(bucket_of(value))[0] < high for value in values)
    assert len(ranges) <= max(rows, VALUE_BITS)


def test_a_picture_of_nothing_is_empty() -> None:
    assert coarse([], 20) == []
