"""The highest epoch of each disk that this node has ever promised, durable before it is said, and never lower again.

A node that promises an epoch refuses all lower ones for ever: so once a majority of the voters has promised, a
coordinator of a lower epoch can renew its lease with no majority any more.

The file is small and replaced as a whole.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec
from crc32c import crc32c

from csvd.cluster.bell import Bell
from csvd.cluster.durability import RunBlocking
from csvd.cluster.errors import ClusterError
from csvd.cluster.reactor import Clock
from csvd.cluster.state_directory import Files, replace_file

MAXIMUM_PROMISES: Final = 1024
"""Disks; more than a register ever had."""

FILE_NAME: Final = "promises"
_FORMAT: Final = 1
_MAGIC: Final = b"csvdprom"


class PromisesError(ClusterError):
    """What this node has promised can not be read."""


class _Content(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    node: str
    incarnation: int
    epochs: dict[str, int]


class Promises:
    """What this node has promised.

    Args:
        files: the state directory.
        node: the id of this node.
        run_blocking: where the file is written.
        clock: the node's loop.
        now_ms: the time of day. The number of this run is at least this, so that it grows even when the node has
            joined anew with an empty state directory: an ask of its former life must never be taken for one of this.

    Raises:
        PromisesError: the file is damaged, or another node's.
    """

    def __init__(self, files: Files, node: str, *, run_blocking: RunBlocking, clock: Clock, now_ms: int) -> None:
        self._files = files
        self._node = node
        self._run_blocking = run_blocking
        content = _decoded(files.read(FILE_NAME), node)
        self._epochs = dict(content.epochs)
        self._durable = dict(content.epochs)
        self.incarnation = max(content.incarnation + 1, now_ms)
        """The number of this run of the node; durable after `start`."""
        self._is_writing = False
        self._written = Bell(clock)
        self._failure: ClusterError | None = None

    @property
    def epochs(self) -> Mapping[str, int]:
        """By the uuid of the disk: what is refused below."""
        return self._epochs

    async def start(self) -> None:
        """Make the number of this run durable.

        Raises:
            ClusterError: the file could not be written.
        """
        await self._write()

    async def promise(self, disk: str, epoch: int) -> int:
        """Promise an epoch, unless a higher one was promised.

        Args:
            disk: the uuid of the disk.
            epoch: 1 or more.

        Returns:
            The highest epoch that was promised: the one asked for where the promise is given, and durable.

        Raises:
            ClusterError: it could not be made durable; lower epochs are refused nevertheless.
        """
        if epoch > self._epochs.get(disk, 0):
            if disk not in self._epochs and len(self._epochs) >= MAXIMUM_PROMISES:
                raise ClusterError(f"this node has promised epochs of {MAXIMUM_PROMISES} disks, it holds no more")
            self._epochs[disk] = epoch
        while self._durable.get(disk, 0) < self._epochs.get(disk, 0):
            await self._write()
        return self._epochs.get(disk, 0)

    async def _write(self) -> None:
        """Write all, or wait for the write that is under way, which may have come too early."""
        if self._is_writing:
            await self._written.wait()
            if self._failure is not None:
                raise self._failure
            return
        self._is_writing = True
        epochs = dict(self._epochs)
        data = _encoded(_Content(_FORMAT, self._node, self.incarnation, epochs))
        self._failure = None
        try:
            await self._run_blocking(lambda: replace_file(self._files, FILE_NAME, data))
            self._durable = epochs
        except ClusterError as error:
            self._failure = error
            raise
        finally:
            self._is_writing = False
            self._written.ring()


def _encoded(content: _Content) -> bytes:
    body = msgspec.msgpack.encode(content)
    return _MAGIC + crc32c(body).to_bytes(4, "big") + body


def _decoded(data: bytes | None, node: str) -> _Content:
    """The content of the file; of a new node's where there is none."""
    if data is None:
        return _Content(_FORMAT, node, 0, {})
    body = data[len(_MAGIC) + 4 :]
    if not data.startswith(_MAGIC) or crc32c(body).to_bytes(4, "big") != data[len(_MAGIC) : len(_MAGIC) + 4]:
        raise _damaged("its checksum is wrong")
    try:
        content = msgspec.msgpack.decode(body, type=_Content)
    except msgspec.MsgspecError as error:
        raise _damaged(str(error)) from error
    if content.format != _FORMAT:
        raise PromisesError("is of another version of csvd", where=FILE_NAME, why=f"its format is {content.format}")
    if content.node != node:
        raise PromisesError(f"is the file of {content.node}, not of {node}", where=FILE_NAME)
    return content


def _damaged(why: str) -> PromisesError:
    return PromisesError(
        "what this node has promised to coordinators is damaged",
        where=FILE_NAME,
        why=why,
        hint="evict the node, and have it join anew with an empty state directory: it may not guess what it promised",
    )
