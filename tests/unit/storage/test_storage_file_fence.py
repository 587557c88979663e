"""The fence of files. Two open file descriptions are two processes, as far as the kernel can tell."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.shared_disk import FILE_LOCK, NotProven
from csvd.storage import file_locks
from csvd.storage.disk import FENCED, FencingDisk, StorageError
from csvd.storage.file import FileDisk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from tests.unit.storage.pool_doubles import HeldThreads, InlinePool, PoolClock, outcomes_of, result_now

SIZE = 1 << 20
BLOCK = b"x" * 4096

HOLDER = """
import os, sys
from csvd.storage import file_locks
fd = os.open(sys.argv[1], os.O_RDWR)
assert file_locks.take(fd, int(sys.argv[2]))
print("taken", flush=True)
sys.stdin.read()
"""

Opener = Callable[..., FileDisk]


@pytest.fixture
def inline() -> InlinePool:
    return InlinePool()


@pytest.fixture
def opened(tmp_path: Path, inline: InlinePool) -> Iterator[Opener]:
    path = tmp_path / "disk.img"
    disks: list[FileDisk] = []

    def open_one(**options: object) -> FileDisk:
        disk = inline.open(str(path), **({} if path.exists() else {"create_bytes": SIZE}), **options)
        assert isinstance(disk, FileDisk)
        assert isinstance(disk, FencingDisk)
        disks.append(disk)
        return disk

    yield open_one
    for disk in disks:
        inline.settle(disk.close())


def errno_of(inline: InlinePool, failing: Deferred[Any]) -> int:
    with pytest.raises(StorageError) as failed:
        inline.settle(failing)
    return failed.value.errno


def test_a_node_that_lives_can_not_be_fenced_and_one_that_is_gone_can(opened: Opener, inline: InlinePool) -> None:
    a, b = opened(), opened()
    assert a.capabilities.fence == FILE_LOCK
    inline.settle(a.join("a", 1))
    inline.settle(b.join("b", 2))
    assert not inline.settle(a.is_gone("b", 2))
    for _ in range(2):
        with pytest.raises(NotProven, match="b can not be said to be off the disk"):
            inline.settle(a.fence("b", 2))
    inline.settle(b.write_from((BLOCK,), 0))
    inline.settle(b.close())
    assert inline.settle(a.is_gone("b", 2))
    for _ in range(2):
        proof = inline.settle(a.fence("b", 2))
        assert (proof.kind, proof.node, proof.seen) == (FILE_LOCK, "b", "the lock of number 2 was free and was taken")


def test_a_node_that_was_fenced_comes_back(opened: Opener, inline: InlinePool) -> None:
    a = opened()
    inline.settle(a.join("a", 1))
    inline.settle(a.fence("b", 2))
    b = opened()
    inline.settle(b.join("b", 2))
    inline.settle(b.join("b", 2))
    with pytest.raises(NotProven):
        inline.settle(a.fence("b", 2))


def test_two_processes_of_one_node_are_not_there_at_once(opened: Opener, inline: InlinePool) -> None:
    first, second = opened(), opened()
    inline.settle(first.join("a", 1))
    assert errno_of(inline, second.join("a", 1)) == errno.EBUSY
    inline.settle(first.leave())
    inline.settle(second.join("a", 1))
    assert errno_of(inline, first.join("a", 1)) == errno.EBUSY


def test_the_process_that_has_the_lock_is_told(opened: Opener, inline: InlinePool, tmp_path: Path) -> None:
    a = opened()
    inline.settle(a.join("a", 1))
    for _ in range(2):
        command = [sys.executable, "-c", HOLDER, str(tmp_path / "disk.img"), "2"]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == "taken\n"
            for _ in range(2):
                with pytest.raises(NotProven, match=f"the process {holder.pid} has it"):
                    inline.settle(a.fence("b", 2))
            holder.kill()
        inline.settle(a.fence("b", 2))


def test_a_holder_that_does_not_show_is_told_of_as_such(
    opened: Opener, inline: InlinePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    monkeypatch.setattr(file_locks, "holder_of", lambda _, number: looks.append(number))
    a, b = opened(), opened()
    inline.settle(a.join("a", 1))
    inline.settle(b.join("b", 2))
    for _ in range(3):
        with pytest.raises(NotProven, match="a process that is not to be seen from here has it"):
            inline.settle(a.fence("b", 2))
    assert looks == [2], "one look through /proc is enough"


def test_who_has_left_writes_nothing_any_more_until_he_joins_again(opened: Opener, inline: InlinePool) -> None:
    a = opened()
    inline.settle(a.join("a", 1))
    assert a.write_nowait((BLOCK,), 0)
    inline.settle(a.leave())
    inline.settle(a.leave())
    assert not a.write_nowait((BLOCK,), 0)
    changes: tuple[Deferred[Any], ...] = (
        a.write_from((BLOCK,), 0),
        a.write_from((BLOCK,), 0, fua=True),
        a.write_zeroes(0, 4096),
        a.unmap(0, 4096),
        a.resize(2 * SIZE),
    )
    for change in changes:
        assert errno_of(inline, change) == FENCED
    buffer = bytearray(4096)
    inline.settle(a.read_into(memoryview(buffer), 0))
    assert buffer == BLOCK
    inline.settle(a.join("a", 1))
    assert a.write_nowait((BLOCK,), 4096)
    inline.settle(a.write_from((BLOCK,), 0, fua=True))


def test_the_lock_is_held_until_the_writes_under_way_have_ended(tmp_path: Path, inline: InlinePool) -> None:
    clock, threads = PoolClock(), HeldThreads()
    pool = DiskPool(clock, thread_pool=threads)
    path = str(tmp_path / "disk.img")
    disk = result_now(open_disk(path, pool=pool, create_bytes=SIZE))
    assert isinstance(disk, FileDisk)
    other = inline.open(path)
    assert isinstance(other, FileDisk)
    inline.settle(other.join("b", 2))
    joined = disk.join("a", 1)
    clock.run()
    threads.run_one()
    clock.run()
    result_now(joined)
    told = outcomes_of(disk.write_from((BLOCK,), 0, fua=True), disk.leave())
    clock.run()
    while threads.held:
        with pytest.raises(NotProven):
            inline.settle(other.fence("a", 1))
        assert len(told) < 2
        threads.run_one()
        clock.run()
        if told == [None]:
            break
    # The write is over; what is left is to unlock.
    threads.run_one()
    clock.run()
    assert told == [None, None]
    inline.settle(other.fence("a", 1))
    inline.settle(other.close())
    closed = disk.close()
    clock.run()
    while threads.held:
        threads.run_one()
        clock.run()
    result_now(closed)


def test_who_may_not_fence_and_who_can_not_join(opened: Opener, inline: InlinePool) -> None:
    a = opened()
    assert errno_of(inline, a.fence("b", 2)) == errno.EINVAL
    for number in (0, -1, 33, 1 << 62):
        assert errno_of(inline, a.join("a", number)) == errno.EINVAL
    inline.settle(a.join("a", 1))
    for node, number in (("a", 1), ("b", 1), ("a", 2), ("b", 0), ("b", 33)):
        assert errno_of(inline, a.fence(node, number)) == errno.EINVAL
    for node, number in (("b", 1), ("a", 2)):
        assert errno_of(inline, a.join(node, number)) == errno.EINVAL
    assert inline.settle(a.is_gone("nobody", 0))
    inline.settle(a.fence("b", 32))


def test_a_read_only_disk_has_no_place_and_no_fence(opened: Opener, inline: InlinePool) -> None:
    opened()
    disk = opened(read_only=True)
    assert disk.capabilities.fence == "none"
    assert errno_of(inline, disk.join("a", 1)) == errno.EROFS
    inline.settle(disk.leave())


def test_a_closed_disk_has_no_place(opened: Opener, inline: InlinePool) -> None:
    a = opened()
    inline.settle(a.join("a", 1))
    inline.settle(a.close())
    calls: tuple[Deferred[Any], ...] = (a.join("a", 1), a.fence("b", 2), a.is_gone("b", 2))
    for call in calls:
        assert errno_of(inline, call) == errno.EBADF
    inline.settle(a.leave())


def test_a_file_system_without_such_locks_says_so(
    opened: Opener, inline: InlinePool, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> bytes:
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))

    disk = opened()
    monkeypatch.setattr("csvd.storage.file_locks.fcntl.fcntl", refuse)
    assert opened().capabilities.fence == "none"
    with pytest.raises(StorageError, match="no locks by open file description: Invalid argument") as failed:
        inline.settle(disk.join("a", 1))
    assert failed.value.errno == errno.EINVAL


def test_the_lock_is_far_behind_any_data_and_every_number_has_its_own(opened: Opener, inline: InlinePool) -> None:
    disks = [opened() for _ in range(file_locks.MOST_MEMBERS)]
    for number, disk in enumerate(disks, 1):
        inline.settle(disk.join(f"node-{number}", number))
    fd = disks[-1].fileno()
    assert os.fstat(fd).st_size < file_locks.FIRST_BYTE
    text = Path(f"/proc/self/fdinfo/{fd}").read_text()
    assert f" {(1 << 62) + 32} {(1 << 62) + 32}\n" in text
