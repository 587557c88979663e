"""A verify load on a disk over several paths, for tests with real targets."""

from __future__ import annotations

import random
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater
from twisted.python.failure import Failure

from initiator import AccessState, Disk, PathSettings

BLOCK_BYTES = 512
QUICK = PathSettings(check_interval_s=0.3, retry_first_s=0.05, retry_last_s=0.5, steady_s=0.5)
ACTIVE = AccessState.ACTIVE_OPTIMIZED.words


class Load:
    """Writes and reads back, over and over: one writer a stripe of blocks, each write a newer version."""

    WRITERS = 6
    BLOCKS = 16

    def __init__(self, disk: Disk, reactor: Any, seed: int = 1) -> None:
        self.disk = disk
        self.reactor = reactor
        self.chance = random.Random(seed)
        self.stop = False
        self.rounds = [0] * self.WRITERS
        self.versions = [[0] * self.BLOCKS for _ in range(self.WRITERS)]
        self.longest_s = 0.0
        self.running: list[Deferred[None]] = []

    def start(self) -> Load:
        self.running = [Deferred.fromCoroutine(self._write(writer)) for writer in range(self.WRITERS)]
        return self

    async def end(self) -> None:
        """Stop, and see that all that was written is there; raises what a call raised."""
        self.stop = True
        for _, result in await DeferredList(self.running, consumeErrors=True):
            if isinstance(result, Failure):
                raise AssertionError(f"a call failed: {result.value}") from result.value
        for writer in range(self.WRITERS):
            for block in range(self.BLOCKS):
                await self._verify(writer, block)

    def data(self, writer: int, block: int) -> bytes:
        seed = (writer << 40 | block << 32 | self.versions[writer][block]).to_bytes(8, "big")
        return seed * (BLOCK_BYTES // 8) if self.versions[writer][block] else bytes(BLOCK_BYTES)

    async def _write(self, writer: int) -> None:
        while not self.stop:
            block = self.chance.randrange(self.BLOCKS)
            began = self.reactor.seconds()
            self.versions[writer][block] += 1
            await self.disk.write(writer * self.BLOCKS + block, self.data(writer, block), timeout_s=60)
            await self._verify(writer, block)
            await self._verify(writer, self.chance.randrange(self.BLOCKS))
            self.longest_s = max(self.longest_s, self.reactor.seconds() - began)
            self.rounds[writer] += 1

    async def _verify(self, writer: int, block: int) -> None:
        found = await self.disk.read(writer * self.BLOCKS + block, 1, timeout_s=60)
        assert found == self.data(writer, block), f"block {block} of writer {writer} is another than was written"

    async def goes_on(self, rounds: int = 20, timeout_s: float = 30.0) -> None:
        """Wait until every writer has done so many more rounds."""
        goal = [done + rounds for done in self.rounds]
        end_s = self.reactor.seconds() + timeout_s
        while any(done < wanted for done, wanted in zip(self.rounds, goal, strict=True)):
            failed = [d for d in self.running if d.called]
            assert not failed, f"a writer ended: {failed[0].result}"
            assert self.reactor.seconds() < end_s, f"{self.rounds} of {goal} rounds; {self.disk.paths}"
            await pause(self.reactor, 0.02)


def pause(reactor: Any, seconds: float) -> Deferred[None]:
    return deferLater(reactor, seconds, lambda: None)


async def until(reactor: Any, disk: Disk, index: int, words: str, timeout_s: float = 20.0) -> None:
    """Wait until a path is in a state."""
    end_s = reactor.seconds() + timeout_s
    while disk.paths[index].words != words:
        assert reactor.seconds() < end_s, f"{disk.paths}"
        await pause(reactor, 0.02)
