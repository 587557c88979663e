from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tests.bench.samples import (
    CPU_PER_MILLION,
    Beginning,
    Record,
    RecordFailed,
    Sample,
    Samples,
    Spread,
    check_same_run,
    read_record,
)

BEGINNING = Beginning("2026-11-26", {"processor": "2 x odd"}, {"csvd": "0.1.0"}, rounds=3, duration_s=2, disk_mib=64)


def rates(target: str, *values: float, row: str = "read") -> list[Sample]:
    return [Sample(row, target, number, {"requests_per_s": value}) for number, value in enumerate(values)]


def test_a_ratio_is_taken_round_by_round() -> None:
    # The second round was slow for both: medians alone (300 to 100) would hide that the rounds gave 3, 3 and 2.
    samples = Samples(rates("ours", 300, 30, 400) + rates("theirs", 100, 10, 200))

    ratio = samples.ratio(("read", "ours", "requests_per_s"), ("read", "theirs", "requests_per_s"))
    assert ratio == Spread(3.0, 2.0, 3.0)


def test_a_round_that_only_one_side_has_gives_no_ratio() -> None:
    samples = Samples(rates("ours", 300, 900) + rates("theirs", 100))

    above, below = ("read", "ours", "requests_per_s"), ("read", "theirs", "requests_per_s")
    assert samples.ratio(above, below) == Spread(3.0, 3.0, 3.0)
    assert samples.ratio(above, ("read", "nobody", "requests_per_s")) is None


def test_a_ratio_may_join_two_rows() -> None:
    samples = Samples(rates("ours", 65, row="digest") + rates("ours", 100, row="plain"))

    ratio = samples.ratio(("digest", "ours", "requests_per_s"), ("plain", "ours", "requests_per_s"))
    assert ratio == Spread(0.65, 0.65, 0.65)


def test_cpu_time_is_of_a_million_requests() -> None:
    samples = Samples([Sample("read", "ours", 0, {"requests": 5000, "cpu_s": 0.1})])

    assert samples.spread("read", "ours", CPU_PER_MILLION) == Spread(20.0, 20.0, 20.0)
    assert Samples(rates("ours", 1)).spread("read", "ours", CPU_PER_MILLION) is None


def test_the_most_is_over_all_rows_of_a_target() -> None:
    samples = Samples(
        [
            Sample("read", "ours", 0, {"peak_mib": 40.0}),
            Sample("write", "ours", 0, {"peak_mib": 90.0}),
            Sample("write", "theirs", 0, {"peak_mib": 400.0}),
        ]
    )

    assert samples.most("ours", "peak_mib") == 90.0
    assert samples.most("nobody", "peak_mib") is None


def test_a_record_is_whole_after_every_sample(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    record = Record(file)
    record.begin(BEGINNING)
    for sample in rates("ours", 1.5, 2.5):
        record.add(sample)

        beginning, samples = read_record(file)
        assert beginning == BEGINNING
        assert samples.all[-1] == sample


def test_a_sample_that_was_cut_off_is_left_out(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    record = Record(file)
    record.begin(BEGINNING)
    for sample in rates("ours", 1.5, 2.5):
        record.add(sample)
    file.write_bytes(file.read_bytes()[:-10])

    assert read_record(file)[1].all == rates("ours", 1.5)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}\n",
        "no json\n",
        json.dumps({"date": "x"}) + "\n",
    ],
)
def test_what_is_no_record_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "run.jsonl"
    file.write_text(text)

    with pytest.raises(RecordFailed, match=r"run\.jsonl is no record of a run"):
        read_record(file)


def test_a_figure_that_is_no_number_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl"
    record = Record(file)
    record.begin(BEGINNING)
    record.add(Sample("read", "ours", 0, {"requests_per_s": float("nan")}))

    with pytest.raises(RecordFailed, match="a figure that is no number"):
        read_record(file)


def test_a_run_is_gone_on_with_only_as_it_was_begun(tmp_path: Path) -> None:
    check_same_run(tmp_path, BEGINNING, replace(BEGINNING, date="2026-11-27"))
    with pytest.raises(RecordFailed, match="duration_s was 2"):
        check_same_run(tmp_path, BEGINNING, replace(BEGINNING, duration_s=3))
    with pytest.raises(RecordFailed, match="versions was"):
        check_same_run(tmp_path, BEGINNING, replace(BEGINNING, versions={"csvd": "0.2.0"}))


def test_without_a_file_nothing_is_recorded(tmp_path: Path) -> None:
    record = Record(None)
    record.begin(BEGINNING)
    record.add(rates("ours", 1)[0])

    assert list(tmp_path.iterdir()) == []
