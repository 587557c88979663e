"""The migration stream: what is written is what is read, and what does not belong is refused."""

from __future__ import annotations

import struct

import crc32c
import pytest

from csvd.migration.chunks import (
    HEADER_BYTES,
    MAXIMUM_CHUNK_BYTES,
    MAXIMUM_REASON_BYTES,
    Abort,
    End,
    Failed,
    HandedOver,
    Opening,
    RawPiece,
    Ready,
    RoundEnd,
    RoundReceived,
    Running,
    SourceEvent,
    ZeroRange,
    encode_abort,
    encode_end,
    encode_failed,
    encode_handed_over,
    encode_opening,
    encode_raw_header,
    encode_ready,
    encode_round_end,
    encode_round_received,
    encode_running,
    encode_zero,
)
from csvd.migration.decoder import DestinationStreamDecoder, SourceStreamDecoder
from csvd.migration.errors import StreamError

PAGE = 4096
OPENING = Opening(b"0123456789abcdef", "gäst", 64 * PAGE, PAGE, 77)


def opened() -> SourceStreamDecoder:
    decoder = SourceStreamDecoder()
    assert list(decoder.feed(encode_opening(OPENING))) == [OPENING]
    return decoder


def raw(offset_bytes: int, payload: bytes) -> bytes:
    return encode_raw_header(offset_bytes, payload) + payload


def frame(
    frame_type: int, *, kind: int = 0, reserved: int = 0, payload: bytes = b"", argument: int = 0, length: int = 0
) -> bytes:
    """A frame with a right CRC and any fields."""
    head = struct.pack(">BBHIQI", frame_type, kind, reserved, len(payload), argument, length)
    return head + struct.pack(">I", crc32c.crc32c(payload, crc32c.crc32c(head))) + payload


def test_a_whole_stream_is_read_as_it_was_written() -> None:
    page = bytes(range(256)) * 16
    stream = b"".join(
        [
            raw(0, page),
            encode_zero(PAGE, 2 * PAGE),
            encode_round_end(1, is_last=False),
            raw(0, page[::-1]),
            encode_round_end(2, is_last=True),
            encode_end(b"d" * 16),
            encode_handed_over(8),
        ]
    )
    assert list(opened().feed(stream)) == [
        RawPiece(0, memoryview(page)),
        ZeroRange(PAGE, 2 * PAGE),
        RoundEnd(1, False),
        RawPiece(0, memoryview(page[::-1])),
        RoundEnd(2, True),
        End(b"d" * 16),
        HandedOver(8),
    ]


def test_the_answers_are_read_as_they_were_written() -> None:
    stream = b"".join(
        [
            encode_round_received(3),
            encode_ready(b"d" * 16),
            encode_running(123456789012, b"b" * 16),
            encode_failed("no space: größer"),
        ]
    )
    assert list(DestinationStreamDecoder().feed(stream)) == [
        RoundReceived(3),
        Ready(b"d" * 16),
        Running(123456789012, b"b" * 16),
        Failed("no space: größer"),
    ]


def test_payload_is_handed_on_as_it_comes_without_being_gathered() -> None:
    decoder = opened()
    page = bytes(range(256)) * 16
    stream = raw(PAGE, page)
    pieces = [event for start in range(0, len(stream), 1000) for event in decoder.feed(stream[start : start + 1000])]
    assert all(isinstance(piece, RawPiece) for piece in pieces)
    assert len(pieces) == 5
    found = bytearray(3 * PAGE)
    for piece in pieces:
        assert isinstance(piece, RawPiece)
        found[piece.offset_bytes : piece.offset_bytes + len(piece.data)] = piece.data
    assert found == bytes(PAGE) + page + bytes(PAGE)


def refused(decoder: SourceStreamDecoder | DestinationStreamDecoder, data: bytes) -> str:
    events: list[object] = []
    with pytest.raises(StreamError) as caught:
        events.extend(decoder.feed(data))
    # From then on nothing is taken.
    with pytest.raises(StreamError):
        list(decoder.feed(encode_abort("x")))
    return str(caught.value)


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (raw(64 * PAGE, bytes(PAGE)), "reaches past the end"),
        (raw(63 * PAGE, bytes(2 * PAGE)), "reaches past the end"),
        (encode_zero(63 * PAGE, 2 * PAGE), "reaches past the end"),
        (encode_zero(2**64 - PAGE, PAGE), "reaches past the end"),
        (raw(1, bytes(PAGE)), "not made of pages"),
        (raw(0, bytes(PAGE - 1)), "not made of pages"),
        (encode_zero(0, 0), "not made of pages"),
        (encode_zero(0, MAXIMUM_CHUNK_BYTES + PAGE), "too long"),
        (raw(PAGE, bytes(PAGE)) + raw(PAGE, bytes(PAGE)), "goes back"),
        (encode_zero(PAGE, 2 * PAGE) + raw(2 * PAGE, bytes(PAGE)), "goes back"),
        (frame(2, kind=2, length=PAGE), "chunk kind 2"),
        (frame(2, kind=0, length=PAGE, payload=b"x"), "payload of 1 bytes"),
        (frame(2, kind=1, length=PAGE, payload=bytes(PAGE + 1)), "payload of 4097 bytes"),
        (frame(2, kind=1, reserved=1, length=PAGE, payload=bytes(PAGE)), "may not come here"),
        (frame(0x77), "may not come here"),
        (encode_ready(bytes(16)), "may not come here"),
        (encode_opening(OPENING), "may not come here"),
        (encode_end(bytes(16)), "may not come here"),
        (encode_handed_over(1), "may not come here"),
        (encode_round_end(2, is_last=False), "round 2 ends where round 1"),
        (frame(3, argument=1, length=2), "out of range"),
        (frame(3, argument=1, kind=1), "out of range"),
        (frame(3, argument=1, payload=b"x"), "payload of 1 bytes"),
        (frame(6, payload=bytes(MAXIMUM_REASON_BYTES + 1)), "payload of 1025 bytes"),
        (encode_round_end(1, is_last=True) + raw(0, bytes(PAGE)), "may not come here"),
        (encode_abort("x") + raw(0, bytes(PAGE)), "may not come here"),
        (raw(0, bytes(PAGE))[:-1] + b"x", "CRC32C"),
        (encode_round_end(1, is_last=False)[:-1] + b"\0", "CRC32C"),
    ],
)
def test_a_frame_that_does_not_belong_is_refused(bad: bytes, complaint: str) -> None:
    assert complaint in refused(opened(), bad)


def test_a_damaged_offset_is_noticed() -> None:
    good = raw(0, bytes(PAGE))
    moved = good[:8] + struct.pack(">Q", PAGE) + good[16:]
    assert "CRC32C" in refused(opened(), moved)


def test_nothing_comes_before_the_opening() -> None:
    assert "may not come here" in refused(SourceStreamDecoder(), encode_zero(0, PAGE))


def opening_payload(
    *,
    magic: bytes = b"CSVDMIGR",
    version: int = 1,
    connection: int = 0,
    connections: int = 1,
    memory_bytes: int = 64 * PAGE,
    page_bytes: int = PAGE,
    name: bytes = b"g",
) -> bytes:
    head = struct.pack(
        ">8sHHHHQIQ16s", magic, version, connection, connections, 0, memory_bytes, page_bytes, 7, bytes(16)
    )
    return frame(1, payload=head + name)


def test_the_opening_of_this_test_is_a_right_one() -> None:
    assert list(SourceStreamDecoder().feed(opening_payload())) == [Opening(bytes(16), "g", 64 * PAGE, PAGE, 7)]


@pytest.mark.parametrize(
    ("bad", "complaint"),
    [
        (opening_payload(magic=b"CSVDMIGX"), "not a migration stream"),
        (opening_payload(version=2), "version 2"),
        (opening_payload(connections=2), "one of several"),
        (opening_payload(connection=1), "one of several"),
        (opening_payload(page_bytes=4095), "power of two"),
        (opening_payload(page_bytes=0), "power of two"),
        (opening_payload(page_bytes=2 << 20), "power of two"),
        (opening_payload(memory_bytes=PAGE + 1), "whole number of pages"),
        (opening_payload(memory_bytes=0), "whole number of pages"),
        (opening_payload(memory_bytes=1 << 60), "whole number of pages"),
        (opening_payload(name=b""), "payload of 52 bytes"),
        (opening_payload(name=b"x" * 256), "payload of 308 bytes"),
        (opening_payload(name=b"\xff\xfe"), "UTF-8"),
    ],
)
def test_a_wrong_opening_is_refused(bad: bytes, complaint: str) -> None:
    assert complaint in refused(SourceStreamDecoder(), bad)


@pytest.mark.parametrize(
    "bad",
    [encode_abort("x"), frame(0x82, argument=2**63), frame(0x83, payload=bytes(15)), frame(0x84, payload=bytes(17))],
)
def test_a_wrong_answer_is_refused(bad: bytes) -> None:
    refused(DestinationStreamDecoder(), bad)


def test_a_long_reason_is_cut_between_characters() -> None:
    (event,) = DestinationStreamDecoder().feed(encode_failed("é" * 2000))
    assert event == Failed("é" * (MAXIMUM_REASON_BYTES // 2))


def test_an_abort_may_come_in_the_middle_of_a_round() -> None:
    events: list[SourceEvent] = list(opened().feed(encode_zero(0, PAGE) + encode_abort("enough")))
    assert events[-1] == Abort("enough")


def test_the_header_has_the_length_that_is_documented() -> None:
    assert len(encode_zero(0, PAGE)) == HEADER_BYTES == 24
