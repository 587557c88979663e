"""A disk whose power can go at any write: what was not flushed is lost, in part or as a whole, by the test's choice."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from random import Random

from twisted.internet.defer import Deferred, fail, succeed

from csvd.storage.disk import Buffer, StorageError
from csvd.storage.memory import MemoryDisk

_SECTOR_BYTES = 512


class TornDisk(MemoryDisk):
    """Memory with a volatile cache before it, of which a loss of power keeps some sectors and loses others.

    Attributes:
        calls_left: writes and flushes until the power goes; None: it stays.
    """

    def __init__(self, size_bytes: int, random: Random) -> None:
        super().__init__(size_bytes)
        self.calls_left: int | None = None
        self.calls = 0
        self._random = random
        self._durable: dict[int, bytes] = {}
        """What sectors that were written since the last flush had before."""
        self._is_off = False

    def write_from(self, buffers: Sequence[Buffer], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        data = b"".join(bytes(buffer) for buffer in buffers)
        for at in range(offset_bytes, offset_bytes + len(data), _SECTOR_BYTES):
            self._durable.setdefault(at, self._memory[at : at + _SECTOR_BYTES])
        written = super().write_from((data,), offset_bytes)
        if self._goes():
            return fail(StorageError("write", errno.EIO, where=self.url))
        return written

    def flush(self) -> Deferred[None]:
        if self._goes():
            return fail(StorageError("flush", errno.EIO, where=self.url))
        self._durable.clear()
        return succeed(None)

    def compare_and_write(self, offset_bytes: int, expected: bytes, new: bytes) -> Deferred[None]:
        return super().compare_and_write(offset_bytes, expected, new).addCallback(lambda _: self.flush())

    def power_on(self) -> None:
        """Come back with what was durable."""
        self._is_off = False
        self.calls_left = None

    def _goes(self) -> bool:
        self.calls += 1
        if self.calls_left is not None and not self._is_off:
            self.calls_left -= 1
            if self.calls_left < 0:
                self._lose()
        return self._is_off

    def _lose(self) -> None:
        self._is_off = True
        for at, before in self._durable.items():
            if self._random.random() < 0.5:
                self._memory[at : at + _SECTOR_BYTES] = before
        self._durable.clear()
