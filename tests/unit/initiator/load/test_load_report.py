from __future__ import annotations

import json

from initiator.load.histogram import Histogram
from initiator.load.report import BAR_WIDTH, Measured, picture, time_text


def histogram_of(*values: int) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.add(value)
    return histogram


def measured(reads: Histogram, writes: Histogram) -> Measured:
    return Measured("4.0 KiB random read", 4096, 2.0, {"read": reads, "write": writes}, 3)


def test_json_has_rates_latencies_and_buckets() -> None:
    found = measured(histogram_of(1000, 2000, 3000, 4000), Histogram()).as_json()
    assert json.loads(json.dumps(found)) == found
    assert (found["requests"], found["iops"], found["bytes_per_s"], found["busy"]) == (4, 2.0, 8192, 3)
    assert found["latency_us"]["min"] == 1.0
    assert found["latency_us"]["mean"] == 2.5
    assert found["latency_us"]["max"] == 4.0
    assert list(found["latency_us"]) == ["min", "mean", "p50", "p90", "p99", "p99.9", "max"]
    assert sum(bucket["count"] for bucket in found["histogram"]) == 4
    assert "read" not in found


def test_of_a_mix_each_kind_is_told_and_both_together() -> None:
    both = measured(histogram_of(1000), histogram_of(5000, 6000))
    found = both.as_json()
    assert (found["requests"], found["read"]["requests"], found["write"]["requests"]) == (3, 1, 2)
    lines = "\n".join(both.lines())
    for words in ("read: 0 IOPS", "write: 1 IOPS", "total: 2 IOPS", "3 commands were sent again"):
        assert words in lines


def test_nothing_done_is_told_as_nothing() -> None:
    empty = measured(Histogram(), Histogram())
    assert empty.as_json()["iops"] == 0
    assert list(picture(empty.all)) == []


def test_the_longest_bar_is_as_wide_as_there_is_room_and_a_tail_is_one_row() -> None:
    rows = list(picture(histogram_of(*[1000] * 5000, *[1500] * 2500, 90_000)))
    bars = [row.count("█") for row in rows]
    assert max(bars) == BAR_WIDTH
    assert bars[0] == BAR_WIDTH
    assert "▏" in rows[-1]
    assert len(rows) < 25
    assert "66.66%" in rows[0]


def test_times_have_the_unit_that_fits() -> None:
    assert [time_text(ns) for ns in (12, 1234, 1_234_000, 2_500_000_000)] == ["12 ns", "1.23 µs", "1.23 ms", "2.5 s"]
