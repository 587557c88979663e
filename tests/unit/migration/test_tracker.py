"""Finding the pages that were written."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from csvd.migration.chunks import MAXIMUM_CHUNK_BYTES
from csvd.migration.errors import MigrationError
from csvd.migration.image import MemoryImage, digest_image
from csvd.migration.tracker import (
    SLICE_BYTES,
    DirtyRun,
    PageCompareTracker,
    Slice,
    TrackerChoice,
    choose_tracker,
)

PAGE = 4096
MEMORY = 2 * SLICE_BYTES


@pytest.fixture
def image(tmp_path: Path) -> Iterator[MemoryImage]:
    image = MemoryImage.create(tmp_path / "guest.ram", MEMORY)
    yield image
    image.close()


def page(fill: int) -> bytes:
    return bytes([fill]) * PAGE


def runs(found: Slice) -> list[tuple[int, int, bool]]:
    """First page, pages, whether it is zero."""
    return [(run.offset_bytes // PAGE, run.length_bytes // PAGE, run.payload is None) for run in found.runs]


def test_memory_that_is_zero_is_never_sent(image: MemoryImage) -> None:
    tracker = PageCompareTracker(image, PAGE, 1)
    found = tracker.collect(0, SLICE_BYTES)
    assert found == Slice(512, (), 0, 0, 512)


def test_a_written_page_is_found_once(image: MemoryImage) -> None:
    tracker = PageCompareTracker(image, PAGE, 1)
    image.write(page(7), 3 * PAGE)
    assert tracker.collect(0, SLICE_BYTES).runs == [DirtyRun(3 * PAGE, PAGE, page(7))]
    assert tracker.collect(0, SLICE_BYTES).runs == ()
    image.write(b"\x08", 3 * PAGE + 4095)
    assert tracker.collect(0, SLICE_BYTES).runs == [DirtyRun(3 * PAGE, PAGE, page(7)[:-1] + b"\x08")]


def test_a_page_that_becomes_zero_is_sent_as_zero(image: MemoryImage) -> None:
    tracker = PageCompareTracker(image, PAGE, 1)
    image.write(page(7), 0)
    tracker.collect(0, SLICE_BYTES)
    image.write_zeroes(0, PAGE)
    found = tracker.collect(0, SLICE_BYTES)
    assert found.runs == [DirtyRun(0, PAGE, None)]
    assert (found.pages_dirty, found.pages_zero, found.pages_elided) == (1, 1, 511)


def test_neighbours_are_one_run_and_zero_pages_a_run_of_their_own(image: MemoryImage) -> None:
    tracker = PageCompareTracker(image, PAGE, 1)
    image.write(page(1) * 8, 0)
    tracker.collect(0, SLICE_BYTES)
    image.write(page(2) * 3 + bytes(2 * PAGE) + page(3), 0)
    image.write(page(4), 7 * PAGE)
    found = tracker.collect(0, SLICE_BYTES)
    assert runs(found) == [(0, 3, False), (3, 2, True), (5, 1, False), (7, 1, False)]
    assert found.runs[0].payload == page(2) * 3
    assert (found.pages_dirty, found.pages_zero) == (7, 2)


def test_a_run_is_no_longer_than_a_chunk_may_be(image: MemoryImage) -> None:
    tracker = PageCompareTracker(image, PAGE, 1)
    image.write(page(1) * 512, SLICE_BYTES)
    found = tracker.collect(SLICE_BYTES, SLICE_BYTES)
    assert [(run.offset_bytes, run.length_bytes) for run in found.runs] == [
        (SLICE_BYTES, MAXIMUM_CHUNK_BYTES),
        (SLICE_BYTES + MAXIMUM_CHUNK_BYTES, MAXIMUM_CHUNK_BYTES),
    ]


def test_what_is_given_out_stays_as_it_was_when_the_guest_writes_on(image: MemoryImage) -> None:
    tracker = PageCompareTracker(image, PAGE, 1)
    image.write(page(1), 0)
    (run,) = tracker.collect(0, SLICE_BYTES).runs
    image.write(page(2), 0)
    tracker.collect(0, SLICE_BYTES)
    assert run.payload == page(1)


def test_the_digest_is_that_of_the_image_after_a_quiet_pass(image: MemoryImage) -> None:
    tracker = PageCompareTracker(image, PAGE, 5)
    image.write(page(1) * 5, 100 * PAGE)
    for start in (0, SLICE_BYTES):
        tracker.collect(start, SLICE_BYTES)
    image.write(page(2), 102 * PAGE)
    image.write_zeroes(100 * PAGE, PAGE)
    for start in (0, SLICE_BYTES):
        tracker.collect(start, SLICE_BYTES)
    assert tracker.digest() == digest_image(image, PAGE, 5)


def test_pages_of_another_size_are_found_as_such(tmp_path: Path) -> None:
    image = MemoryImage.create(tmp_path / "large.ram", MEMORY)
    tracker = PageCompareTracker(image, 65536, 1)
    image.write(b"x", 70000)
    found = tracker.collect(0, SLICE_BYTES)
    assert [(run.offset_bytes, run.length_bytes) for run in found.runs] == [(65536, 65536)]
    assert found.pages == 32


def test_the_first_tracker_that_can_work_is_taken(image: MemoryImage) -> None:
    asked: list[tuple[str, int | None]] = []

    def unusable(image: MemoryImage, process_id: int | None) -> str:
        asked.append((image.path.name, process_id))
        return "no soft-dirty bits in this kernel"

    first = TrackerChoice("soft-dirty", unusable, PageCompareTracker)
    second = TrackerChoice("page-compare", lambda image, process_id: "", PageCompareTracker)
    assert choose_tracker(image, 42, PAGE, 1, choices=[first, second]).name == "page-compare"
    assert asked == [("guest.ram", 42)]
    with pytest.raises(MigrationError, match="soft-dirty: no soft-dirty bits"):
        choose_tracker(image, 42, PAGE, 1, choices=[first])


def test_comparing_pages_works_for_every_guest(image: MemoryImage) -> None:
    assert choose_tracker(image, None, PAGE, 1).name == "page-compare"
