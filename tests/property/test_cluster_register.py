"""The register under any commands: epochs only grow, one owner, replays answer alike, and its size is bounded."""

from __future__ import annotations

import json
from typing import Any

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from csvd.cluster.register import ANSWERS_REMEMBERED, Register
from tests.unit.cluster.registers import register_of, small_register

NODES = st.sampled_from(["n1", "n2", "n3"])
NAMES = st.sampled_from(["a", "b"])
EPOCHS = st.integers(0, 6)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
COMMANDS = st.one_of(
    st.fixed_dictionaries({"op": st.just("claim_coordinator"), "node": NODES, "expected_epoch": EPOCHS}),
    st.fixed_dictionaries({"op": st.just("guest_create"), "name": NAMES, "owner": NODES, "spec": st.just({})}),
    st.fixed_dictionaries(
        {"op": st.just("guest_move"), "name": NAMES, "owner": NODES, "epoch": EPOCHS, "new_owner": NODES}
    ),
    st.fixed_dictionaries(
        {
            "op": st.just("guest_state"),
            "name": NAMES,
            "owner": NODES,
            "epoch": EPOCHS,
            "state": st.sampled_from(["running", "paused"]),
        }
    ),
    st.fixed_dictionaries({"op": st.just("guest_remove"), "name": NAMES, "owner": NODES, "epoch": EPOCHS}),
    st.fixed_dictionaries({"op": st.just("guest_read"), "name": NAMES}),
)
KEYS = st.none() | st.builds("{}/{}/{}".format, NODES, st.integers(1, 2), st.integers(1, ANSWERS_REMEMBERED + 5))
HISTORIES = st.lists(st.tuples(COMMANDS, KEYS), max_size=60)


@given(HISTORIES)
def test_epochs_only_grow_and_only_the_owner_of_an_epoch_gives_a_guest_away(
    history: list[tuple[dict[str, Any], str | None]],
) -> None:
    register = small_register()
    highest: dict[str, int] = {}
    for command, key in history:
        before, guests = register.epoch, register.guests
        answer = register.apply(command, key)
        assert before <= register.epoch <= before + 1
        for name, guest in register.guests.items():
            old = guests.get(name)
            if old is None:
                assert guest.epoch > highest.get(name, 0)
            elif guest != old:
                assert answer["ok"]
                assert (command["owner"], command["epoch"]) == (old.owner, old.epoch)
                assert guest.epoch == old.epoch + (command["op"] == "guest_move")
            highest[name] = max(highest.get(name, 0), guest.epoch)


@given(HISTORIES)
def test_no_key_is_carried_out_twice(history: list[tuple[dict[str, Any], str | None]]) -> None:
    register = small_register()
    done: dict[str, dict[str, Any]] = {}
    for command, key in history:
        revision = register.revision
        answer = register.apply(command, key)
        if key is None or answer.get("expired"):
            assert key is None or register.revision == revision
            continue
        if key in done:
            assert answer == done[key]
            assert register.revision == revision
        done[key] = answer


@given(HISTORIES, st.integers(0, 60))
def test_a_replay_gives_the_same_answers_and_state_also_from_a_snapshot_in_between(
    history: list[tuple[dict[str, Any], str | None]], cut: int
) -> None:
    first, second = small_register(), small_register()
    for number, (command, key) in enumerate(history):
        if number == cut:
            second = Register.from_snapshot(json.loads(json.dumps(second.snapshot())))
        assert second.apply(command, key) == first.apply(command, key)
    assert first.snapshot() == second.snapshot()
    carried = msgspec.msgpack.decode(msgspec.msgpack.encode(first.snapshot()))
    assert Register.from_snapshot(carried).snapshot() == first.snapshot()


@given(JSON, KEYS | JSON)
def test_whatever_is_given_is_answered_and_never_raised(command: object, key: object) -> None:
    register = small_register()
    assert register.apply(command, key)["ok"] is False
    register.apply({"op": "guest_create", "name": "a", "owner": "n1", "spec": {"x": command}}, None)
    json.dumps(register.snapshot(), allow_nan=False)


def test_the_largest_register_is_not_longer_than_a_megabyte() -> None:
    senders = [f"{session:02}{'n' * 61}" for session in range(32)]
    register = register_of(*senders)
    node = senders[0]
    for number in range(1024):
        name = f"{number:04}".rjust(63, "g")
        register.apply(
            {"op": "guest_create", "name": name, "owner": node, "spec": {"x": "y" * 8000 if number < 46 else ""}}
        )
    for sender in senders:
        for sequence in range(ANSWERS_REMEMBERED):
            command = {"op": "guest_remove", "name": "0000".rjust(63, "g"), "owner": "m" * 63, "epoch": 2**62}
            register.apply(command, f"{sender}/{2**62}/{sequence}")
    assert len(register.guests) == 1024
    assert len(msgspec.msgpack.encode(register.snapshot())) < 1_200_000
