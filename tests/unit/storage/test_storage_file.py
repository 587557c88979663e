from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import DeferredList

from csvd.storage.disk import Disk, StorageError
from csvd.storage.file import FileDisk
from csvd.storage.filesystem import Store
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from csvd.storage.ranges import IOV_MAX
from tests.unit.storage.pool_doubles import HeldThreads, InlinePool, PoolClock, outcomes_of, result_now
from tests.unit.storage.reactor_loop import run_in_reactor

SIZE = 1 << 20


@pytest.fixture
def inline() -> InlinePool:
    return InlinePool()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "disk.img"


def a_disk(path: Path, pool: DiskPool, **options: Any) -> FileDisk:
    if not path.exists():
        options.setdefault("create_bytes", SIZE)
    disk = result_now(open_disk(str(path), pool=pool, **options))
    assert isinstance(disk, FileDisk)
    return disk


@pytest.fixture
def disk(path: Path, inline: InlinePool) -> Iterator[FileDisk]:
    disk = a_disk(path, inline.pool)
    yield disk
    if disk.fileno() >= 0:
        os.close(disk.fileno())


def read(inline: InlinePool, disk: Disk, offset_bytes: int, length_bytes: int) -> bytes:
    buffer = bytearray(length_bytes)
    inline.settle(disk.read_into(memoryview(buffer), offset_bytes))
    return bytes(buffer)


class Calls:
    """System calls by name, in order, with a fault where the test wants one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self._monkeypatch = monkeypatch

    def spy(self, *names: str) -> None:
        for name in names:
            self.replace(name, getattr(os, name))

    def replace(self, name: str, function: Callable[..., Any]) -> None:
        def call(*args: Any) -> Any:
            self.names.append(name)
            return function(*args)

        self._monkeypatch.setattr(os, name, call)

    def fail(self, name: str, number: int) -> None:
        def call(*_args: Any) -> Any:
            raise OSError(number, os.strerror(number))

        self.replace(name, call)


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Calls:
    return Calls(monkeypatch)


# Reading


def test_what_is_written_is_read_back(inline: InlinePool, disk: FileDisk) -> None:
    inline.settle(disk.write_from((b"first ", bytearray(b"second "), memoryview(b"third")), 4096))
    assert read(inline, disk, 4096, 18) == b"first second third"
    assert read(inline, disk, 0, 8) == bytes(8)
    assert read(inline, disk, SIZE - 5, 5) == bytes(5)


def test_the_page_cache_answers_at_once(inline: InlinePool, disk: FileDisk) -> None:
    inline.settle(disk.write_from((b"cached" * 1000,), 512))
    hand_offs = inline.threads.hand_offs
    buffer = bytearray(6000)
    assert disk.read_nowait(memoryview(buffer), 512)
    assert bytes(buffer) == b"cached" * 1000
    assert inline.threads.hand_offs == hand_offs


def test_what_the_page_cache_lacks_is_left_to_the_pool(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    preadv = os.preadv
    inline.settle(disk.write_from((b"data",), 0))

    def not_cached(fd: int, buffers: Sequence[Any], offset: int, flags: int = 0) -> int:
        if flags & os.RWF_NOWAIT:
            raise BlockingIOError(errno.EAGAIN, "not cached")
        return preadv(fd, buffers, offset)

    monkeypatch.setattr(os, "preadv", not_cached)
    assert not disk.read_nowait(memoryview(bytearray(4)), 0)
    assert read(inline, disk, 0, 4) == b"data"


def test_a_part_from_the_page_cache_does_not_count(disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "preadv", lambda *_: 100)
    assert not disk.read_nowait(memoryview(bytearray(101)), 0)
    assert disk.read_nowait(memoryview(bytearray(100)), 0)


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOSYS])
def test_a_file_system_without_nowait_is_asked_once(
    disk: FileDisk, calls: Calls, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    monkeypatch.setattr("csvd.storage.file.store_of", lambda _: Store.OTHER)
    calls.fail("preadv", number)
    for _ in range(3):
        assert not disk.read_nowait(memoryview(bytearray(4)), 0)
    assert calls.names == ["preadv"]


def test_an_error_in_the_page_cache_is_left_to_the_pool_to_find(disk: FileDisk, calls: Calls) -> None:
    calls.fail("preadv", errno.EIO)
    for _ in range(2):
        assert not disk.read_nowait(memoryview(bytearray(4)), 0)
    assert calls.names == ["preadv", "preadv"]


def test_short_reads_are_continued(inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    preadv = os.preadv
    data = os.urandom(5000)
    inline.settle(disk.write_from((data,), 100))
    monkeypatch.setattr(os, "preadv", lambda fd, buffers, offset: preadv(fd, (buffers[0][:700],), offset))
    assert read(inline, disk, 100, 5000) == data


def test_a_truncated_file_is_an_eio_where_it_ends(inline: InlinePool, disk: FileDisk, path: Path) -> None:
    os.truncate(path, 5000)
    buffer = memoryview(bytearray(4096))
    assert disk.read_nowait(buffer, 0)
    assert not disk.read_nowait(buffer, 4096)
    with pytest.raises(StorageError, match=r"disk\.img: read at byte 5000 failed: the file ends there") as caught:
        inline.settle(disk.read_into(buffer, 4096))
    assert (caught.value.errno, caught.value.operation, caught.value.offset_bytes) == (errno.EIO, "read", 5000)


def test_a_read_error_has_its_errno_and_place(inline: InlinePool, disk: FileDisk, calls: Calls) -> None:
    calls.fail("preadv", errno.EIO)
    with pytest.raises(StorageError, match="read at byte 8192 failed: Input/output error") as caught:
        read(inline, disk, 8192, 4)
    assert (caught.value.errno, caught.value.offset_bytes) == (errno.EIO, 8192)


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (SIZE, 1), (SIZE - 1, 2), (0, SIZE + 1), (1 << 63, 1)])
def test_a_range_outside_the_disk_is_refused(inline: InlinePool, disk: FileDisk, offset: int, length: int) -> None:
    assert not disk.read_nowait(memoryview(bytearray(length)), offset)
    for deferred in (
        disk.read_into(memoryview(bytearray(length)), offset),
        disk.write_from((bytes(length),), offset),
        disk.unmap(offset, length),
        disk.write_zeroes(offset, length),
    ):
        with pytest.raises(StorageError, match="not within the 1048576 bytes") as caught:
            inline.settle(deferred)
        assert caught.value.errno == errno.EINVAL


def test_nothing_at_the_end_is_no_error(inline: InlinePool, disk: FileDisk) -> None:
    assert read(inline, disk, SIZE, 0) == b""
    inline.settle(disk.write_from((), SIZE))
    inline.settle(disk.write_from((b"", b""), SIZE))
    inline.settle(disk.unmap(SIZE, 0))
    inline.settle(disk.write_zeroes(SIZE, 0))
    assert disk.read_nowait(memoryview(bytearray()), SIZE)


# Writing


def test_more_buffers_than_one_call_takes(inline: InlinePool, disk: FileDisk, calls: Calls) -> None:
    calls.spy("pwritev")
    buffers = [os.urandom(1 + index % 5) for index in range(2 * IOV_MAX + 7)]
    inline.settle(disk.write_from(buffers, 3))
    assert calls.names == ["pwritev"] * 3
    data = b"".join(buffers)
    assert read(inline, disk, 3, len(data)) == data


def test_partial_writes_are_continued_in_the_middle_of_a_buffer(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev = os.pwritev

    def partial(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        return pwritev(fd, (b"".join(buffers)[:700],), offset)

    monkeypatch.setattr(os, "pwritev", partial)
    buffers = (os.urandom(1000), b"", os.urandom(10), os.urandom(690), os.urandom(3))
    inline.settle(disk.write_from(buffers, 11))
    monkeypatch.undo()
    assert read(inline, disk, 11, 1703) == b"".join(buffers)


def test_a_system_that_takes_no_byte_is_an_eio_and_no_endless_loop(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "pwritev", lambda *_: 0)
    with pytest.raises(StorageError, match="took no byte"):
        inline.settle(disk.write_from((b"data",), 0))


def test_a_full_disk_fails_that_write_at_its_place_and_the_next_may_succeed(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev = os.pwritev
    room = [4096]

    def filling(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if not room[0]:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        count = pwritev(fd, (b"".join(buffers)[: room[0]],), offset)
        room[0] -= count
        return count

    monkeypatch.setattr(os, "pwritev", filling)
    with pytest.raises(StorageError, match="write at byte 14096 failed: No space left") as caught:
        inline.settle(disk.write_from((bytes(8192),), 10_000))
    assert (caught.value.errno, caught.value.offset_bytes) == (errno.ENOSPC, 14_096)
    room[0] = 8192
    inline.settle(disk.write_from((b"again",), 0))
    inline.settle(disk.flush())


def test_one_failed_write_of_a_pass_leaves_the_others_alone(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev = os.pwritev

    def bad_block(fd: int, buffers: Sequence[memoryview], offset: int) -> int:
        if offset == 512:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return pwritev(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", bad_block)
    fired = outcomes_of(*(disk.write_from((b"x",), at) for at in (0, 512, 1024)))
    inline.clock.run()
    assert fired[0] is None
    assert fired[2] is None
    assert fired[1].errno == errno.EIO
    assert inline.threads.hand_offs == 1


# Durability


def test_a_plain_write_does_not_wait_for_the_disk_and_fua_does(
    inline: InlinePool, disk: FileDisk, calls: Calls
) -> None:
    calls.spy("pwritev", "fdatasync")
    inline.settle(disk.write_from((b"plain",), 0))
    assert calls.names == ["pwritev"]
    inline.settle(disk.write_from((b"durable",), 0, fua=True))
    assert calls.names == ["pwritev", "pwritev", "fdatasync"]
    inline.settle(disk.flush())
    assert calls.names[3:] == ["fdatasync"]


def test_all_that_waits_while_one_fdatasync_runs_shares_the_next_one(path: Path, calls: Calls) -> None:
    clock, threads = PoolClock(), HeldThreads()
    disk = a_disk(path, DiskPool(clock, thread_pool=threads))
    calls.spy("pwritev", "fdatasync")
    # A flush goes to a thread at once: the first one is alone.
    fired = outcomes_of(disk.flush(), *[disk.write_from((b"x",), 2 * at, fua=True) for at in range(5)])
    clock.advance(0)
    (flushing, writing) = threads.held
    writing()
    clock.advance(0)
    assert calls.names == ["pwritev"] * 5
    flushed = outcomes_of(disk.flush(), disk.flush())
    flushing()
    assert calls.names == ["pwritev"] * 5 + ["fdatasync"]
    assert fired == flushed == []
    clock.advance(0)
    assert fired == [None] * 6
    assert flushed == [None] * 2


def test_what_comes_while_an_fdatasync_runs_is_flushed_by_the_same_thread_behind_it(
    path: Path, calls: Calls, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, threads = PoolClock(), HeldThreads()
    disk = a_disk(path, DiskPool(clock, thread_pool=threads))
    later: list[Any] = []
    times = 0

    def fdatasync(_fd: int) -> None:
        nonlocal times
        times += 1
        if times == 1:
            later.append(outcomes_of(disk.flush(), disk.flush()))

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    first = outcomes_of(disk.flush())
    threads.run_one()
    assert (times, threads.hand_offs) == (2, 1)
    clock.run()
    assert (first, later) == ([None], [[None, None]])


def test_a_thread_flushes_no_longer_than_it_may_and_who_waits_then_is_not_forgotten(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, threads = PoolClock(), HeldThreads()
    disk = a_disk(path, DiskPool(clock, thread_pool=threads))
    fired: list[Any] = []
    times = 0

    def fdatasync(_fd: int) -> None:
        nonlocal times
        times += 1
        if times <= 100:
            disk.flush().addBoth(fired.append)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    disk.flush().addBoth(fired.append)
    threads.run_one()
    assert times < 100
    while threads.held or clock.getDelayedCalls():
        clock.advance(0)
        if threads.held:
            threads.run_one()
    assert (times, fired) == (101, [None] * 101)


def test_a_flush_covers_what_was_acknowledged_before_it(path: Path, calls: Calls) -> None:
    clock, threads = PoolClock(), HeldThreads()
    disk = a_disk(path, DiskPool(clock, thread_pool=threads))
    calls.spy("pwritev", "fdatasync")
    written = outcomes_of(disk.write_from((b"x",), 0))
    clock.advance(0)
    threads.run_one()
    clock.advance(0)
    assert written == [None]
    # A later write that hangs in its thread does not hold up the flush.
    disk.write_from((b"y",), 0)
    clock.advance(0)
    flushed = outcomes_of(disk.flush())
    clock.advance(0)
    threads.held.pop()()
    clock.advance(0)
    assert flushed == [None]
    assert calls.names == ["pwritev", "fdatasync"]
    threads.run_one()
    clock.run()
    os.close(disk.fileno())


def test_a_flush_that_fails_fails_all_that_shared_it(inline: InlinePool, disk: FileDisk, calls: Calls) -> None:
    calls.fail("fdatasync", errno.EIO)
    fired = outcomes_of(disk.flush(), disk.write_from((b"x",), 0, fua=True))
    inline.clock.run()
    assert [outcome.errno for outcome in fired] == [errno.EIO, errno.EIO]
    assert fired[0].operation == "flush"


def test_after_a_failed_flush_nothing_is_called_durable_until_the_disk_is_reopened(
    inline: InlinePool, disk: FileDisk, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        Calls(patch).fail("fdatasync", errno.EIO)
        with pytest.raises(StorageError, match="Input/output error"):
            inline.settle(disk.flush())
    # The kernel would now say that all is well, for it has dropped the pages.
    for later in (disk.flush(), disk.write_from((b"x",), 0, fua=True)):
        with pytest.raises(StorageError, match="an earlier flush failed") as caught:
            inline.settle(later)
        assert caught.value.errno == errno.EIO
    inline.settle(disk.write_from((b"plain",), 0))
    assert read(inline, disk, 0, 5) == b"plain"
    with pytest.raises(StorageError, match="an earlier flush failed"):
        inline.settle(disk.close())
    assert disk.fileno() == -1
    reopened = a_disk(path, inline.pool)
    inline.settle(reopened.flush())
    inline.settle(reopened.close())


def test_a_fua_write_that_fails_does_not_spoil_the_flush_beside_it(
    inline: InlinePool, disk: FileDisk, calls: Calls
) -> None:
    calls.fail("pwritev", errno.ENOSPC)
    calls.spy("fdatasync")
    fired = outcomes_of(disk.write_from((b"x",), 0, fua=True), disk.flush())
    inline.clock.run()
    assert fired[0].errno == errno.ENOSPC
    assert fired[1] is None


# Holes


def test_unmap_gives_space_back_and_reads_as_zeros(inline: InlinePool, disk: FileDisk, path: Path) -> None:
    assert disk.capabilities.discard
    inline.settle(disk.write_from((b"\xff" * SIZE,), 0, fua=True))
    full = path.stat().st_blocks
    inline.settle(disk.unmap(64 << 10, 512 << 10))
    inline.settle(disk.flush())
    assert path.stat().st_blocks < full
    assert path.stat().st_size == SIZE
    assert read(inline, disk, 64 << 10, 512 << 10) == bytes(512 << 10)
    assert read(inline, disk, (64 << 10) - 1, 1) == b"\xff"
    assert read(inline, disk, 576 << 10, 1) == b"\xff"


def test_write_zeroes_of_an_unaligned_range(inline: InlinePool, disk: FileDisk) -> None:
    inline.settle(disk.write_from((b"\xff" * 20_000,), 0))
    inline.settle(disk.write_zeroes(4097, 9000))
    assert read(inline, disk, 0, 20_000) == b"\xff" * 4097 + bytes(9000) + b"\xff" * 6903


def test_zeros_are_written_where_the_file_system_cannot_zero(
    inline: InlinePool, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cannot(*_args: object) -> None:
        raise OSError(errno.EOPNOTSUPP, "cannot")

    monkeypatch.setattr("csvd.storage.ranges.fallocate", cannot)
    disk = a_disk(path, inline.pool, create_bytes=4 << 20)
    assert not disk.capabilities.discard
    assert not disk.capabilities.write_zeroes
    inline.settle(disk.write_from((b"\xff" * (4 << 20),), 0))
    inline.settle(disk.write_zeroes(1, (2 << 20) + 5))
    expected = b"\xff" + bytes((2 << 20) + 5) + b"\xff" * ((2 << 20) - 6)
    assert read(inline, disk, 0, 4 << 20) == expected
    with pytest.raises(StorageError, match="unmap at byte 0 failed") as caught:
        inline.settle(disk.unmap(0, 4096))
    assert caught.value.errno == errno.EOPNOTSUPP
    os.close(disk.fileno())


def test_another_failure_to_zero_is_told(inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_args: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("csvd.storage.ranges.fallocate", full)
    with pytest.raises(StorageError) as caught:
        inline.settle(disk.write_zeroes(0, 4096))
    assert (caught.value.errno, caught.value.operation) == (errno.ENOSPC, "write zeroes")


# Read-only


def test_a_read_only_disk_refuses_changes_and_has_nothing_to_flush(
    inline: InlinePool, path: Path, calls: Calls
) -> None:
    path.write_bytes(b"golden".ljust(4096))
    path.chmod(0o400)
    disk = a_disk(path, inline.pool, read_only=True)
    calls.spy("fdatasync")
    for change in (disk.write_from((b"x",), 0), disk.unmap(0, 512), disk.write_zeroes(0, 512)):
        with pytest.raises(StorageError) as caught:
            inline.settle(change)
        assert caught.value.errno == errno.EROFS
    inline.settle(disk.flush())
    assert read(inline, disk, 0, 6) == b"golden"
    assert disk.capabilities.discard, "its holes are holes all the same"
    assert not disk.capabilities.write_zeroes
    inline.settle(disk.close())
    assert calls.names == []


# Closing and sharing


def test_close_waits_flushes_and_refuses_what_comes_after(path: Path, calls: Calls) -> None:
    clock, threads = PoolClock(), HeldThreads()
    disk = a_disk(path, DiskPool(clock, thread_pool=threads))
    calls.spy("pwritev", "fdatasync", "close")
    written = outcomes_of(disk.write_from((b"x",), 0))
    closed = outcomes_of(disk.close(), disk.close())
    for late in (disk.flush(), disk.read_into(memoryview(bytearray(1)), 0), disk.write_from((b"y",), 0)):
        refused = outcomes_of(late)
        assert refused[0].errno == errno.EBADF
    clock.advance(0)
    assert closed == []
    while threads.held:
        threads.run_one()
        clock.run()
    assert written == [None]
    assert closed == [None, None]
    assert calls.names == ["pwritev", "fdatasync", "close"]
    assert disk.fileno() == -1
    assert outcomes_of(disk.close()) == [None]
    assert not disk.read_nowait(memoryview(bytearray(1)), 0)


def test_an_error_of_close_itself_is_told(inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    close = os.close

    def failing(fd: int) -> None:
        close(fd)
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    monkeypatch.setattr(os, "close", failing)
    closing = disk.close()
    with pytest.raises(StorageError) as caught:
        inline.settle(closing)
    monkeypatch.undo()
    assert (caught.value.errno, caught.value.operation) == (errno.EDQUOT, "close")


def test_two_daemons_share_a_file(inline: InlinePool, path: Path) -> None:
    first, other = a_disk(path, inline.pool), a_disk(path, InlinePool().pool)
    assert first.identity() == other.identity()
    inline.settle(first.write_from((b"seen at once",), 2048))
    buffer = bytearray(12)
    assert other.read_nowait(memoryview(buffer), 2048)
    assert bytes(buffer) == b"seen at once"
    for disk in (first, other):
        os.close(disk.fileno())


def test_the_descriptor_is_not_inherited(disk: FileDisk) -> None:
    assert not os.get_inheritable(disk.fileno())


# In real threads


def test_many_writes_reads_and_flushes_in_real_threads(path: Path) -> None:
    blocks = [bytes([index]) * 4096 for index in range(128)]

    async def main(reactor: Any) -> None:
        pool = DiskPool(reactor, threads=4)
        disk = a_disk(path, pool)
        await DeferredList([disk.write_from((block,), at * 4096) for at, block in enumerate(blocks)])
        await disk.flush()
        buffers = [bytearray(4096) for _ in blocks]
        results = await DeferredList(
            [disk.read_into(memoryview(buffer), at * 4096) for at, buffer in enumerate(buffers)]
        )
        assert all(success for success, _ in results)
        assert [bytes(buffer) for buffer in buffers] == blocks
        await disk.write_from((b"last",), 0, fua=True)
        await disk.close()
        await pool.stop()

    run_in_reactor(main)
    assert path.read_bytes()[:8] == b"last" + bytes(4)


def test_an_error_in_a_real_thread_reaches_the_caller(path: Path) -> None:
    async def main(reactor: Any) -> None:
        pool = DiskPool(reactor, threads=2)
        disk = a_disk(path, pool)
        os.truncate(path, 0)
        with pytest.raises(StorageError, match="was truncated"):
            await disk.read_into(memoryview(bytearray(512)), 0)
        await disk.close()
        await pool.stop()

    run_in_reactor(main)


# Writes of one batch


def test_writes_that_adjoin_are_one_system_call_and_none_is_moved(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev = os.pwritev
    calls: list[tuple[int, int]] = []

    def counted(fd: int, buffers: Sequence[Any], offset: int) -> int:
        calls.append((offset, len(buffers)))
        return pwritev(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", counted)
    pieces = [(4096, b"a" * 512), (4608, b"b" * 512), (5120, b"c" * 100), (5120, b"d" * 50), (0, b"e"), (1, b"f" * 9)]
    outcomes = outcomes_of(*(disk.write_from((data,), offset) for offset, data in pieces))
    inline.clock.run()
    assert outcomes == [None] * 6
    assert calls == [(4096, 3), (5120, 1), (0, 2)]
    assert read(inline, disk, 4096, 1124) == b"a" * 512 + b"b" * 512 + b"d" * 50 + b"c" * 50
    assert read(inline, disk, 0, 11) == b"e" + b"f" * 9 + b"\0"


def test_more_adjoining_writes_than_one_call_takes_are_all_written(inline: InlinePool, disk: FileDisk) -> None:
    pieces = [[bytes([number % 251]) * 10 for number in range(start, start + 400)] for start in range(0, 4000, 400)]
    outcomes = outcomes_of(*(disk.write_from(buffers, 4000 * index) for index, buffers in enumerate(pieces)))
    inline.clock.run()
    assert outcomes == [None] * 10
    assert sum(map(len, pieces)) > IOV_MAX
    assert read(inline, disk, 0, 40000) == b"".join(b"".join(buffers) for buffers in pieces)


def test_of_adjoining_writes_only_those_fail_that_can_not_be_made(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwritev = os.pwritev

    def full(fd: int, buffers: Sequence[Any], offset: int) -> int:
        if offset + sum(map(len, buffers)) > 1024:
            raise OSError(errno.ENOSPC, "full")
        return pwritev(fd, buffers, offset)

    monkeypatch.setattr(os, "pwritev", full)
    outcomes = outcomes_of(*(disk.write_from((bytes([1]) * 512,), 512 * index) for index in range(4)))
    inline.clock.run()
    assert outcomes[:2] == [None, None]
    assert [(outcome.errno, outcome.offset_bytes) for outcome in outcomes[2:]] == [
        (errno.ENOSPC, 1024),
        (errno.ENOSPC, 1536),
    ]
    assert read(inline, disk, 0, 1024) == bytes([1]) * 1024


def test_of_durable_writes_that_adjoin_none_is_told_before_the_flush(
    inline: InlinePool, disk: FileDisk, calls: Calls
) -> None:
    calls.spy("pwritev", "fdatasync")
    outcomes = outcomes_of(*(disk.write_from((bytes(512),), 512 * index, fua=True) for index in range(4)))
    inline.clock.run()
    assert outcomes == [None] * 4
    assert calls.names == ["pwritev", "fdatasync"]


def test_a_block_that_is_compared_is_no_page(
    inline: InlinePool, disk: FileDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csvd.storage.file.PAGESIZE", 1 << 16, raising=False)
    assert inline.settle(disk.read_compared(4096)) == bytes(4096)
