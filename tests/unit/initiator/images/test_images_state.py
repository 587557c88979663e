from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from initiator.errors import InitiatorError
from initiator.images.state import State, check_same, lasting, parse_state, read_state, remove_state, write_state

FILE = {"kind": "file", "device": 1, "inode": 2, "size": 100, "modified_ns": 5}
LUN = {"kind": "lun", "unit": "naa.1", "size": 4096, "block_bytes": 512}
STATE = State(FILE, LUN, 0, 512, 100, 64)


def test_a_state_is_read_as_it_was_written(tmp_path: Path) -> None:
    path = str(tmp_path / "state")
    assert read_state(path) is None
    for durable in (0, 64, 100):
        write_state(path, replace(STATE, durable=durable))
        assert read_state(path) == replace(STATE, durable=durable)
    assert os.listdir(tmp_path) == ["state"]
    remove_state(path)
    remove_state(path)
    assert os.listdir(tmp_path) == []


def test_a_state_that_could_not_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "state"
    write_state(str(path), STATE)
    (tmp_path / "state.new").mkdir()
    with pytest.raises(OSError, match="directory"):
        write_state(str(path), replace(STATE, durable=100))
    assert read_state(str(path)) == STATE


@pytest.mark.parametrize(
    "text",
    [
        "",
        "null",
        "[]",
        "{}",
        "[" * 100_000,
        STATE.text().replace('"version": 1', '"version": 2'),
        STATE.text().replace('"durable_bytes": 64', '"durable_bytes": 101'),
        STATE.text().replace('"durable_bytes": 64', '"durable_bytes": -1'),
        STATE.text().replace('"durable_bytes": 64', '"durable_bytes": true'),
        STATE.text().replace('"durable_bytes": 64', '"durable_bytes": "64"'),
        STATE.text()[:-10],
    ],
)
def test_what_is_no_state_is_refused(text: str) -> None:
    with pytest.raises(InitiatorError, match="no state of a copy"):
        parse_state(text, "here")


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(InitiatorError, match="no state of a copy"):
        read_state(str(path))


def test_of_a_target_only_what_copying_leaves_counts() -> None:
    assert lasting(FILE) == {"kind": "file", "device": 1, "inode": 2}
    assert lasting(LUN) == LUN


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"source": FILE | {"modified_ns": 6}}, "another modified_ns"),
        ({"source": FILE | {"size": 101, "inode": 3}}, "another inode, size"),
        ({"source": LUN}, "source is not as it was"),
        ({"target": LUN | {"unit": "naa.2"}}, "target is another"),
        ({"length": 99}, "other offsets"),
        ({"source_offset": 1}, "other offsets"),
        ({"target_offset": 0}, "other offsets"),
    ],
)
def test_a_copy_of_something_else_is_not_gone_on_with(change: dict[str, object], words: str) -> None:
    check_same(STATE, replace(STATE, durable=0), "state")
    with pytest.raises(InitiatorError, match=words):
        check_same(STATE, replace(STATE, durable=0, **change), "state")  # type: ignore[arg-type]


def test_a_state_holds_no_secret() -> None:
    assert set(json.loads(STATE.text())) == {
        "version",
        "source",
        "target",
        "source_offset_bytes",
        "target_offset_bytes",
        "length_bytes",
        "durable_bytes",
    }
