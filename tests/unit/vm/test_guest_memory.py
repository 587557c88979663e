"""The guest's memory: what it writes is what it checks, and what it finds wrong."""

from __future__ import annotations

import mmap
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from csvd.vm.layout import PAGE_BYTES, LayoutError, Verification, WorkingSet

PAGES = 64
WORKING_SET = 31


@pytest.fixture
def image(tmp_path: Path) -> Iterator[tuple[mmap.mmap, int]]:
    fd = os.open(tmp_path / "guest.ram", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, PAGES * PAGE_BYTES)
    memory = mmap.mmap(fd, PAGES * PAGE_BYTES)
    yield memory, fd
    os.close(fd)


def filled(image: tuple[mmap.mmap, int]) -> WorkingSet:
    pages = WorkingSet(*image)
    pages.load(WORKING_SET)
    pages.fill(WORKING_SET)
    pages.store_header()
    return pages


def test_a_new_guest_fills_its_working_set_and_nothing_else(image: tuple[mmap.mmap, int]) -> None:
    pages = WorkingSet(*image)
    pages.load(WORKING_SET)
    filled_by: list[bool] = []
    for more in (0, 10, 100):
        pages.fill(more)
        filled_by.append(pages.is_filled)
    assert filled_by == [False, False, True]
    assert pages.verify() == Verification(WORKING_SET, 0, 0, 0, 0)
    assert not any(image[0][(WORKING_SET + 1) * PAGE_BYTES :])
    contents = {image[0][n * PAGE_BYTES : (n + 1) * PAGE_BYTES] for n in range(1, WORKING_SET + 1)}
    assert len(contents) == WORKING_SET


def test_rewritten_pages_change_and_check(image: tuple[mmap.mmap, int]) -> None:
    pages = filled(image)
    before = image[0][:]
    pages.rewrite(500)
    changed = [
        n for n in range(PAGES) if image[0][n * PAGE_BYTES :][:PAGE_BYTES] != before[n * PAGE_BYTES :][:PAGE_BYTES]
    ]
    assert len(changed) > WORKING_SET * 0.9
    assert pages.verify() == Verification(WORKING_SET, 0, 0, 0, 0)
    assert pages.header.pages_rewritten == 500


def test_the_state_goes_on_in_another_process(image: tuple[mmap.mmap, int]) -> None:
    pages = filled(image)
    pages.rewrite(17)
    pages.header.counter = 99
    pages.store_header()
    saved = image[0][:]
    pages.rewrite(3)
    pages.store_header()
    expected = image[0][:]
    image[0][:] = saved
    other = WorkingSet(*image)
    other.load(5)
    assert other.header.counter == 99
    other.rewrite(3)
    other.store_header()
    assert image[0][:] == expected


@pytest.mark.parametrize("offset", [0, 8, 16, 2000, PAGE_BYTES - 1])
def test_a_changed_byte_is_found(image: tuple[mmap.mmap, int], offset: int) -> None:
    pages = filled(image)
    image[0][7 * PAGE_BYTES + offset] ^= 1
    assert pages.verify().pages_bad == 1


def test_a_page_in_the_place_of_another_is_found(image: tuple[mmap.mmap, int]) -> None:
    pages = filled(image)
    image[0][7 * PAGE_BYTES : 8 * PAGE_BYTES] = image[0][8 * PAGE_BYTES : 9 * PAGE_BYTES]
    assert pages.verify().pages_bad == 1


def test_a_page_that_went_back_to_an_older_version_is_found(image: tuple[mmap.mmap, int]) -> None:
    pages = filled(image)
    number = pages.header.next_page
    old = image[0][number * PAGE_BYTES : (number + 1) * PAGE_BYTES]
    pages.rewrite(1)
    image[0][number * PAGE_BYTES : (number + 1) * PAGE_BYTES] = old
    found = pages.verify()
    assert (found.pages_bad, found.missing_rewrites) == (0, 1)


def test_a_page_outside_the_working_set_is_found(image: tuple[mmap.mmap, int]) -> None:
    pages = filled(image)
    image[0][-1] = 1
    image[0][(WORKING_SET + 1) * PAGE_BYTES] = 1
    assert pages.verify().stray_pages == 2


@pytest.mark.parametrize(
    ("offset", "value", "complaint"),
    [(0, b"X", "not the header of a csvd guest"), (8, b"\x02", "not the header"), (30, b"\x07", "CRC of the header")],
)
def test_a_page_0_that_is_no_header_is_refused(
    image: tuple[mmap.mmap, int], offset: int, value: bytes, complaint: str
) -> None:
    filled(image)
    image[0][offset : offset + 1] = value
    with pytest.raises(LayoutError, match=complaint):
        WorkingSet(*image).load(WORKING_SET)


def test_an_image_of_another_size_is_refused(image: tuple[mmap.mmap, int], tmp_path: Path) -> None:
    filled(image)
    half = tmp_path / "half"
    half.write_bytes(image[0][: PAGES // 2 * PAGE_BYTES])
    with half.open("r+b") as file:
        pages = WorkingSet(mmap.mmap(file.fileno(), 0), file.fileno())
        with pytest.raises(LayoutError, match=r"made for 64 pages of 4096 bytes, not 32"):
            pages.load(WORKING_SET)


def test_the_page_layout_is_the_documented_one(image: tuple[mmap.mmap, int]) -> None:
    filled(image)
    assert struct.unpack_from("<QQ", image[0], 9 * PAGE_BYTES) == (9, 1)
    assert image[0][:8] == b"CSVDGST\0"
