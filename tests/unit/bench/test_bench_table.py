from __future__ import annotations

import pytest

from tests.bench.loads import KIB, RandomRead, Row
from tests.bench.report import Plan, Surroundings, document
from tests.bench.table import Comparison, Sample, Spread, as_json, markdown

SMALL = Row("read-4k", "4 KiB read", RandomRead(4 * KIB, 1))
LARGE = Row("read-256k", "256 KiB read", RandomRead(256 * KIB, 32))


def samples(*rates: float) -> list[Sample]:
    return [Sample(requests_per_s=rate, requests=rate * 5, cpu_s=rate / 100_000) for rate in rates]


def test_the_ratio_is_taken_round_by_round() -> None:
    # The second round was slow for both: medians alone (300 to 100) would hide that each round gave 3, 3 and 2.
    comparison = Comparison(SMALL, samples(300, 30, 400), samples(100, 10, 200))

    assert comparison.ratio == Spread(3.0, 2.0, 3.0)


def test_rounds_that_do_not_pair_are_an_error() -> None:
    with pytest.raises(ValueError, match="shorter"):
        _ = Comparison(SMALL, samples(300, 30), samples(100)).ratio


def test_cpu_time_is_for_a_million_requests() -> None:
    assert Sample(requests_per_s=1000, requests=5000, cpu_s=0.1).cpu_s_per_million == pytest.approx(20)


def test_small_blocks_are_shown_in_requests_and_large_ones_in_bytes_a_second() -> None:
    text = markdown(
        [
            Comparison(SMALL, samples(3000, 1000, 2000), samples(1000, 1000, 1000)),
            Comparison(LARGE, samples(4000), samples(8000)),
        ],
        "ours",
        "theirs",
    )

    assert "| load | ours | theirs | ratio ours/theirs |" in text
    assert "| 4 KiB read | 2,000 IOPS (1,000–3,000) | 1,000 IOPS (1,000–1,000) | **2.00** (1.00–3.00) |" in text
    assert "| 256 KiB read | 1,049 MB/s (1,049–1,049) | 2,097 MB/s (2,097–2,097) | **0.50** (0.50–0.50) |" in text
    assert "| 4 KiB read | 2.0 (2.0–2.0) | 2.0 (2.0–2.0) |" in text


def test_json_has_every_sample() -> None:
    (row,) = as_json([Comparison(SMALL, samples(2000, 4000), samples(1000, 1000))], "ours", "theirs")

    assert row["row"] == "read-4k"
    assert row["ratio"] == {"median": 3.0, "min": 2.0, "max": 4.0}
    targets = row["targets"]
    assert isinstance(targets, dict)
    assert targets["ours"]["requests_per_s"]["median"] == 3000
    assert [sample["requests"] for sample in targets["ours"]["samples"]] == [10000, 20000]


def test_the_document_tells_tables_machine_and_commands() -> None:
    plan = Plan(rounds=3, duration_s=5, disk_mib=64, rows=[SMALL])
    surroundings = Surroundings("2026-11-23", {"processor": "2 x {odd} CPU"}, {"csvd": "0.1.0"})

    text = document([Comparison(SMALL, samples(2000), samples(1000))], plan, surroundings, "csvd", "tgtd")

    assert "**2.00**" in text
    assert "- processor: 2 x {odd} CPU\n- csvd: 0.1.0\n" in text
    assert "- date: 2026-11-23\n" in text
    assert "iscsi-perf -r -b 8 -m 1 -t 5 iscsi://127.0.0.1:PORT/IQN/LUN" in text
