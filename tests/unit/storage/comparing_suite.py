"""What every disk promises that compares and writes (csvd.storage.disk.ComparingDisk), as tests. See `disk_suite`."""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.defer import DeferredList

from csvd.storage.disk import COMPARED_BYTES, DIFFERS, ComparingDisk
from tests.unit.storage.disk_stores import Opener
from tests.unit.storage.disk_suite import error_of, on_a_store, read

BLOCK = 4096
NOTHING = bytes(BLOCK)


def a_block(text: str) -> bytes:
    return text.encode().ljust(COMPARED_BYTES, b".").ljust(BLOCK, b"\0")


async def a_comparing(opener: Opener, **how: Any) -> ComparingDisk:
    disk = await opener(**how)
    assert isinstance(disk, ComparingDisk)
    return disk


class ComparingSuite:
    """What holds of every disk that compares and writes."""

    @on_a_store
    async def test_a_block_is_written_if_it_is_as_expected_and_else_left(self, opener: Opener) -> None:
        disk, other = await a_comparing(opener), await a_comparing(opener)
        assert await disk.read_compared(BLOCK) == NOTHING
        await disk.compare_and_write(BLOCK, NOTHING, a_block("one"))
        for each in (disk, other):
            assert await each.read_compared(BLOCK) == a_block("one")
            for wrong in (NOTHING, a_block("two"), a_block("onE")):
                assert (await error_of(each.compare_and_write(BLOCK, wrong, a_block("three")))).errno == DIFFERS
        await other.compare_and_write(BLOCK, a_block("one"), a_block("two"))
        assert await disk.read_compared(BLOCK) == a_block("two")
        for at in (0, 2 * BLOCK):
            assert await disk.read_compared(at) == NOTHING

    @on_a_store
    async def test_of_many_that_write_at_once_one_does(self, opener: Opener) -> None:
        disks = [await a_comparing(opener) for _ in range(4)]
        before = NOTHING
        for turn in range(4):
            blocks = [a_block(f"{turn} of {number}") for number in range(8)]
            writes = [disks[at % 4].compare_and_write(0, before, block) for at, block in enumerate(blocks)]
            outcomes: list[Any] = await DeferredList(writes, consumeErrors=True)
            won = [block for block, (succeeded, _) in zip(blocks, outcomes, strict=True) if succeeded]
            assert len(won) == 1
            assert all(succeeded or failure.value.errno == DIFFERS for succeeded, failure in outcomes)
            (before,) = won
            assert await disks[turn].read_compared(0) == before

    @on_a_store
    async def test_a_disk_that_is_read_only_only_compares_what_was_read(self, opener: Opener) -> None:
        disk = await a_comparing(opener, read_only=True)
        assert await disk.read_compared(0) == NOTHING
        assert (await error_of(disk.compare_and_write(0, NOTHING, a_block("x")))).errno == errno.EROFS

    @on_a_store
    async def test_a_range_that_is_not_on_the_disk_is_refused(self, opener: Opener) -> None:
        disk = await opener()
        assert isinstance(disk, ComparingDisk)
        beyond = disk.size_bytes
        assert (await error_of(disk.read_compared(beyond))).errno == errno.EINVAL
        assert (await error_of(disk.compare_and_write(beyond, NOTHING, a_block("x")))).errno == errno.EINVAL
        await read(disk, 0, BLOCK)
        await disk.close()
        assert (await error_of(disk.compare_and_write(0, NOTHING, a_block("x")))).errno == errno.EBADF
