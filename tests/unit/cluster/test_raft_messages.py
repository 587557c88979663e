"""The encoding of Raft's messages: all that pysyncobj sends comes back as it was, and nothing else is taken."""

from __future__ import annotations

import pickle
from typing import Any

import msgspec
import pytest

from csvd.cluster.errors import PeerMessageError
from csvd.cluster.journal_records import Entry, Snapshot
from csvd.cluster.raft_messages import AppendEntries, decode, encode, from_pysyncobj

ENTRIES: list[Entry] = [(b"\x01", 5, 2), (b"\x00command", 6, 3)]
SNAPSHOT = Snapshot(b"state", ENTRIES[0], ENTRIES[1])

MESSAGES: list[dict[str, Any]] = [
    {"type": "request_vote", "term": 3, "last_log_index": 6, "last_log_term": 3},
    {"type": "response_vote", "term": 3},
    {
        "type": "append_entries",
        "term": 3,
        "commit_index": 5,
        "entries": ENTRIES,
        "prevLogIdx": 4,
        "prevLogTerm": 1,
    },
    {"type": "append_entries", "term": 3, "commit_index": 0, "serialized": (SNAPSHOT, True, True)},
    {"type": "next_node_idx", "next_node_idx": 7, "reset": False, "success": True},
]


@pytest.mark.parametrize("message", MESSAGES, ids=lambda message: str(message["type"]))
def test_a_message_of_pysyncobj_comes_back_as_it_was(message: dict[str, Any]) -> None:
    sent = from_pysyncobj(message, 3)
    assert sent is not None
    received = decode(encode(sent))
    assert received == sent
    assert received.to_pysyncobj() == message
    assert received.term == 3


def test_entries_are_tuples_as_the_log_has_them() -> None:
    message = from_pysyncobj(MESSAGES[2], 3)
    assert message is not None
    received = decode(encode(message))
    assert isinstance(received, AppendEntries)
    assert received.entries == ENTRIES
    assert type(received.entries[0]) is tuple


@pytest.mark.parametrize(
    "message",
    [
        {"type": "apply_command", "command": b"x"},
        {"type": "apply_command_response", "request_id": 1},
        {"type": "timeout_now", "term": 1},
        {"type": "append_entries", "transmission": "start", "data": b"", "term": 1, "prevLogIdx": 1, "prevLogTerm": 1},
        {"type": "append_entries", "term": 1, "commit_index": 1, "serialized": None},
        {
            "type": "append_entries",
            "term": 1,
            "commit_index": 1,
            "entries": [],
            "prevLogIdx": None,
            "prevLogTerm": None,
        },
    ],
)
def test_a_message_that_is_not_spoken_is_not_sent(message: dict[str, Any]) -> None:
    assert from_pysyncobj(message, 1) is None


@pytest.mark.parametrize(
    "data",
    [
        pickle.dumps({"type": "request_vote", "term": 1}),
        msgspec.msgpack.encode({"type": "request_vote"}),
        msgspec.msgpack.encode(["vote?", 1, 2]),
        msgspec.msgpack.encode(["vote?", -1, 2, 3]),
        msgspec.msgpack.encode(["vote?", 1, 2, 2**63]),
        msgspec.msgpack.encode(["vote?", 1, 2, True]),
        msgspec.msgpack.encode(["vote!", 1, "more"]),
        msgspec.msgpack.encode(["unknown", 1]),
        msgspec.msgpack.encode(["append", 3, 0, 4, 1, [[b"x", 6, 1]]]),
        msgspec.msgpack.encode(["append", 3, 0, 4, 1, [[b"x", 5, 4]]]),
        msgspec.msgpack.encode(["append", 3, 0, 4, 2, [[b"x", 5, 1]]]),
        msgspec.msgpack.encode(["append", 3, 0, 4, 1, [[b"", 5, 1]]]),
        msgspec.msgpack.encode(["append", 3, 0, 4, 1, [["text", 5, 1]]]),
        msgspec.msgpack.encode(["snapshot", 3, [b"state", [b"x", 5, 1], [b"x", 7, 1]]]),
        msgspec.msgpack.encode(["snapshot", 3, [b"state", [b"x", 5, 1], [b"x", 6, 4]]]),
        b"\x91" * 5000,
    ],
)
def test_what_is_no_message_is_refused(data: bytes) -> None:
    with pytest.raises(PeerMessageError):
        decode(data)
