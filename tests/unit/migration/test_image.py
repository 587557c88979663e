"""Memory images as files."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from pathlib import Path

import pytest
import xxhash

from csvd.migration.errors import ImageError
from csvd.migration.image import MemoryImage, PageDigests, digest_image

PAGE = 4096
MEMORY = 64 * PAGE


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "guest.ram"


def test_a_new_image_is_zero_sparse_and_private(path: Path) -> None:
    image = MemoryImage.create(path, MEMORY)
    status = path.stat()
    assert status.st_size == MEMORY
    assert status.st_blocks == 0
    assert stat.S_IMODE(status.st_mode) == 0o600
    buffer = memoryview(bytearray(b"x" * MEMORY))
    image.read_into(buffer, 0)
    assert buffer == bytes(MEMORY)
    image.close()


def test_an_image_is_not_made_over_another(path: Path) -> None:
    path.write_bytes(b"precious")
    with pytest.raises(ImageError) as caught:
        MemoryImage.create(path, MEMORY)
    assert caught.value.errno == errno.EEXIST
    assert path.read_bytes() == b"precious"


def test_an_image_of_another_size_is_refused(path: Path) -> None:
    path.write_bytes(bytes(MEMORY + 1))
    with pytest.raises(ImageError, match="262145 bytes, not 262144"):
        MemoryImage.open(path, MEMORY)


def test_an_image_that_is_a_symbolic_link_is_refused(path: Path) -> None:
    path.symlink_to("/etc/hostname")
    with pytest.raises(ImageError):
        MemoryImage.open(path, MEMORY)


def test_a_missing_image_is_an_error_that_names_it(path: Path) -> None:
    with pytest.raises(ImageError, match=r"guest\.ram.*No such file") as caught:
        MemoryImage.open(path, MEMORY)
    assert caught.value.errno == errno.ENOENT


def test_what_is_written_is_seen_by_a_mapping_and_the_other_way_round(path: Path) -> None:
    image = MemoryImage.create(path, MEMORY)
    with path.open("r+b") as file, mmap.mmap(file.fileno(), MEMORY) as memory:
        image.write(b"from pwrite", PAGE)
        assert memory[PAGE : PAGE + 11] == b"from pwrite"
        memory[10 * PAGE : 10 * PAGE + 7] = b"mapping"
        buffer = bytearray(7)
        image.read_into(memoryview(buffer), 10 * PAGE)
        assert buffer == b"mapping"
    image.close()


def test_nothing_is_written_outside_the_image(path: Path) -> None:
    image = MemoryImage.create(path, MEMORY)
    for offset_bytes, length_bytes in [(MEMORY, 1), (MEMORY - 1, 2), (-1, 1)]:
        with pytest.raises(ImageError, match="not inside"):
            image.write(bytes(length_bytes), offset_bytes)
        with pytest.raises(ImageError, match="not inside"):
            image.write_zeroes(offset_bytes, length_bytes)
    assert path.stat().st_size == MEMORY
    image.close()


def test_zeroes_are_written_over_what_was_there(path: Path) -> None:
    image = MemoryImage.create(path, 3 << 20)
    image.write(b"\xff" * (3 << 20), 0)
    image.write_zeroes(PAGE, (2 << 20) + PAGE)
    found = path.read_bytes()
    assert found[:PAGE] == b"\xff" * PAGE
    assert not any(found[PAGE : (2 << 20) + 2 * PAGE])
    assert found[(2 << 20) + 2 * PAGE :] == b"\xff" * ((1 << 20) - 2 * PAGE)
    image.close()


def test_a_file_cut_off_under_the_image_is_an_error_not_a_signal(path: Path) -> None:
    image = MemoryImage.create(path, MEMORY)
    os.truncate(path, PAGE)
    with pytest.raises(ImageError, match="ends at 4096"):
        image.read_into(memoryview(bytearray(2 * PAGE)), 0)
    image.close()


def test_a_full_file_system_is_an_error_with_a_hint() -> None:
    image = MemoryImage(Path("/dev/full"), os.open("/dev/full", os.O_RDWR), MEMORY)
    with pytest.raises(ImageError, match="make room") as caught:
        image.write(b"x", 0)
    assert caught.value.errno == errno.ENOSPC
    image.close()


def test_holes_are_told_from_data(path: Path) -> None:
    image = MemoryImage.create(path, MEMORY)
    image.write(b"x" * PAGE, 8 * PAGE)
    image.write(b"x" * PAGE, 40 * PAGE)
    ranges = list(image.data_ranges(0, MEMORY))
    assert all(length > 0 for _, length in ranges)
    covered = {page for start, length in ranges for page in range(start // PAGE, -(-(start + length) // PAGE))}
    assert {8, 40} <= covered
    assert 0 not in covered
    assert not list(image.data_ranges(48 * PAGE, 16 * PAGE))
    # What is found once is found from any place, also after more was written behind it.
    assert list(image.data_ranges(8 * PAGE, PAGE)) == [(8 * PAGE, PAGE)]
    image.write(b"x" * PAGE, 20 * PAGE)
    assert [start for start, _ in image.data_ranges(20 * PAGE, PAGE)] == [20 * PAGE]
    image.close()


def test_closing_twice_is_harmless(path: Path) -> None:
    image = MemoryImage.create(path, MEMORY)
    image.close()
    image.close()


def test_the_digest_follows_from_the_pages_and_the_seed(path: Path) -> None:
    image = MemoryImage.create(path, MEMORY)
    image.write(b"x" * PAGE, 5 * PAGE)
    pages = [bytes(PAGE)] * 64
    pages[5] = b"x" * PAGE
    expected = xxhash.xxh3_128_digest(b"".join(xxhash.xxh3_128_digest(page, 9) for page in pages), 9)
    assert digest_image(image, PAGE, 9) == expected
    assert digest_image(image, PAGE, 10) != expected
    image.close()


def test_a_new_table_of_digests_says_zero(path: Path) -> None:
    image = MemoryImage.create(path, MEMORY)
    assert PageDigests(MEMORY, PAGE, 3).of_image() == digest_image(image, PAGE, 3)
    image.close()
