"""A disk as the bytes of a file: any alignment, and of writes that meet in a block nothing is lost."""

from __future__ import annotations

import errno
import random
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from initiator.errors import (
    CommandFailed,
    ReservationConflict,
    SessionLost,
    SpaceExhausted,
    TimedOut,
    UnsupportedCommand,
    WriteProtected,
)
from initiator.fuse.block_ranges import BlockRanges, Claim
from initiator.fuse.disk_file import DiskFile, errno_of
from tests.unit.initiator.slow_disk import SlowDisk


def made(blocks: int = 32, **how: Any) -> tuple[SlowDisk, DiskFile]:
    disk = SlowDisk(blocks)
    disk.data[:] = random.Random(1).randbytes(len(disk.data))
    file: Any = disk
    return disk, DiskFile(file, **how)


@pytest.mark.parametrize(
    ("offset", "length", "calls"),
    [
        (0, 512, [("write", 0, 1)]),
        (1024, 4096, [("write", 2, 8)]),
        (1, 1, [("read", 0, 1), ("write", 0, 1)]),
        (511, 1, [("read", 0, 1), ("write", 0, 1)]),
        (511, 2, [("read", 0, 1), ("read", 1, 1), ("write", 0, 2)]),
        (512, 700, [("read", 2, 1), ("write", 1, 2)]),
        (600, 936, [("read", 1, 1), ("write", 1, 2)]),
        (600, 5000, [("read", 1, 1), ("read", 10, 1), ("write", 1, 10)]),
        (16383, 1, [("read", 31, 1), ("write", 31, 1)]),
    ],
)
def test_bytes_are_written_and_no_others(offset: int, length: int, calls: list[Any]) -> None:
    disk, file = made()
    want, data = bytearray(disk.data), bytes(range(1, 256)) * 30
    want[offset : offset + length] = data[:length]
    assert disk.run(file.write(offset, memoryview(data)[:length])) == [length]
    assert disk.data == want
    assert disk.calls == calls
    view = memoryview(bytearray(length))
    assert disk.run(file.read_into(offset, view)) == [length]
    assert view == data[:length]


def test_at_the_end_of_the_disk_less_is_moved_and_behind_it_nothing() -> None:
    disk, file = made(2)
    view = memoryview(bytearray(700))
    assert disk.run(file.read_into(1000, view), file.read_into(1024, view), file.read_into(5000, view)) == [24, 0, 0]
    assert view[:24] == disk.data[1000:]
    assert disk.run(file.write(1000, memoryview(b"x" * 700)), file.write(1024, memoryview(b""))) == [24, 0]
    assert disk.data[1000:] == b"x" * 24
    (behind,) = disk.run(file.write(1024, memoryview(b"x")))
    assert behind.errno == errno.ENOSPC


@pytest.mark.parametrize("seed", range(60))
def test_writes_at_once_that_meet_in_blocks_are_all_kept(seed: int) -> None:
    chance = random.Random(seed)
    disk, file = made(8)
    want = bytearray(disk.data)
    cuts = sorted(chance.sample(range(1, len(want)), 20))
    works = []
    for start, end in zip([0, *cuts], [*cuts, len(want)], strict=True):
        if chance.random() < 0.8:
            data = chance.randbytes(end - start)
            want[start:end] = data
            works.append(file.write(start, memoryview(data)))
    chance.shuffle(works)
    disk.run(*works, seed=seed)
    assert disk.data == want


@pytest.mark.parametrize("seed", range(30))
def test_zeros_are_where_they_belong_whatever_is_written_beside(seed: int) -> None:
    chance = random.Random(seed)
    disk, file = made(8)
    want = bytearray(disk.data)
    start, end = sorted(chance.sample(range(len(want)), 2))
    want[:start] = b"a" * start
    want[start:end] = bytes(end - start)
    want[end:] = b"b" * (len(want) - end)
    disk.run(
        file.write(0, memoryview(b"a" * start)),
        file.zero(start, end - start),
        file.write(end, memoryview(b"b" * (len(want) - end))),
        seed=seed,
    )
    assert disk.data == want


def test_whole_blocks_are_zeroed_by_the_target() -> None:
    disk, file = made()
    disk.run(file.zero(512, 8192))
    assert disk.calls == [("zero", 1, 16)]
    assert disk.data[512 : 512 + 8192] == bytes(8192)
    disk.run(file.zero(16000, 100000))
    assert disk.data[16000:] == bytes(384)


def test_whole_blocks_are_written_at_the_same_time() -> None:
    disk, file = made()
    for start in (0, 512, 512):
        Deferred.fromCoroutine(file.write(start, memoryview(bytes(512))))
    assert len(disk.waiting) == 3


def test_what_is_read_only_is_not_written() -> None:
    disk, file = made(read_only=True)
    outcomes = disk.run(file.write(0, memoryview(bytes(512))), file.zero(0, 512))
    assert [outcome.errno for outcome in outcomes] == [errno.EROFS, errno.EROFS]
    assert disk.calls == []


def test_a_write_that_failed_gives_its_blocks_back() -> None:
    disk, file = made()
    disk.fails_with = SessionLost("gone")
    first, second = disk.run(file.write(1, memoryview(b"x")), file.write(2, memoryview(b"y")))
    assert isinstance(first, SessionLost)
    assert isinstance(second, SessionLost)
    disk.fails_with = None
    assert disk.run(file.write(2, memoryview(b"y"))) == [1]


def test_a_claim_that_is_given_up_lets_others_pass() -> None:
    ranges = BlockRanges()
    got: list[Claim] = []

    async def claimed(first: int, end: int, alone: bool) -> None:
        got.append(await ranges.claim(first, end, alone=alone))

    def claim(first: int, end: int, *, alone: bool) -> Deferred[None]:
        return Deferred.fromCoroutine(claimed(first, end, alone))

    claim(0, 4, alone=False)
    waiting = claim(2, 6, alone=True)
    waiting.addErrback(lambda _: None)
    claim(5, 8, alone=False)  # not in the way of what is held, but of who waits longer
    claim(8, 9, alone=True)
    assert [held.first for held in got] == [0, 8]
    waiting.cancel()
    assert [held.first for held in got] == [0, 8, 5]
    ranges.release(got[0])
    ranges.release(got[2])
    claim(0, 9, alone=True)
    ranges.release(got[1])
    assert len(got) == 4


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (WriteProtected("WRITE", 2), errno.EROFS),
        (SpaceExhausted("WRITE", 2), errno.ENOSPC),
        (ReservationConflict("WRITE", 0x18), errno.EBADE),
        (UnsupportedCommand("WRITE SAME", 2), errno.EOPNOTSUPP),
        (CommandFailed("READ", 2), errno.EIO),
        (SessionLost("gone"), errno.EIO),
        (TimedOut("late"), errno.EIO),
        (OSError(errno.EFBIG, ""), errno.EFBIG),
        (ZeroDivisionError(), errno.EIO),
    ],
)
def test_errors_have_the_number_that_programs_know(error: BaseException, number: int) -> None:
    assert errno_of(error) == number
