"""The channel, frames and links under any bytes at any split: nothing is raised, memory bounded, other links go on."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.cluster.calls import Calls
from csvd.cluster.errors import AuthenticationError, PeerMessageError
from csvd.cluster.framing import FrameReader, Kind, frame_header
from csvd.cluster.link import Link
from csvd.cluster.raft_messages import decode
from csvd.cluster.tls import TlsChannel
from tests.unit.cluster.wire import LinkPair, dialing, established, listening

PAYLOADS = st.lists(st.binary(max_size=2000), max_size=8)
SPLITS = st.lists(st.integers(1, 400), min_size=1, max_size=20)


def pieces(data: bytes, splits: list[int]) -> Iterator[bytes]:
    number = 0
    while data:
        length = splits[number % len(splits)]
        yield data[:length]
        data = data[length:]
        number += 1


def sealed(channel: TlsChannel, payloads: list[bytes]) -> bytes:
    return b"".join(channel.seal(payload) for payload in payloads)


@settings(deadline=None)
@given(PAYLOADS, PAYLOADS, SPLITS)
def test_however_bytes_are_split_the_same_bytes_come_out(
    there: list[bytes], back: list[bytes], splits: list[int]
) -> None:
    dialer, listener = dialing(), listening()
    answer = b"".join(listener.receive(piece)[0] for piece in pieces(dialer.start(), splits))
    proof = b"".join(dialer.receive(piece)[0] for piece in pieces(answer, splits))
    data = proof + sealed(dialer, there)
    heard = [listener.receive(piece) for piece in pieces(data, splits)]
    assert b"".join(part for _, parts in heard for part in parts) == b"".join(there)
    data = b"".join(answer for answer, _ in heard) + sealed(listener, back)
    said = [part for piece in pieces(data, splits) for part in dialer.receive(piece)[1]]
    assert b"".join(said) == b"".join(back)


def fed(channel: TlsChannel, data: bytes, splits: list[int]) -> list[bytes]:
    """What a channel takes of bytes that may be anything."""
    taken = []
    for piece in pieces(data, splits):
        try:
            _, parts = channel.receive(piece)
        except AuthenticationError:
            break
        taken += parts
    return taken


@settings(deadline=None)
@given(st.binary(max_size=3000), SPLITS)
def test_random_bytes_establish_nothing(data: bytes, splits: list[int]) -> None:
    for channel in (listening(), dialing()):
        channel.start()
        assert fed(channel, data, splits) == []
        assert not channel.is_established


@settings(deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 255), SPLITS)
def test_a_handshake_with_one_byte_changed_is_never_completed(position: int, change: int, splits: list[int]) -> None:
    dialer, listener = dialing(), listening()
    answer, _ = listener.receive(dialer.start())
    proof, _ = dialer.receive(answer)
    changed = bytearray(proof)
    changed[position % len(changed)] ^= change
    fed(listener, bytes(changed), splits)
    if listener.is_established:
        # Only ChangeCipherSpec, which TLS 1.3 drops whatever the version in its header says, may change unnoticed.
        assert proof[0] == 20
        assert position % len(proof) < 5


@settings(deadline=None)
@given(PAYLOADS, st.integers(0, 100_000), st.integers(1, 255), SPLITS)
def test_changed_records_give_only_what_was_sent_before_the_change(
    payloads: list[bytes], position: int, change: int, splits: list[int]
) -> None:
    dialer, listener = established()
    data = bytearray(sealed(dialer, [*payloads, b"last"]))
    data[position % len(data)] ^= change
    taken = b"".join(fed(listener, bytes(data), splits))
    assert b"".join([*payloads, b"last"]).startswith(taken)
    assert len(taken) < sum(map(len, payloads)) + 4


@given(st.lists(st.tuples(st.sampled_from(Kind), st.binary(max_size=500)), max_size=8), SPLITS)
def test_however_frames_are_split_the_same_frames_come_out(frames: list[tuple[Kind, bytes]], splits: list[int]) -> None:
    reader = FrameReader(501)
    data = b"".join(frame_header(kind, len(body)) + body for kind, body in frames)
    taken = []
    for piece in pieces(data, splits):
        reader.feed(piece)
        while (frame := reader.take()) is not None:
            taken.append(frame)
    assert taken == frames
    assert reader.held_bytes == 0


@given(st.binary(max_size=3000), SPLITS, st.integers(1, 600))
def test_any_bytes_are_frames_or_refused_and_no_more_is_held_than_one_frame(
    data: bytes, splits: list[int], maximum: int
) -> None:
    reader = FrameReader(maximum)
    for piece in pieces(data, splits):
        reader.feed(piece)
        try:
            while (frame := reader.take()) is not None:
                assert len(frame[1]) < maximum
        except PeerMessageError:
            return
        assert reader.held_bytes < maximum + 4


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
        header = frame_header(Kind.PING, len(body))[:-1] + bytes([kind])
        pair.wire.ends[0].write(pair.dialer._channel.seal(header, body))
    pair.pump()
    assert len(owner.losses) <= 1
    other.dialer.send(Kind.RAFT, b"still here")
    other.pump()
    assert other.notes[1].frames == [(Kind.RAFT, b"still here")]
