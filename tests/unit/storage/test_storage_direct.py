from __future__ import annotations

import errno
import fcntl
import os
import tempfile
from collections.abc import Iterator, Sequence
from itertools import pairwise
from mmap import mmap
from pathlib import Path
from typing import Any

import pytest

from csvd.errors import ConfigError
from csvd.storage.direct import BounceBuffers, direct_unit_bytes, is_aligned, read_direct, write_direct
from csvd.storage.disk import StorageError
from csvd.storage.file import FileDisk
from tests.unit.storage.pool_doubles import InlinePool, outcomes_of

MIB = 1 << 20
SIZE = 8 * MIB


@pytest.fixture
def inline() -> InlinePool:
    return InlinePool()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "disk.img"
    path.write_bytes(bytes(SIZE))
    return path


@pytest.fixture
def disk(path: Path, inline: InlinePool) -> Iterator[FileDisk]:
    disk = inline.open(str(path), block_bytes=4096, direct=True)
    assert isinstance(disk, FileDisk)
    yield disk
    os.close(disk.fileno())


def a_pattern(length_bytes: int) -> bytes:
    return bytes(range(251)) * (length_bytes // 251 + 1)


def test_it_goes_past_the_page_cache_and_to_the_pool(inline: InlinePool, disk: FileDisk) -> None:
    assert fcntl.fcntl(disk.fileno(), fcntl.F_GETFL) & os.O_DIRECT
    assert not disk.read_nowait(memoryview(bytearray(4096)), 0)
    hand_offs = inline.threads.hand_offs
    inline.settle(disk.read_into(memoryview(bytearray(4096)), 0))
    assert inline.threads.hand_offs == hand_offs + 1


@pytest.mark.parametrize("length_bytes", [4096, 12288, MIB, 3 * MIB + 4096])
def test_buffers_of_any_address_are_written_and_read(inline: InlinePool, disk: FileDisk, length_bytes: int) -> None:
    data = a_pattern(length_bytes)[:length_bytes]
    inline.settle(disk.write_from((data,), 8192, fua=True))
    buffer = bytearray(length_bytes + 1)
    inline.settle(disk.read_into(memoryview(buffer)[1:], 8192))
    assert buffer[1:] == data


def test_many_buffers_are_written_as_one(inline: InlinePool, disk: FileDisk, path: Path) -> None:
    data = a_pattern(3 * MIB)[: 3 * MIB]
    cuts = [0, 1, 5, 4096, 5000, MIB - 1, MIB + 7, 3 * MIB]
    buffers = [data[begin:end] for begin, end in pairwise(cuts)]
    inline.settle(disk.write_from(buffers, MIB))
    assert path.read_bytes() == bytes(MIB) + data + bytes(SIZE - 4 * MIB)


def test_an_aligned_buffer_needs_no_copy(path: Path) -> None:
    fd = os.open(path, os.O_RDWR | os.O_DIRECT)
    bounce = BounceBuffers(count=0)
    try:
        with mmap(-1, 8192) as page:
            page[:] = b"p" * 8192
            # With no bounce buffer to be had, a copy would wait for ever.
            write_direct(fd, (page,), 4096, "disk", bounce)
            page[:] = bytes(8192)
            view = memoryview(page)
            read_direct(fd, view, 4096, "disk", bounce)
            assert page[:] == b"p" * 8192
            view.release()
    finally:
        os.close(fd)


def test_alignment_is_that_of_the_address() -> None:
    with mmap(-1, 8192) as page, memoryview(page) as view:
        assert is_aligned(page)
        assert is_aligned(view[4096:])
        assert not is_aligned(view[512:])
        assert not is_aligned(view[:0])
    assert not is_aligned(bytes(4096)), "can not be asked"


def test_a_bounce_buffer_comes_back_after_a_fault(path: Path) -> None:
    bounce = BounceBuffers(count=1, length_bytes=8192)
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        for _ in range(3):
            with pytest.raises(StorageError) as failed:
                write_direct(fd, (bytes(4096),), 0, "disk", bounce)
            assert failed.value.errno == errno.EBADF
        buffer = bytearray(4096)
        read_direct(fd, memoryview(buffer), 0, "disk", bounce)
    finally:
        os.close(fd)


def test_the_unit_is_found_by_trying(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.preadv

    def in_units_of(unit_bytes: int) -> None:
        def preadv(fd: int, buffers: list[memoryview], offset_bytes: int, *flags: int) -> int:
            if offset_bytes % unit_bytes or any(buffer.nbytes % unit_bytes for buffer in buffers):
                raise OSError(errno.EINVAL, "unaligned")
            return real(fd, buffers, offset_bytes, *flags)

        monkeypatch.setattr(os, "preadv", preadv)

    fd = os.open(path, os.O_RDONLY)
    try:
        for unit_bytes, found in ((512, 512), (4096, 4096), (65536, None)):
            in_units_of(unit_bytes)
            assert direct_unit_bytes(fd) == found
    finally:
        os.close(fd)


def test_blocks_smaller_than_the_unit_are_refused(
    path: Path, inline: InlinePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csvd.storage.open_file.direct_unit_bytes", lambda fd: 4096)
    with pytest.raises(ConfigError, match=r"direct I/O goes by 4096 bytes there.*use blocks of 4096 bytes"):
        inline.open(str(path), block_bytes=512, direct=True)
    monkeypatch.setattr("csvd.storage.open_file.direct_unit_bytes", lambda fd: None)
    with pytest.raises(ConfigError, match="direct I/O is not possible"):
        inline.open(str(path), block_bytes=4096, direct=True)


def refuse_direct(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the file system refuse O_DIRECT."""
    real = fcntl.fcntl

    def refuse(fd: int, command: int, flags: int = 0) -> int:
        if command == fcntl.F_SETFL and flags & os.O_DIRECT:
            raise OSError(errno.EINVAL, "Invalid argument")
        return real(fd, command, flags)

    monkeypatch.setattr(fcntl, "fcntl", refuse)


def test_a_file_system_that_has_no_direct_io_is_refused_in_one_line(
    path: Path, inline: InlinePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_direct(monkeypatch)
    with pytest.raises(ConfigError, match=r"direct I/O is not possible.*no other host has this disk"):
        inline.open(str(path), direct=True)


def test_memory_of_this_host_is_its_page_cache_whether_tmpfs_takes_the_flag_or_not(
    inline: InlinePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    refuse_direct(monkeypatch)
    with tempfile.NamedTemporaryFile(dir="/dev/shm") as file:
        file.truncate(MIB)
        disk = inline.open(file.name, direct=True)
        inline.settle(disk.write_from((b"m" * 512,), 512))
        buffer = bytearray(512)
        inline.settle(disk.read_into(memoryview(buffer), 512))
        assert buffer == b"m" * 512
        assert isinstance(disk, FileDisk)
        os.close(disk.fileno())


def test_nothing_is_read_ahead_into_a_cache_that_nobody_looks_into(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    monkeypatch.setattr(os, "posix_fadvise", lambda *arguments: asked.append(arguments[0]))
    inline.settle(disk.prefetch(0, MIB))
    inline.clock.run()
    assert not asked


def test_a_transfer_of_no_whole_unit_fails_and_writes_nothing(inline: InlinePool, disk: FileDisk, path: Path) -> None:
    with pytest.raises(StorageError) as failed:
        inline.settle(disk.write_from((b"x" * 100,), 0))
    assert failed.value.errno == errno.EINVAL
    assert not any(path.read_bytes())


def test_zeroing_and_unmapping_are_seen_at_once(inline: InlinePool, disk: FileDisk) -> None:
    inline.settle(disk.write_from((b"x" * 16384,), 0))
    inline.settle(disk.write_zeroes(0, 4096))
    inline.settle(disk.unmap(8192, 4096))
    buffer = bytearray(16384)
    inline.settle(disk.read_into(memoryview(buffer), 0))
    assert buffer == bytes(4096) + b"x" * 4096 + bytes(4096) + b"x" * 4096


def test_writes_of_a_pass_wait_for_the_device_in_threads_of_their_own(inline: InlinePool, disk: FileDisk) -> None:
    hand_offs = inline.threads.hand_offs
    outcomes = outcomes_of(*(disk.write_from((bytes([at + 1]) * 4096,), at * 8192) for at in range(8)))
    inline.clock.run()
    assert outcomes == [None] * 8
    assert inline.threads.hand_offs > hand_offs + 1
    buffer = bytearray(8 * 8192)
    inline.settle(disk.read_into(memoryview(buffer), 0))
    assert buffer == b"".join(bytes([at + 1]) * 4096 + bytes(4096) for at in range(8))


def test_writes_that_adjoin_are_copied_into_one_transfer(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev = os.pwritev
    lengths: list[int] = []

    def counted(fd: int, buffers: Sequence[Any], offset: int) -> int:
        lengths.append(sum(map(len, buffers)))
        return pwritev(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", counted)
    outcomes = outcomes_of(*(disk.write_from((bytes([at]) * 4096,), at * 4096, fua=True) for at in range(16)))
    inline.clock.run()
    assert outcomes == [None] * 16
    assert lengths == [65536]
