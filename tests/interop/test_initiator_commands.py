"""Every command of a disk, against tgtd and against csvd; what tgtd does not have must be told as such."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Coroutine, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.asyncioreactor import AsyncioSelectorReactor
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

import initiator
from initiator import Disk
from initiator.errors import IllegalRequest, Miscompare, UnsupportedCommand
from tests.bench.targets import TARGETS, Export, Target

pytestmark = pytest.mark.interop

MIB = 1 << 20
SIZE_BYTES = 64 * MIB
ONES = b"\x01" * 512

Use = Callable[[Disk], Coroutine[Deferred[Any], Any, Any]]


class Peer:
    """A target with a disk of 64 MiB, and our disk on it."""

    def __init__(self, target: Target) -> None:
        self.target = target
        self.is_csvd = target.name == "csvd"

    def use(self, use: Use) -> Any:
        """Run ``use(disk)`` on a reactor of its own; give its result or raise its error."""
        loop = asyncio.new_event_loop()
        reactor = AsyncioSelectorReactor(loop)
        outcome: list[Any] = []

        async def work() -> Any:
            async with await initiator.connect(self.target.url, reactor=reactor) as disk:
                return await use(disk)

        def ended(result: Any) -> None:
            outcome.append(result)
            reactor.stop()  # type: ignore[no-untyped-call]

        reactor.callWhenRunning(lambda: Deferred.fromCoroutine(work()).addBoth(ended))
        reactor.run(installSignalHandlers=False)  # type: ignore[no-untyped-call]
        loop.close()
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return outcome[0]


@pytest.fixture(params=["tgtd", "csvd"])
def peer(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Peer]:
    """Start a target; it is killed in the end."""
    target = TARGETS[request.param](Export((scratch / "disk.img",), create="64M"), scratch)
    yield Peer(target)
    if target.running:
        target.kill()


def test_write_same_writes_one_block_to_many(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        await disk.write_same(3, 70_000, ONES)
        assert await disk.read(2, 3) == bytes(512) + ONES * 2
        assert await disk.read(70_001, 3) == ONES * 2 + bytes(512)
        await disk.write_same(10, 5)
        assert await disk.read(9, 7) == ONES + bytes(5 * 512) + ONES
        await disk.write_zeroes(3, 70_000)
        assert await disk.read(3, 70_000) == bytes(70_000 * 512)

    peer.use(use)


def test_unmapped_blocks_read_as_zeros_and_are_told_of(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        await disk.write(0, os.urandom(4 * MIB))
        await disk.flush()
        runs = await disk.get_lba_status()
        assert (runs[0].lba, runs[-1].end) == (0, disk.block_count)
        assert all(one.end == next_one.lba for one, next_one in pairwise(runs))
        assert [run.mapped for run in runs if run.lba < 8192] == [True]
        assert not runs[-1].mapped
        if not peer.is_csvd:
            with pytest.raises(UnsupportedCommand):
                await disk.unmap([(0, 2048)])
            return
        await disk.unmap([(0, 2048), (4096, 1024)])
        assert await disk.read(0, 2048) == bytes(MIB)
        status = {run.lba: (run.blocks, run.mapped) for run in await disk.get_lba_status(0, 8192)}
        assert status == {0: (2048, False), 2048: (2048, True), 4096: (1024, False), 5120: (3072, True)}

    peer.use(use)


def test_compare_and_write_writes_only_what_is_as_expected(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        if not peer.is_csvd:
            with pytest.raises(UnsupportedCommand):
                await disk.compare_and_write(5, bytes(512), ONES)
            return
        await disk.compare_and_write(5, bytes(1024), ONES * 2)
        assert await disk.read(5, 2) == ONES * 2
        with pytest.raises(Miscompare) as differs:
            await disk.compare_and_write(5, ONES + ONES[:100] + bytes(412), bytes(1024), fua=True)
        assert differs.value.offset_bytes == 612
        assert await disk.read(5, 2) == ONES * 2

    peer.use(use)


def test_verify_reads_the_medium_and_compares(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        data = os.urandom(5 * MIB)
        await disk.write(7, data)
        await disk.verify(0, disk.block_count)
        await disk.verify(7, 10240, data)
        with pytest.raises(Miscompare) as differs:
            await disk.verify(7, 10240, data[: 5000 * 512] + bytes(5 * MIB - 5000 * 512))
        assert differs.value.lba == (5007 if peer.is_csvd else None)

    peer.use(use)


def test_a_flush_of_a_range(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        await disk.write(0, ONES)
        await disk.flush(0, 1)
        if peer.is_csvd:
            await disk.flush(immediate=True)
        else:
            with pytest.raises(IllegalRequest):
                await disk.flush(immediate=True)

    peer.use(use)


def test_scatter_lists_go_there_and_back(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        lengths = (100, 65536, 412, 4096, 2 * MIB, 1, 511)
        buffers = [os.urandom(length) for length in lengths]
        await disk.write(9, buffers)
        filled = [bytearray(length) for length in lengths]
        await disk.read_into(9, filled)
        assert filled == buffers
        assert await disk.read(9, sum(lengths) // 512) == b"".join(buffers)

    peer.use(use)


def test_the_commands_that_the_unit_has_are_told(peer: Peer) -> None:
    async def use(disk: Disk) -> None:
        commands = await disk.supported_commands()
        assert {"INQUIRY", "READ(16)", "WRITE SAME(16)"} <= {command.name for command in commands}
        support = await disk.command_support(0x88)
        assert support.supported
        assert support.usage[0] == 0x88
        if peer.is_csvd:
            assert not (await disk.command_support(0xF0)).supported
        else:
            with pytest.raises(UnsupportedCommand):
                await disk.command_support(0xF0)

    peer.use(use)
