"""Frames: whole whatever the split, refused at their length, and small before HELLO."""

from __future__ import annotations

import pytest

from csvd.cluster.errors import PeerMessageError
from csvd.cluster.framing import (
    MAXIMUM_HELLO_FRAME_BYTES,
    VERSION,
    FrameReader,
    Kind,
    Purpose,
    decode_hello,
    encode_hello,
    frame_header,
)


def framed(kind: Kind, body: bytes) -> bytes:
    return frame_header(kind, len(body)) + body


def test_frames_come_out_in_their_order() -> None:
    reader = FrameReader(100)
    reader.feed(framed(Kind.RAFT, b"one") + framed(Kind.PING, b"") + framed(Kind.DATA, b"three")[:4])
    assert reader.take() == (Kind.RAFT, b"one")
    assert reader.take() == (Kind.PING, b"")
    assert reader.take() is None
    reader.feed(framed(Kind.DATA, b"three")[4:])
    assert reader.take() == (Kind.DATA, b"three")
    assert (reader.take(), reader.held_bytes) == (None, 0)


def test_a_frame_that_is_too_long_is_refused_at_its_length() -> None:
    reader = FrameReader(100)
    reader.feed((102).to_bytes(4, "big")[:3])
    assert reader.take() is None
    reader.feed((102).to_bytes(4, "big")[3:])
    with pytest.raises(PeerMessageError, match="longer than 100"):
        reader.take()


def test_only_a_short_frame_is_taken_before_hello() -> None:
    reader = FrameReader()
    reader.feed(framed(Kind.HELLO, encode_hello(Purpose.CONTROL)))
    assert reader.take() is not None
    reader.feed(framed(Kind.RAFT, bytes(MAXIMUM_HELLO_FRAME_BYTES)))
    with pytest.raises(PeerMessageError, match="longer than"):
        reader.take()
    reader.maximum_frame_bytes = Purpose.CONTROL.maximum_frame_bytes
    assert reader.take() == (Kind.RAFT, bytes(MAXIMUM_HELLO_FRAME_BYTES))


@pytest.mark.parametrize("data", [b"\x00\x00\x00\x00", b"\x00\x00\x00\x00\x01", b"\x00\x00\x00\x01\x63"])
def test_a_frame_of_no_kind_is_refused(data: bytes) -> None:
    reader = FrameReader()
    reader.feed(data)
    with pytest.raises(PeerMessageError, match="kind"):
        reader.take()


@pytest.mark.parametrize("purpose", list(Purpose))
def test_a_hello_says_its_purpose(purpose: Purpose) -> None:
    assert decode_hello(encode_hello(purpose)) is purpose


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not one"),
        (bytes((VERSION,)), "not one"),
        (bytes((VERSION, 1, 0)), "not one"),
        (bytes((VERSION + 1, 1)), f"version {VERSION + 1}"),
        (bytes((VERSION, 9)), "purpose 9"),
    ],
)
def test_another_hello_is_refused(body: bytes, why: str) -> None:
    with pytest.raises(PeerMessageError, match=why):
        decode_hello(body)
