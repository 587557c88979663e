"""A load that knows what it wrote: workers that write, read back and flush, each in blocks of its own."""

from __future__ import annotations

import random
from collections import Counter
from typing import Any

from twisted.internet.defer import Deferred, gatherResults

from initiator.disk import Disk
from initiator.errors import FlushInDoubt, SessionLost, TimedOut

SLACK_S = 10.0
"""By which a busy machine may be late with the end of a call."""


class VerifyLoad:
    """Workers over one disk.

    Args:
        timeout_s: the deadline of every call.
        room_blocks: the blocks of each worker.
        first_block: of the first worker.
    """

    def __init__(
        self, disk: Disk, seed: int, *, workers: int, room_blocks: int, timeout_s: float, first_block: int = 0
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.longest_s = 0.0
        """Of the call that took longest."""
        self.latest_s = 0.0
        """By how much the latest call was past its deadline; negative where none was."""
        self.stopping = False
        self._disk = disk
        self._reactor: Any = disk.road.reactor
        self._timeout_s = timeout_s
        self._room = room_blocks
        self._first = first_block
        self._workers = [_Worker(self, number, random.Random(seed + number)) for number in range(workers)]

    async def run(self) -> None:
        """Work until it is stopped; raises AssertionError when anything is not as it was written."""
        await gatherResults([Deferred.fromCoroutine(each.work()) for each in self._workers], consumeErrors=True)

    async def verify_all(self, through: Disk | None = None) -> None:
        """Read everything once more; over another road to the same disk, where one is given."""
        self._disk = through or self._disk
        for each in self._workers:
            await each.verify(0, self._room)

    async def call(self, name: str, work: Any) -> bool:
        """Make a call; give whether it was done. That it was not is no fault, that it is late is one."""
        began_s = self._reactor.seconds()
        try:
            await work
        except (TimedOut, SessionLost) as error:
            self.counts[f"{name} {'unknown' if error.outcome_unknown else 'not done'}"] += 1
            done = False
        except FlushInDoubt:
            self.counts[f"{name} in doubt"] += 1
            done = True
        else:
            self.counts[name] += 1
            done = True
        took_s = self._reactor.seconds() - began_s
        late_s = took_s - self._timeout_s
        self.longest_s = max(self.longest_s, took_s)
        self.latest_s = max(self.latest_s, late_s) if self.counts.total() > 1 else late_s
        assert late_s < SLACK_S, f"{name} hung {late_s:.1f} s past its deadline"
        return done


class _Worker:
    """One worker: for each of its blocks it knows the versions that it may hold."""

    def __init__(self, load: VerifyLoad, number: int, chance: random.Random) -> None:
        self._load = load
        self._chance = chance
        self._first = load._first + number * load._room
        self._may_hold: list[set[int]] = [{0} for _ in range(load._room)]
        self._version = 0
        self._number = number

    def _block(self, index: int, version: int) -> bytes:
        size = self._load._disk.block_bytes
        if not version:
            return bytes(size)
        word = f"{self._number}/{index}/{version};".encode()
        return (word * (size // len(word) + 1))[:size]

    async def work(self) -> None:
        while not self._load.stopping:
            at = self._chance.randrange(self._load._room)
            count = min(self._chance.choice((1, 1, 2, 8, 64, 300)), self._load._room - at)
            act = self._chance.random()
            if act < 0.5:
                await self._write(at, count)
            elif act < 0.95:
                await self.verify(at, count)
            else:
                await self._load.call("flush", self._load._disk.flush(timeout_s=self._load._timeout_s))

    async def _write(self, at: int, count: int) -> None:
        self._version += 1
        version = self._version
        data = b"".join(self._block(at + n, version) for n in range(count))
        disk = self._load._disk
        writing = disk.write(self._first + at, data, timeout_s=self._load._timeout_s)
        done = await self._load.call("write", writing)
        for index in range(at, at + count):
            self._may_hold[index] = {version} if done else self._may_hold[index] | {version}

    async def verify(self, at: int, count: int) -> None:
        disk, size = self._load._disk, self._load._disk.block_bytes
        buffer = bytearray(count * size)
        reading = disk.read_into(self._first + at, buffer, timeout_s=self._load._timeout_s)
        if not await self._load.call("read", reading):
            return
        for n in range(count):
            index = at + n
            found = bytes(buffer[n * size : (n + 1) * size])
            held = [version for version in self._may_hold[index] if self._block(index, version) == found]
            assert held, f"block {self._first + index} holds {found[:24]!r}, none of {sorted(self._may_hold[index])}"
