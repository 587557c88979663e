"""What every disk promises from which nodes can be kept off (csvd.storage.disk.FencingDisk), as tests.

A test module has a subclass of `FencingSuite` with a fixture ``store``, whose disks are opened for nodes.
"""

from __future__ import annotations

import errno
from typing import Any

from twisted.internet.defer import Deferred, DeferredList

from csvd.storage.disk import FENCED, Disk, FencingDisk
from tests.unit.storage.disk_stores import Opener
from tests.unit.storage.disk_suite import error_of, on_a_store, read

BLOCK = 4096


async def joined(opener: Opener, node: str) -> tuple[Disk, FencingDisk]:
    disk, place = await opened(opener, node)
    await place.join(node)
    return disk, place


async def opened(opener: Opener, node: str) -> tuple[Disk, FencingDisk]:
    """A disk twice: as what is written to, and as what nodes are kept off from."""
    disk = await opener(node=node)
    assert isinstance(disk, FencingDisk)
    assert disk.capabilities.fence != "none"
    return disk, disk


class FencingSuite:
    """What holds of every disk that fences."""

    @on_a_store
    async def test_nodes_that_have_joined_write_all_at_once(self, opener: Opener) -> None:
        nodes = [(await joined(opener, name))[0] for name in ("a", "b", "c")]
        writes = [node.write_from((bytes([at + 1]) * BLOCK,), at * BLOCK, fua=True) for at, node in enumerate(nodes)]
        await DeferredList(writes, fireOnOneErrback=True, consumeErrors=True)
        for node in nodes:
            assert await read(node, 0, 3 * BLOCK) == b"".join(bytes([at + 1]) * BLOCK for at in range(3))

    @on_a_store
    async def test_a_node_that_is_fenced_changes_nothing_any_more_and_reads_on(self, opener: Opener) -> None:
        a, place = await joined(opener, "a")
        b, _ = await joined(opener, "b")
        await b.write_from((b"b" * BLOCK,), 0)
        await place.fence("b")
        refused: list[Deferred[Any]] = [
            b.write_from((b"x" * BLOCK,), 0),
            b.write_from((b"x" * BLOCK,), 0, fua=True),
            b.write_zeroes(0, BLOCK),
            *([b.unmap(0, BLOCK)] if b.capabilities.discard else []),
        ]
        for failing in refused:
            assert (await error_of(failing)).errno == FENCED
        assert await read(b, 0, BLOCK) == b"b" * BLOCK
        await a.write_from((b"a" * BLOCK,), 0)
        assert await read(a, 0, BLOCK) == b"a" * BLOCK

    @on_a_store
    async def test_no_write_lands_that_was_under_way_when_the_node_was_fenced(self, opener: Opener) -> None:
        a, place = await joined(opener, "a")
        b, _ = await joined(opener, "b")
        for turn in range(3):
            late = [b.write_from((b"b" * 65536,), at * 65536, fua=bool(at % 2)) for at in range(32)]
            outcomes: Deferred[list[Any]] = DeferredList(late, consumeErrors=True)
            await place.fence("b")
            await a.write_from((bytes([turn + 1]) * (32 * 65536),), 0, fua=True)
            for succeeded, failure in await outcomes:
                assert succeeded or failure.value.errno in (FENCED, errno.EAGAIN)
            assert await read(a, 0, 32 * 65536) == bytes([turn + 1]) * (32 * 65536)
            assert isinstance(b, FencingDisk)
            await b.join("b")

    @on_a_store
    async def test_to_fence_again_or_who_never_joined_is_no_error(self, opener: Opener) -> None:
        a, place = await joined(opener, "a")
        b, _ = await joined(opener, "b")
        for node in ("b", "b", "stranger", "b"):
            await place.fence(node)
        assert (await error_of(b.write_from((b"x" * BLOCK,), 0))).errno == FENCED
        await a.write_from((b"a" * BLOCK,), 0)

    @on_a_store
    async def test_who_is_at_work_when_another_is_fenced_goes_on(self, opener: Opener) -> None:
        _, place = await joined(opener, "a")
        c, _ = await joined(opener, "c")
        for node in ("b", "stranger"):
            writes = [c.write_from((b"c" * 65536,), at * 65536) for at in range(32)]
            outcomes: list[Any] = await DeferredList([*writes, place.fence(node)], consumeErrors=True)
            for at, (succeeded, failure) in enumerate(outcomes):
                if not succeeded:
                    # It may have been aborted together with what the other one had under way.
                    assert at < len(writes)
                    assert failure.value.errno == errno.EAGAIN
            await c.write_from((b"c" * (32 * 65536),), 0)
        assert await read(c, 0, 32 * 65536) == b"c" * (32 * 65536)

    @on_a_store
    async def test_only_who_has_joined_fences_and_nobody_himself(self, opener: Opener) -> None:
        _, outside = await opened(opener, "a")
        assert (await error_of(outside.fence("b"))).errno == errno.EINVAL
        await outside.join("a")
        assert (await error_of(outside.fence("a"))).errno == errno.EINVAL
        assert (await error_of(outside.join("b"))).errno == errno.EINVAL

    @on_a_store
    async def test_who_is_fenced_fences_nobody(self, opener: Opener) -> None:
        a, first = await joined(opener, "a")
        _, second = await joined(opener, "b")
        await first.fence("b")
        assert (await error_of(second.fence("a"))).errno == FENCED
        await a.write_from((b"a" * BLOCK,), 0)

    @on_a_store
    async def test_of_two_who_fence_one_another_at_most_one_goes_on(self, opener: Opener) -> None:
        disks = [await joined(opener, "a"), await joined(opener, "b")]
        for _ in range(5):
            both: list[Any] = [disks[0][1].fence("b"), disks[1][1].fence("a")]
            outcomes: list[Any] = await DeferredList(both, consumeErrors=True)
            assert [succeeded for succeeded, _ in outcomes].count(True) <= 1
            for place, (succeeded, failure) in enumerate(outcomes):
                assert succeeded or failure.value.errno in (FENCED, errno.EAGAIN)
                if succeeded:
                    other = disks[1 - place][0]
                    assert (await error_of(other.write_from((b"x" * BLOCK,), 0))).errno == FENCED
            for number, (_, each) in enumerate(disks):
                await each.join("ab"[number])

    @on_a_store
    async def test_a_node_that_joins_anew_writes_again(self, opener: Opener) -> None:
        _, place = await joined(opener, "a")
        b, other = await joined(opener, "b")
        await place.fence("b")
        await other.join("b")
        await b.write_from((b"b" * BLOCK,), 0)
        await other.join("b")
        assert await read(b, 0, BLOCK) == b"b" * BLOCK
        await place.fence("b")
        assert (await error_of(b.write_from((b"x" * BLOCK,), 0))).errno == FENCED

    @on_a_store
    async def test_a_node_comes_back_in_another_process_and_its_old_self_is_fenced_with_it(
        self, opener: Opener
    ) -> None:
        _, place = await joined(opener, "a")
        before, _ = await joined(opener, "b")
        after, _ = await joined(opener, "b")
        await after.write_from((b"b" * BLOCK,), 0)
        await place.fence("b")
        assert (await error_of(after.write_from((b"x" * BLOCK,), 0))).errno == FENCED
        await error_of(before.write_from((b"x" * BLOCK,), 0))
        assert await read(after, 0, BLOCK) == b"b" * BLOCK

    @on_a_store
    async def test_who_leaves_ends_no_fence_and_no_place_of_others(self, opener: Opener) -> None:
        _, first = await joined(opener, "a")
        b, _ = await joined(opener, "b")
        c, third = await joined(opener, "c")
        await first.fence("b")
        for place in (first, first, third):
            await place.leave()
            assert (await error_of(b.write_from((b"x" * BLOCK,), 0))).errno == FENCED
            if place is first:
                await c.write_from((b"c" * BLOCK,), 0)
        d, fourth = await joined(opener, "d")
        await d.write_from((b"d" * BLOCK,), 0)
        assert (await error_of(b.write_from((b"x" * BLOCK,), 0))).errno == FENCED
        await fourth.leave()
        assert await read(b, 0, BLOCK) == b"d" * BLOCK

    @on_a_store
    async def test_who_has_not_joined_leaves_without_an_error(self, opener: Opener) -> None:
        _, place = await opened(opener, "a")
        await place.leave()
