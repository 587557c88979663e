"""What the demo does through iSCSI: a copy that is read back everywhere, and work that goes on while nodes fail."""

from __future__ import annotations

import hashlib
import os
import random
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.internet.threads import blockingCallFromThread

from initiator import Disk, connect

CHUNK_BYTES = 2**20
SLOT_BYTES = 64 * 1024
TIMEOUT_S = 30.0

T = TypeVar("T")


class ReactorThread:
    """A reactor in a thread, so that the demo itself reads from top to bottom."""

    def __init__(self) -> None:
        self._reactor: Any = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run, name="initiators", daemon=True)

    def _run(self) -> None:
        from csvd.runtime import install_reactor

        self._reactor = install_reactor()
        self._reactor.callWhenRunning(self._ready.set)
        self._reactor.run(installSignalHandlers=False)

    def start(self) -> None:
        self._thread.start()
        self._ready.wait()

    def run(self, work: Callable[[Any], Coroutine[Deferred[Any], Any, T]]) -> T:
        """Run ``work(reactor)`` to its end; give what it returns."""

        def begin() -> Deferred[T]:
            return Deferred.fromCoroutine(work(self._reactor))

        result: T = blockingCallFromThread(self._reactor, begin)  # type: ignore[arg-type]  # its stub loses T
        return result

    def begin(self, work: Callable[[Any], Coroutine[Deferred[Any], Any, None]]) -> None:
        """Begin ``work(reactor)``; what it raises it keeps itself."""
        self._reactor.callFromThread(lambda: Deferred.fromCoroutine(work(self._reactor)))

    def stop(self) -> None:
        # An interrupt may come before the reactor is there.
        if self._thread.is_alive() and self._ready.wait(5.0):
            self._reactor.callFromThread(self._reactor.stop)
            self._thread.join(5.0)


async def write_random(reactor: Any, url: str, total_bytes: int) -> tuple[list[str], float]:
    """Write random data from the beginning of a disk, then flush; give the digests of its chunks, and the seconds."""
    digests = []
    async with await connect(url, reactor=reactor, timeout_s=TIMEOUT_S) as disk:
        began_s = time.monotonic()
        for start in range(0, total_bytes, CHUNK_BYTES):
            data = os.urandom(CHUNK_BYTES)
            digests.append(hashlib.sha256(data).hexdigest())
            await disk.write(start // disk.block_bytes, data)
        await disk.flush()
        return digests, time.monotonic() - began_s


async def read_digests(reactor: Any, url: str, total_bytes: int) -> tuple[list[str], float]:
    """Read a disk from its beginning; give the digests of its chunks, and the seconds."""
    digests = []
    async with await connect(url, reactor=reactor, timeout_s=TIMEOUT_S) as disk:
        began_s = time.monotonic()
        blocks = CHUNK_BYTES // disk.block_bytes
        for start in range(0, total_bytes, CHUNK_BYTES):
            data = await disk.read(start // disk.block_bytes, blocks)
            digests.append(hashlib.sha256(data).hexdigest())
        return digests, time.monotonic() - began_s


class Work:
    """Writes through one node, reads back through another, in turn, and remembers every acknowledged write."""

    def __init__(self, urls: tuple[str, str], offset_bytes: int, slots: int) -> None:
        self._urls = urls
        self._offset_bytes = offset_bytes
        self._slots = slots
        self._random = random.Random()  # noqa: S311 - where to write next is no secret
        self._stopping = False
        self._ended = threading.Event()
        self._disks: list[Disk] = []
        self.acknowledged: dict[int, bytes] = {}
        """Slot → digest of the last write that was acknowledged."""
        self.writes = 0
        self.mismatches = 0
        self.longest_s = 0.0
        """The longest time from a write to its acknowledgement."""
        self.error: Exception | None = None

    async def run(self, reactor: Any) -> None:
        """Work until told to stop; an error ends it and is kept."""
        try:
            for url in self._urls:
                self._disks.append(await connect(url, reactor=reactor, timeout_s=TIMEOUT_S))
            while not self._stopping:
                await self._turn()
        except Exception as error:  # noqa: BLE001 - whatever it is, it is this step's result, and is shown
            self.error = error
        finally:
            for disk in self._disks:
                await disk.close()
            self._ended.set()

    async def _turn(self) -> None:
        writer, reader = self._disks if self.writes % 2 else self._disks[::-1]
        slot = self._random.randrange(self._slots)
        data = self._random.randbytes(SLOT_BYTES)
        lba = (self._offset_bytes + slot * SLOT_BYTES) // writer.block_bytes
        began_s = time.monotonic()
        await writer.write(lba, data, fua=self.writes % 16 == 0)
        self.longest_s = max(self.longest_s, time.monotonic() - began_s)
        self.acknowledged[slot] = hashlib.sha256(data).digest()
        self.writes += 1
        if await reader.read(lba, SLOT_BYTES // reader.block_bytes) != data:
            self.mismatches += 1

    def stop(self) -> None:
        """Stop, and wait for the end."""
        self._stopping = True
        self._ended.wait(2 * TIMEOUT_S)

    async def lost(self, reactor: Any, url: str) -> int:
        """Count the acknowledged writes that are not on the disk as it is seen at ``url``."""
        lost = 0
        async with await connect(url, reactor=reactor, timeout_s=TIMEOUT_S) as disk:
            for slot, digest in self.acknowledged.items():
                lba = (self._offset_bytes + slot * SLOT_BYTES) // disk.block_bytes
                data = await disk.read(lba, SLOT_BYTES // disk.block_bytes)
                lost += hashlib.sha256(data).digest() != digest
        return lost
