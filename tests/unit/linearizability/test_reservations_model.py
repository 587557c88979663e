"""The sequential model of reservations beside csvd's own: two readings of SPC-4, written apart."""

from __future__ import annotations

from collections.abc import Hashable

import pytest

from tests.linearizability.models import (
    CONFLICT,
    EXCLUSIVE_ACCESS,
    GOOD,
    INVALID,
    WRITE_EXCLUSIVE,
    WRITE_EXCLUSIVE_ALL,
    WRITE_EXCLUSIVE_REGISTRANTS,
    EpochRegister,
    Record,
    Reservations,
)


def answers(*calls: Hashable) -> list[Hashable]:
    state, model, given = Reservations.initial, Reservations(), []
    for call in calls:
        state, answer = model.apply(state, call)
        given.append(answer)
    return given


A, B = ("register", "a", 0, 1), ("register", "b", 0, 2)


def test_a_key_is_changed_by_who_knows_it() -> None:
    assert answers(A, ("register", "a", 9, 3), ("register", "a", 1, 3), ("keys",)) == [GOOD, CONFLICT, GOOD, (3,)]
    assert answers(A, ("register and ignore", "a", 4), ("keys",)) == [GOOD, GOOD, (4,)]


def test_who_is_not_registered_reserves_nothing() -> None:
    assert answers(("reserve", "a", 1, 1), ("reservation",)) == [CONFLICT, None]


@pytest.mark.parametrize(
    ("kind", "stranger_writes", "stranger_reads", "registrant_writes"),
    [
        (WRITE_EXCLUSIVE, CONFLICT, GOOD, CONFLICT),
        (EXCLUSIVE_ACCESS, CONFLICT, CONFLICT, CONFLICT),
        (WRITE_EXCLUSIVE_REGISTRANTS, CONFLICT, GOOD, GOOD),
        (WRITE_EXCLUSIVE_ALL, CONFLICT, GOOD, GOOD),
    ],
)
def test_a_reservation_keeps_out_whom_it_names(
    kind: int, stranger_writes: str, stranger_reads: str, registrant_writes: str
) -> None:
    given = answers(A, B, ("reserve", "a", 1, kind), ("write", "a"), ("write", "x"), ("read", "x"), ("write", "b"))
    assert given[2:] == [GOOD, GOOD, stranger_writes, stranger_reads, registrant_writes]


def test_release_is_good_for_who_holds_nothing_and_invalid_by_another_type() -> None:
    given = answers(
        A,
        B,
        ("reserve", "a", 1, 5),
        ("release", "b", 2, 5),
        ("reservation",),
        ("release", "a", 1, 1),
        ("release", "a", 1, 5),
        ("reservation",),
    )
    assert given[3:] == [GOOD, (1, 5), INVALID, GOOD, None]


def test_preempting_the_holder_takes_its_place_and_its_registration() -> None:
    given = answers(
        A, B, ("reserve", "a", 1, 1), ("preempt", "b", 2, 1, 5), ("reservation",), ("keys",), ("write", "a")
    )
    assert given[3:] == [GOOD, (2, 5), (2,), CONFLICT]


def test_preempting_another_takes_the_registration_alone() -> None:
    given = answers(A, B, ("reserve", "a", 1, 5), ("preempt", "a", 1, 2, 1), ("reservation",), ("keys",))
    assert given[3:] == [GOOD, (1, 5), (1,)]
    assert answers(A, ("preempt", "a", 1, 7, 1))[1] == CONFLICT
    assert answers(A, ("preempt", "a", 1, 0, 1))[1] == INVALID


def test_a_reservation_of_all_registrants_ends_with_the_last() -> None:
    calls = (A, B, ("reserve", "a", 1, 7), ("register", "a", 1, 0), ("reservation",), ("register", "b", 2, 0))
    assert answers(*calls, ("reservation",))[4:] == [(0, 7), GOOD, None]
    assert answers(A, B, ("reserve", "a", 1, 7), ("preempt", "b", 2, 0, 5), ("reservation",), ("keys",))[3:] == [
        GOOD,
        (2, 5),
        (2,),
    ]


def test_unregistering_and_clearing_end_what_was_held() -> None:
    assert answers(A, B, ("reserve", "a", 1, 5), ("register", "a", 1, 0), ("reservation",))[4] is None
    assert answers(A, B, ("reserve", "a", 1, 5), ("clear", "b", 2), ("reservation",), ("keys",))[3:] == [
        GOOD,
        None,
        (),
    ]


@pytest.mark.parametrize("model", [EpochRegister(), Record(), Reservations()])
def test_a_call_that_a_model_does_not_know_is_a_fault_of_the_test(
    model: EpochRegister | Record | Reservations,
) -> None:
    with pytest.raises((ValueError, KeyError)):
        model.apply(model.initial, ("dance",))  # type: ignore[arg-type]
