"""The channel between a daemon and a worker: questions, answers, descriptors, and what ends it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from csvd.workers.channel import MAX_DESCRIPTORS, MAX_UNSENT_NOTICES, Channel
from csvd.workers.protocol import Notice, Request, WorkerError, frame_of
from tests.unit.target.fake_reactor import FakeReactor


class Pair:
    """Two ends, of which the second answers."""

    def __init__(self) -> None:
        self.reactor = FakeReactor()
        self.sockets = socket.socketpair()
        self.lost: list[str] = []
        self.notices: list[Notice] = []
        self.read: list[bytes] = []
        self.fails: Exception | None = None
        self.near = Channel(self.reactor, self.sockets[0], notice=self.notices.append, lost=self.lost.append)
        self.far = Channel(self.reactor, self.sockets[1], answer=self._answer)

    async def _answer(self, request: Request, descriptors: Sequence[int]) -> Any:
        if self.fails is not None:
            raise self.fails
        for descriptor in descriptors:
            self.read.append(os.read(descriptor, 100))
            os.close(descriptor)
        return request.params.get("echo")

    def turns(self, count: int = 600) -> None:
        for _ in range(count):
            self.reactor.turn()

    def ask(self, **more: Any) -> list[Any]:
        results: list[Any] = []
        self.near.ask("echo", **more).addBoth(results.append)
        self.turns()
        return results


@pytest.fixture
def pair() -> Iterator[Pair]:
    pair = Pair()
    yield pair
    pair.near.close()
    pair.far.close()


def test_a_question_is_answered_however_long_it_is(pair: Pair) -> None:
    assert pair.ask(params={"echo": "x"}) == ["x"]
    long = "y" * (4 << 20)
    assert pair.ask(params={"echo": long}) == [long]


def test_descriptors_come_with_their_question_and_stay_open_here(pair: Pair) -> None:
    ends = [os.pipe() for _ in range(3)]
    for number, (_, write) in enumerate(ends):
        os.write(write, b"%d" % number)
    pair.near.ask("echo", descriptors=[ends[0][0], ends[1][0]])
    pair.near.ask("echo", {"echo": "z" * (1 << 20)})
    pair.near.ask("echo", descriptors=[ends[2][0]])
    pair.turns()
    assert pair.read == [b"0", b"1", b"2"]
    for end in ends:
        for descriptor in end:
            os.close(descriptor)


def test_an_error_is_answered_as_one(pair: Pair) -> None:
    pair.fails = WorkerError("is ill", where="worker 1", why="a cold")
    assert str(pair.ask()[0].value) == "worker 1: is ill: a cold"


def test_a_fault_of_one_question_is_its_answer_and_ends_nothing(pair: Pair) -> None:
    pair.fails = RuntimeError("oops")
    assert pair.ask()[0].value.kind == "RuntimeError"
    pair.fails = None
    assert pair.ask(params={"echo": 1}) == [1]


def test_an_answer_that_can_not_be_written_is_an_error(pair: Pair) -> None:
    async def answer(request: Request, descriptors: Sequence[int]) -> Any:
        return object()

    pair.far._answer = answer
    assert "can not be written" in str(pair.ask()[0].value)


def test_an_answer_that_is_late_is_no_answer(pair: Pair) -> None:
    results: list[Any] = []
    pair.near.ask("echo", {"echo": 1}, timeout_s=1.0).addBoth(results.append)
    pair.reactor.advance(1.0)
    assert str(results[0].value) == "worker channel: it does not answer echo within 1 s"
    pair.turns()
    assert pair.ask(params={"echo": 2}) == [2]


def test_when_the_other_end_is_gone_those_that_wait_are_told_and_nothing_more_is_asked(pair: Pair) -> None:
    results: list[Any] = []
    pair.near.ask("echo").addBoth(results.append)
    pair.far.close()
    pair.turns()
    assert "it ended before it answered" in str(results[0].value)
    assert len(pair.lost) == 1
    with pytest.raises(WorkerError, match="gone"):
        pair.near.ask("echo")


def test_notices_are_told_and_beyond_many_that_nobody_reads_they_are_dropped(pair: Pair) -> None:
    for number in range(MAX_UNSENT_NOTICES + 50):
        pair.far.tell(Notice("login", str(number), "x"))
    pair.turns()
    assert [notice.text for notice in pair.notices] == [str(number) for number in range(MAX_UNSENT_NOTICES)]


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\1{", frame_of(Request(1, "x", {}, 1))])
def test_bad_messages_end_the_channel(data: bytes) -> None:
    reactor, (one, other) = FakeReactor(), socket.socketpair()
    lost: list[str] = []
    Channel(reactor, one, lost=lost.append)
    other.sendall(data)
    reactor.turn()
    assert len(lost) == 1
    other.close()


def test_more_descriptors_than_any_question_has_end_the_channel_and_are_closed() -> None:
    reactor, (one, other) = FakeReactor(), socket.socketpair()
    lost: list[str] = []
    Channel(reactor, one, lost=lost.append)
    read, write = os.pipe()
    for _ in range(2):
        socket.send_fds(other, [b"\0"], [write] * (MAX_DESCRIPTORS - 1))
        reactor.turn()
    assert lost == ["too many file descriptors"]
    os.close(write)
    assert os.read(read, 1) == b""
    os.close(read)
    other.close()


def test_the_daemon_answers_no_questions() -> None:
    reactor, (one, other) = FakeReactor(), socket.socketpair()
    near, far = Channel(reactor, one), Channel(reactor, other)
    results: list[Any] = []
    far.ask("begin").addBoth(results.append)
    for _ in range(5):
        reactor.turn()
    assert "it answers no requests" in str(results[0].value)
    near.close()
    far.close()
