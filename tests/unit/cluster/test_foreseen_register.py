"""What a node that starts knows of the members: its snapshot, and its log, committed or not."""

from __future__ import annotations

import msgspec
import pytest

from csvd.cluster.beginning import FIRST_ENTRIES, founding_members
from csvd.cluster.journal_records import Entry, Snapshot
from csvd.cluster.register import Register, RegisterError
from csvd.cluster.replicated_register import encode_entry, foreseen_register
from csvd.cluster.voters import CHANGE, encode_change

STATE = msgspec.msgpack.encode(Register(founding_members({"n1": "h:1"}, {"n1": ["ab" * 32]})).snapshot())
SNAPSHOT = Snapshot(STATE, *FIRST_ENTRIES)
TOKEN = "cd" * 32
TOKEN_ADD = {"op": "token_add", "id": TOKEN, "expires_at_s": 100, "is_witness": False, "at_s": 1}
JOIN = {"op": "member_join", "token": TOKEN, "id": "n2", "address": "h:2", "fingerprint": "ef" * 32, "at_s": 1}


def regular(index: int, *commands: dict[str, object]) -> Entry:
    return (b"\x00" + encode_entry([(None, command) for command in commands]), index, 1)


def change(index: int, voters: list[str], command: dict[str, object]) -> Entry:
    return (bytes([CHANGE]) + encode_change(voters, encode_entry([(None, command)])), index, 1)


def test_members_that_joined_after_the_snapshot_are_known() -> None:
    entries = [
        *FIRST_ENTRIES,
        regular(4, TOKEN_ADD),
        regular(5, JOIN),
        change(6, ["n1", "n2"], {"op": "member_promote", "id": "n2"}),
    ]
    register = foreseen_register(SNAPSHOT, entries)
    assert set(register.members) == {"n1", "n2"}
    assert register.members["n2"].fingerprints == ("ef" * 32,)
    assert register.voters == {"n1", "n2"}


def test_entries_of_the_snapshot_are_not_applied_again_and_what_is_no_command_is_passed_over() -> None:
    entries = [
        *FIRST_ENTRIES[:1],
        regular(FIRST_ENTRIES[1][1], TOKEN_ADD, JOIN),
        (b"\x01", 4, 1),
        (b"\x00\xc1", 5, 1),
    ]
    assert set(foreseen_register(SNAPSHOT, entries).members) == {"n1"}


def test_a_node_that_has_no_snapshot_has_what_its_log_makes() -> None:
    assert foreseen_register(None, [(b"\x01", 1, 0)]).members == {}


def test_a_damaged_snapshot_is_an_error() -> None:
    with pytest.raises(RegisterError):
        foreseen_register(Snapshot(b"\xc1", *FIRST_ENTRIES), [])
