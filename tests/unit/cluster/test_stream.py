"""Streams over a link: bytes whole and in order, held back by a slow reader, ended with a reason."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest

from csvd.cluster.errors import ClusterError, PeerMessageError
from csvd.cluster.framing import Kind, Purpose
from csvd.cluster.stream import StreamLink, decode_open, decode_refusal, encode_open, encode_refusal
from tests.unit.cluster.wire import BUFFER_BYTES, LinkPair


class StreamPair:
    """The two ends of a stream."""

    def __init__(self, *, maximum_queued_bytes: int = 4 * 1024 * 1024) -> None:
        self.pair = LinkPair(purpose=Purpose.STREAM, maximum_queued_bytes=maximum_queued_bytes).pump()
        self.ended: list[object] = []
        self.near = StreamLink(self.pair.dialer, "test", self.ended.append)
        self.far = StreamLink(self.pair.listener, "test", self.ended.append)
        self.received = bytearray()
        self.reasons: list[str] = []

    def listen(self) -> None:
        self.far.on_data = self.received.extend
        self.far.on_lost = self.reasons.append


class Producer:
    """A push producer that counts what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def pauseProducing(self) -> None:
        self.told.append("pause")

    def resumeProducing(self) -> None:
        self.told.append("resume")

    def stopProducing(self) -> None:
        self.told.append("stop")


def test_buffers_of_any_kind_and_length_arrive_as_one_run_of_bytes() -> None:
    both = StreamPair(maximum_queued_bytes=1 << 26)
    both.listen()
    random = Random(7)
    sent = [random.randbytes(length) for length in (0, 1, 70_000, 262_144, 262_145, 1_000_000, 3)]
    both.near.write_sequence([sent[0], bytearray(sent[1]), memoryview(sent[2]), *sent[3:]])
    both.pair.pump()
    assert bytes(both.received) == b"".join(sent)


def test_a_buffer_may_change_as_soon_as_it_is_written() -> None:
    both = StreamPair()
    both.listen()
    buffer = bytearray(b"before")
    both.near.write_sequence([buffer])
    buffer[:] = b"after!"
    both.pair.pump()
    assert both.received == b"before"


def test_bytes_go_in_both_directions() -> None:
    both = StreamPair()
    both.listen()
    answers: list[bytes] = []
    both.near.on_data = answers.append
    both.far.transport.write(b"to the dialer")
    both.near.transport.writeSequence([b"to the ", b"listener"])
    both.pair.pump()
    assert answers == [b"to the dialer"]
    assert both.received == b"to the listener"


def test_bytes_that_come_before_anyone_listens_wait_and_hold_the_peer_back() -> None:
    both = StreamPair()
    both.near.write_sequence([b"early"])
    both.pair.pump()
    assert not both.pair.wire.ends[1].is_reading
    both.near.write_sequence([b" bird"])
    both.listen()
    both.pair.pump()
    assert both.received == b"early bird"
    assert both.pair.wire.ends[1].is_reading


def test_the_end_is_told_after_the_last_bytes_also_to_who_listens_late() -> None:
    both = StreamPair()
    both.near.write_sequence([b"last words"])
    both.near.lose()
    both.pair.pump()
    order: list[object] = []
    both.far.on_lost = order.append
    assert order == []
    both.far.on_data = order.append
    both.pair.pump()
    assert order[0] == b"last words"
    assert len(order) == 2
    assert both.far.is_lost


def test_a_producer_is_paused_while_the_peer_does_not_read_and_resumed_after() -> None:
    both = StreamPair()
    both.listen()
    producer = Producer()
    both.near.transport.registerProducer(producer, True)
    both.far.transport.pauseProducing()
    while "pause" not in producer.told:
        both.near.write_sequence([bytes(10_000)])
    assert len(both.pair.wire.ends[0].outgoing) < BUFFER_BYTES + 11_000
    both.far.transport.resumeProducing()
    both.pair.pump()
    assert producer.told == ["pause", "resume"]
    both.near.transport.unregisterProducer()


def test_a_writer_that_does_not_heed_its_peer_is_cut_off_and_its_producer_stopped() -> None:
    both = StreamPair(maximum_queued_bytes=1_000_000)
    producer = Producer()
    both.near.transport.registerProducer(producer, True)
    lost: list[str] = []
    both.near.on_data = both.received.extend
    both.near.on_lost = lost.append
    both.far.transport.pauseProducing()
    for _ in range(200):
        both.near.write_sequence([bytes(10_000)])
    assert lost == ["it does not read what is sent to it"]
    assert producer.told == ["pause", "stop"]
    assert both.ended == [both.pair.dialer]


def test_a_producer_of_a_stream_that_is_over_is_stopped_at_once() -> None:
    both = StreamPair()
    both.near.transport.abortConnection()
    producer = Producer()
    both.near.transport.registerProducer(producer, True)
    assert producer.told == ["stop"]
    assert both.near.transport.disconnecting


def test_pull_producers_and_second_producers_are_refused() -> None:
    transport = StreamPair().near.transport
    with pytest.raises(RuntimeError, match="push"):
        transport.registerProducer(Producer(), False)
    transport.registerProducer(Producer(), True)
    with pytest.raises(RuntimeError, match="already"):
        transport.registerProducer(Producer(), True)


def test_what_a_handler_writes_waits_until_the_stream_is_accepted() -> None:
    both = StreamPair()
    both.listen()
    both.near.hold()
    buffer = bytearray(b"first")
    both.near.write_sequence([buffer])
    buffer[:] = b"wrong"
    both.pair.pump()
    assert both.received == b""
    both.near.release()
    both.near.write_sequence([b" second"])
    both.pair.pump()
    assert both.received == b"first second"


def test_anything_but_data_ends_a_stream() -> None:
    both = StreamPair()
    both.listen()
    both.pair.dialer.send(Kind.RAFT, b"x")
    both.pair.pump()
    assert "kind RAFT on a stream" in both.reasons[0]


def test_an_open_round_trips_and_a_long_one_is_refused() -> None:
    link = LinkPair().pump().dialer
    assert decode_open(link, encode_open("kind", {"a": 1})) == ("kind", {"a": 1})
    with pytest.raises(ClusterError, match="header"):
        encode_open("kind", {"a": bytes(100_000)})


@pytest.mark.parametrize(
    "body", [b"", b"\x91" * 2000, msgspec.msgpack.encode(["kind"]), msgspec.msgpack.encode([1, {}])]
)
def test_an_open_that_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(PeerMessageError, match="no header"):
        decode_open(LinkPair().pump().dialer, body)


def test_a_refusal_carries_its_sentence() -> None:
    link = LinkPair().pump().dialer
    error: Any = decode_refusal(link, encode_refusal(ClusterError("no", where="there", why="because")))
    assert str(error) == "n2: there: no: because"
