from __future__ import annotations

import pytest

from tests.bench import aims
from tests.bench.aims import AIMS, Aim, digest_cost, to_fdatasync
from tests.bench.limits import IN_PYTHON
from tests.bench.rows import OURS, THEIRS
from tests.bench.samples import Sample, Samples


def samples(*cells: tuple[str, str, dict[str, float]]) -> Samples:
    return Samples([Sample(row, target, 0, figures) for row, target, figures in cells])


def line(text: str, measured: Samples) -> str:
    (found,) = (each for each in aims.table(measured).splitlines() if f"| {text}" in each)
    return found


def nothing(_: Samples) -> float:
    return 0.0


@pytest.mark.parametrize(
    ("aim", "met", "missed"),
    [
        (Aim("", nothing, 2.0), (2.0, 2.1), (1.99,)),
        (Aim("", nothing, 35, is_most=True), (35.0, 0.0, -3.0), (35.1,)),
        (Aim("", nothing, 256, is_most=True, is_strict=True), (255.9,), (256.0, 300.0)),
        (Aim("", nothing, 1, is_strict=True), (1.01,), (1.0, 0.9)),
    ],
    ids=["at least", "at most", "below", "above"],
)
def test_a_bound_is_part_of_what_is_required_unless_it_says_otherwise(
    aim: Aim, met: tuple[float, ...], missed: tuple[float, ...]
) -> None:
    assert all(aim.is_met(value) for value in met)
    assert not any(aim.is_met(value) for value in missed)


def test_an_aim_tells_what_it_requires() -> None:
    assert Aim("", nothing, 2.0).required == "≥ 2 ×"
    assert Aim("", nothing, 35, " %", is_most=True).required == "≤ 35 %"
    assert Aim("", nothing, 100, " ms", is_most=True, is_strict=True).required == "< 100 ms"


def test_a_rate_is_compared_with_the_peers() -> None:
    text = "4 KiB read, depth 32, from any sector"
    cells = [("read-4k-d32", OURS, {"requests_per_s": 41.0}), ("read-4k-d32", THEIRS, {"requests_per_s": 20.0})]

    assert line(text, samples(*cells)) == f"| {text}: csvd to tgtd | ≥ 2 × | 2.05 × | met |"
    cells[0][2]["requests_per_s"] = 30.0
    assert line(text, samples(*cells)) == f"| {text}: csvd to tgtd | ≥ 2 × | 1.50 × | **not met** |"


def test_what_was_not_measured_is_neither_met_nor_missed() -> None:
    table = aims.table(Samples())

    assert table.count("not measured") == len(AIMS)
    assert "met |" not in table


def test_digests_cost_a_share_of_the_rate_without_them() -> None:
    measured = samples(("plain", OURS, {"requests_per_s": 200.0}), ("digest", OURS, {"requests_per_s": 150.0}))

    assert digest_cost("plain", "digest")(measured) == pytest.approx(25.0)
    assert digest_cost("plain", "digest", THEIRS)(measured) is None


def test_fua_is_compared_with_one_fdatasync_after_another() -> None:
    measured = samples(
        ("fua-write-4k-d32", OURS, {"requests_per_s": 800.0}),
        ("file-durable-4k", IN_PYTHON, {"requests_per_s": 200.0}),
    )

    assert to_fdatasync()(measured) == pytest.approx(4.0)


def test_the_longest_round_trip_of_all_rounds_counts() -> None:
    rounds = [Sample("cold-file", OURS, number, {"nop_longest_ms": value}) for number, value in enumerate((5, 120, 7))]

    assert "| 120.00 ms | **not met** |" in line("longest NOP", Samples(rounds))


def test_memory_counts_over_all_loads_and_must_stay_below() -> None:
    measured = samples(("a", OURS, {"peak_mib": 100.0}), ("b", OURS, {"peak_mib": 256.0}))

    assert "| < 256 MiB | 256.00 MiB | **not met** |" in line("the most memory", measured)


def test_cpu_of_a_command_must_be_below_the_peers() -> None:
    ours, theirs = {"requests": 100.0, "cpu_s": 1.0}, {"requests": 100.0, "cpu_s": 1.0}
    measured = samples(("read-4k-d1", OURS, ours), ("read-4k-d1", THEIRS, theirs))

    assert "| 1.00 × | **not met** |" in line("CPU of a 4 KiB read, depth 1", measured)
