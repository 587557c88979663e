"""Disks of a cluster for a test, on a reactor of its own."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import Deferred

from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from csvd.storage.rbd.disk import RbdDisk
from tests.unit.storage.reactor_loop import run_in_reactor


class Disks:
    """Opens images; what is open in the end is closed."""

    def __init__(self, reactor: Any) -> None:
        self.reactor = reactor
        self.pool = DiskPool(reactor)
        self.opened: list[RbdDisk] = []

    async def open(self, url: str, **how: Any) -> RbdDisk:
        """Open an image; see `open_disk`."""
        disk = await open_disk(url, pool=self.pool, **how)
        assert isinstance(disk, RbdDisk)
        self.opened.append(disk)
        return disk


def run_with_disks(body: Callable[[Disks], Coroutine[Deferred[Any], Any, None]], *, time_limit_s: float = 20) -> None:
    """Run a test; raises what it raises."""

    async def main(reactor: Any) -> None:
        disks = Disks(reactor)
        try:
            await body(disks)
        finally:
            for disk in disks.opened:
                await disk.close()
            await disks.pool.stop()

    run_in_reactor(main, time_limit_s=time_limit_s)


async def read(disk: RbdDisk, offset_bytes: int, length_bytes: int) -> bytes:
    """What is there."""
    buffer = bytearray(length_bytes)
    await disk.read_into(memoryview(buffer), offset_bytes)
    return bytes(buffer)


def pause(reactor: Any, seconds: float) -> Deferred[None]:
    """Fires some time later."""
    paused: Deferred[None] = Deferred()
    reactor.callLater(seconds, paused.callback, None)
    return paused
