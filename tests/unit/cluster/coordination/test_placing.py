"""The leader's looks at the nodes: what a node has done since it was asked is not held against it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.calls import Handler
from csvd.cluster.coordination.placing import FACTS, ROUND_S, TAKE, Placing
from csvd.cluster.register import Register
from csvd.cluster.timeouts import Timeouts
from tests.unit.cluster.registers import register_of

UUID = "5f0a3c52-77cb-4e39-9ea1-7b8c0c0d3b11"


class Leader:
    """Raft's leader among n1 and n2, in whose place the test answers the looks."""

    node = "n1"
    is_coordinator = True
    voters = frozenset({"n1", "n2"})

    def __init__(self) -> None:
        self.clock = Clock()
        self.register = register_of("n1", "n2")
        assert self.register.apply({"op": "disk_add", "name": "d", "url": "/d", "uuid": UUID})["ok"]
        self.looks: dict[str, Deferred[dict[str, Any]]] = {}
        self.asked_to_take: list[tuple[str, int]] = []
        self.placing = Placing(
            membership=self,
            clock=self.clock,
            timeouts=Timeouts(),
            is_gone=self.is_gone,
            tell=lambda kind, text, about: None,
        )

    def claim(self, node: str, expected_epoch: int) -> None:
        claim = {"op": "disk_claim", "name": "d", "node": node, "expected_epoch": expected_epoch, "above": 0}
        assert self.register.apply({**claim, "is_pinned": False})["ok"]

    def answer(self, node: str, offices: dict[str, int], claiming: tuple[str, ...] = ()) -> None:
        facts = {"up_s": 1, "attached": ["d"], "offices": offices, "claiming": list(claiming), "troubled": []}
        self.looks.pop(node).callback(facts)

    async def is_gone(self, disk: str, node: str) -> bool:
        return False

    def is_linked(self, node: str) -> bool:
        return True

    def on_change(self, callback: Callable[[Register], None]) -> Callable[[], None]:
        return lambda: None

    def on_link(self, callback: Callable[[str, bool], None]) -> Callable[[], None]:
        return lambda: None

    async def submit(self, command: dict[str, Any], *, timeout_s: float, key: str | None = None) -> dict[str, Any]:
        raise AssertionError("placing changes nothing itself")

    async def call(self, node: str, method: str, params: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        if method == FACTS:
            self.looks[node] = Deferred()
            return await self.looks[node]
        assert method == TAKE
        self.asked_to_take.append((node, params["epoch"]))
        return {"epoch": cast(int, params["epoch"]) + 1}

    def serve(self, method: str, handler: Handler) -> None:
        raise AssertionError("placing serves nothing")


@pytest.fixture
def leader() -> Leader:
    """A leader whose first look at both nodes is under way, with n1 as the coordinator in epoch 1."""
    leader = Leader()
    leader.claim("n1", 0)
    leader.placing.start()
    return leader


def test_who_claims_after_it_was_asked_is_not_taken_for_one_that_does_not_act(leader: Leader) -> None:
    leader.answer("n2", {})
    leader.claim("n2", 1)
    leader.answer("n1", {"d": 1})
    assert leader.asked_to_take == []


def test_who_does_not_know_yet_that_it_has_what_it_claims_is_not_taken_for_one_that_does_not_act(
    leader: Leader,
) -> None:
    leader.answer("n1", {"d": 1})
    leader.answer("n2", {})
    leader.claim("n2", 1)
    leader.clock.advance(ROUND_S)
    leader.answer("n1", {})
    leader.answer("n2", {}, claiming=("d",))
    assert leader.asked_to_take == []


def test_who_has_claimed_and_does_not_act_when_it_is_asked_again_is_replaced(leader: Leader) -> None:
    leader.answer("n1", {"d": 1})
    leader.answer("n2", {})
    leader.claim("n2", 1)
    leader.clock.advance(ROUND_S)
    leader.answer("n1", {})
    leader.answer("n2", {})
    assert leader.asked_to_take == [("n1", 2)]
