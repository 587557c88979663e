"""A disk in memory whose calls end one after the other, in an order that a test chooses."""

from __future__ import annotations

import random
from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure


class SlowDisk:
    """Has of a Disk what a DiskFile needs. A read sees the disk when it ends, a write changes it when it ends."""

    def __init__(self, blocks: int, *, block_bytes: int = 512) -> None:
        self.block_bytes = block_bytes
        self.data = bytearray(blocks * block_bytes)
        self.waiting: list[Deferred[None]] = []
        self.calls: list[tuple[str, int, int]] = []
        self.fails_with: BaseException | None = None

    @property
    def size_bytes(self) -> int:
        return len(self.data)

    async def read_into(self, lba: int, buffer: bytearray | memoryview) -> None:
        start = await self._turn("read", lba, len(buffer))
        memoryview(buffer)[:] = self.data[start : start + len(buffer)]

    async def write(self, lba: int, data: bytes | bytearray | memoryview) -> None:
        start = await self._turn("write", lba, len(data))
        self.data[start : start + len(data)] = data

    async def write_zeroes(self, lba: int, blocks: int) -> None:
        length = blocks * self.block_bytes
        start = await self._turn("zero", lba, length)
        self.data[start : start + length] = bytes(length)

    async def flush(self) -> None:
        await self._turn("flush", 0, 0)

    async def _turn(self, name: str, lba: int, length: int) -> int:
        assert length % self.block_bytes == 0
        assert lba * self.block_bytes + length <= len(self.data)
        self.calls.append((name, lba, length // self.block_bytes))
        turn: Deferred[None] = Deferred()
        self.waiting.append(turn)
        await turn
        if self.fails_with is not None:
            raise self.fails_with
        return lba * self.block_bytes

    def run(self, *works: Coroutine[Deferred[Any], Any, Any], seed: int = 0) -> list[Any]:
        """Run coroutines to their end, all at once; give their results or errors."""
        chance = random.Random(seed)
        outcomes: list[Any] = [None] * len(works)

        def ended(outcome: Any, index: int) -> None:
            outcomes[index] = outcome.value if isinstance(outcome, Failure) else outcome

        for index, work in enumerate(works):
            Deferred.fromCoroutine(work).addBoth(ended, index)
        while self.waiting:
            self.waiting.pop(chance.randrange(len(self.waiting))).callback(None)
        return outcomes
