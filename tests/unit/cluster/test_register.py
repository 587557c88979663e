"""The register: compare-and-set on (owner, epoch), answers that are remembered, and limits."""

from __future__ import annotations

from typing import Any

import pytest

from csvd.cluster.register import (
    ANSWERS_REMEMBERED,
    OPERATIONS,
    CoordinatorRecord,
    IdempotencyKey,
    Register,
    RegisterError,
    check_command,
)
from csvd.cluster.register_guests import (
    MAXIMUM_ALL_SPECS_BYTES,
    MAXIMUM_GUESTS,
    MAXIMUM_SPEC_BYTES,
    GuestRecord,
)
from tests.unit.cluster.registers import small_register


def create(name: str = "vm", owner: str = "n1", spec: object = None) -> dict[str, Any]:
    return {"op": "guest_create", "name": name, "owner": owner, "spec": {} if spec is None else spec}


def move(owner: str, epoch: int, new_owner: str, name: str = "vm") -> dict[str, Any]:
    return {"op": "guest_move", "name": name, "owner": owner, "epoch": epoch, "new_owner": new_owner}


def claim(node: str, expected_epoch: int) -> dict[str, Any]:
    return {"op": "claim_coordinator", "node": node, "expected_epoch": expected_epoch}


def reason(answer: dict[str, Any]) -> str:
    assert answer["ok"] is False
    return str(answer["reason"])


def test_a_claim_makes_the_node_coordinator_with_the_next_epoch() -> None:
    register = small_register()
    assert register.coordinator is None
    assert register.apply(claim("n1", 0)) == {"ok": True, "node": "n1", "epoch": 1, "revision": 1}
    assert register.apply(claim("n2", 1))["epoch"] == 2
    assert register.coordinator == CoordinatorRecord("n2", 2)


def test_a_second_claim_with_an_old_epoch_is_refused() -> None:
    register = small_register()
    register.apply(claim("n1", 0))
    assert reason(register.apply(claim("n2", 0))) == "the coordinator's epoch is 1, not 0"
    assert register.coordinator == CoordinatorRecord("n1", 1)


def test_a_guest_is_created_once() -> None:
    register = small_register()
    answer = register.apply(create(spec={"memory": [1, None, "x"]}))
    assert answer == {"ok": True, "name": "vm", "owner": "n1", "epoch": 1, "state": "created", "revision": 1}
    assert register.guest("vm") == GuestRecord("vm", "n1", 1, {"memory": [1, None, "x"]}, "created")
    assert "exists already, owned by n1" in reason(register.apply(create(owner="n2")))


def test_a_move_by_the_owner_of_this_epoch_makes_the_epoch_one_higher() -> None:
    register = small_register()
    register.apply(create())
    assert register.apply(move("n1", 1, "n2"))["epoch"] == 2
    assert register.guests["vm"].owner == "n2"


@pytest.mark.parametrize("command", [move("n1", 2, "n3"), move("n2", 1, "n3"), move("n1", 0, "n3")])
def test_a_move_that_names_another_owner_or_epoch_is_refused(command: dict[str, Any]) -> None:
    register = small_register()
    register.apply(create())
    assert "is owned by n1 with epoch 1" in reason(register.apply(command))
    assert register.guests["vm"].epoch == 1


def test_only_the_owner_of_this_epoch_reports_a_state_or_removes() -> None:
    register = small_register()
    register.apply(create())
    register.apply(move("n1", 1, "n2"))
    for operation, extra in (("guest_state", {"state": "running"}), ("guest_remove", {})):
        command = {"op": operation, "name": "vm", "owner": "n1", "epoch": 1, **extra}
        assert "not by n1 with epoch 1" in reason(register.apply(command))
        assert register.apply({**command, "owner": "n2", "epoch": 2})["ok"]
    assert register.guests == {}
    assert "there is no guest vm" in reason(register.apply(move("n2", 2, "n1")))


def test_a_guest_of_a_name_that_was_removed_starts_with_a_higher_epoch() -> None:
    register = small_register()
    register.apply(create())
    register.apply(move("n1", 1, "n2"))
    register.apply({"op": "guest_remove", "name": "vm", "owner": "n2", "epoch": 2})
    assert register.apply(create())["epoch"] == 3


def test_a_read_changes_nothing() -> None:
    register = small_register()
    register.apply(create(spec={"a": 1}))
    before = register.snapshot()
    guest = register.apply({"op": "guest_read", "name": "vm"})["guest"]
    assert guest == {"name": "vm", "owner": "n1", "epoch": 1, "spec": {"a": 1}, "state": "created"}
    assert register.apply({"op": "guest_read", "name": "other"})["guest"] is None
    assert register.snapshot() == before


@pytest.mark.parametrize(
    "command",
    [
        None,
        [],
        {},
        {"op": "unknown"},
        {"op": ["guest_create"]},
        {"op": "guest_create"},
        {**create(), "more": 1},
        create(name=""),
        create(name="../x"),
        create(name="x" * 64),
        create(owner="N1"),
        create(owner="n1\n"),
        create(spec=[]),
        create(spec={1: 2}),
        create(spec={"a": float("nan")}),
        create(spec={"a": 2**64}),
        create(spec={"a": {1, 2}}),
        create(spec={"a": "\ud800"}),
        create(spec={"a": "x" * MAXIMUM_SPEC_BYTES}),
        move("n1", -1, "n2"),
        move("n1", True, "n2"),
        claim("n1", 2**63),
        {"op": "guest_state", "name": "vm", "owner": "n1", "epoch": 1, "state": "Running"},
        {"op": "guest_state", "name": "vm", "owner": "n1", "epoch": 1, "state": 1},
    ],
)
def test_a_malformed_command_is_refused_and_changes_nothing(command: object) -> None:
    register = small_register()
    assert reason(register.apply(command)) == check_command(command)
    assert register.snapshot() == small_register().snapshot()


def test_a_spec_that_is_nested_without_end_is_refused() -> None:
    spec: dict[str, Any] = {}
    spec["again"] = spec
    assert "nested deeper" in reason(small_register().apply(create(spec=spec)))


def test_what_the_caller_does_with_its_spec_later_does_not_change_the_register() -> None:
    register, spec = small_register(), {"disks": ["a"]}
    register.apply(create(spec=spec))
    spec["disks"].append("b")
    assert register.guests["vm"].spec == {"disks": ["a"]}


def test_a_command_that_is_asked_again_is_answered_again_and_done_once() -> None:
    register = small_register()
    first = register.apply(create(), "n1/7/1")
    assert register.apply(create(), "n1/7/1") == first
    register.apply(move("n1", 1, "n2"), "n1/7/2")
    assert register.apply(move("n1", 1, "n2"), "n1/7/2")["epoch"] == 2
    assert register.guests["vm"].epoch == 2
    assert register.revision == 2


def test_a_refusal_is_remembered_like_any_answer() -> None:
    register = small_register()
    refused = register.apply(move("n1", 1, "n2"), "n1/7/1")
    register.apply(create())
    assert register.apply(move("n1", 1, "n2"), "n1/7/1") == refused
    assert register.guests["vm"].owner == "n1"


def test_a_key_too_old_to_be_remembered_is_expired_and_not_done_again() -> None:
    register = small_register()
    for sequence in range(1, ANSWERS_REMEMBERED + 2):
        register.apply(create(name=f"vm{sequence}"), f"n1/7/{sequence}")
    answer = register.apply(create(name="again"), "n1/7/1")
    assert (answer["ok"], answer["expired"]) == (False, True)
    assert register.apply(create(), "n1/7/2")["name"] == "vm2"
    assert "again" not in register.guests


def test_a_key_that_was_skipped_may_still_come() -> None:
    register = small_register()
    register.apply(create(name="b"), "n1/7/2")
    assert register.apply(create(name="a"), "n1/7/1")["ok"]


def test_commands_of_a_run_before_the_nodes_restart_are_expired() -> None:
    register = small_register()
    register.apply(create(name="a"), "n1/7/1")
    assert register.apply(create(name="b"), "n1/8/1")["ok"]
    answer = register.apply(create(name="c"), "n1/7/2")
    assert (answer["ok"], answer["expired"]) == (False, True)


def test_the_keys_of_two_nodes_are_apart() -> None:
    register = small_register()
    assert register.apply(create(name="a"), "n1/7/1")["name"] == "a"
    assert register.apply(create(name="b"), "n2/7/1")["name"] == "b"


@pytest.mark.parametrize("key", ["", "n1", "n1/1", "n1/1/-1", "N1/1/1", "n1/1/1/1", 5, b"n1/1/1", f"n1/{2**63}/1"])
def test_a_key_that_is_none_is_refused(key: object) -> None:
    assert "idempotency key" in reason(small_register().apply(create(), key))


def test_a_key_is_read_as_it_is_written() -> None:
    assert IdempotencyKey.parse(str(IdempotencyKey("n1", 5, 6))) == IdempotencyKey("n1", 5, 6)


def test_the_register_holds_so_many_guests_and_bytes_and_no_more() -> None:
    register = small_register()
    for number in range(MAXIMUM_GUESTS):
        assert register.apply(create(name=f"vm{number}"))["ok"]
    assert "no more" in reason(register.apply(create(name="one-more")))
    register = small_register()
    spec = {"a": "x" * (MAXIMUM_SPEC_BYTES - 100)}
    answers = [register.apply(create(name=f"vm{number}", spec=spec)) for number in range(100)]
    assert sum(answer["ok"] for answer in answers) == MAXIMUM_ALL_SPECS_BYTES // (MAXIMUM_SPEC_BYTES - 90)
    assert "specs of all guests together" in reason(answers[-1])


def full() -> Register:
    register = small_register()
    register.apply(claim("n1", 0))
    register.apply(create(name="b", spec={"x": [1, 2.5, None, True, "é"]}), "n1/1/1")
    register.apply(create(name="a"), "n2/5/9")
    register.apply(move("n1", 9, "n2", name="a"), "n2/5/10")
    register.apply({"op": "guest_remove", "name": "a", "owner": "n1", "epoch": 1})
    return register


def test_a_register_that_is_restored_is_the_same() -> None:
    register = full()
    restored = Register.from_snapshot(register.snapshot())
    assert restored.snapshot() == register.snapshot()
    for command, key in ((create(name="c"), "n2/5/10"), (create(name="c"), "n1/1/2"), (claim("n3", 1), None)):
        assert restored.apply(command, key) == register.apply(command, key)
    assert restored.snapshot() == register.snapshot()


def test_restoring_keeps_the_object() -> None:
    register = small_register()
    register.restore(full().snapshot())
    assert register.epoch == 1


@pytest.mark.parametrize(
    "damage",
    [
        {"revision": -1},
        {"coordinator": {"node": "n1"}},
        {"coordinator": {"node": "N 1", "epoch": 1}},
        {"guests": [{}]},
        {"guests": 5},
        {"guests": {"highest_removed_epoch": 0, "records": [{}]}},
        {"members": {"last_number": 0, "records": [{}], "tokens": []}},
        {"members": {"last_number": 0, "records": [], "tokens": [{}]}},
        {"members": {"last_number": 0, "records": []}},
        {"sessions": [{"node": "n1", "incarnation": 1, "forgotten": "x", "answers": []}]},
        {"sessions": [{"node": "n1", "incarnation": 1, "forgotten": -1, "answers": [[1]]}]},
    ],
)
def test_a_damaged_snapshot_is_refused_and_changes_nothing(damage: dict[str, Any]) -> None:
    register = full()
    before = register.snapshot()
    with pytest.raises(RegisterError):
        register.restore({**before, **damage})
    assert register.snapshot() == before


@pytest.mark.parametrize("snapshot", [None, [], "x", {}])
def test_what_is_no_snapshot_is_refused(snapshot: object) -> None:
    with pytest.raises(RegisterError):
        Register.from_snapshot(snapshot)


def test_every_operation_says_which_fields_it_takes() -> None:
    for name, operation in OPERATIONS.items():
        takes = [*operation.fields, *operation.optional]
        assert check_command({"op": name}) == f"{name} takes {', '.join(takes)}"
