"""RbdDisk beyond the contract of all disks: pieces, caches, fences, and the end of a disk."""

from __future__ import annotations

import errno
import threading
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.storage.disk import DIFFERS, FENCED, ComparingDisk, FencingDisk, ResizableDisk, StorageError
from csvd.storage.rbd import disk as disk_module
from csvd.storage.rbd.allocation import MOST_OBJECTS, runs_of
from csvd.storage.rbd.disk import PIECE_OBJECTS, RbdDisk
from csvd.storage.rbd.handle import open_handle
from csvd.storage.rbd.url import parse_rbd_url
from tests.unit.storage.rbd.fake_ceph import OBJECT_BYTES, RADOS_ERRORS, RBD_ERRORS, FakeCluster
from tests.unit.storage.reactor_loop import run_in_reactor

MIB = 1 << 20
PIECE_BYTES = PIECE_OBJECTS * OBJECT_BYTES


@pytest.fixture
def cluster() -> Iterator[FakeCluster]:
    cluster = FakeCluster()
    cluster.add_image("image", 8 * MIB)
    yield cluster
    cluster.stop()


def run(
    cluster: FakeCluster,
    body: Callable[[RbdDisk], Coroutine[Deferred[Any], Any, None]],
    *,
    deadline_s: float = 15,
    read_only: bool = False,
) -> None:
    """Run a test with the image as a disk, which is closed in the end."""

    async def main(reactor: Any) -> None:
        disk = a_disk(cluster, reactor, deadline_s=deadline_s, read_only=read_only)
        try:
            await body(disk)
        finally:
            await disk.close()

    run_in_reactor(main)


def a_disk(cluster: FakeCluster, reactor: Any, *, deadline_s: float = 15, read_only: bool = False) -> RbdDisk:
    name = replace(parse_rbd_url("rbd:pool/image"), deadline_s=deadline_s)
    handle = open_handle(cluster.library, name, read_only=read_only, create_bytes=None, block_bytes=512)
    return RbdDisk(handle, reactor, size_bytes=handle.image.size())


async def errno_of(failing: Deferred[Any]) -> int:
    with pytest.raises(StorageError) as failed:
        await failing
    return failed.value.errno


def test_it_says_how_it_is_fenced_and_that_it_keeps_nothing_back(cluster: FakeCluster) -> None:
    async def body(disk: RbdDisk) -> None:
        can = disk.capabilities
        assert (can.fence, can.shared_between, can.volatile_cache) == ("osd blocklist", "hosts", False)
        assert (can.discard, can.write_zeroes, can.physical_block_bytes) == (True, True, 4096)
        assert isinstance(disk, FencingDisk)
        assert isinstance(disk, ResizableDisk)

    run(cluster, body)


def test_a_long_range_is_given_back_in_pieces_that_end_where_objects_do(cluster: FakeCluster) -> None:
    # The image is as long as it says, and its memory is not.
    cluster.images["image"].data = LongZeros(3 * PIECE_BYTES)  # type: ignore[assignment]

    async def body(disk: RbdDisk) -> None:
        await disk.unmap(512, 2 * PIECE_BYTES)
        await disk.write_zeroes(PIECE_BYTES, PIECE_BYTES)
        assert cluster.calls == [
            ("discard", 512, PIECE_BYTES - 512),
            ("discard", PIECE_BYTES, PIECE_BYTES),
            ("discard", 2 * PIECE_BYTES, 512),
            ("zero", PIECE_BYTES, PIECE_BYTES),
        ]

    run(cluster, body)


class LongZeros:
    """As a bytearray of zeros that takes no memory."""

    def __init__(self, length: int) -> None:
        self._length = length

    def __len__(self) -> int:
        return self._length

    def __setitem__(self, place: slice, value: bytes) -> None:
        assert not any(value[:4096])


def test_one_question_about_allocation_concerns_a_bounded_range(cluster: FakeCluster) -> None:
    cluster.images["image"].data = LongZeros(3 * PIECE_BYTES)  # type: ignore[assignment]

    async def body(disk: RbdDisk) -> None:
        assert await disk.allocation(0, 3 * PIECE_BYTES) == [(0, PIECE_BYTES, False)]

    run(cluster, body)


def test_nobody_counts_the_objects_of_a_very_large_image(cluster: FakeCluster) -> None:
    async def body(disk: RbdDisk) -> None:
        await disk.write_from((b"x",), 3 * MIB)
        assert await disk.allocated_bytes() == OBJECT_BYTES
        cluster.images["image"].data = LongZeros(MOST_OBJECTS * OBJECT_BYTES + 512)  # type: ignore[assignment]
        assert await disk.allocated_bytes() is None

    run(cluster, body)


def test_where_a_discard_may_leave_something_zeros_are_written_instead(cluster: FakeCluster) -> None:
    cluster.images["image"].settings["rbd_skip_partial_discard"] = "true"

    async def body(disk: RbdDisk) -> None:
        await disk.unmap(512, 512)
        assert cluster.calls == [("zero", 512, 512)]

    run(cluster, body)


def test_with_a_cache_that_the_image_wants_a_durable_write_is_flushed_and_so_is_the_end(cluster: FakeCluster) -> None:
    cluster.images["image"].settings["rbd_cache"] = "true"

    async def body(disk: RbdDisk) -> None:
        assert disk.capabilities.volatile_cache
        await disk.write_from((b"x",), 0)
        await disk.write_from((b"y",), 1, fua=True)
        await disk.close()
        assert [call[0] for call in cluster.calls] == ["write", "write", "flush", "flush"]

    run(cluster, body)


def test_without_a_cache_a_durable_write_is_a_write(cluster: FakeCluster) -> None:
    async def body(disk: RbdDisk) -> None:
        await disk.write_from((b"y",), 1, fua=True)
        assert [call[0] for call in cluster.calls] == ["write"]

    run(cluster, body)


def test_it_takes_another_size_and_refuses_to_allocate_it_ahead(cluster: FakeCluster) -> None:
    async def body(disk: RbdDisk) -> None:
        assert await disk.resize(16 * MIB) == 16 * MIB == disk.size_bytes
        assert await disk.resize(4 * MIB) == 4 * MIB == disk.size_bytes
        assert await errno_of(disk.resize(16 * MIB, full=True)) == errno.EOPNOTSUPP
        cluster.images["image"].data.extend(bytes(MIB))
        assert await disk.resize(None) == 5 * MIB
        assert await errno_of(disk.read_into(memoryview(bytearray(1)), 5 * MIB)) == errno.EINVAL

    run(cluster, body)


def test_one_for_reading_is_not_resized_and_sees_that_another_did_it(cluster: FakeCluster) -> None:
    async def body(disk: RbdDisk) -> None:
        assert not disk.capabilities.write_zeroes
        assert await errno_of(disk.resize(MIB)) == errno.EROFS
        cluster.images["image"].data.extend(b"n" * MIB)
        assert await disk.resize(None) == 9 * MIB
        buffer = bytearray(4)
        await disk.read_into(memoryview(buffer), 9 * MIB - 4)
        assert buffer == b"nnnn"

    run(cluster, body, read_only=True)
    assert cluster.open_things == 0


def test_a_fenced_disk_asks_for_nothing_more(cluster: FakeCluster) -> None:
    async def body(disk: RbdDisk) -> None:
        await disk.join("one")
        cluster.blocklist[disk._handle.address] = 1
        assert await errno_of(disk.write_from((b"x",), 0)) == FENCED
        assert disk.is_fenced
        asked = len(cluster.calls)
        cluster.fail = lambda name: pytest.fail(f"{name} was asked for")
        for attempt in (
            disk.flush(),
            disk.read_into(memoryview(bytearray(1)), 0),
            disk.unmap(0, 1),
            disk.allocation(0, 1),
            disk.allocated_bytes(),
            disk.resize(None),
            disk.join("one"),
            disk.fence("two"),
            disk.leave(),
        ):
            assert await errno_of(attempt) == FENCED
        assert len(cluster.calls) == asked
        cluster.fail = lambda name: None

    run(cluster, body)
    assert cluster.open_things == 0


def test_a_refusal_of_any_kind_tells_that_it_is_fenced(cluster: FakeCluster) -> None:
    async def body(disk: RbdDisk) -> None:
        cluster.blocklist[disk._handle.address] = 1
        assert await errno_of(disk.join("one")) == FENCED
        assert disk.is_fenced

    run(cluster, body)


def test_a_flush_that_fails_in_the_end_is_told_and_the_image_is_let_go_all_the_same(cluster: FakeCluster) -> None:
    cluster.images["image"].settings["rbd_cache"] = "true"

    async def main(reactor: Any) -> None:
        disk = a_disk(cluster, reactor)

        def fail(name: str) -> None:
            if name == "aio_flush":
                raise RBD_ERRORS["OSError"](errno.EIO)

        cluster.fail = fail
        assert await errno_of(disk.close()) == errno.EIO
        await disk.close()

    run_in_reactor(main)
    assert cluster.open_things == 0


def test_a_closed_disk_joins_and_fences_nobody(cluster: FakeCluster) -> None:
    async def body(disk: RbdDisk) -> None:
        await disk.close()
        for attempt in (disk.join("one"), disk.fence("two"), disk.catch_up()):
            assert await errno_of(attempt) == errno.EBADF
        await disk.leave()

    run(cluster, body)


def test_who_leaves_waits_for_its_writes_and_with_unknown_ones_keeps_itself_off(cluster: FakeCluster) -> None:
    async def body(disk: RbdDisk) -> None:
        await disk.join("one")
        cluster.is_held = True
        ends: list[str] = []
        writing = disk.write_from((b"x",), 0).addCallback(lambda _: ends.append("written"))
        leaving = disk.leave().addCallback(lambda _: ends.append("left"))
        cluster.release()
        await writing
        await leaving
        assert ends == ["written", "left"]
        assert cluster.blocklist == {}
        await disk.join("one")
        late = disk.write_from((b"x",), 0)
        assert await errno_of(late) == errno.ETIMEDOUT
        await disk.leave()
        assert set(cluster.blocklist) == {disk._handle.address}
        cluster.release()

    run(cluster, body, deadline_s=2)


def test_errors_of_the_cluster_while_it_is_resized_or_asked_are_those_of_a_disk(cluster: FakeCluster) -> None:
    async def body(disk: RbdDisk) -> None:
        def fail(name: str) -> None:
            if name in ("resize", "diff_iterate"):
                raise RBD_ERRORS["OSError"](errno.ENOSPC)
            if name in ("read omap", "wait_for_latest_osdmap"):
                raise RADOS_ERRORS["OSError"](errno.EIO)

        cluster.fail = fail
        assert await errno_of(disk.resize(MIB)) == errno.ENOSPC
        assert await errno_of(disk.allocation(0, 512)) == errno.ENOSPC
        assert await errno_of(disk.join("one")) == errno.EIO
        assert await errno_of(disk.catch_up()) == errno.EIO
        cluster.fail = lambda name: None

    run(cluster, body)


def test_the_image_is_not_closed_under_a_call_of_another_thread(cluster: FakeCluster) -> None:
    go = threading.Event()
    order: list[str] = []

    def fail(name: str) -> None:
        if name == "diff_iterate":
            assert go.wait(15)
        order.append(name)

    async def body(disk: RbdDisk) -> None:
        cluster.fail = fail
        asking = disk.allocation(0, 512)
        closing = disk.close()
        go.set()
        await asking
        await closing

    run(cluster, body)
    assert order.index("diff_iterate") < order.index("close")
    assert cluster.open_things == 0


def test_a_client_that_can_not_be_let_go_is_left(cluster: FakeCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()
    abandoned: list[Any] = []
    monkeypatch.setattr(disk_module, "_abandoned", abandoned)

    def fail(name: str) -> None:
        if name == "close":
            assert go.wait(15)

    async def body(disk: RbdDisk) -> None:
        cluster.fail = fail
        await disk.close()
        assert abandoned == [disk._handle]

    run(cluster, body, deadline_s=2)
    go.set()


def test_runs_cover_a_range_whatever_extents_there_are() -> None:
    assert runs_of([], 10, 20) == [(10, 10, False)]
    assert runs_of([(0, 100)], 10, 20) == [(10, 10, True)]
    assert runs_of([(12, 2), (14, 2)], 10, 20) == [(10, 2, False), (12, 4, True), (16, 4, False)]
    assert runs_of([(18, 9), (9, 2), (10, 3)], 10, 20) == [(10, 3, True), (13, 5, False), (18, 2, True)]
    assert runs_of([(0, 5), (30, 5)], 10, 20) == [(10, 10, False)]


def test_a_block_is_compared_and_written_by_the_omap_of_an_object(cluster: FakeCluster) -> None:
    zeros, one, two = bytes(4096), b"1" * 512 + bytes(3584), b"2" * 512 + bytes(3584)

    async def body(disk: RbdDisk) -> None:
        assert isinstance(disk, ComparingDisk)
        assert await disk.read_compared(4096) == zeros
        await disk.compare_and_write(4096, zeros, one)
        assert await disk.read_compared(4096) == one
        assert await errno_of(disk.compare_and_write(4096, zeros, two)) == DIFFERS
        await disk.compare_and_write(4096, one, two)
        assert await disk.read_compared(4096) == two
        (omap,) = cluster.omaps.values()
        assert omap == {"4096": (b"2" * 512).hex().encode()}

    run(cluster, body)


def test_who_compares_what_another_writes_at_the_same_time_writes_nothing(cluster: FakeCluster) -> None:
    zeros, one = bytes(4096), b"1" * 512 + bytes(3584)

    def meanwhile(name: str) -> None:
        if name == "write omap":
            cluster.omaps["csvd.blocks.id1"] = {"4096": b"ff" * 512}

    async def body(disk: RbdDisk) -> None:
        cluster.fail = meanwhile
        assert await errno_of(disk.compare_and_write(4096, zeros, one)) == DIFFERS
        assert await disk.read_compared(4096) == b"\xff" * 512 + bytes(3584)

    run(cluster, body)


@pytest.mark.parametrize("value", [b"zz" * 512, b"00" * 511, b"\xff"])
def test_a_block_that_is_not_to_be_understood_is_refused(cluster: FakeCluster, value: bytes) -> None:
    async def body(disk: RbdDisk) -> None:
        cluster.omaps["csvd.blocks.id1"] = {"4096": value}
        assert await errno_of(disk.read_compared(4096)) == errno.EBADMSG

    run(cluster, body)
