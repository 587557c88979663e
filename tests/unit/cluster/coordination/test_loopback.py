"""The loopback keeps what coordination promises, so that a service tested on it meets the same in a cluster."""

from __future__ import annotations

from collections.abc import Coroutine
from functools import partial
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.cluster.coordination.faces import LAPSED, LIVE, Json, OfficeOver
from csvd.cluster.errors import RemoteError
from tests.unit.cluster.counting import Counting
from tests.unit.cluster.loopback import Loopback


class Stage:
    """Three nodes that count."""

    def __init__(self) -> None:
        self.loopback = Loopback()
        self.services = {node: Counting() for node in self.loopback.sessions}
        self.seen: dict[str, list[int]] = {node: [] for node in self.loopback.sessions}
        for node, service in self.services.items():
            self.loopback.coordination(node).add_service(partial(self.make, service))
            self.loopback.session(node).on_pushed("counting", partial(self.push, node))
        self.run(self.loopback.start())

    @staticmethod
    def make(service: Counting, disk: str, *, is_system: bool) -> Counting:
        assert (disk, is_system) == ("system", True)
        return service

    async def push(self, node: str, method: str, params: Json) -> Json:
        self.seen[node].append(params["value"])
        return {"seen": params["value"]}

    def ask(self, node: str, method: str = "add") -> list[Any]:
        return self.run(self.loopback.session(node).ask("counting", method, {}, timeout_s=5))

    @staticmethod
    def run(coroutine: Coroutine[Any, Any, Any]) -> list[Any]:
        outcome: list[Any] = []
        Deferred.fromCoroutine(coroutine).addBoth(outcome.append)
        return outcome


def test_an_ask_changes_the_records_and_all_nodes_hear_of_it() -> None:
    stage = Stage()

    assert stage.ask("n2") == [{"value": 1}]

    assert stage.loopback.records == {"counting/value": 1}
    assert stage.seen == {"n1": [1], "n2": [1], "n3": [1]}


def test_an_error_of_the_service_is_the_answer() -> None:
    (failure,) = Stage().ask("n2", "lose")

    with pytest.raises(RemoteError, match="no such method"):
        failure.raiseException()


def test_a_push_waits_for_a_node_that_has_lapsed_until_it_is_gone() -> None:
    stage = Stage()
    stage.run(stage.loopback.lapse("n3"))

    asking = stage.ask("n2")
    assert asking == []
    stage.run(stage.loopback.declare_gone("n3"))

    assert asking == [{"value": 1}]
    assert stage.services["n1"].gone == ["n3"]
    assert stage.seen["n3"] == []
    stage.run(stage.loopback.come_back("n3"))
    assert stage.services["n1"].come == ["n3"]
    assert stage.loopback.session("n3").state == LIVE


def test_an_ask_that_was_kept_is_answered_by_the_next_coordinator_and_not_done_twice() -> None:
    stage = Stage()
    stage.run(stage.loopback.lapse("n3"))  # so that the push is under way when n1 dies
    asking = stage.ask("n2")
    assert asking == []
    assert stage.loopback.records == {"counting/value": 1}

    stage.run(stage.loopback.kill("n1"))

    assert asking == [{"value": 1}]
    assert stage.loopback.records == {"counting/value": 1}
    assert stage.loopback.office is not None
    assert stage.loopback.office.node == "n2"
    assert stage.loopback.session("n3").state == LAPSED


def test_an_ask_whose_keep_was_lost_is_carried_out_by_the_next_coordinator() -> None:
    stage = Stage()
    stage.loopback.hold_keeps()
    asking = stage.ask("n2")

    stage.run(stage.loopback.kill("n1"))
    stage.loopback.let_keeps_go()

    assert asking == [{"value": 1}]
    assert stage.loopback.keeps == 1


def test_an_office_that_has_ended_does_nothing() -> None:
    stage = Stage()
    office = stage.loopback.office
    assert office is not None
    stage.run(stage.loopback.move("n3"))

    (failure,) = stage.run(office.keep({"counting/value": 7}))

    assert failure.check(OfficeOver)
    assert stage.loopback.records == {}
    assert stage.ask("n1") == [{"value": 1}]
