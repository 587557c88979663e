"""Writes that a file disk makes in the loop, and those that it leaves to the pool."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from csvd.storage.calm import Calm
from csvd.storage.file import FileDisk
from csvd.storage.filesystem import Store
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from tests.unit.storage.pool_doubles import HeldThreads, InlinePool, PoolClock, outcomes_of, result_now

SIZE = 1 << 20
PAGE = bytes(range(256)) * 16


class Kernel:
    """The system calls of a disk: a file system without RWF_NOWAIT for writes, and faults where a test wants them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.pwritev, self.preadv = os.pwritev, os.preadv
        self.nowait = errno.EOPNOTSUPP
        self.fault = 0
        self.takes = SIZE
        self.has_pages = True
        self.in_memory = False
        self.flags: list[int] = []
        monkeypatch.setattr(os, "pwritev", self._pwritev)
        monkeypatch.setattr(os, "preadv", self._preadv)

    def _pwritev(self, fd: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        self.flags.append(flags)
        if flags and self.nowait:
            raise OSError(self.nowait, os.strerror(self.nowait))
        if self.fault:
            raise OSError(self.fault, os.strerror(self.fault))
        return self.pwritev(fd, (b"".join(buffers)[: self.takes],), offset)

    def _preadv(self, fd: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        if flags and self.in_memory:
            raise OSError(self.nowait, os.strerror(self.nowait))
        if flags and not self.has_pages:
            raise BlockingIOError(errno.EAGAIN, "not cached")
        return self.preadv(fd, buffers, offset)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    monkeypatch.setattr("csvd.storage.file.store_of", lambda _: Store.EXT4)
    return Kernel(monkeypatch)


@pytest.fixture
def inline() -> InlinePool:
    return InlinePool()


Opener = Callable[..., FileDisk]


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Opener]:
    disks: list[FileDisk] = []

    def opened(pool: Any, **options: Any) -> FileDisk:
        disk = result_now(open_disk(str(tmp_path / "disk.img"), pool=pool, **options))
        assert isinstance(disk, FileDisk)
        disk._calm = Calm(clock_ns=lambda: 1, room_bytes=lambda: 1 << 30)
        disks.append(disk)
        return disk

    yield opened
    for disk in disks:
        if disk.fileno() >= 0:
            os.close(disk.fileno())


@pytest.fixture
def disk(kernel: Kernel, inline: InlinePool, opened: Opener) -> FileDisk:
    """A disk that knows by now that its file system refuses RWF_NOWAIT."""
    disk = opened(inline.pool, create_bytes=SIZE)
    assert disk.write_nowait((bytes(4096),), 0)
    kernel.flags.clear()
    return disk


def content(disk: FileDisk) -> bytes:
    return os.pread(disk.fileno(), SIZE, 0)


def test_where_the_kernel_can_be_asked_not_to_wait_it_is(kernel: Kernel, inline: InlinePool, opened: Opener) -> None:
    kernel.nowait = 0
    disk = opened(inline.pool, create_bytes=SIZE)
    assert disk.write_nowait((b"a" * 512, b"b" * 100), 4000)
    assert content(disk)[4000:4612] == b"a" * 512 + b"b" * 100
    assert kernel.flags == [os.RWF_NOWAIT]
    kernel.nowait = errno.EAGAIN
    assert not disk.write_nowait((PAGE,), 0)
    kernel.nowait = 0
    assert disk.write_nowait((PAGE,), 0)
    assert kernel.flags == [os.RWF_NOWAIT] * 3
    assert inline.threads.hand_offs == 0


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_that_can_not_is_asked_once_and_written_to_while_it_is_calm(
    kernel: Kernel, inline: InlinePool, opened: Opener, number: int
) -> None:
    kernel.nowait = number
    disk = opened(inline.pool, create_bytes=SIZE)
    assert [disk.write_nowait((PAGE,), at) for at in (0, 4096, 8192)] == [True] * 3
    assert kernel.flags == [os.RWF_NOWAIT, 0, 0, 0]
    assert content(disk)[:12288] == PAGE * 3


def test_one_that_may_have_a_writer_wait_for_a_reader_or_a_server_is_left_to_the_pool(
    kernel: Kernel, inline: InlinePool, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csvd.storage.file.store_of", lambda _: Store.OTHER)
    disk = opened(inline.pool, create_bytes=SIZE)
    assert not any(disk.write_nowait((PAGE,), at) for at in (0, 4096, 8192))
    assert kernel.flags == [os.RWF_NOWAIT]


def test_nothing_is_written_in_the_loop_while_it_is_not_calm(disk: FileDisk, kernel: Kernel) -> None:
    disk._calm = Calm(clock_ns=lambda: 1, room_bytes=lambda: 0)
    assert not disk.write_nowait((PAGE,), 0)
    assert not kernel.flags


def test_every_write_is_timed_and_a_stall_sends_the_next_one_to_the_pool(disk: FileDisk, kernel: Kernel) -> None:
    now_ns = 1
    disk._calm = Calm(clock_ns=lambda: now_ns, room_bytes=lambda: 1 << 30)

    def stall(*_: Any) -> int:
        nonlocal now_ns
        now_ns += 50_000_000
        return 4096

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "pwritev", stall)
        assert disk.write_nowait((PAGE,), 0)
    assert not disk.write_nowait((PAGE,), 0)
    now_ns += 2_000_000_000
    assert disk.write_nowait((PAGE,), 0)


def test_a_page_in_part_is_written_in_the_loop_only_where_the_page_cache_has_it(disk: FileDisk, kernel: Kernel) -> None:
    os.truncate(disk.fileno(), SIZE - 100)
    disk.size_bytes = SIZE - 100
    pieces = [(512, 512), (4096, 100), (8000, 4096), (SIZE - 4096, 4096 - 100)]
    for offset, length in pieces:
        assert disk.write_nowait((b"x" * length,), offset)
        assert content(disk)[offset : offset + length] == b"x" * length
    kernel.has_pages = False
    assert not any(disk.write_nowait((b"y" * length,), offset) for offset, length in pieces)
    assert disk.write_nowait((PAGE, PAGE), 4096)


def test_only_the_pages_in_part_must_be_there(disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def preadv(_fd: int, _buffers: Any, offset: int, flags: int) -> int:
        asked.append((offset, flags))
        return 1

    monkeypatch.setattr(os, "preadv", preadv)
    assert disk.write_nowait((bytes(8192),), 8192)
    assert asked == []
    assert disk.write_nowait((bytes(8192),), 8192 + 512)
    assert sorted(asked) == [(8192, os.RWF_NOWAIT), (16384, os.RWF_NOWAIT)]


def test_what_others_in_the_kernel_wait_for_keeps_writes_out_of_the_loop(kernel: Kernel, opened: Opener) -> None:
    clock, threads = PoolClock(), HeldThreads()
    pool = DiskPool(clock, threads=2, thread_pool=threads)
    disk = opened(pool, create_bytes=SIZE)
    for start in (
        lambda: disk.write_from((b"part",), 0),
        lambda: disk.write_zeroes(0, 4096),
        lambda: disk.unmap(0, 4096),
        lambda: disk.allocation(0, 4096),
        lambda: disk.resize(SIZE),
    ):
        assert disk.write_nowait((PAGE,), 4096)
        ended = outcomes_of(start())
        assert not disk.write_nowait((PAGE,), 4096)
        clock.run()
        assert not disk.write_nowait((PAGE,), 4096)
        threads.run_one()
        assert not ended
        clock.run()
        assert len(ended) == 1
    assert disk.write_nowait((PAGE,), 4096)


def test_whole_pages_in_the_pool_do_not_or_one_would_keep_all_that_follow_it_there(
    kernel: Kernel, opened: Opener
) -> None:
    clock, threads = PoolClock(), HeldThreads()
    pool = DiskPool(clock, threads=2, thread_pool=threads)
    disk = opened(pool, create_bytes=SIZE)
    disk.write_from((PAGE,), 0)
    disk.read_into(memoryview(bytearray(512)), 0)
    clock.run()
    assert disk.write_nowait((PAGE,), 4096)
    while threads.held:
        threads.run_one()
    clock.run()


@pytest.mark.parametrize(("fault", "takes"), [(errno.ENOSPC, SIZE), (errno.EIO, SIZE), (0, 1000), (0, 0)])
def test_what_fails_or_is_short_is_left_to_the_pool_to_do_and_to_tell(
    disk: FileDisk, kernel: Kernel, inline: InlinePool, fault: int, takes: int
) -> None:
    kernel.fault, kernel.takes = fault, takes
    assert not disk.write_nowait((PAGE,), 4096)
    kernel.fault, kernel.takes = 0, SIZE
    inline.settle(disk.write_from((PAGE,), 4096))
    assert content(disk)[4096:8192] == PAGE
    assert disk.write_nowait((PAGE,), 8192)


def test_long_writes_and_ranges_outside_the_disk_are_left_to_the_pool(disk: FileDisk, kernel: Kernel) -> None:
    assert disk.write_nowait((bytes(256 << 10),), 0)
    kernel.flags.clear()
    assert not disk.write_nowait((bytes((256 << 10) + 4096),), 0)
    assert not disk.write_nowait((PAGE,), SIZE)
    assert not disk.write_nowait((PAGE,), SIZE - 4095)
    assert not disk.write_nowait((PAGE, PAGE), SIZE - 4096)
    assert not disk.write_nowait((PAGE,), 1 << 63)
    assert not kernel.flags
    assert not disk.write_nowait((PAGE,), -4096)
    assert os.fstat(disk.fileno()).st_size == SIZE


def test_a_disk_that_can_not_be_written_to_writes_nothing(kernel: Kernel, inline: InlinePool, opened: Opener) -> None:
    opened(inline.pool, create_bytes=SIZE)
    assert not opened(inline.pool, read_only=True).write_nowait((PAGE,), 0)
    assert not opened(inline.pool, direct=True, block_bytes=4096).write_nowait((PAGE,), 0)
    closed = opened(inline.pool)
    inline.settle(closed.close())
    assert not closed.write_nowait((PAGE,), 0)
    assert not kernel.flags


def test_after_a_failed_flush_nothing_is_written_in_the_loop(
    disk: FileDisk, inline: InlinePool, kernel: Kernel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fdatasync(_fd: int) -> None:
        raise OSError(errno.EIO, "gone")

    assert disk.write_nowait((PAGE,), 0)
    monkeypatch.setattr(os, "fdatasync", fdatasync)
    assert outcomes_of(disk.flush()) == []
    inline.clock.run()
    assert not disk.write_nowait((PAGE,), 0)


def test_tmpfs_is_memory_it_is_read_and_written_in_the_loop_without_asking_for_pages(
    kernel: Kernel, inline: InlinePool, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csvd.storage.file.store_of", lambda _: Store.MEMORY)
    kernel.in_memory, kernel.has_pages = True, False
    disk = opened(inline.pool, create_bytes=SIZE)
    assert [disk.write_nowait((b"x" * 100,), 5000) for _ in range(2)] == [True] * 2
    buffer = bytearray(102)
    assert disk.read_nowait(memoryview(buffer), 4999)
    assert buffer == b"\0" + b"x" * 100 + b"\0"
    disk._calm = Calm(clock_ns=lambda: 1, room_bytes=lambda: 0)
    assert not disk.read_nowait(memoryview(buffer), 4999)
    assert not disk.write_nowait((PAGE,), 0)


def test_a_disk_that_is_only_read_finds_out_too_that_it_is_in_memory(
    kernel: Kernel, inline: InlinePool, opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csvd.storage.file.store_of", lambda _: Store.MEMORY)
    kernel.in_memory = True
    disk = opened(inline.pool, create_bytes=SIZE)
    assert [disk.read_nowait(memoryview(bytearray(100)), 0) for _ in range(3)] == [True] * 3
    assert not disk.read_nowait(memoryview(bytearray(1)), SIZE)
