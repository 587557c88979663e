from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from csvd.storage import resident
from csvd.storage.disk import Disk
from csvd.storage.file import FileDisk
from csvd.storage.memory import MemoryDisk
from csvd.storage.null import NullDisk
from csvd.storage.ranges import punch_range
from csvd.storage.resident import Residency
from tests.unit.storage.pool_doubles import InlinePool

SIZE = 1 << 20


def drop(fd: int, offset_bytes: int, length_bytes: int) -> None:
    """Have the page cache forget a range; tmpfs forgets nothing but what is punched out."""
    punch_range(fd, offset_bytes, length_bytes, "a test")


def mappings(path: Path) -> int:
    return Path("/proc/self/maps").read_text().count(str(path))


@pytest.fixture
def inline() -> InlinePool:
    return InlinePool()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


@pytest.fixture
def disk(path: Path, inline: InlinePool) -> Iterator[FileDisk]:
    """A disk of which the page cache has all, in pages of their own: a larger folio is kept or forgotten as one."""
    opened = inline.open(str(path), create_bytes=SIZE)
    assert isinstance(opened, FileDisk)
    for at in range(0, SIZE, 4096):
        os.pwrite(opened.fileno(), bytes([1]) * 4096, at)
    yield opened
    if opened.fileno() >= 0:
        inline.settle(opened.close())


def test_a_range_is_cached_when_all_of_its_pages_are(disk: FileDisk) -> None:
    assert disk.cached(0, SIZE)
    drop(disk.fileno(), 65536, 4096)
    assert not disk.cached(0, SIZE)
    assert disk.cached(0, 65536)
    assert not disk.cached(0, 65537)
    assert not disk.cached(65535, 2)
    assert not disk.cached(65536, 1)
    assert not disk.cached(69631, 512)
    assert disk.cached(69632, SIZE - 69632)
    os.pwrite(disk.fileno(), bytes(4096), 65536)
    assert disk.cached(0, SIZE)


def test_asking_reads_nothing(disk: FileDisk) -> None:
    drop(disk.fileno(), 0, SIZE)
    for _ in range(3):
        assert not disk.cached(0, 4096)
        assert not disk.cached(SIZE - 1, 1)


def test_what_is_outside_the_disk_is_not_cached(disk: FileDisk) -> None:
    assert not disk.cached(SIZE, 1)
    assert not disk.cached(SIZE - 1, 2)
    assert not disk.cached(-4096, 4096)
    assert not disk.cached(-1, 2)
    assert not disk.cached(1 << 63, 4096)
    assert not disk.cached(0, 0)


def test_what_was_added_to_a_disk_is_seen(disk: FileDisk, inline: InlinePool, path: Path) -> None:
    assert disk.cached(0, SIZE)
    inline.settle(disk.resize(2 * SIZE))
    assert not disk.cached(0, 2 * SIZE)
    os.pwrite(disk.fileno(), bytes(SIZE), SIZE)
    assert disk.cached(0, 2 * SIZE)
    assert mappings(path) == 1


def test_a_file_that_somebody_made_shorter_is_not_cached_there_and_harms_nobody(disk: FileDisk, path: Path) -> None:
    assert disk.cached(0, SIZE)
    os.truncate(path, 4096)
    assert disk.cached(0, 4096)
    assert not disk.cached(0, SIZE)
    assert not disk.cached(SIZE - 4096, 4096)


def test_it_is_not_asked_of_a_long_range(tmp_path: Path) -> None:
    fd = os.open(tmp_path / "long", os.O_RDWR | os.O_CREAT)
    os.ftruncate(fd, 32 << 20)
    os.pwrite(fd, bytes(16 << 20), 0)
    residency = Residency(fd)
    assert residency.has(0, 16 << 20)
    assert not residency.has(0, (16 << 20) + 1)
    assert not residency.has(4095, 16 << 20)
    residency.close()
    os.close(fd)


def test_a_closed_disk_has_nothing_and_its_mapping_is_gone(disk: FileDisk, inline: InlinePool, path: Path) -> None:
    assert disk.cached(0, 4096)
    assert mappings(path) == 1
    inline.settle(disk.close())
    assert mappings(path) == 0
    assert not disk.cached(0, 4096)
    assert mappings(path) == 0


@pytest.mark.parametrize("call", ["_mincore", "_mmap"])
def test_a_system_that_refuses_is_asked_once(disk: FileDisk, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    asked = []

    def refuse(*args: object) -> int:
        asked.append(args)
        return -1 if call == "_mincore" else resident._MAP_FAILED or 0

    monkeypatch.setattr(resident, call, refuse)
    assert [disk.cached(0, 4096) for _ in range(3)] == [False] * 3
    assert len(asked) == 1


def test_disks_without_a_page_cache_have_nothing_in_it(disk: FileDisk, inline: InlinePool, path: Path) -> None:
    direct = inline.open(str(path), direct=True, block_bytes=4096)
    others: list[Disk] = [direct, MemoryDisk(SIZE), NullDisk(SIZE)]
    assert not any(other.cached(0, 4096) for other in others)
    inline.settle(direct.close())
