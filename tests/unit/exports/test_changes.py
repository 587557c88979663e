"""Changes made at run time: their file, and how they lie over the configuration."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import Any

import pytest

from csvd.config.load import Source
from csvd.errors import ConfigError
from csvd.exports import changes as change_file
from csvd.exports.changes import Changes, Entry, TargetEntry, merge, origin_of, read_changes, write_changes

ONE = "iqn.2026-11.org.example:one"
TWO = "iqn.2026-11.org.example:two"
HOST = "iqn.2026-11.org.example:host"


def merged(found: dict[str, Any], **targets: TargetEntry) -> Any:
    names = {"one": ONE, "two": TWO}
    changes = Changes(targets={names[name]: entry for name, entry in targets.items()})
    return merge(Source(found, "csvd.toml", Path("/etc")), changes, where="targets.json").found.get("target")


def file_with(**keys: Any) -> dict[str, Any]:
    return {"target": {"name": ONE, "lun": [{"number": 0, "disk": "a"}], **keys}}


def test_without_changes_the_configuration_is_as_it_was() -> None:
    found = file_with()
    assert merged(found) is found["target"]


def test_a_target_made_at_run_time_is_beside_those_of_the_file() -> None:
    made = TargetEntry(how="made", keys={"alias": "x"}, luns={"3": Entry(how="made", keys={"disk": "/b"})})
    assert merged(file_with(), two=made) == [
        {"name": ONE, "lun": [{"number": 0, "disk": "a"}]},
        {"name": TWO, "alias": "x", "lun": [{"number": 3, "disk": "/b"}]},
    ]
    assert merged({}, two=TargetEntry(how="made")) == [{"name": TWO}]


def test_keys_changed_at_run_time_go_before_those_of_the_file_and_null_takes_one_away() -> None:
    entry = TargetEntry(keys={"alias": "new", "queue_depth": None}, luns={"0": Entry(keys={"read_only": True})})
    assert merged(file_with(alias="old", queue_depth=3), one=entry) == [
        {"name": ONE, "alias": "new", "lun": [{"number": 0, "disk": "a", "read_only": True}]}
    ]


def test_what_was_removed_is_gone_and_what_was_made_anew_in_its_place_is_all_there_is() -> None:
    assert merged(file_with(), one=TargetEntry(how="removed")) == []
    assert merged(file_with(), one=TargetEntry(luns={"0": Entry(how="removed")})) == [{"name": ONE, "lun": []}]
    anew = TargetEntry(luns={"0": Entry(how="replaced", keys={"disk": "/c"})})
    assert merged(file_with(), one=anew) == [{"name": ONE, "lun": [{"number": 0, "disk": "/c"}]}]
    assert merged(file_with(alias="old"), one=TargetEntry(how="replaced")) == [{"name": ONE}]


def test_names_are_compared_in_their_normal_form() -> None:
    found = {"target": [{"name": ONE.upper()}]}
    assert merged(found, one=TargetEntry(how="removed")) == []


def test_the_access_list_is_merged_by_initiator() -> None:
    entry = TargetEntry(acl={HOST: Entry(how="made", keys={"luns": [0]})})
    (target,) = merged(file_with(), one=entry)
    assert target["acl"] == [{"initiator": HOST, "luns": [0]}]


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        (TargetEntry(how="made"), f"name {ONE}"),
        (TargetEntry(luns={"0": Entry(how="made")}), "number 0"),
    ],
)
def test_what_the_file_has_and_was_made_at_run_time_too_is_a_conflict(entry: TargetEntry, what: str) -> None:
    with pytest.raises(ConfigError, match=f"{what} is there, and was made at run time, too") as caught:
        merged(file_with(), one=entry)
    assert caught.value.why == "targets.json has it"
    assert caught.value.where.startswith("csvd.toml: target")


def test_changes_of_what_the_file_has_no_more_change_nothing() -> None:
    stale = TargetEntry(keys={"alias": "x"}, luns={"0": Entry(how="removed"), "1": Entry(keys={"read_only": True})})
    assert merged({}, one=stale) == []


def test_what_is_no_table_stays_for_the_check_to_tell() -> None:
    assert merged({"target": 7}, one=TargetEntry()) == [7]
    assert merged({"target": {"name": ONE, "lun": 3}}, one=TargetEntry(luns={"0": Entry()})) == [
        {"name": ONE, "lun": 3}
    ]


def test_where_a_thing_is_from_is_told() -> None:
    entries = {"a": Entry(how="made"), "b": Entry(how="replaced"), "c": Entry(keys={"y": 1, "x": 2}), "d": Entry()}
    assert [origin_of(entries, name) for name in "abcde"] == [
        "run time",
        "run time",
        "file, changed at run time: x, y",
        "file",
        "file",
    ]


def test_removing_what_was_made_leaves_nothing_behind() -> None:
    entries: dict[str, Any] = {}
    change_file.make(entries, "1", Entry())
    assert entries["1"].how == "made"
    change_file.change(entries, "1", {"a": 1}, Entry)
    assert (entries["1"].how, entries["1"].keys) == ("made", {"a": 1})
    change_file.remove(entries, "1", Entry)
    assert entries == {}


def test_what_the_file_has_can_be_removed_made_and_removed_again() -> None:
    entries: dict[str, Any] = {}
    change_file.change(entries, "1", {"a": 1}, Entry)
    change_file.remove(entries, "1", Entry)
    assert (entries["1"].how, entries["1"].keys) == ("removed", {})
    change_file.make(entries, "1", Entry(keys={"b": 2}))
    assert entries["1"].how == "replaced"
    change_file.remove(entries, "1", Entry)
    assert entries["1"].how == "removed"


# The file


def test_the_file_brings_back_what_was_written_and_is_its_owners_alone(tmp_path: Path) -> None:
    assert read_changes(tmp_path) == Changes()
    changes = Changes(targets={ONE: TargetEntry(how="made", luns={"1": Entry(how="made", keys={"disk": "/é"})})})
    write_changes(tmp_path, changes)
    assert read_changes(tmp_path) == changes
    assert stat.S_IMODE((tmp_path / change_file.FILE_NAME).stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == [change_file.FILE_NAME]


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "is not what csvd wrote"),
        (b"{", "is not what csvd wrote"),
        (b"[" * 100_000, "is not what csvd wrote"),
        (b'{"version":1,"targets":{"x":{"how":"lost"}}}', "is not what csvd wrote"),
        (b'{"version":1,"target":{}}', "is not what csvd wrote"),
        (b'{"version":2}', "it is of version 2, this csvd knows version 1"),
    ],
)
def test_a_damaged_file_is_never_taken_for_an_empty_one(tmp_path: Path, data: bytes, why: str) -> None:
    (tmp_path / change_file.FILE_NAME).write_bytes(data)
    with pytest.raises(ConfigError, match=why):
        read_changes(tmp_path)


def test_a_write_that_fails_leaves_the_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = Changes(targets={ONE: TargetEntry(how="removed")})
    write_changes(tmp_path, before)

    def fail(_descriptor: int) -> None:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ConfigError, match="can not be written: No space left"):
        write_changes(tmp_path, Changes())
    assert read_changes(tmp_path) == before
