"""Pushes are begun once and in order, whatever comes how often and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from csvd.cluster.coordination.faces import Json
from csvd.cluster.coordination.outcome import MAXIMUM_AHEAD, PushInput, checked
from csvd.cluster.errors import ClusterError
from csvd.errors import CsvdError


class Stage:
    """An input whose pushes note that they have begun."""

    def __init__(self) -> None:
        self.input = PushInput()
        self.begun: list[int] = []

    def take(
        self, number: int, oldest: int = 1, begin: Callable[[], Awaitable[Json]] | None = None
    ) -> list[dict[str, Any]]:
        async def note() -> Json:
            self.begun.append(number)
            return {"number": number}

        outcome: list[dict[str, Any]] = []
        Deferred.fromCoroutine(self.input.take(number, oldest, begin or note)).addCallback(outcome.append)
        return outcome


@given(st.permutations(list(range(1, 8))), st.lists(st.integers(1, 7)))
def test_pushes_begin_once_in_order(order: list[int], again: list[int]) -> None:
    stage = Stage()
    outcomes = [(number, stage.take(number)) for number in [*order, *again]]
    assert stage.begun == list(range(1, 8))
    assert all(outcome == [{"answer": {"number": number}}] for number, outcome in outcomes)


def test_one_that_is_repeated_while_it_is_carried_out_waits_for_it() -> None:
    stage = Stage()
    held: Deferred[Json] = Deferred()

    async def begin() -> Json:
        return await held

    first, second = stage.take(1, begin=begin), stage.take(1)
    assert first == second == []
    held.callback({"x": 1})
    assert first == second == [{"answer": {"x": 1}}]
    assert stage.begun == []


def test_an_error_is_an_answer() -> None:
    async def begin() -> Json:
        raise CsvdError("no")

    assert Stage().take(1, begin=begin) == [{"error": "no"}]


def test_answers_are_forgotten_when_the_sender_has_them_and_too_early_ones_are_not_held() -> None:
    stage = Stage()
    for number in range(1, 50):
        stage.take(number, oldest=number)
    assert len(stage.input._outcomes) == 1
    assert "error" in stage.take(3, oldest=49)[0]
    assert "again" in stage.take(50 + MAXIMUM_AHEAD, oldest=49)[0]
    assert len(stage.begun) == 49


@pytest.mark.parametrize(
    "call", [{}, {"n": "1"}, {"n": True}, {"n": -1}, {"n": 2**63}, {"n": 1, "t": 5}, {"n": 1, "t": "x" * 129}]
)
def test_parameters_of_the_wrong_kind_are_refused(call: dict[str, Any]) -> None:
    with pytest.raises(ClusterError):
        checked(call, n=int, t=str)
