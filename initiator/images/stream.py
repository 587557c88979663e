"""stdin and stdout as ends of a copy: read and written in order, by a thread."""

from __future__ import annotations

import os
from typing import Any, Final

from initiator.images.end import Identity
from initiator.images.file import CHUNK_BYTES
from initiator.images.plan import Run
from initiator.parallel import in_thread

_ZEROS: Final = memoryview(bytes(CHUNK_BYTES))


class StreamEnd:
    """A descriptor that can not be sought in."""

    align_bytes = 1
    ordered = True
    chunk_bytes = CHUNK_BYTES
    size_bytes: int | None = None
    grows = True
    zeroes_fast = False
    reads_zero = False

    def __init__(self, name: str, fd: int, reactor: Any) -> None:
        self.name = name
        self._fd = fd
        self._reactor = reactor

    @property
    def identity(self) -> Identity:
        """Nothing tells one pipe from another."""
        return {"kind": "stream"}

    async def runs(self, offset: int, length: int) -> list[Run]:
        """Nothing is known before it is read."""
        return [Run(offset, length, zero=False)]

    async def read_into(self, offset: int, view: memoryview) -> int:
        """Read until the view is full or the pipe at its end; give how much that was."""
        return await in_thread(self._reactor, self._fill, view)

    async def write(self, offset: int, view: memoryview) -> None:
        """Write all, in the order of the calls."""
        await in_thread(self._reactor, self._write_all, view)

    async def zero(self, offset: int, length: int) -> None:
        """Write zeros: a pipe has no holes."""
        while length:
            part = _ZEROS[: min(length, len(_ZEROS))]
            await in_thread(self._reactor, self._write_all, part)
            length -= len(part)

    async def ends_at(self, size: int) -> None:
        """A pipe ends when this process does."""

    async def flush(self) -> None:
        """Where the bytes go then is not known here."""

    async def close(self) -> None:
        """The descriptor is the process's own, and stays open."""

    def _fill(self, view: memoryview) -> int:
        count = 0
        while count < len(view):
            read = os.readv(self._fd, [view[count:]])
            if not read:
                break
            count += read
        return count

    def _write_all(self, view: memoryview) -> None:
        while view:
            view = view[os.write(self._fd, view) :]
