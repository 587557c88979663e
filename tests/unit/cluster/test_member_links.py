"""Who is let in: the members of the register, who has just left, and whom others tell of while no leader is heard."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.errors import PeerUnreachable
from csvd.cluster.member_links import ASKING_S, LEAVING_S, MemberLinks
from csvd.cluster.network import Network
from csvd.cluster.register import Register
from csvd.cluster.register_members import Member
from tests.unit.cluster.registers import members_of, register_of


class ScriptedNetwork:
    def __init__(self) -> None:
        self.told: list[set[str]] = []
        self.fingerprints: dict[str, set[str]] = {}
        self.handlers: dict[str, Any] = {}
        self.answers: dict[str, Any] = {}
        self.asked: list[str] = []

    def set_members(self, members: Mapping[str, Any]) -> None:
        self.told.append(set(members))
        self.fingerprints = {node: set(fingerprints) for node, (_, fingerprints) in members.items()}

    def serve(self, method: str, handler: Any) -> None:
        self.handlers[method] = handler

    async def call(self, peer: str, method: str, params: dict[str, Any], *, timeout_s: float) -> Any:
        self.asked.append(peer)
        if peer not in self.answers:
            raise PeerUnreachable("no link", where=peer)
        return self.answers[peer]


class Stage:
    def __init__(self, register: Register, foreseen: Sequence[Member] = ()) -> None:
        self.clock = Clock()
        self.register = register
        self.network = ScriptedNetwork()
        self.has_leader = False
        self.committed = 0
        self.links = MemberLinks("n1", register, cast(Network, self.network), self.clock, self.heard_of)
        self.links.start({member.id: member for member in foreseen}, until_committed=5)

    def heard_of(self) -> tuple[str | None, int]:
        return "n2" if self.has_leader else None, self.committed

    def answer_of(self, register: Register) -> Any:
        other = Stage(register)
        answers: list[Any] = []
        asked = other.network.handlers["cluster.members"]("n1", {})
        Deferred.fromCoroutine(asked).addBoth(answers.append)
        return answers[0]


def changed(register: Register, node: str) -> None:
    assert register.apply({"op": "member_set", "id": node, "is_draining": True})["ok"]


def test_the_network_is_told_of_the_members_once() -> None:
    stage = Stage(register_of("n1", "n2"))
    stage.links.update()
    assert stage.network.told == [{"n1", "n2"}]


def test_members_that_the_log_names_are_linked_until_it_is_known_what_is_committed() -> None:
    stage = Stage(register_of("n1"), members_of("n1", "n2"))
    assert stage.network.told == [{"n1", "n2"}]
    stage.committed = 5
    stage.links.update()
    stage.clock.advance(LEAVING_S)
    assert stage.network.told[-1] == {"n1"}


def test_a_member_that_has_joined_anew_as_the_log_says_is_let_in_by_its_new_key_and_by_its_old_one() -> None:
    before, after = "aa" * 32, "bb" * 32
    register = register_of("n1", "n2")
    assert register.apply({"op": "member_set", "id": "n2", "fingerprints": [before]})["ok"]
    foreseen = replace(members_of("n1", "n2")[1], fingerprints=(after,))
    stage = Stage(register, [foreseen])
    assert stage.network.fingerprints["n2"] == {before, after}
    stage.committed = 5
    stage.links.update()
    assert stage.network.fingerprints["n2"] == {before}


def test_a_member_that_has_joined_anew_as_others_say_is_let_in_by_its_new_key_and_by_its_old_one() -> None:
    before, after = "aa" * 32, "bb" * 32
    stage, later = Stage(register_of("n1", "n2", "n3")), register_of("n1", "n2", "n3")
    assert stage.register.apply({"op": "member_set", "id": "n3", "fingerprints": [before]})["ok"]
    changed(later, "n2")
    assert later.apply({"op": "member_set", "id": "n3", "fingerprints": [after]})["ok"]
    stage.network.answers["n2"] = stage.answer_of(later)
    stage.links.link_up("n2")
    stage.clock.advance(ASKING_S)
    assert stage.network.fingerprints["n3"] == {before, after}


def test_an_empty_register_tells_of_nobody() -> None:
    assert Stage(Register()).network.told == [set()]


def test_a_member_that_was_removed_is_linked_a_moment_longer() -> None:
    stage = Stage(register_of("n1", "n2"))
    stage.register.apply({"op": "member_remove", "id": "n2"})
    stage.links.update()
    assert stage.network.told == [{"n1", "n2"}]
    stage.clock.advance(LEAVING_S)
    assert stage.network.told == [{"n1", "n2"}, {"n1"}]


def test_a_node_that_hears_no_leader_asks_who_has_joined_until_its_register_tells_it() -> None:
    stage = Stage(register_of("n1", "n2"))
    later = register_of("n1", "n2", "n3")
    changed(later, "n2")
    stage.network.answers["n2"] = stage.answer_of(later)
    stage.links.link_up("n2")
    stage.clock.advance(ASKING_S)
    assert stage.network.told[-1] == {"n1", "n2", "n3"}
    stage.register.restore(later.snapshot())
    stage.register.apply({"op": "member_remove", "id": "n3"})
    stage.links.update()
    stage.clock.advance(LEAVING_S)
    assert stage.network.told[-1] == {"n1", "n2"}


def test_a_node_that_hears_a_leader_asks_nobody_and_what_is_older_is_not_taken() -> None:
    stage = Stage(register_of("n1", "n2"))
    stage.network.answers["n2"] = stage.answer_of(register_of("n1", "n2", "n3"))
    stage.has_leader = True
    stage.links.link_up("n2")
    stage.clock.advance(ASKING_S)
    assert stage.network.asked == []
    stage.has_leader = False
    stage.clock.advance(ASKING_S)
    assert stage.network.asked == ["n2"]
    assert stage.network.told == [{"n1", "n2"}]


@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"revision": 9, "members": []},
        {"revision": 9, "members": {"n3": ["nowhere", []]}},
        {"revision": 9, "members": {"N3": ["h:1", []]}},
        {"revision": 9, "members": {"n3": ["h:1", ["x"]]}},
        {"revision": 9, "members": {"n3": ["h:1", ["a" * 64] * 3]}},
        {"revision": 9, "members": {f"n{number}": ["h:1", []] for number in range(40)}},
        {"revision": -1, "members": {}},
    ],
)
def test_an_answer_that_is_none_changes_nothing(answer: dict[str, Any]) -> None:
    stage = Stage(register_of("n1", "n2"))
    stage.network.answers["n2"] = answer
    stage.links.link_up("n2")
    stage.links.link_up("n4")
    stage.clock.advance(ASKING_S)
    assert stage.network.asked == ["n2", "n4"]
    assert stage.network.told == [{"n1", "n2"}]


def test_after_the_stop_nobody_is_asked() -> None:
    stage = Stage(register_of("n1", "n2"))
    stage.links.link_up("n2")
    stage.register.apply({"op": "member_remove", "id": "n2"})
    stage.links.update()
    stage.links.stop()
    stage.clock.advance(10)
    assert stage.network.asked == []
    assert len(stage.network.told) == 1
