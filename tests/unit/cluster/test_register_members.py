"""Members and tokens in the register: joining once, numbers and names of one's own, voters, removal."""

from __future__ import annotations

from typing import Any

import pytest

from csvd.cluster.register import MAXIMUM_SESSIONS, Register, RegisterError
from csvd.cluster.register_members import MAXIMUM_MEMBERS, MAXIMUM_TOKENS, Member
from tests.unit.cluster.registers import register_of

TOKEN = "a" * 64


def fingerprint(number: int) -> str:
    return f"{number:064x}"


def token_add(number: int = 1, *, expires_at_s: int = 100, at_s: int = 10, is_witness: bool = False) -> dict[str, Any]:
    token = {"id": fingerprint(number), "expires_at_s": expires_at_s, "is_witness": is_witness, "at_s": at_s}
    return {"op": "token_add", **token}


def join(node: str = "n2", token: int = 1, *, key: int = 500, at_s: int = 20, address: str = "h:1") -> dict[str, Any]:
    what = {"token": fingerprint(token), "id": node, "address": address, "fingerprint": fingerprint(key), "at_s": at_s}
    return {"op": "member_join", **what}


def setting(node: str, **changes: object) -> dict[str, Any]:
    return {"op": "member_set", "id": node, **changes}


def remove(node: str) -> dict[str, Any]:
    return {"op": "member_remove", "id": node}


def promote(node: str) -> dict[str, Any]:
    return {"op": "member_promote", "id": node}


def joined(register: Register, node: str, number: int) -> dict[str, Any]:
    assert register.apply(token_add(number))["ok"]
    return register.apply(join(node, number, key=500 + number, address=f"h:{number}"))


def reason(answer: dict[str, Any]) -> str:
    assert answer["ok"] is False
    return str(answer["reason"])


def test_a_node_joins_by_a_token_as_a_learner_and_the_token_is_used_up() -> None:
    register = register_of("n1")
    register.apply(token_add())
    answer = register.apply(join())
    assert (answer["ok"], answer["number"], answer["is_voter"]) == (True, 2, False)
    assert register.member("n2") == Member("n2", "n2", 2, "h:1", (fingerprint(500),))
    assert register.voters == {"n1"}
    assert register.tokens == {}
    assert "used, removed, or has expired" in reason(register.apply(join("n3", key=501, address="h:2")))


def test_a_join_that_is_asked_again_is_answered_again() -> None:
    register = register_of("n1")
    register.apply(token_add())
    first = register.apply(join())
    again = register.apply(join())
    assert {**again, "revision": 0} == {**first, "revision": 0}
    assert len(register.members) == 2


def test_the_token_of_a_witness_makes_a_witness() -> None:
    register = register_of("n1")
    register.apply(token_add(is_witness=True))
    assert register.apply(join())["is_witness"] is True


@pytest.mark.parametrize(
    ("command", "why"),
    [
        (join(at_s=100), "the token has expired"),
        (join(token=2), "the token is not known"),
        (join("n1"), "there is a node n1 in the cluster already"),
        (join(address="127.0.0.1:7001"), "127.0.0.1:7001 is the address of n1"),
        (join(address="nowhere"), "an address is host:port"),
        (join(address="h:65536"), "an address is host:port"),
        (join("N2"), "the name of a node"),
    ],
)
def test_a_join_that_can_not_be_leaves_the_token(command: dict[str, Any], why: str) -> None:
    register = register_of("n1")
    register.apply(token_add())
    assert why in reason(register.apply(command))
    assert list(register.tokens) == [fingerprint(1)]
    assert list(register.members) == ["n1"]


def test_the_name_of_a_node_is_no_others_name_or_id() -> None:
    register = register_of("n1", "n2")
    assert register.apply(setting("n1", name="left"))["name"] == "left"
    assert "is the name of another node" in reason(register.apply(setting("n2", name="left")))
    assert "is the name of another node" in reason(register.apply(setting("n2", name="n1")))
    register.apply(token_add())
    assert "is the name of another node" in reason(register.apply(join("left")))
    assert register.apply(setting("n1", name="n1"))["ok"]


def test_a_key_belongs_to_one_node() -> None:
    register = register_of("n1", "n2")
    assert register.apply(setting("n1", fingerprints=[fingerprint(7), fingerprint(8)]))["ok"]
    assert "a certificate of n1" in reason(register.apply(setting("n2", fingerprints=[fingerprint(8)])))
    many = [fingerprint(number) for number in range(3)]
    assert "at most 2" in reason(register.apply(setting("n1", fingerprints=many)))


def test_what_is_not_set_stays() -> None:
    register = register_of("n1")
    register.apply(setting("n1", fingerprints=[fingerprint(7)], address="[::1]:7"))
    register.apply(setting("n1", is_draining=True))
    assert register.member("n1") == Member("n1", "n1", 1, "[::1]:7", (fingerprint(7),), is_voter=True, is_draining=True)
    assert "there is no node n9" in reason(register.apply(setting("n9", is_draining=True)))
    assert "takes id, name" in reason(register.apply(setting("n1", number=3)))


def test_numbers_are_given_in_turn_so_that_a_free_one_rests_longest() -> None:
    register = register_of("n1")
    given = []
    for place in range(2, MAXIMUM_MEMBERS + 3):
        given.append(joined(register, f"n{place}", place)["number"])
        register.apply(remove(f"n{place}"))
    assert given == [*range(2, MAXIMUM_MEMBERS + 1), 2, 3]


def test_the_cluster_has_so_many_members_and_no_more() -> None:
    register = register_of("n1")
    for place in range(2, MAXIMUM_MEMBERS + 1):
        assert joined(register, f"n{place}", place)["ok"]
    assert "no more" in reason(joined(register, "one-more", 40))
    assert sorted(member.number for member in register.members.values()) == list(range(1, MAXIMUM_MEMBERS + 1))


def test_a_learner_is_promoted_once_and_a_member_is_removed() -> None:
    register = register_of("n1")
    joined(register, "n2", 2)
    assert register.apply(promote("n2"))["is_voter"] is True
    assert register.voters == {"n1", "n2"}
    assert "a voter already" in reason(register.apply(promote("n2")))
    assert register.apply(remove("n1"))["ok"]
    assert register.voters == {"n2"}
    assert "last voter" in reason(register.apply(remove("n2")))
    assert "there is no node n1" in reason(register.apply(remove("n1")))


def test_the_last_voter_is_not_removed_while_others_only_learn() -> None:
    register = register_of("n1")
    joined(register, "n2", 2)
    assert "last voter" in reason(register.apply(remove("n1")))
    assert register.apply(remove("n2"))["ok"]


def test_tokens_are_bounded_and_those_that_have_expired_make_room() -> None:
    register = register_of("n1")
    for number in range(MAXIMUM_TOKENS):
        assert register.apply(token_add(number, expires_at_s=100 + number))["ok"]
    assert "no more" in reason(register.apply(token_add(999)))
    assert register.apply(token_add(999, expires_at_s=1000, at_s=100))["ok"]
    assert fingerprint(0) not in register.tokens
    assert "such a token already" in reason(register.apply(token_add(5, at_s=0)))
    assert "expired already" in reason(register.apply(token_add(1000, expires_at_s=5, at_s=5)))


def test_a_token_is_removed() -> None:
    register = register_of("n1")
    register.apply(token_add())
    assert register.apply({"op": "token_remove", "id": fingerprint(1)})["ok"]
    assert "no such token" in reason(register.apply({"op": "token_remove", "id": fingerprint(1)}))


def test_nobody_who_is_no_member_becomes_coordinator_or_owner_or_sends_commands() -> None:
    register = register_of("n1")
    claim = {"op": "claim_coordinator", "node": "n2", "expected_epoch": 0}
    create = {"op": "guest_create", "name": "vm", "owner": "n2", "spec": {}}
    for command in (claim, create):
        assert "there is no node n2" in reason(register.apply(command))
    assert "n2, which sent it" in reason(register.apply({**create, "owner": "n1"}, "n2/1/1"))
    register.apply({**create, "owner": "n1"})
    move = {"op": "guest_move", "name": "vm", "owner": "n1", "epoch": 1, "new_owner": "n2"}
    assert "there is no node n2" in reason(register.apply(move))


def test_a_guest_of_a_node_that_was_removed_can_be_moved() -> None:
    register = register_of("n1", "n2")
    register.apply({"op": "guest_create", "name": "vm", "owner": "n2", "spec": {}})
    register.apply(remove("n2"))
    move = {"op": "guest_move", "name": "vm", "owner": "n2", "epoch": 1, "new_owner": "n1"}
    assert register.apply(move)["owner"] == "n1"


def test_a_late_command_of_a_node_that_was_removed_is_not_carried_out_again() -> None:
    register = register_of("n1", "n2")
    create = {"op": "guest_create", "name": "vm", "owner": "n2", "spec": {}}
    first = register.apply(create, "n2/1/1")
    register.apply({"op": "guest_remove", "name": "vm", "owner": "n2", "epoch": 1})
    register.apply(remove("n2"))
    assert register.apply(create, "n2/1/1") == first
    assert register.guests == {}


def test_sessions_of_nodes_that_were_removed_make_room() -> None:
    register = register_of("n1")
    read = {"op": "guest_read", "name": "vm"}
    register.apply(read, "n1/1/1")
    for place in range(2, MAXIMUM_SESSIONS + 10):
        joined(register, f"n{place}", place)
        assert register.apply(read, f"n{place}/{place}/1")["ok"]
        register.apply(remove(f"n{place}"))
    sessions = [session["node"] for session in register.snapshot()["sessions"]]
    assert len(sessions) == MAXIMUM_SESSIONS
    assert "n1" in sessions
    assert "n2" not in sessions


def test_members_and_tokens_are_in_the_snapshot() -> None:
    register = register_of("n1", "n2")
    joined(register, "n3", 3)
    register.apply(token_add(4, is_witness=True))
    register.apply(setting("n1", name="left", is_draining=True))
    restored = Register.from_snapshot(register.snapshot())
    assert restored.members == register.members
    assert restored.tokens == register.tokens
    assert joined(restored, "n5", 5) == joined(register, "n5", 5)


def test_a_snapshot_of_another_format_is_refused_with_what_to_do() -> None:
    old = {**register_of("n1").snapshot(), "format": 1}
    with pytest.raises(RegisterError) as caught:
        Register.from_snapshot(old)
    assert "has format 1, this csvd knows 2" in str(caught.value)
    assert "join anew" in str(caught.value)


@pytest.mark.parametrize(
    "damage", [{"number": 0}, {"number": MAXIMUM_MEMBERS + 1}, {"fingerprints": "x"}, {"is_voter": 1}, {"address": 5}]
)
def test_a_damaged_member_is_refused(damage: dict[str, Any]) -> None:
    snapshot = register_of("n1").snapshot()
    snapshot["members"]["records"][0].update(damage)
    with pytest.raises(RegisterError):
        Register.from_snapshot(snapshot)
