"""The client's side of a QMP conversation."""

from __future__ import annotations

import json
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.vm.errors import ControlProtocolError, GuestEnded, GuestRefused, GuestTimeout
from csvd.vm.qmp import MAXIMUM_LINE_BYTES, QmpClient
from tests.unit.migration.fakes import errors_of


class Conversation:
    """A client, and what it wrote."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.written: list[dict[str, Any]] = []
        self.events: list[dict[str, Any]] = []
        self.client = QmpClient(
            self.clock, lambda data: self.written.append(json.loads(data)), where="guest g", on_event=self.events.append
        )

    def execute(self, command: str) -> Deferred[dict[str, Any]]:
        return Deferred.fromCoroutine(self.client.execute(command, timeout_s=10))

    def receive(self, *messages: object) -> None:
        for message in messages:
            self.client.data_received(json.dumps(message).encode() + b"\n")


@pytest.fixture
def talk() -> Conversation:
    return Conversation()


def test_a_reply_goes_to_the_one_who_asked(talk: Conversation) -> None:
    first, second = talk.execute("stop"), talk.execute("query-status")
    assert talk.written == [{"execute": "stop", "id": 1}, {"execute": "query-status", "id": 2}]
    talk.receive({"return": {"status": "running"}, "id": 2}, {"return": {}, "id": 1})
    assert (first.result, second.result) == ({}, {"status": "running"})
    assert talk.clock.getDelayedCalls() == []


def test_lines_may_be_cut_anywhere(talk: Conversation) -> None:
    reply = talk.execute("stop")
    data = b'{"event": "STOP"}\n\n{"return": {}, "id": 1}\n'
    for index in range(len(data)):
        talk.client.data_received(data[index : index + 1])
    assert reply.result == {}
    assert talk.events == [{"event": "STOP"}]


def test_an_error_reply_is_a_refusal_with_its_own_words(talk: Conversation) -> None:
    errors = errors_of(talk.execute("cont"))
    talk.receive({"error": {"class": "GenericError", "desc": "no space"}, "id": 1})
    (error,) = errors
    assert isinstance(error, GuestRefused)
    assert str(error) == "guest g: the guest refused: no space"


def test_silence_is_a_timeout_and_a_late_reply_is_dropped(talk: Conversation) -> None:
    errors = errors_of(talk.execute("stop"))
    talk.clock.advance(9.9)
    assert errors == []
    talk.clock.advance(0.2)
    (error,) = errors
    assert isinstance(error, GuestTimeout)
    assert str(error) == "guest g: an answer to stop did not come within 10 s"
    talk.receive({"return": {}, "id": 1})
    again = talk.execute("stop")
    talk.receive({"return": {}, "id": 2})
    assert again.result == {}


def test_the_greeting_may_come_before_or_after_it_is_waited_for(talk: Conversation) -> None:
    early = Deferred.fromCoroutine(talk.client.greeting(timeout_s=1))
    talk.receive({"QMP": {"version": 1}})
    late = Deferred.fromCoroutine(talk.client.greeting(timeout_s=1))
    assert early.result == late.result == {"QMP": {"version": 1}}


def test_a_greeting_that_does_not_come_is_a_timeout(talk: Conversation) -> None:
    errors = errors_of(Deferred.fromCoroutine(talk.client.greeting(timeout_s=1)))
    talk.clock.advance(2)
    assert "its greeting did not come" in str(errors[0])


def test_the_end_of_the_channel_reaches_all_who_wait_and_all_who_come(talk: Conversation) -> None:
    waiting = errors_of(talk.execute("stop"))
    gone = GuestEnded("its process ended", why="killed by SIGKILL")
    talk.client.connection_lost(gone)
    coming = errors_of(talk.execute("cont"))
    assert waiting == coming == [gone]
    assert [message["execute"] for message in talk.written] == ["stop"]
    assert talk.clock.getDelayedCalls() == []


@pytest.mark.parametrize("line", [b"hello\n", b"[1]\n", b"\xff\n", b"1\n"])
def test_what_is_no_object_is_refused(talk: Conversation, line: bytes) -> None:
    with pytest.raises(ControlProtocolError, match="no JSON object"):
        talk.client.data_received(line)


def test_an_endless_line_is_refused(talk: Conversation) -> None:
    with pytest.raises(ControlProtocolError, match="longer than"):
        talk.client.data_received(b"x" * (MAXIMUM_LINE_BYTES + 1))


def test_replies_to_nobody_are_dropped(talk: Conversation) -> None:
    talk.receive({"return": {}, "id": 99}, {"return": {}, "id": "x"}, {"return": {}}, {"return": 7, "id": 1}, {})
    reply = talk.execute("stop")
    talk.receive({"return": {}, "id": 1})
    assert reply.result == {}
