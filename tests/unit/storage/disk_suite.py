"""What every disk promises (csvd.storage.disk.Disk), as tests that a kind of disk passes by having a `Store`.

A test module has, for a kind of disk, a subclass of `KeepingSuite` (of `DiskSuite` for a disk that keeps nothing) with
a fixture ``store``.
"""

from __future__ import annotations

import errno
import functools
import random
from collections.abc import Callable, Coroutine
from mmap import mmap
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred, DeferredList

from csvd.storage.disk import MAX_RUNS, Buffer, Disk, ResizableDisk, StorageError
from tests.unit.storage.disk_stores import MIB, GrowingStore, Opener, Store

Body = Callable[[Any, Opener], Coroutine[Deferred[Any], Any, None]]


def on_a_store(body: Body) -> Callable[[Any, Store], None]:
    """A test that opens disks."""

    @functools.wraps(body)
    def test(self: Any, store: Store) -> None:
        store.run(lambda opener: body(self, opener))

    # pytest asks for the fixtures that the signature names, and would find that of the body.
    del test.__wrapped__
    return test


def a_pattern(length_bytes: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(length_bytes)


async def read(disk: Disk, offset_bytes: int, length_bytes: int) -> bytes:
    buffer = bytearray(length_bytes)
    await disk.read_into(memoryview(buffer), offset_bytes)
    return bytes(buffer)


async def error_of(failing: Deferred[Any]) -> StorageError:
    with pytest.raises(StorageError) as failed:
        await failing
    return failed.value


def changes(disk: Disk, offset_bytes: int, length_bytes: int) -> list[tuple[str, Deferred[Any]]]:
    """Everything that changes a range."""
    return [
        ("write", disk.write_from((bytes(length_bytes),), offset_bytes)),
        ("write", disk.write_from((bytes(length_bytes),), offset_bytes, fua=True)),
        ("write zeroes", disk.write_zeroes(offset_bytes, length_bytes)),
        *([("unmap", disk.unmap(offset_bytes, length_bytes))] if disk.capabilities.discard else []),
    ]


def questions(disk: Disk, offset_bytes: int, length_bytes: int) -> list[Deferred[Any]]:
    """Everything that asks of a range."""
    return [
        disk.read_into(memoryview(bytearray(length_bytes)), offset_bytes),
        disk.allocation(offset_bytes, length_bytes),
    ]


class DiskSuite:
    """What holds of every disk."""

    @on_a_store
    async def test_it_says_what_it_is(self, opener: Opener) -> None:
        disk = await opener()
        assert disk.size_bytes == opener.store.size_bytes
        assert not disk.read_only
        assert disk.url
        physical = disk.capabilities.physical_block_bytes
        assert physical >= 512
        assert physical & (physical - 1) == 0
        assert disk.capabilities.shared_between in ("processes of a host", "hosts")
        assert disk.capabilities.fence

    @on_a_store
    async def test_it_has_the_same_identity_every_time(self, opener: Opener) -> None:
        disk = await opener()
        identity = disk.identity()
        assert identity
        assert (await opener(read_only=True)).identity() == identity
        await disk.close()
        assert (await opener()).identity() == identity

    @on_a_store
    async def test_what_is_not_within_it_is_refused_with_where_it_was(self, opener: Opener) -> None:
        disk, unit, size = await opener(), opener.store.block_bytes, opener.store.size_bytes
        for offset, length in ((size, unit), (size - unit, 2 * unit), (0, size + unit), (1 << 62, unit)):
            for operation, failing in changes(disk, offset, length):
                error = await error_of(failing)
                assert (error.operation, error.errno, error.offset_bytes) == (operation, errno.EINVAL, offset)
            for asking in questions(disk, offset, length):
                error = await error_of(asking)
                assert (error.errno, error.offset_bytes) == (errno.EINVAL, offset)
            assert not disk.read_nowait(memoryview(bytearray(length)), offset)
            assert not disk.write_nowait((bytes(length),), offset)
            assert not disk.cached(offset, length)

    @on_a_store
    async def test_nothing_may_be_moved_anywhere_within_it(self, opener: Opener) -> None:
        disk, size = await opener(), opener.store.size_bytes
        for offset in (0, opener.store.block_bytes, size):
            await DeferredList(
                [doing for _, doing in changes(disk, offset, 0)] + questions(disk, offset, 0)[:1],
                fireOnOneErrback=True,
                consumeErrors=True,
            )
            assert await disk.allocation(offset, 0) in ([], [(offset, 0, True)])

    @on_a_store
    async def test_a_read_only_one_is_read_and_never_changed(self, opener: Opener) -> None:
        disk = await opener(read_only=True)
        assert disk.read_only
        for operation, failing in changes(disk, 0, 4096):
            error = await error_of(failing)
            assert (error.operation, error.errno) == (operation, errno.EROFS)
        assert not disk.write_nowait((bytes(4096),), 0)
        assert len(await read(disk, 0, 4096)) == 4096
        await disk.flush()

    @on_a_store
    async def test_a_closed_one_does_nothing_any_more(self, opener: Opener) -> None:
        disk = await opener()
        await disk.close()
        await disk.close()
        for _, failing in changes(disk, 0, 4096):
            assert (await error_of(failing)).errno == errno.EBADF
        for asking in (*questions(disk, 0, 4096), disk.flush()):
            assert (await error_of(asking)).errno == errno.EBADF
        assert not disk.read_nowait(memoryview(bytearray(4096)), 0)
        assert not disk.write_nowait((bytes(4096),), 0)
        assert not disk.cached(0, 4096)

    @on_a_store
    async def test_it_waits_with_closing_for_what_is_under_way(self, opener: Opener) -> None:
        disk = await opener()
        finished: list[int] = []
        for at in range(8):
            written = disk.write_from((bytes(64 << 10),), at * (64 << 10), fua=bool(at % 2))
            written.addCallback(lambda _, at: finished.append(at), at)
        await disk.close()
        assert sorted(finished) == list(range(8))

    @on_a_store
    async def test_two_may_close_it_at_once(self, opener: Opener) -> None:
        disk = await opener()
        done = await DeferredList([disk.close(), disk.close()], fireOnOneErrback=True)
        assert [succeeded for succeeded, _ in done] == [True, True]

    @on_a_store
    async def test_what_is_to_be_at_hand_soon_is_asked_for_and_nothing_else_happens(self, opener: Opener) -> None:
        disk = await opener()
        await disk.prefetch(0, MIB)
        await disk.prefetch(opener.store.size_bytes - 4096, 4096)

    @on_a_store
    async def test_it_takes_no_more_than_its_size(self, opener: Opener) -> None:
        disk = await opener()
        taken = await disk.allocated_bytes()
        assert taken is None or 0 <= taken <= opener.store.size_bytes

    @on_a_store
    async def test_runs_of_allocation_follow_one_another_from_the_offset(self, opener: Opener) -> None:
        disk = await opener()
        for offset, length in ((0, opener.store.size_bytes), (MIB, 4096), (MIB + 4096, 3 * MIB)):
            for most in (1, 2, MAX_RUNS):
                runs = await disk.allocation(offset, length, most)
                assert 1 <= len(runs) <= most
                at = offset
                for begin, run, _ in runs:
                    assert begin == at
                    assert run > 0
                    at += run
                assert at <= offset + length

    @on_a_store
    async def test_it_takes_the_size_that_its_store_has_by_now(self, opener: Opener) -> None:
        disk, store = await opener(), opener.store
        if not isinstance(store, GrowingStore):
            assert not isinstance(disk, ResizableDisk) or await disk.resize(None) == store.size_bytes
            return
        assert isinstance(disk, ResizableDisk)
        larger = store.size_bytes + MIB
        await store.grow(larger)
        assert await disk.resize(None) == larger
        assert disk.size_bytes == larger
        await disk.write_from((b"n" * 4096,), larger - 4096, fua=True)
        assert await read(disk, larger - 8192, 8192) == bytes(4096) + b"n" * 4096
        assert (await error_of(disk.write_from((bytes(4096),), larger))).errno == errno.EINVAL


class KeepingSuite(DiskSuite):
    """What holds of every disk that keeps what is written to it."""

    @on_a_store
    async def test_what_is_written_is_read(self, opener: Opener) -> None:
        disk, unit, size = await opener(), opener.store.block_bytes, opener.store.size_bytes
        ranges = [
            (0, unit),
            (size - unit, unit),
            (unit, 3 * unit),
            (64 << 10, 256 << 10),
            (MIB - unit, 3 * MIB + 2 * unit),
            (0, size),
        ]
        for seed, (offset, length) in enumerate(ranges):
            data = a_pattern(length, seed)
            await disk.write_from((data,), offset, fua=bool(seed % 2))
            assert await read(disk, offset, length) == data

    @on_a_store
    async def test_what_was_never_written_is_zeros_and_neighbours_stay(self, opener: Opener) -> None:
        disk, unit = await opener(), opener.store.block_bytes
        await disk.write_from((b"x" * unit,), MIB)
        assert await read(disk, MIB - unit, 3 * unit) == bytes(unit) + b"x" * unit + bytes(unit)

    @on_a_store
    async def test_buffers_of_every_kind_and_length_are_written_one_after_the_other(self, opener: Opener) -> None:
        disk = await opener()
        pages = mmap(-1, 8192)
        pages[:] = a_pattern(8192, 1)
        pieces: list[Buffer] = [
            a_pattern(1, 2),
            b"",
            bytearray(a_pattern(700, 3)),
            memoryview(a_pattern(8000, 4))[123:4000],
            pages,
            memoryview(bytearray(a_pattern(MIB, 5))),
            *[a_pattern(3, seed) for seed in range(1500)],
        ]
        rest = -sum(map(len, pieces)) % 4096
        pieces.append(a_pattern(rest, 6))
        whole = b"".join(bytes(piece) for piece in pieces)
        for fua in (False, True):
            await disk.write_zeroes(0, 4 * MIB)
            await disk.write_from(pieces, 4096, fua=fua)
            assert await read(disk, 0, len(whole) + 8192) == bytes(4096) + whole + bytes(4096)

    @on_a_store
    async def test_a_read_fills_its_buffer_and_nothing_beside(self, opener: Opener) -> None:
        disk = await opener()
        data = a_pattern(2 * MIB)
        await disk.write_from((data,), MIB)
        pages = mmap(-1, 3 * MIB)
        pages[:] = b"." * (3 * MIB)
        await disk.read_into(memoryview(pages)[4096 : 4096 + 2 * MIB], MIB)
        assert pages[:4096] == b"." * 4096
        assert pages[4096 : 4096 + 2 * MIB] == data
        assert pages[4096 + 2 * MIB :] == b"." * (MIB - 4096)

    @on_a_store
    async def test_what_needs_not_wait_is_done_or_it_is_told_that_it_is_not(self, opener: Opener) -> None:
        disk, data = await opener(), a_pattern(8192)
        if not disk.write_nowait((data[:5000], data[5000:]), 8192):
            await disk.write_from((data[:5000], data[5000:]), 8192)
        assert await read(disk, 8192, 8192) == data
        buffer = bytearray(8192)
        if disk.read_nowait(memoryview(buffer), 8192):
            assert buffer == data

    @on_a_store
    async def test_what_is_acknowledged_is_seen_by_who_opens_it_too(self, opener: Opener) -> None:
        disk, other = await opener(), await opener()
        data = a_pattern(MIB)
        await disk.write_from((data,), MIB)
        assert await read(other, MIB, MIB) == data
        await other.write_zeroes(MIB, 4096)
        assert await read(disk, MIB, 8192) == bytes(4096) + data[4096:8192]

    @on_a_store
    async def test_what_was_flushed_is_there_when_it_is_opened_anew(self, opener: Opener) -> None:
        disk, data = await opener(), a_pattern(3 * MIB)
        writes = [disk.write_from((data[at : at + 65536],), at) for at in range(0, 3 * MIB, 65536)]
        for written in writes:
            await written
        await disk.flush()
        await disk.close()
        assert await read(await opener(read_only=True), 0, 3 * MIB) == data

    @on_a_store
    async def test_many_may_flush_at_once_and_while_others_write(self, opener: Opener) -> None:
        disk = await opener()
        doing: list[Deferred[Any]] = []
        for at in range(32):
            doing.append(disk.write_from((bytes([at + 1]) * 4096,), at * 4096, fua=at % 3 == 0))
            doing.append(disk.flush())
        await DeferredList(doing, fireOnOneErrback=True, consumeErrors=True)
        assert await read(disk, 0, 32 * 4096) == b"".join(bytes([at + 1]) * 4096 for at in range(32))

    @on_a_store
    async def test_what_is_zeroed_is_zeros_and_nothing_beside(self, opener: Opener) -> None:
        disk, unit, size = await opener(), opener.store.block_bytes, opener.store.size_bytes
        data = a_pattern(size)
        for offset, length in ((0, unit), (MIB, 4096), (MIB - unit, 3 * MIB + 2 * unit), (size - unit, unit)):
            await disk.write_from((data,), 0)
            await disk.write_zeroes(offset, length)
            assert await read(disk, 0, size) == data[:offset] + bytes(length) + data[offset + length :]

    @on_a_store
    async def test_what_is_unmapped_is_zeros_where_it_can_be_and_else_refused(self, opener: Opener) -> None:
        disk, unit, size = await opener(), opener.store.block_bytes, opener.store.size_bytes
        data = a_pattern(size)
        if not disk.capabilities.discard:
            await disk.write_from((data,), 0)
            assert (await error_of(disk.unmap(0, MIB))).errno == errno.EOPNOTSUPP
            assert await read(disk, 0, size) == data
            return
        for offset, length in (
            (0, unit),
            (MIB, 4096),
            (MIB - unit, 3 * MIB + 2 * unit),
            (size - unit, unit),
            (0, size),
        ):
            await disk.write_from((data,), 0)
            await disk.unmap(offset, length)
            assert await read(disk, 0, size) == data[:offset] + bytes(length) + data[offset + length :]

    @on_a_store
    async def test_what_counts_as_unallocated_is_zeros(self, opener: Opener) -> None:
        disk, size = await opener(), opener.store.size_bytes
        await disk.write_from((b"x" * MIB,), 0)
        await disk.write_from((b"y" * 4096,), 5 * MIB + 4096)
        if disk.capabilities.discard:
            await disk.unmap(256 << 10, 512 << 10)
        at = 0
        while at < size:
            for begin, length, allocated in await disk.allocation(at, size - at, 3):
                assert begin == at
                assert allocated or not any(await read(disk, begin, length))
                at += length
        assert at == size

    @on_a_store
    async def test_a_refused_write_changes_nothing(self, opener: Opener) -> None:
        disk, size = await opener(), opener.store.size_bytes
        await disk.write_from((b"x" * 4096,), size - 4096)
        await error_of(disk.write_from((bytes(4096), bytes(4096)), size - 4096))
        await error_of(disk.write_zeroes(size - 4096, 8192))
        assert await read(disk, size - 4096, 4096) == b"x" * 4096

    @on_a_store
    async def test_writes_to_one_place_land_in_the_order_of_their_acknowledgements(self, opener: Opener) -> None:
        disk = await opener()
        for number in range(40):
            data = bytes([number + 1]) * 8192
            if number % 3 or not disk.write_nowait((data,), 4096):
                await disk.write_from((data,), 4096, fua=number % 7 == 0)
            assert await read(disk, 4096, 8192) == data

    @on_a_store
    async def test_who_gives_up_a_call_leaves_the_disk_as_good_as_it_was(self, opener: Opener) -> None:
        disk = await opener()
        await disk.write_from((b"o" * MIB,), 0)
        buffers = [bytearray(64 << 10) for _ in range(8)]
        doing: list[Deferred[Any]] = [disk.read_into(memoryview(buffer), 0) for buffer in buffers]
        doing += [disk.write_from((b"n" * (64 << 10),), at * (64 << 10)) for at in range(8)]
        outcomes = DeferredList(doing, consumeErrors=True)
        for each in doing[::2]:
            each.cancel()
        for number, (succeeded, result) in enumerate(await outcomes):
            assert succeeded or (number % 2 == 0 and result.check(CancelledError))
        await disk.flush()
        found = await read(disk, 0, MIB)
        for at in range(16):
            part = found[at * (64 << 10) : (at + 1) * (64 << 10)]
            old, new = b"o" * (64 << 10), b"n" * (64 << 10)
            if at >= 8:
                assert part == old
            elif at % 2:
                assert part == new
            else:
                assert set(part) <= set(b"on")
        await disk.write_from((b"z" * MIB,), 0)
        assert await read(disk, 0, MIB) == b"z" * MIB

    @on_a_store
    async def test_many_at_once_do_what_one_after_the_other_would(self, opener: Opener) -> None:
        disk, size, chance = await opener(), opener.store.size_bytes, random.Random(11)
        model, slot = bytearray(size), 128 << 10
        for _ in range(12):
            slots = chance.sample(range(size // slot), 24)
            checks: list[tuple[bytearray, int]] = []
            doing = [self._any_change(disk, model, place * slot, slot, chance) for place in slots[:16]]
            for place in slots[16:]:
                buffer = bytearray(slot)
                checks.append((buffer, place * slot))
                doing.append(disk.read_into(memoryview(buffer), place * slot))
            await DeferredList(doing, fireOnOneErrback=True, consumeErrors=True)
            for buffer, offset in checks:
                assert buffer == model[offset : offset + slot]
        assert await read(disk, 0, size) == model

    def _any_change(
        self, disk: Disk, model: bytearray, slot_offset: int, slot_bytes: int, chance: random.Random
    ) -> Deferred[None]:
        begin = chance.randrange(slot_bytes // 4096)
        length = chance.randrange(1, slot_bytes // 4096 - begin + 1) * 4096
        offset = slot_offset + begin * 4096
        how = chance.randrange(6)
        if how >= 4:
            model[offset : offset + length] = bytes(length)
            if how == 5 and disk.capabilities.discard:
                return disk.unmap(offset, length)
            return disk.write_zeroes(offset, length)
        data = chance.randbytes(length)
        model[offset : offset + length] = data
        cut = chance.randrange(length)
        return disk.write_from((data[:cut], data[cut:]), offset, fua=how == 0)
