from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.storage.disk import MAX_RUNS, StorageError
from csvd.storage.file import FileDisk
from tests.unit.storage.pool_doubles import InlinePool

MIB = 1 << 20
BLOCK = 4096


@pytest.fixture
def inline() -> InlinePool:
    return InlinePool()


@pytest.fixture
def disk(tmp_path: Path, inline: InlinePool) -> Iterator[FileDisk]:
    disk = inline.open(str(tmp_path / "disk.img"), create_bytes=16 * MIB)
    assert isinstance(disk, FileDisk)
    yield disk
    if disk.fileno() >= 0:
        os.close(disk.fileno())


@pytest.fixture
def tmpfs_disk(inline: InlinePool) -> Iterator[FileDisk]:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as folder:
        disk = inline.open(f"{folder}/disk.img", create_bytes=16 * MIB)
        assert isinstance(disk, FileDisk)
        yield disk
        os.close(disk.fileno())


def takes(inline: InlinePool, disk: FileDisk, length_bytes: int) -> bool:
    """Whether the file takes this many bytes, and a few blocks for its map."""
    found = inline.settle(disk.allocated_bytes())
    assert found is not None
    return length_bytes <= found <= length_bytes + 8 * BLOCK


def test_a_new_disk_is_one_hole(inline: InlinePool, disk: FileDisk) -> None:
    assert inline.settle(disk.allocation(0, 16 * MIB)) == [(0, 16 * MIB, False)]
    assert inline.settle(disk.allocation(5 * MIB + 512, 1024)) == [(5 * MIB + 512, 1024, False)]
    assert takes(inline, disk, 0)


def test_what_is_written_is_allocated_before_and_after_a_flush(inline: InlinePool, disk: FileDisk) -> None:
    expected = [(0, MIB, False), (MIB, BLOCK, True), (MIB + BLOCK, 15 * MIB - BLOCK, False)]
    inline.settle(disk.write_from((b"x" * BLOCK,), MIB))
    assert inline.settle(disk.allocation(0, 16 * MIB)) == expected
    inline.settle(disk.flush())
    assert inline.settle(disk.allocation(0, 16 * MIB)) == expected
    assert takes(inline, disk, BLOCK)


def test_a_question_begins_and_ends_within_runs(inline: InlinePool, disk: FileDisk) -> None:
    inline.settle(disk.write_from((b"x" * 2 * BLOCK,), MIB))
    found = inline.settle(disk.allocation(MIB + 512, 2 * BLOCK))
    assert found == [(MIB + 512, 2 * BLOCK - 512, True), (MIB + 2 * BLOCK, 512, False)]
    assert inline.settle(disk.allocation(MIB, BLOCK)) == [(MIB, BLOCK, True)]
    assert inline.settle(disk.allocation(MIB, 0)) == []


def test_what_is_unmapped_is_a_hole_again(inline: InlinePool, disk: FileDisk) -> None:
    inline.settle(disk.write_from((b"x" * 3 * BLOCK,), 0))
    inline.settle(disk.unmap(BLOCK, BLOCK))
    assert inline.settle(disk.allocation(0, 3 * BLOCK)) == [
        (0, BLOCK, True),
        (BLOCK, BLOCK, False),
        (2 * BLOCK, BLOCK, True),
    ]


def test_zeros_that_are_written_have_their_place(inline: InlinePool, disk: FileDisk) -> None:
    inline.settle(disk.write_zeroes(MIB, 2 * MIB))
    inline.settle(disk.write_from((b"x" * BLOCK,), 2 * MIB))
    found = inline.settle(disk.allocation(0, 4 * MIB))
    assert found[0] == (0, MIB, False)
    assert found[-1] == (3 * MIB, MIB, False)
    assert all(allocated for _, _, allocated in found[1:-1])
    assert sum(length for _, length, _ in found) == 4 * MIB
    assert takes(inline, disk, 2 * MIB)


def test_zeroing_what_is_allocated_keeps_it_allocated(inline: InlinePool, disk: FileDisk) -> None:
    os.posix_fallocate(disk.fileno(), 0, 16 * MIB)
    inline.settle(disk.write_from((b"x" * MIB,), 0))
    inline.settle(disk.flush())
    inline.settle(disk.write_zeroes(0, 16 * MIB))
    inline.settle(disk.flush())
    assert inline.settle(disk.allocated_bytes()) == 16 * MIB
    assert all(allocated for _, _, allocated in inline.settle(disk.allocation(0, 16 * MIB)))


def test_runs_are_as_many_as_asked_for_and_no_more_than_the_most(inline: InlinePool, disk: FileDisk) -> None:
    for number in range(MAX_RUNS):
        os.pwrite(disk.fileno(), b"x", number * 2 * BLOCK)
    found = inline.settle(disk.allocation(0, 16 * MIB, 10**9))
    assert len(found) == MAX_RUNS
    assert [allocated for _, _, allocated in found[:4]] == [True, False, True, False]
    assert inline.settle(disk.allocation(0, 16 * MIB, 3)) == found[:3]
    assert inline.settle(disk.allocation(0, 16 * MIB, 0)) == found[:1]


def test_every_run_follows_the_one_before(inline: InlinePool, disk: FileDisk) -> None:
    for begin, length in ((0, 3), (5, 1), (9, 2), (40, 7)):
        inline.settle(disk.write_zeroes(begin * BLOCK, length * BLOCK))
        os.pwrite(disk.fileno(), b"x", (begin + length) * BLOCK)
    for most in range(1, 16):
        at = 512
        for begin, length, _ in inline.settle(disk.allocation(512, MIB, most)):
            assert begin == at
            assert length > 0
            at += length
        assert at <= 512 + MIB


def test_on_a_tmpfs_holes_are_found_and_zeros_allocated(inline: InlinePool, tmpfs_disk: FileDisk) -> None:
    disk = tmpfs_disk
    inline.settle(disk.write_from((b"x" * BLOCK,), MIB))
    assert inline.settle(disk.allocation(0, 2 * MIB)) == [
        (0, MIB, False),
        (MIB, BLOCK, True),
        (MIB + BLOCK, MIB - BLOCK, False),
    ]
    inline.settle(disk.write_zeroes(4 * MIB, MIB))
    assert inline.settle(disk.allocation(4 * MIB, MIB)) == [(4 * MIB, MIB, True)]
    inline.settle(disk.unmap(MIB, BLOCK))
    assert inline.settle(disk.allocation(0, 2 * MIB)) == [(0, 2 * MIB, False)]
    assert inline.settle(disk.allocated_bytes()) == MIB


def test_a_store_that_knows_no_holes_is_all_data(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def lseek(_fd: int, _offset: int, _whence: int) -> int:
        raise OSError(errno.EINVAL, "a block device")

    monkeypatch.setattr(os, "lseek", lseek)
    assert inline.settle(disk.allocation(512, MIB)) == [(512, MIB, True)]


def test_a_store_without_fiemap_has_holes_all_the_same(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ioctl(*_arguments: object) -> int:
        raise OSError(errno.EOPNOTSUPP, "no FIEMAP")

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    inline.settle(disk.write_zeroes(0, MIB))
    assert inline.settle(disk.allocation(0, 2 * MIB)) == [(0, 2 * MIB, False)]


def test_a_medium_error_is_told(inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def lseek(_fd: int, _offset: int, _whence: int) -> int:
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "lseek", lseek)
    with pytest.raises(StorageError) as failed:
        inline.settle(disk.allocation(0, MIB))
    assert failed.value.errno == errno.EIO


def test_prefetch_asks_the_kernel_to_read_ahead_and_never_fails(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[int, int, int]] = []

    def advise(_fd: int, offset: int, length: int, advice: int) -> None:
        asked.append((offset, length, advice))
        raise OSError(errno.EIO, "broken")

    monkeypatch.setattr(os, "posix_fadvise", advise)
    inline.settle(disk.prefetch(512, MIB))
    assert asked == [(512, MIB, os.POSIX_FADV_WILLNEED)]


@pytest.mark.parametrize("length_bytes", [-1, 1 << 40])
def test_what_is_not_within_the_disk_is_not_asked_about(inline: InlinePool, disk: FileDisk, length_bytes: int) -> None:
    questions: list[Deferred[Any]] = [disk.allocation(0, length_bytes), disk.prefetch(0, length_bytes)]
    for failing in questions:
        with pytest.raises(StorageError) as failed:
            inline.settle(failing)
        assert failed.value.errno == errno.EINVAL


def test_a_closed_disk_is_not_asked_about(inline: InlinePool, disk: FileDisk) -> None:
    inline.settle(disk.close())
    questions: list[Deferred[Any]] = [disk.allocation(0, 1), disk.prefetch(0, 1), disk.allocated_bytes()]
    for failing in questions:
        with pytest.raises(StorageError) as failed:
            inline.settle(failing)
        assert failed.value.errno == errno.EBADF
