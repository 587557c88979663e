"""What a majority has answered."""

from __future__ import annotations

import pytest

from csvd.cluster.coordination.majority import majority_time


@pytest.mark.parametrize(
    ("answered", "voters", "time"),
    [
        ({}, "abc", None),
        ({"a": 5.0}, "abc", None),
        ({"a": 5.0, "b": 3.0}, "abc", 3.0),
        ({"a": 5.0, "b": 3.0, "c": 4.0}, "abc", 4.0),
        ({"a": 5.0, "x": 9.0, "y": 9.0}, "abc", None),
        ({"a": 5.0}, "a", 5.0),
        ({"a": 5.0}, "ab", None),
        ({"a": 5.0, "b": 1.0}, "ab", 1.0),
        ({"a": 5.0, "b": 1.0}, "abcd", None),
        ({}, "", None),
    ],
)
def test_the_time_is_that_of_the_slowest_of_the_fastest_majority(
    answered: dict[str, float], voters: str, time: float | None
) -> None:
    assert majority_time(answered, frozenset(voters)) == time
