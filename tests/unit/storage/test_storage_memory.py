from __future__ import annotations

import errno

import pytest
from twisted.internet.defer import Deferred

from csvd.errors import ConfigError
from csvd.storage.disk import Disk, StorageError
from csvd.storage.memory import MemoryDisk
from tests.unit.storage.pool_doubles import outcomes_of


def done(deferred: Deferred[None]) -> None:
    assert outcomes_of(deferred) == [None]


def refused(deferred: Deferred[None]) -> int:
    (outcome,) = outcomes_of(deferred)
    assert isinstance(outcome, StorageError)
    return outcome.errno


def test_what_is_written_is_read_back_at_once() -> None:
    disk: Disk = MemoryDisk(1 << 30)
    done(disk.write_from((b"first ", memoryview(b"second")), 1 << 29, fua=True))
    buffer = bytearray(12)
    assert disk.read_nowait(memoryview(buffer), 1 << 29)
    assert buffer == b"first second"
    done(disk.read_into(memoryview(buffer), 0))
    assert buffer == bytes(12)
    done(disk.flush())


def test_a_block_that_is_compared_is_no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("csvd.storage.memory.PAGESIZE", 1 << 16, raising=False)
    assert outcomes_of(MemoryDisk(1 << 20).read_compared(4096)) == [bytes(4096)]


@pytest.mark.parametrize("operation", ["unmap", "write_zeroes"])
def test_zeros(operation: str) -> None:
    disk = MemoryDisk(4096)
    done(disk.write_from((b"\xff" * 4096,), 0))
    done(getattr(disk, operation)(100, 200))
    buffer = bytearray(4096)
    done(disk.read_into(memoryview(buffer), 0))
    assert buffer == b"\xff" * 100 + bytes(200) + b"\xff" * 3796


def test_a_range_outside_is_refused() -> None:
    disk = MemoryDisk(4096)
    assert not disk.read_nowait(memoryview(bytearray(2)), 4095)
    assert refused(disk.read_into(memoryview(bytearray(2)), 4095)) == errno.EINVAL
    assert refused(disk.write_from((b"xy",), 4095)) == errno.EINVAL
    assert refused(disk.unmap(4096, 1)) == errno.EINVAL


def test_read_only_and_closed() -> None:
    disk = MemoryDisk(4096, read_only=True)
    assert refused(disk.write_from((b"x",), 0)) == errno.EROFS
    assert refused(disk.write_zeroes(0, 1)) == errno.EROFS
    done(disk.flush())
    done(disk.close())
    done(disk.close())
    assert refused(disk.flush()) == errno.EBADF
    assert not disk.read_nowait(memoryview(bytearray(1)), 0)


@pytest.mark.parametrize("size_bytes", [0, -1, 1 << 62, 1 << 80])
def test_a_size_that_cannot_be_had_is_one_clear_error(size_bytes: int) -> None:
    with pytest.raises(ConfigError, match=f"memory:: {size_bytes} bytes cannot be had"):
        MemoryDisk(size_bytes)


def test_its_name_is_its_identity() -> None:
    assert MemoryDisk(512, url="memory:a").identity() == "memory:a"


def test_a_write_without_waiting_is_made_at_once_or_not_at_all() -> None:
    disk: Disk = MemoryDisk(4096)
    assert disk.write_nowait((b"first ", memoryview(b"second")), 4084)
    assert not disk.write_nowait((b"third", b"x"), 4091)
    buffer = bytearray(12)
    assert disk.read_nowait(memoryview(buffer), 4084)
    assert buffer == b"first second"
    done(disk.close())
    assert not disk.write_nowait((b"x",), 0)
    assert not MemoryDisk(4096, read_only=True).write_nowait((b"x",), 0)
