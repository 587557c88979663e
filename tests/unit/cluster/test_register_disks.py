"""The shared disks of the register: claims by compare-and-set, epochs that only grow."""

from __future__ import annotations

from typing import Any

import pytest

from csvd.cluster.register import Register
from csvd.cluster.register_members import Member

UUID = "00000000-0000-0000-0000-00000000000{}"


@pytest.fixture
def register() -> Register:
    members = [Member("n1", "n1", 1, is_voter=True), Member("n2", "n2", 2), Member("w", "w", 3, is_witness=True)]
    return Register(members)


def add(register: Register, name: str = "system", number: int = 1, **more: Any) -> dict[str, Any]:
    return register.apply({"op": "disk_add", "name": name, "url": f"/{name}", "uuid": UUID.format(number), **more})


def claim(register: Register, node: str = "n1", epoch: int = 0, **more: Any) -> dict[str, Any]:
    return register.apply({"op": "disk_claim", "name": "system", "node": node, "expected_epoch": epoch, **more})


def test_the_first_disk_is_the_system_disk(register: Register) -> None:
    assert add(register)["is_system"]
    assert not add(register, "data", 2)["is_system"]
    assert "the other disks go first" in register.apply({"op": "disk_remove", "name": "system"})["reason"]


@pytest.mark.parametrize("more", [{"name": "system", "number": 2}, {"name": "other", "number": 1}])
def test_a_disk_is_added_once(register: Register, more: dict[str, Any]) -> None:
    add(register)
    assert not add(register, **more)["ok"]


def test_a_claim_is_compare_and_set_and_has_a_new_epoch(register: Register) -> None:
    add(register)
    assert claim(register)["epoch"] == 1
    assert "is 1, of n1" in claim(register, "n2")["reason"]
    assert claim(register, "n2", 1)["epoch"] == 2
    assert register.disks["system"].coordinator == "n2"


def test_a_claim_can_be_made_above_what_the_disk_was_seen_with(register: Register) -> None:
    add(register)
    assert claim(register, above=41, is_pinned=True)["epoch"] == 42
    assert register.disks["system"].is_pinned
    assert not claim(register, epoch=42)["is_pinned"]


@pytest.mark.parametrize("node", ["w", "stranger"])
def test_only_a_member_that_is_no_witness_claims(register: Register, node: str) -> None:
    add(register)
    assert not claim(register, node)["ok"]


def test_epochs_grow_over_removal(register: Register) -> None:
    add(register)
    claim(register, above=6)
    assert register.apply({"op": "disk_remove", "name": "system"})["ok"]
    assert add(register)["epoch"] == 7
    assert claim(register, epoch=7)["epoch"] == 8
    assert add(register, "data", 2, epoch=30)["epoch"] == 30


def test_a_snapshot_has_it_all(register: Register) -> None:
    add(register)
    claim(register, is_pinned=True)
    add(register, "data", 2)
    register.apply({"op": "disk_remove", "name": "data"})
    restored = Register.from_snapshot(register.snapshot())
    assert restored.snapshot() == register.snapshot()
    assert restored.disks == register.disks


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "Big"},
        {"name": ""},
        {"name": 5},
        {"url": ""},
        {"url": "a\nb"},
        {"url": "x" * 2000},
        {"uuid": "1"},
        {"epoch": -1},
        {"epoch": "1"},
        {"more": 1},
    ],
)
def test_malformed_disks_are_refused(register: Register, fields: dict[str, Any]) -> None:
    command = {"op": "disk_add", "name": "a", "url": "/a", "uuid": UUID.format(1), **fields}
    assert not register.apply(command)["ok"]
    assert register.disks == {}
