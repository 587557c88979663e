from __future__ import annotations

from tests.bench.limits import CSVD_NULL, NULL
from tests.bench.measure import Plan
from tests.bench.rows import LIMITS, OURS, ROWS, THEIRS, LoadRow, row


def plan(rounds: int, limit_rounds: int, limits: tuple[str, ...] = LIMITS) -> Plan:
    return Plan(rounds, 1, 1, [row("read-4k-d1")], limit_rounds, limits)


def test_who_goes_first_changes_from_round_to_round() -> None:
    runs = [(number, name) for number, _, name in plan(3, 0).runs()]

    assert runs == [(0, OURS), (0, THEIRS), (1, THEIRS), (1, OURS), (2, OURS), (2, THEIRS)]


def test_limits_are_measured_in_the_first_rounds_only() -> None:
    runs = [(number, name) for number, _, name in plan(2, 1, (NULL,)).runs()]

    assert runs == [(0, OURS), (0, THEIRS), (0, NULL), (1, THEIRS), (1, OURS)]


def test_the_peers_have_the_same_rows() -> None:
    for each in ROWS:
        assert (OURS in each.targets) == (THEIRS in each.targets)
    assert all(CSVD_NULL in each.targets and NULL in each.targets for each in ROWS if isinstance(each, LoadRow))
