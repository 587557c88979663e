from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.profile import DEPTHS, STAGES, Bench, medians, profile, table


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    disk = tmp_path / "disk.img"
    disk.write_bytes(bytes(1 << 20))
    return disk


@pytest.mark.parametrize("writes", [False, True])
def test_what_is_timed_is_the_express_path_that_answers_all(disk: Path, *, writes: bool) -> None:
    bench = Bench(disk, depth=4, writes=writes)
    try:
        for _ in range(3):
            assert bench.turn() > 0
        before = bench.connection.engine.stat_sn
        for each in (bench.turn, bench.turn_without_send):
            assert each() > 0
        with bench.without_disk():
            assert bench.express_alone() > 0
        assert bench.connection.engine.stat_sn - before == 4 * 3
    finally:
        bench.close()


def test_each_is_taken_as_often_and_in_turn() -> None:
    order: list[str] = []

    def timed(name: str, *values: float) -> float:
        order.append(name)
        return values[order.count(name) - 1]

    found = medians([lambda: timed("a", 5, 1, 9), lambda: timed("b", 2, 2, 7)], 3)
    assert found == [5, 2]
    assert order == ["a", "b"] * 3


def test_every_stage_is_told_for_every_load(disk: Path) -> None:
    figures = profile(disk, 3)

    assert len(figures) == 2 * len(DEPTHS)
    for column in figures.values():
        assert {*STAGES, "all", "bare recv", "bare disk", "bare send"} <= set(column)
        assert sum(column[name] for name in STAGES) == pytest.approx(column["all"])
    lines = table(figures).splitlines()
    assert (
        lines[0] == "| µs a command of 4 KiB | read, 1 a turn | read, 32 a turn | write, 1 a turn | write, 32 a turn |"
    )
    assert len(lines) == 2 + len(STAGES) + 4
