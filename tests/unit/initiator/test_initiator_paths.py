from __future__ import annotations

from collections import Counter
from typing import Any

from initiator.engine.paths import Due, Paths, PathSettings, PathState, Policy
from initiator.scsi.target_ports import AccessState

OPTIMIZED = AccessState.ACTIVE_OPTIMIZED
NON_OPTIMIZED = AccessState.ACTIVE_NON_OPTIMIZED


def paths_of(*states: AccessState | None, preferred: int = -1, **settings: Any) -> Paths:
    """Give paths in these states; None is down."""
    paths = Paths([f"p{index}" for index in range(len(states))], PathSettings(**settings), 0.0)
    paths.due(0.0)
    for index, state in enumerate(states):
        if state is None:
            paths.failed(index, "cut", 0.0)
        else:
            paths.logging_in(index, 0.0)
            paths.checking(index, 0.0)
            paths.up(index, state, index == preferred, 0.0)
    return paths


def chosen(paths: Paths, count: int) -> list[int | None]:
    return [paths.choose() for _ in range(count)]


def test_a_path_is_not_chosen_before_it_is_up() -> None:
    paths = Paths(["a"], PathSettings(), 0.0)
    assert paths.due(0.0) == [(0, Due.LOG_IN)]
    assert paths.choose() is None
    paths.logging_in(0, 0.0)
    paths.checking(0, 0.5)
    assert paths.choose() is None
    assert paths.any_hope
    paths.up(0, OPTIMIZED, False, 1.0)
    assert paths.choose() == 0
    assert paths[0].in_flight == 1
    paths.ended(0)
    assert paths[0].in_flight == 0


def test_the_best_group_takes_all_commands_in_turn() -> None:
    paths = paths_of(NON_OPTIMIZED, OPTIMIZED, OPTIMIZED, AccessState.STANDBY)
    assert Counter(chosen(paths, 10)) == {1: 5, 2: 5}


def test_preferred_ports_go_before_others_of_their_state() -> None:
    assert set(chosen(paths_of(OPTIMIZED, OPTIMIZED, preferred=1), 4)) == {1}
    assert set(chosen(paths_of(OPTIMIZED, NON_OPTIMIZED, preferred=1), 4)) == {0}


def test_a_turn_has_as_many_commands_as_is_set() -> None:
    paths = paths_of(OPTIMIZED, OPTIMIZED, turn_commands=3)
    assert chosen(paths, 12) == [0, 0, 0, 1, 1, 1, 0, 0, 0, 1, 1, 1]


def test_when_the_best_group_fails_the_next_one_has_the_commands() -> None:
    paths = paths_of(OPTIMIZED, NON_OPTIMIZED)
    paths.failed(0, "cut", 1.0)
    assert set(chosen(paths, 3)) == {1}
    paths.failed(1, "cut", 1.0)
    assert paths.choose() is None
    assert not paths.any_hope


def test_round_robin_takes_non_optimized_paths_too() -> None:
    paths = paths_of(OPTIMIZED, NON_OPTIMIZED, AccessState.UNAVAILABLE, policy=Policy.ROUND_ROBIN)
    assert Counter(chosen(paths, 10)) == {0: 5, 1: 5}


def test_failover_takes_the_first_active_path_in_the_order_of_their_names() -> None:
    paths = paths_of(NON_OPTIMIZED, OPTIMIZED, policy=Policy.FAILOVER)
    assert set(chosen(paths, 3)) == {0}
    paths.failed(0, "cut", 1.0)
    assert set(chosen(paths, 3)) == {1}
    paths.up(0, NON_OPTIMIZED, False, 2.0)
    assert set(chosen(paths, 3)) == {0}


def test_least_queue_depth_takes_the_path_with_the_fewest_commands() -> None:
    paths = paths_of(OPTIMIZED, OPTIMIZED, NON_OPTIMIZED, policy=Policy.LEAST_QUEUE_DEPTH)
    assert Counter(chosen(paths, 6)) == {0: 3, 1: 3}
    paths.ended(1)
    paths.ended(1)
    assert chosen(paths, 2) == [1, 1]


def test_a_refusal_for_its_access_state_takes_a_path_out_and_a_check_brings_it_back() -> None:
    paths = paths_of(OPTIMIZED, OPTIMIZED)
    paths.access_is(0, AccessState.STANDBY, 1.0)
    assert set(chosen(paths, 3)) == {1}
    assert paths.due(1.0) == [(0, Due.CHECK)]
    assert paths.due(1.0) == []
    paths.up(0, OPTIMIZED, False, 1.1)
    assert Counter(chosen(paths, 4)) == {0: 2, 1: 2}


def test_a_path_in_transition_is_polled_and_takes_no_commands() -> None:
    paths = paths_of(OPTIMIZED, transition_poll_s=0.5, check_interval_s=5.0)
    paths.access_is(0, AccessState.TRANSITIONING, 1.0)
    assert paths.choose() is None
    assert paths.any_hope
    assert paths.due(1.4) == []
    assert paths.due(1.5) == [(0, Due.CHECK)]
    paths.up(0, AccessState.TRANSITIONING, False, 1.6)
    assert paths.next_due_s() == 2.1


def test_a_path_that_fails_after_steady_service_is_tried_at_once_then_at_growing_pauses() -> None:
    paths = paths_of(OPTIMIZED, retry_first_s=0.2, retry_last_s=1.0, steady_s=10.0)
    now, pauses = 20.0, []
    for _ in range(6):
        paths.failed(0, "refused", now)
        due = paths.next_due_s()
        assert due is not None
        pauses.append(round(due - now, 6))
        now = due
        assert paths.due(now) == [(0, Due.LOG_IN)]
        paths.logging_in(0, now)
    assert pauses == [0.0, 0.2, 0.4, 0.8, 1.0, 1.0]


def test_a_path_that_comes_and_goes_is_left_alone_for_longer_and_longer() -> None:
    paths = paths_of(OPTIMIZED, retry_first_s=0.2, retry_last_s=1.0, steady_s=10.0)
    paths.failed(0, "cut", 1.0)
    paths.up(0, OPTIMIZED, False, 1.1)
    paths.failed(0, "cut", 1.2)
    assert paths.next_due_s() == 1.4
    paths.up(0, OPTIMIZED, False, 1.5)
    paths.failed(0, "cut", 12.0)
    assert paths.next_due_s() == 12.0


def test_a_path_that_is_up_is_checked_at_its_interval_and_at_once_when_suspect() -> None:
    paths = paths_of(OPTIMIZED, OPTIMIZED, check_interval_s=5.0)
    assert paths.due(4.9) == []
    paths.suspect(1, 4.9)
    assert paths.due(4.9) == [(1, Due.CHECK)]
    assert paths.due(5.0) == [(0, Due.CHECK)]


def test_a_path_says_what_it_is_and_why() -> None:
    paths = paths_of(OPTIMIZED, None)
    assert repr(paths) == ("<Paths alua: <Path p0 active/optimized under way=0>, <Path p1 down (cut) under way=0>>")
    assert paths[1].state is PathState.DOWN


def test_a_path_can_join_later() -> None:
    paths = paths_of(OPTIMIZED)
    assert paths.add("late", 3.0) == 1
    assert paths.due(3.0) == [(1, Due.LOG_IN)]
    assert len(paths) == 2
