"""Whatever bytes come: only the typed error, never memory outside the image, never more kept than a header's worth."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.migration.chunks import (
    HEADER_BYTES,
    MAXIMUM_CHUNK_BYTES,
    MAXIMUM_REASON_BYTES,
    Opening,
    RawPiece,
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
from csvd.migration.image import MemoryImage
from csvd.migration.receiver import ImageWriter

PAGE = 512
MEMORY = 64 * PAGE
OPENING = Opening(bytes(range(16)), "guest", MEMORY, PAGE, 5)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """The frames of a stream that is right."""
    frames = [encode_opening(OPENING)]
    rounds = draw(st.integers(1, 3))
    for number in range(1, rounds + 1):
        page = 0
        while draw(st.booleans()) and page < MEMORY // PAGE - 1:
            page = draw(st.integers(page, MEMORY // PAGE - 1))
            pages = draw(st.integers(1, min(8, MEMORY // PAGE - page)))
            if draw(st.booleans()):
                payload = draw(st.binary(min_size=1, max_size=8)) * (pages * PAGE)
                payload = payload[: pages * PAGE]
                frames.append(encode_raw_header(page * PAGE, payload) + payload)
            else:
                frames.append(encode_zero(page * PAGE, pages * PAGE))
            page += pages
        frames.append(encode_round_end(number, is_last=number == rounds))
    frames.append(encode_end(draw(st.binary(min_size=16, max_size=16))))
    frames.append(draw(st.sampled_from([encode_handed_over(7), encode_abort("x")])))
    return frames


def pieces(data: bytes, seed: int) -> list[bytes]:
    pick = random.Random(seed)
    cut = []
    while data:
        length = pick.choice([1, 2, 23, 24, 25, 100, 1000, 100_000])
        cut.append(data[:length])
        data = data[length:]
    return cut


@contextmanager
def maybe_refused() -> Iterator[None]:
    """The typed error may come out, and no other."""
    said = ""
    try:
        yield
    except StreamError as error:
        said = str(error)
    assert "\n" not in said


def memory_of(events: list[SourceEvent]) -> tuple[bytes, list[SourceEvent]]:
    """What the events make of the memory, and the other events."""
    memory = bytearray(MEMORY)
    others: list[SourceEvent] = []
    for event in events:
        if isinstance(event, RawPiece):
            memory[event.offset_bytes : event.offset_bytes + len(event.data)] = event.data
        elif isinstance(event, ZeroRange):
            memory[event.offset_bytes : event.offset_bytes + event.length_bytes] = bytes(event.length_bytes)
        else:
            others.append(event)
    assert len(memory) == MEMORY
    return bytes(memory), others


@given(frames=streams(), seed=st.integers(0, 2**32))
def test_a_stream_means_the_same_however_it_is_cut(frames: list[bytes], seed: int) -> None:
    stream = b"".join(frames)
    whole = memory_of(list(SourceStreamDecoder().feed(stream)))
    decoder = SourceStreamDecoder()
    assert memory_of([event for piece in pieces(stream, seed) for event in decoder.feed(piece)]) == whole


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A stream that was right before frames were lost, doubled and swapped, and bytes changed, cut out and put in."""
    frames = draw(streams())
    for _ in range(draw(st.integers(0, 3))):
        index = draw(st.integers(0, len(frames) - 1))
        change = draw(st.sampled_from(["lose", "double", "swap"]))
        if change == "lose" and len(frames) > 1:
            del frames[index]
        elif change == "double":
            frames.insert(index, frames[index])
        else:
            frames[index], frames[-1] = frames[-1], frames[index]
    stream = bytearray(b"".join(frames))
    for _ in range(draw(st.integers(0, 4))):
        if not stream:
            break
        index = draw(st.integers(0, len(stream) - 1))
        change = draw(st.sampled_from(["change", "cut", "insert"]))
        if change == "change":
            stream[index] = draw(st.integers(0, 255))
        elif change == "cut":
            del stream[index : index + draw(st.integers(1, 2000))]
        else:
            stream[index:index] = draw(st.binary(max_size=100))
    return bytes(stream)


def check_source_stream(data: bytes, seed: int) -> None:
    decoder = SourceStreamDecoder()
    memory_bytes = 0
    with maybe_refused():
        for piece in pieces(data, seed):
            for event in decoder.feed(piece):
                if isinstance(event, Opening):
                    memory_bytes = event.memory_bytes
                elif isinstance(event, RawPiece):
                    assert event.offset_bytes >= 0
                    assert 0 < len(event.data) <= len(piece)
                    assert event.offset_bytes + len(event.data) <= memory_bytes
                elif isinstance(event, ZeroRange):
                    assert event.offset_bytes >= 0
                    assert 0 < event.length_bytes <= MAXIMUM_CHUNK_BYTES
                    assert event.offset_bytes + event.length_bytes <= memory_bytes
            assert len(decoder._head) <= HEADER_BYTES
            assert len(decoder._gathered) <= MAXIMUM_REASON_BYTES


@settings(max_examples=300)
@given(data=mutated(), seed=st.integers(0, 2**32))
def test_a_mutated_stream_stays_inside_the_memory_or_is_refused(data: bytes, seed: int) -> None:
    check_source_stream(data, seed)


@settings(max_examples=300)
@given(data=st.binary(max_size=3000), opened=st.booleans(), seed=st.integers(0, 2**32))
def test_random_bytes_are_refused(data: bytes, opened: bool, seed: int) -> None:
    check_source_stream((encode_opening(OPENING) if opened else b"") + data, seed)


@settings(max_examples=300)
@given(
    answers=st.lists(
        st.one_of(
            st.integers(0, 100_000).map(encode_round_received),
            st.binary(min_size=16, max_size=16).map(encode_ready),
            st.text(max_size=50).map(encode_failed),
            st.just(encode_running(2**63, bytes(16))),
        ),
        max_size=5,
    ),
    index=st.integers(0, 200),
    noise=st.binary(max_size=30),
    seed=st.integers(0, 2**32),
)
def test_mutated_answers_are_taken_or_refused(answers: list[bytes], index: int, noise: bytes, seed: int) -> None:
    good = b"".join(answers)
    assert len(list(DestinationStreamDecoder().feed(good))) == len(answers)
    decoder = DestinationStreamDecoder()
    with maybe_refused():
        for piece in pieces(good[:index] + noise + good[index:], seed):
            list(decoder.feed(piece))
            assert len(decoder._gathered) <= MAXIMUM_REASON_BYTES


@settings(max_examples=60, deadline=None)
@given(data=mutated(), seed=st.integers(0, 2**32))
def test_an_image_never_grows_and_only_typed_errors_come_out(data: bytes, seed: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "image"
        image = MemoryImage.create(path, MEMORY)
        writer = ImageWriter(image, OPENING)
        with maybe_refused():
            writer.take(pieces(data, seed))
        assert path.stat().st_size == MEMORY
        image.close()
