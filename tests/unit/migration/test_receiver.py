"""Putting a stream into an image, within bounds and in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.errors import CsvdError
from csvd.migration.chunks import (
    Abort,
    HandedOver,
    Opening,
    RoundEnd,
    encode_abort,
    encode_end,
    encode_handed_over,
    encode_opening,
    encode_raw_header,
    encode_round_end,
    encode_zero,
)
from csvd.migration.errors import ImageError, MigrationError, StreamError
from csvd.migration.image import MemoryImage, digest_image
from csvd.migration.receiver import Complete, ImageWriter, Notice, Receiver
from tests.unit.migration.fakes import MemoryLink, is_fired, link_pair, run_here

T = TypeVar("T")
PAGE = 4096
MEMORY = 64 * PAGE
OPENING = Opening(b"i" * 16, "g", MEMORY, PAGE, 3)


@pytest.fixture
def image(tmp_path: Path) -> Iterator[MemoryImage]:
    image = MemoryImage.create(tmp_path / "guest.ram", MEMORY)
    yield image
    image.close()


def raw(offset_bytes: int, payload: bytes) -> bytes:
    return encode_raw_header(offset_bytes, payload) + payload


class SlowThreads:
    """Jobs that are done when the test says so."""

    def __init__(self) -> None:
        self.jobs: list[Callable[[], object]] = []

    def __call__(self, job: Callable[[], T], /) -> Deferred[T]:
        done: Deferred[T] = Deferred()
        self.jobs.append(lambda: run_here(job).chainDeferred(done))
        return done

    def do_one(self) -> None:
        self.jobs.pop(0)()


class Bench:
    """A receiver with what it needs."""

    def __init__(self, image: MemoryImage, *, limit_bytes: int = 1 << 20) -> None:
        self.threads = SlowThreads()
        self.notices: list[Notice] = []
        self.failures: list[CsvdError] = []
        self.link: MemoryLink = link_pair(Clock())[0]
        self.receiver = Receiver(
            ImageWriter(image, OPENING),
            self.link.transport,
            self.threads,
            on_notice=self.notices.append,
            on_failed=self.failures.append,
            limit_bytes=limit_bytes,
        )

    def is_reading(self) -> bool:
        return self.link.is_reading


def test_a_whole_stream_is_put_in_place_and_its_digest_found(image: MemoryImage) -> None:
    writer = ImageWriter(image, OPENING)
    page = bytes(range(256)) * 16
    stream = [
        encode_opening(OPENING),
        raw(0, page * 2),
        encode_round_end(1, is_last=False),
        encode_zero(0, PAGE),
        raw(9 * PAGE, page),
        encode_round_end(2, is_last=True),
        encode_end(b"d" * 16),
    ]
    notices = writer.take(stream)
    assert notices == [
        RoundEnd(1, False),
        RoundEnd(2, True),
        Complete(b"d" * 16, digest_image(image, PAGE, 3)),
    ]
    assert image.path.read_bytes() == bytes(PAGE) + page + bytes(7 * PAGE) + page + bytes(54 * PAGE)


def test_a_page_that_comes_in_parts_is_digested_whole(image: MemoryImage) -> None:
    writer = ImageWriter(image, OPENING)
    stream = encode_opening(OPENING) + raw(PAGE, bytes(range(256)) * 32)
    for start in range(0, len(stream), 1500):
        writer.take([stream[start : start + 1500]])
    (_, complete) = writer.take([encode_round_end(1, is_last=True), encode_end(bytes(16))])
    assert complete == Complete(bytes(16), digest_image(image, PAGE, 3))


def test_another_stream_than_agreed_is_refused_before_anything_is_written(image: MemoryImage) -> None:
    other = Opening(b"j" * 16, "g", MEMORY, PAGE, 3)
    with pytest.raises(StreamError, match="not the one that was agreed on"):
        ImageWriter(image, OPENING).take([encode_opening(other) + raw(0, b"x" * PAGE)])
    assert not any(image.path.read_bytes())


def test_notices_come_when_what_was_before_them_is_in_place(image: MemoryImage) -> None:
    bench = Bench(image)
    bench.receiver.data_received(encode_opening(OPENING) + raw(0, b"x" * PAGE) + encode_round_end(1, is_last=True))
    bench.receiver.data_received(encode_abort("late"))
    assert bench.notices == []
    bench.threads.do_one()
    assert bench.notices == [RoundEnd(1, True)]
    assert image.path.read_bytes()[:PAGE] == b"x" * PAGE
    bench.threads.do_one()
    assert bench.notices == [RoundEnd(1, True), Abort("late")]


def test_a_source_faster_than_the_disk_is_held_back(image: MemoryImage) -> None:
    bench = Bench(image, limit_bytes=10_000)
    bench.receiver.data_received(encode_opening(OPENING))
    bench.receiver.data_received(raw(0, b"x" * PAGE))
    assert bench.is_reading()
    bench.receiver.data_received(raw(PAGE, b"x" * 2 * PAGE))
    assert not bench.is_reading()
    bench.threads.do_one()
    assert bench.is_reading()
    assert len(bench.threads.jobs) == 1
    bench.threads.do_one()
    assert image.path.read_bytes()[: 3 * PAGE] == b"x" * 3 * PAGE


def test_bad_bytes_are_reported_once_and_nothing_is_taken_after(image: MemoryImage) -> None:
    bench = Bench(image)
    bench.receiver.data_received(b"\0" * 24)
    bench.receiver.data_received(encode_opening(OPENING))
    bench.threads.do_one()
    assert [type(error) for error in bench.failures] == [StreamError]
    bench.receiver.data_received(encode_opening(OPENING))
    assert bench.threads.jobs == []
    assert bench.notices == []


def test_a_full_disk_is_reported(image: MemoryImage, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(data: object, offset_bytes: int) -> None:
        raise ImageError("writing failed", why="No space left on device", errno=28)

    monkeypatch.setattr(image, "write", full)
    bench = Bench(image)
    bench.receiver.data_received(encode_opening(OPENING) + raw(0, b"x" * PAGE))
    bench.threads.do_one()
    assert "No space left" in str(bench.failures[0])


def test_a_fault_in_the_thread_is_reported_as_an_error_of_migration(
    image: MemoryImage, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(image)
    bench.receiver.data_received(encode_opening(OPENING))
    done: Deferred[list[Notice]] = Deferred()
    monkeypatch.setattr(bench.receiver, "_run_in_thread", lambda job: done)
    bench.threads.do_one()
    bench.receiver.data_received(b"\x03")
    done.errback(ZeroDivisionError("oops"))
    (error,) = bench.failures
    assert isinstance(error, MigrationError)
    assert "ZeroDivisionError: oops" in str(error)


def test_closing_waits_for_the_thread_and_drops_the_rest(image: MemoryImage) -> None:
    bench = Bench(image)
    bench.receiver.data_received(encode_opening(OPENING) + encode_round_end(1, is_last=True))
    bench.receiver.data_received(encode_end(bytes(16)) + encode_handed_over(2))
    closed = bench.receiver.close()
    assert not is_fired(closed)
    bench.threads.do_one()
    assert is_fired(closed)
    assert bench.threads.jobs == []
    assert bench.notices == []


def test_idle_means_that_all_that_came_was_told(image: MemoryImage) -> None:
    bench = Bench(image)
    assert is_fired(bench.receiver.when_idle())
    bench.receiver.data_received(encode_opening(OPENING) + encode_round_end(1, is_last=True))
    bench.receiver.data_received(encode_end(bytes(16)) + encode_handed_over(2))
    idle = bench.receiver.when_idle()
    bench.threads.do_one()
    assert not is_fired(idle)
    bench.threads.do_one()
    assert is_fired(idle)
    assert bench.notices[-1] == HandedOver(2)
