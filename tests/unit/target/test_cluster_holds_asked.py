"""What a node asks of the coordinator for its holds: never so much that the end of one can not be told."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.coordination.faces import Json
from csvd.cluster.errors import OutcomeUnknown
from csvd.target.cluster_holds import AGAIN_S, MOST_ASKED, ClusterHolds


class Session:
    """A session whose answers the test gives."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, Deferred[Json]]] = []

    async def ask(self, service: str, method: str, params: Json, *, timeout_s: float) -> Json:
        answer: Deferred[Json] = Deferred()
        self.asked.append((method, params["hold"], answer))
        return await answer

    def take(self, method: str) -> list[Deferred[Json]]:
        """Those who wait for the answer of a method; they are forgotten."""
        found = [answer for asked, _, answer in self.asked if asked == method]
        self.asked = [one for one in self.asked if one[0] != method]
        return found


@pytest.fixture
def session() -> Session:
    return Session()


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def holds(session: Session, clock: Clock) -> ClusterHolds:
    face: Any = session
    return ClusterHolds(clock, lambda: face, lambda naa: (), "n1/1")


def test_the_end_of_a_hold_is_told_however_many_others_are_asked_for(holds: ClusterHolds, session: Session) -> None:
    granted: list[int] = []
    made = [holds.hold(()) for _ in range(500)]
    for number, hold in enumerate(made):
        hold.acquire(lambda number=number: granted.append(number))  # type: ignore[misc]
    assert len(session.asked) == MOST_ASKED
    first, *others = session.take("hold")
    Deferred.fromCoroutine(holds.take({"hold": "n1/1-1", "ranges": ()}))
    first.callback({"granted": True})
    assert granted == [0]
    made[0].release()
    assert [hold for method, hold, _ in session.asked if method == "unhold"] == ["n1/1-1"]
    assert len(others) + len(session.take("hold")) == MOST_ASKED, "the next has its turn"


def test_what_is_given_up_before_its_turn_is_never_asked_for(holds: ClusterHolds, session: Session) -> None:
    made = [holds.hold(()) for _ in range(MOST_ASKED + 1)]
    for hold in made:
        hold.acquire(lambda: None)
    made[-1].release()
    assert len(session.asked) == MOST_ASKED
    session.take("hold")[0].callback({"granted": False})
    assert [method for method, _, _ in session.asked] == ["unhold"]


def test_where_nobody_can_be_asked_a_thousand_wait(clock: Clock) -> None:
    holds = ClusterHolds(clock, lambda: None, lambda naa: (), "n1/1")
    for _ in range(1000):
        holds.hold(()).acquire(lambda: None)
    clock.advance(AGAIN_S)
    assert clock.getDelayedCalls()


@pytest.mark.parametrize("is_known", [True, False])
def test_a_grant_that_comes_after_its_command_was_aborted_is_given_back(
    holds: ClusterHolds, session: Session, is_known: bool
) -> None:
    """The news of the end may have come to the coordinator before the ask itself, which was sent again later: the range
    was held for ever."""
    hold = holds.hold(())
    hold.acquire(lambda: None)
    hold.release()
    session.take("unhold")[0].callback({})
    asked = session.take("hold")[0]
    if is_known:
        asked.callback({"granted": True})
    else:
        asked.errback(OutcomeUnknown("the time is up"))
    assert [hold for method, hold, _ in session.asked if method == "unhold"] == ["n1/1-1"]
