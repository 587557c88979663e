"""Frames between a daemon and its workers: whole in any pieces, bounded, and refused when they make no sense."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csvd.config.load import parse
from csvd.errors import ConfigError
from csvd.iscsi.keepalive import Keepalive
from csvd.workers.protocol import (
    MAX_FRAME_BYTES,
    Answer,
    Begin,
    Fault,
    FrameReader,
    Message,
    Notice,
    Prepare,
    Request,
    WorkerError,
    error_of,
    fault_of,
    frame_of,
    read_params,
    to_params,
)

MESSAGES: list[Message] = [
    Request(1, "begin", {"directory": "x"}, 1),
    Answer(1, {"units": []}),
    Answer(2, fault=Fault("ConfigError", "can not be opened", "a.img")),
    Notice("login", "somebody", "iqn.x"),
]


def framed(body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + body


@given(st.lists(st.integers(1, 40)))
def test_messages_come_whole_in_pieces_of_any_size(sizes: list[int]) -> None:
    data = b"".join(map(frame_of, MESSAGES))
    reader, at = FrameReader(), 0
    found: list[Message] = []
    for size in [*sizes, len(data)]:
        found += reader.feed(data[at : at + size])
        at += size
    assert found == MESSAGES


@pytest.mark.parametrize(
    "data",
    [
        struct.pack(">I", MAX_FRAME_BYTES + 1),
        framed(b""),
        framed(b"{"),
        framed(b"[" * 100_000),
        framed(b"\xff\xfe"),
        framed(b"null"),
        framed(b'{"type":"order"}'),
        framed(b'{"type":"request","number":"1","method":"begin"}'),
        framed(b'{"type":"request","number":1,"method":"begin","more":1}'),
        framed(b'{"type":"answer","number":1,"fault":{}}'),
        framed(b'{"type":"notice","kind":"login"}'),
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(WorkerError):
        list(FrameReader().feed(data))


def test_a_message_that_is_too_long_is_not_sent() -> None:
    with pytest.raises(WorkerError, match="bytes"):
        frame_of(Notice("x", "y" * MAX_FRAME_BYTES, "z"))


def test_a_value_that_json_has_not_is_not_sent() -> None:
    with pytest.raises(WorkerError, match="can not be written"):
        frame_of(Answer(1, object()))


@pytest.mark.parametrize(
    "params",
    [
        None,
        {},
        {"directory": 1, "keepalive": {}},
        {"directory": "x", "keepalive": {"idle_s": 9.0, "dead_s": 1.0, "login_s": 1.0, "discovery_s": 1.0}},
        {"directory": "x", "keepalive": {}, "more": 1},
    ],
)
def test_parameters_of_another_shape_are_refused(params: Any) -> None:
    with pytest.raises(WorkerError, match="no Begin"):
        read_params(params, Begin)


def test_parameters_come_as_they_went() -> None:
    begin = Begin("units", Keepalive(1.0, 2.0, 3.0, 4.0))
    assert read_params(json.loads(json.dumps(to_params(begin))), Begin) == begin


def test_targets_come_as_they_went_and_their_secrets_are_shown_nowhere(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(0o600)
    secret.write_text("a secret of joe")
    text = f"""
[node]
name = "n"
[[target]]
name = "iqn.2026-11.org.example:x"
networks = ["10.0.0.0/8"]
chap = {{ user = "joe", secret_file = "{secret}" }}
redirect = {{ address = "192.0.2.1:3260" }}
acl = [{{ initiator = "iqn.2026-11.org.example:h", luns = [1] }}]
portal_group = [{{ tag = 7, portals = ["[::1]:3261"], access_state = "standby" }}]
lun = [{{ number = 1, disk = "a.img", create = "1M", naa = "{"60" * 16}" }}]
"""
    targets = tuple(parse(text, where="x", directory=tmp_path).target)
    prepare = Prepare(targets, {str(secret): b"a secret of joe"}, ("iqn.2026-11.org.example:x",))
    found = read_params(json.loads(json.dumps(to_params(prepare))), Prepare)
    assert json.dumps(to_params(found)) == json.dumps(to_params(prepare))
    assert found.secrets == prepare.secrets
    assert "a secret" not in repr(found)


def test_an_error_of_a_person_is_one_at_the_other_end_and_others_keep_their_kind() -> None:
    config = error_of(fault_of(ConfigError("can not be opened", where="a.img", why="gone", hint="look")))
    assert (type(config), str(config)) == (ConfigError, "a.img: can not be opened: gone (look)")
    other = error_of(fault_of(WorkerError("is ill", kind="StorageError")))
    assert isinstance(other, WorkerError)
    assert other.kind == "StorageError"
