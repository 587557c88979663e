"""Which worker serves which target: each once, those with a disk in common together, and none moved without need."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from csvd.workers.assignment import Demand, assign


def demand(target: str, *shares: str, units: int = 1) -> Demand:
    return Demand(target, units, frozenset(shares))


def test_targets_are_spread_over_the_workers() -> None:
    assert assign([demand("a", "1"), demand("b", "2"), demand("c", "3")], 2, {}) == {"a": 0, "b": 1, "c": 0}


def test_the_worker_with_the_fewest_logical_units_is_chosen() -> None:
    demands = [demand("a", "1", units=5), demand("b", "2"), demand("c", "3"), demand("d", "4")]
    assert assign(demands, 2, {}) == {"a": 0, "b": 1, "c": 1, "d": 1}


def test_targets_that_share_are_together_also_by_way_of_others() -> None:
    demands = [demand("a", "1"), demand("b", "2"), demand("c", "3"), demand("d", "2", "1")]
    assert assign(demands, 3, {}) == {"a": 0, "b": 0, "d": 0, "c": 1}


def test_a_target_stays_where_it_is() -> None:
    before = {"a": 1, "b": 1}
    assert assign([demand("a", "1"), demand("b", "2")], 2, before) == before


def test_what_is_new_goes_beside_the_least_of_those_that_stay() -> None:
    assert assign([demand("new", "9"), demand("a", "1")], 2, {"a": 0}) == {"a": 0, "new": 1}


def test_targets_that_come_to_share_go_where_most_of_them_are() -> None:
    demands = [demand("a", "1"), demand("b", "1", "2"), demand("c", "2")]
    assert assign(demands, 2, {"a": 0, "b": 1, "c": 1}) == {"a": 1, "b": 1, "c": 1}


def test_a_worker_that_is_no_more_holds_nobody() -> None:
    assert assign([demand("a", "1")], 1, {"a": 3}) == {"a": 0}


NAMES = st.lists(st.sampled_from("abcdefgh"), unique=True)
SHARES = st.frozensets(st.sampled_from("12345"), max_size=3)


@given(st.data(), NAMES, st.integers(1, 4))
def test_any_assignment_is_whole_keeps_sharers_together_and_stands_when_it_is_made_again(
    data: st.DataObject, names: list[str], workers: int
) -> None:
    demands = [Demand(name, data.draw(st.integers(0, 3)), data.draw(SHARES)) for name in names]
    before = data.draw(st.dictionaries(st.sampled_from("abcdefgh"), st.integers(0, 4)))
    assignment = assign(demands, workers, before)
    assert assignment.keys() == set(names)
    assert all(0 <= worker < workers for worker in assignment.values())
    for one in demands:
        for other in demands:
            if one.shares & other.shares:
                assert assignment[one.target] == assignment[other.target]
    assert assign(demands, workers, assignment) == assignment
