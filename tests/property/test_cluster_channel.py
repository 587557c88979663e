"""The channel and the links under any bytes at any split: nothing is raised, memory is bounded, other links go on."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.cluster.authentication import Channel
from csvd.cluster.calls import Calls
from csvd.cluster.errors import AuthenticationError, PeerMessageError
from csvd.cluster.link import Kind, Link
from csvd.cluster.raft_messages import decode
from tests.unit.cluster.wire import MAXIMUM_FRAME_BYTES, LinkPair, dialing, established, listening

PAYLOADS = st.lists(st.binary(max_size=2000), max_size=8)
SPLITS = st.lists(st.integers(1, 400), min_size=1, max_size=20)


def pieces(data: bytes, splits: list[int]) -> Iterator[bytes]:
    number = 0
    while data:
        length = splits[number % len(splits)]
        yield data[:length]
        data = data[length:]
        number += 1


def sealed(channel: Channel, payloads: list[bytes]) -> bytes:
    return b"".join(part for payload in payloads for part in channel.seal(payload))


@given(PAYLOADS, PAYLOADS, SPLITS)
def test_however_bytes_are_split_the_same_payloads_come_out(
    there: list[bytes], back: list[bytes], splits: list[int]
) -> None:
    dialer, listener = dialing(), listening()
    answer = b"".join(listener.receive(piece)[0] for piece in pieces(dialer.start(), splits))
    proof = b"".join(dialer.receive(piece)[0] for piece in pieces(answer, splits))
    data = proof + sealed(dialer, there)
    assert [payload for piece in pieces(data, splits) for payload in listener.receive(piece)[1]] == there
    data = sealed(listener, back)
    assert [payload for piece in pieces(data, splits) for payload in dialer.receive(piece)[1]] == back


def fed(channel: Channel, data: bytes, splits: list[int]) -> tuple[bytes, list[bytes]]:
    """What a channel says and takes of bytes that may be anything."""
    said, taken = b"", []
    for piece in pieces(data, splits):
        try:
            answer, payloads = channel.receive(piece)
        except AuthenticationError:
            break
        said += answer
        taken += payloads
        assert len(channel._received) <= MAXIMUM_FRAME_BYTES + 400
    return said, taken


@given(st.binary(max_size=3000), SPLITS)
def test_random_bytes_get_a_listener_to_say_nothing(data: bytes, splits: list[int]) -> None:
    assert fed(listening(), data, splits) == (b"", [])
    assert fed(dialing(), data, splits) == (b"", [])


@given(st.integers(0, 10_000), st.integers(1, 255), SPLITS)
def test_a_handshake_with_one_byte_changed_is_never_completed(position: int, change: int, splits: list[int]) -> None:
    dialer, listener = dialing(), listening()
    hello = dialer.start()
    good_answer, _ = listening().receive(hello)
    conversation = bytearray(hello + bytes(32))
    conversation[position % len(hello)] ^= change
    said, _ = fed(listener, bytes(conversation), splits)
    assert not said
    assert not listener.is_established
    answer = bytearray(good_answer)
    answer[position % len(answer)] ^= change
    assert fed(dialer, bytes(answer), splits) == (b"", [])
    assert not dialer.is_established


@given(PAYLOADS, st.integers(0, 100_000), st.integers(1, 255), SPLITS)
def test_changed_frames_give_only_what_was_sent_before_the_change(
    payloads: list[bytes], position: int, change: int, splits: list[int]
) -> None:
    dialer, listener = established()
    data = bytearray(sealed(dialer, [*payloads, b"last"]))
    data[position % len(data)] ^= change
    _, taken = fed(listener, bytes(data), splits)
    assert taken == payloads[: len(taken)]


class Node:
    """An owner of a link that takes calls and messages of Raft."""

    def __init__(self) -> None:
        self.calls: Calls | None = None
        self.losses: list[str] = []

    def link_up(self, link: Link) -> None:
        pass

    def link_received(self, link: Link, kind: Kind, body: bytes) -> None:
        assert self.calls is not None
        if kind is Kind.RAFT:
            decode(body)
        elif kind in (Kind.REQUEST, Kind.ANSWER, Kind.FAILURE):
            self.calls.received(link, kind, body)
        else:
            raise PeerMessageError("not on this link")

    def link_lost(self, link: Link, reason: str) -> None:
        self.losses.append(reason)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.binary(max_size=300)), max_size=5))
def test_any_payload_of_a_member_is_taken_or_ends_its_link_and_no_other(payloads: list[tuple[int, bytes]]) -> None:
    owner = Node()
    pair, other = LinkPair(owners=(Node(), owner)), LinkPair()
    owner.calls = Calls("n2", pair.clock)
    pair.pump()
    other.pump()
    for kind, body in payloads:
        for part in pair.dialer._channel.seal(bytes([kind]), body):
            pair.wire.ends[0].write(part)
    pair.pump()
    assert len(owner.losses) <= 1
    other.dialer.send(Kind.RAFT, b"still here")
    other.pump()
    assert other.notes[1].payloads == [(Kind.RAFT, b"still here")]
