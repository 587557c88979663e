from __future__ import annotations

import errno
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.errors import ConfigError
from csvd.storage.disk import Disk, StorageError
from csvd.storage.null import NullDisk
from tests.unit.storage.pool_doubles import InlinePool


@pytest.fixture
def inline() -> InlinePool:
    return InlinePool()


def a_null_disk(inline: InlinePool, url: str = "null:1M") -> Disk:
    return inline.open(url)


@pytest.mark.parametrize(
    ("url", "size_bytes"), [("null:4096", 4096), ("null:1M", 1 << 20), ("null:10G", 10 << 30), ("null:2TiB", 2 << 40)]
)
def test_its_name_has_its_size(inline: InlinePool, url: str, size_bytes: int) -> None:
    disk = a_null_disk(inline, url)
    assert isinstance(disk, NullDisk)
    assert disk.size_bytes == size_bytes
    assert disk.identity() == disk.url == url


@pytest.mark.parametrize("url", ["null:", "null:big", "null:-1M", "null:1X", "null:0", "null:1000"])
def test_a_name_without_a_size_of_whole_blocks_is_one_clear_error(inline: InlinePool, url: str) -> None:
    with pytest.raises(ConfigError, match="null"):
        a_null_disk(inline, url)


def test_it_is_not_created(inline: InlinePool) -> None:
    with pytest.raises(ConfigError, match="can not be created"):
        inline.open("null:1M", create_bytes=1 << 20)


def test_writes_vanish_and_its_capabilities_say_so(inline: InlinePool) -> None:
    disk = a_null_disk(inline)
    assert not disk.capabilities.keeps_data
    assert not disk.capabilities.discard
    inline.settle(disk.write_from((b"x" * 512,), 0, fua=True))
    inline.settle(disk.write_zeroes(0, 512))
    inline.settle(disk.flush())
    buffer = bytearray(b"as it was")
    assert disk.read_nowait(memoryview(buffer), 0)
    inline.settle(disk.read_into(memoryview(buffer), 0))
    assert buffer == b"as it was"
    assert inline.threads.hand_offs == 0
    assert inline.settle(disk.allocation(512, 1024)) == [(512, 1024, True)]
    assert inline.settle(disk.allocated_bytes()) == 0
    inline.settle(disk.prefetch(0, 512))


def test_what_is_not_within_it_fails(inline: InlinePool) -> None:
    disk = a_null_disk(inline)
    assert not disk.read_nowait(memoryview(bytearray(512)), (1 << 20) - 511)
    attempts: list[Deferred[Any]] = [
        disk.read_into(memoryview(bytearray(512)), 1 << 20),
        disk.write_from((b"x" * 512,), (1 << 20) - 511),
        disk.write_zeroes(0, (1 << 20) + 1),
        disk.allocation(1 << 20, 1),
    ]
    for failing in attempts:
        with pytest.raises(StorageError) as failed:
            inline.settle(failing)
        assert failed.value.errno == errno.EINVAL
    with pytest.raises(StorageError) as failed:
        inline.settle(disk.unmap(0, 512))
    assert failed.value.errno == errno.EOPNOTSUPP


def test_a_read_only_one_refuses_writes_and_a_closed_one_everything(inline: InlinePool) -> None:
    disk = inline.open("null:1M", read_only=True)
    with pytest.raises(StorageError) as failed:
        inline.settle(disk.write_from((b"x",), 0))
    assert failed.value.errno == errno.EROFS
    inline.settle(disk.close())
    inline.settle(disk.close())
    with pytest.raises(StorageError) as failed:
        inline.settle(disk.flush())
    assert failed.value.errno == errno.EBADF


def test_a_write_without_waiting_vanishes_at_once(inline: InlinePool) -> None:
    disk = a_null_disk(inline)
    assert disk.write_nowait((b"x" * 4096,), 0)
    assert not disk.write_nowait((b"x" * 4096,), disk.size_bytes - 512)
    assert not inline.open("null:1M", read_only=True).write_nowait((b"x" * 512,), 0)
