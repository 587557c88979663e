"""RbdDisk: an image of a Ceph cluster as a disk."""

from __future__ import annotations

import errno
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

from twisted.internet import defer
from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.shared_disk import OSD_BLOCKLIST, FenceProof
from csvd.storage.disk import FENCED, MAX_RUNS, Buffer, DiskCapabilities, StorageError, check_range
from csvd.storage.rbd import compare, nodes
from csvd.storage.rbd.allocation import allocated_runs, used_bytes
from csvd.storage.rbd.blocking import BlockingCalls, storage_error
from csvd.storage.rbd.calls import Call, FlushCall, RbdCalls, ReadCall, UnmapCall, WriteCall, ZeroCall
from csvd.storage.rbd.handle import RbdHandle

T = TypeVar("T")

FENCE: Final = OSD_BLOCKLIST
PIECE_OBJECTS: Final = 256
"""Objects that one call for a range without data, or one question about allocation, concerns at most: librbd makes an
operation for each of them at once. A range of more is done in pieces, each with a deadline of its own."""

SHRINK_OBJECTS_PER_S: Final = 50
"""A cluster removes more objects than that; a shrinking image has its deadline by it."""

PHYSICAL_BLOCK_BYTES: Final = 4096
"""What an object store of Ceph 16 allocates by; less is read, changed and written anew."""

_log = Logger()

_abandoned: list[RbdHandle] = []


class RbdDisk:
    """A disk in a Ceph cluster.

    A call that the cluster does not answer fails with ETIMEDOUT at its deadline, and the disk goes on when the cluster
    is back. One that the cluster refuses because this client is fenced fails with `FENCED`, and so does every later
    one: the disk makes itself no new client.

    A write is acknowledged when every replica has it, and there is no cache to flush; unless a setting of the image or
    its pool (`rbd config image set … rbd_cache true`) wants one: the capabilities say so then.

    Args:
        handle: the open image, from `open_handle`; this disk closes it.
        reactor: the node's.
        size_bytes: its size.
        identity: its name on every node; the handle's when None.
    """

    def __init__(self, handle: RbdHandle, reactor: Any, *, size_bytes: int, identity: str | None = None) -> None:
        name = handle.name
        self.url = name.url
        self.size_bytes = size_bytes
        self.read_only = handle.read_only
        self.capabilities = DiskCapabilities(
            discard=True,
            write_zeroes=not handle.read_only,
            volatile_cache=handle.has_cache,
            fence=FENCE,
            shared_between="hosts",
            physical_block_bytes=PHYSICAL_BLOCK_BYTES,
        )
        self._handle = handle
        self._reactor = reactor
        self._identity = identity or handle.identity
        self._blocking = BlockingCalls(reactor, deadline_s=name.deadline_s, where=name.url)
        self._calls = RbdCalls(handle.image, reactor, deadline_s=name.deadline_s, where=name.url)
        self._node: str | None = None
        self._closed: Deferred[None] | None = None
        self._unmap_call: type[Call] = UnmapCall if handle.discards_all else ZeroCall

    @property
    def is_fenced(self) -> bool:
        """Whether the cluster has refused this client."""
        return self._calls.is_fenced

    def identity(self) -> str:
        """It stands for the cluster, the pool and the image's id; the image may be renamed."""
        return self._identity

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        """False: the data is elsewhere."""
        return False

    def cached(self, offset_bytes: int, length_bytes: int) -> bool:
        """False: it has no descriptor."""
        return False

    def write_nowait(self, buffers: Sequence[Buffer], offset_bytes: int) -> bool:
        """False: every write waits for the cluster."""
        return False

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        """Fill the buffer. After a failure it may be given to others: nothing is written into it."""
        refusal = self._check("read", offset_bytes, buffer.nbytes)
        if refusal is not None:
            return fail(refusal)
        if not buffer.nbytes:
            return succeed(None)
        return self._calls.submit(ReadCall(buffer, offset_bytes))

    def write_from(self, buffers: Sequence[Buffer], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        """Write a copy of the buffers. After ETIMEDOUT it is unknown whether they were written, or will be."""
        call = WriteCall(buffers, offset_bytes)
        refusal = self._check_write("write", offset_bytes, call.length_bytes)
        if refusal is not None:
            return fail(refusal)
        if not call.length_bytes:
            return succeed(None)
        written = self._calls.submit(call)
        if fua and self.capabilities.volatile_cache:
            written.addCallback(lambda _: self.flush())
        return written

    def flush(self) -> Deferred[None]:
        """Without a cache there is nothing to do; librbd is asked all the same."""
        refusal = self._check("flush", 0, 0)
        return fail(refusal) if refusal is not None else self._calls.submit(FlushCall("flush"))

    def unmap(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Give the range back; objects that are all in it are removed."""
        return Deferred.fromCoroutine(self._in_pieces(self._unmap_call, "unmap", offset_bytes, length_bytes))

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Make the range read as zeros; what librbd can give back of it, it gives back."""
        return Deferred.fromCoroutine(self._in_pieces(ZeroCall, "write zeroes", offset_bytes, length_bytes))

    async def _in_pieces(self, kind: type[Call], operation: str, offset_bytes: int, length_bytes: int) -> None:
        refusal = self._check_write(operation, offset_bytes, length_bytes)
        if refusal is not None:
            raise refusal
        end_bytes = offset_bytes + length_bytes
        piece_bytes = PIECE_OBJECTS * self._handle.object_bytes
        while offset_bytes < end_bytes:
            # Pieces end where objects do.
            stop_bytes = min(end_bytes, (offset_bytes // piece_bytes + 1) * piece_bytes)
            await self._calls.submit(kind(operation, offset_bytes, stop_bytes - offset_bytes))
            offset_bytes = stop_bytes

    def allocation(
        self, offset_bytes: int, length_bytes: int, most_runs: int = MAX_RUNS
    ) -> Deferred[list[tuple[int, int, bool]]]:
        """Which objects there are, each up to its own end; of a long range only the first `PIECE_OBJECTS` are asked.

        It costs an operation for each object.
        """
        refusal = self._check("allocate", offset_bytes, length_bytes)
        if refusal is not None:
            return fail(refusal)
        if not length_bytes:
            return succeed([])
        asked_bytes = min(length_bytes, PIECE_OBJECTS * self._handle.object_bytes)
        most_runs = min(most_runs, MAX_RUNS)
        return self._run("allocate", partial(allocated_runs, self._handle, offset_bytes, asked_bytes, most_runs))

    def prefetch(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Nothing: there is no cache."""
        return succeed(None)

    def allocated_bytes(self) -> Deferred[int | None]:
        """The sum of its objects up to their ends; None of an image of very many, which would all have to be asked."""
        refusal = self._check("allocate", 0, 0)
        return fail(refusal) if refusal is not None else self._run("allocate", partial(used_bytes, self._handle))

    def resize(self, size_bytes: int | None, *, full: bool = False) -> Deferred[int]:
        """Take another size; with None the one that the image has by now, by whomever."""
        refusal = self._check("resize", 0, 0) if size_bytes is None else self._check_write("resize", 0, 0)
        if refusal is None and full:
            refusal = StorageError(
                "resize", errno.EOPNOTSUPP, where=self.url, why="an image can not be allocated ahead"
            )
        return fail(refusal) if refusal is not None else Deferred.fromCoroutine(self._resize(size_bytes))

    async def _resize(self, size_bytes: int | None) -> int:
        handle = self._handle
        if size_bytes is not None:
            gone_objects = max(0, self.size_bytes - size_bytes) // handle.object_bytes
            deadline_s = self._blocking.deadline_s + gone_objects / SHRINK_OBJECTS_PER_S
            await self._run("resize", partial(handle.image.resize, size_bytes), deadline_s=deadline_s)
        self.size_bytes = await self._run("resize", handle.size_bytes)
        self._calls.image = handle.image
        return self.size_bytes

    def join(self, node: str, number: int = 0) -> Deferred[None]:
        """Write down that this node writes through this client. Whatever client it had before is kept off first.

        The cluster keeps nobody off who has no place: it has no such gate. Who is to be kept off must have joined.
        """
        return Deferred.fromCoroutine(self._join(node))

    async def _join(self, node: str) -> None:
        await self._run("join", partial(nodes.join, self._handle, node))
        self._node = node

    def fence(self, node: str, number: int = 0) -> Deferred[FenceProof]:
        """Put the node's client onto the cluster's blocklist; fires when this client writes after its last write.

        Other nodes that are told of it call `catch_up` before they rely on it.
        """
        return self._run("fence", partial(self._keep_off, node))

    def _keep_off(self, node: str) -> FenceProof:
        """In a thread."""
        seen = nodes.fence(self._handle, node)
        return FenceProof(FENCE, node, seen, time.clock_gettime(time.CLOCK_BOOTTIME))

    def is_gone(self, node: str, number: int = 0) -> Deferred[bool]:
        """False: what is written down of a node says nothing of what it is at."""
        return succeed(False)

    def catch_up(self) -> Deferred[None]:
        """Fires when what this disk reads and writes from then on comes after the last write of every node that was
        fenced before the call, by whomever."""
        return self._run("fence", partial(nodes.catch_up, self._handle))

    def leave(self) -> Deferred[None]:
        """Write down that this node writes no more, when its last write is done.

        When the outcome of a write is unknown the cluster is told to take nothing more from this disk.
        """
        return Deferred.fromCoroutine(self._leave())

    async def _leave(self) -> None:
        if self._node is None or self._closed is not None:
            return
        await self._calls.when_quiet()
        unknown = bool(self._calls.unknown_writes or self._calls.under_way)
        await self._run("leave", partial(nodes.leave, self._handle, self._node, has_unknown_writes=unknown))
        self._node = None

    def read_compared(self, offset_bytes: int) -> Deferred[bytes]:
        """Fires with a block, from the object that has it; see `csvd.storage.rbd.compare`."""
        length_bytes = PHYSICAL_BLOCK_BYTES
        refusal = self._check("read", offset_bytes, length_bytes)
        if refusal is not None:
            return fail(refusal)
        return self._run("read", partial(compare.read_compared, self._handle, offset_bytes, length_bytes))

    def compare_and_write(self, offset_bytes: int, expected: bytes, new: bytes) -> Deferred[None]:
        """Write a block if it holds another one; see `ComparingDisk`."""
        refusal = self._check_write("compare and write", offset_bytes, len(new))
        if refusal is not None:
            return fail(refusal)
        work = partial(compare.compare_and_write, self._handle, offset_bytes, expected, new)
        return self._run("compare and write", work)

    def close(self) -> Deferred[None]:
        """Refuse new work, wait for what is under way, and let go. A cluster that is gone is waited for no longer than
        for a call, and left."""
        if self._closed is None:
            self._closed = Deferred.fromCoroutine(self._close())
        closed: Deferred[None] = Deferred()
        self._closed.addBoth(_pass_on, closed)
        return closed

    async def _close(self) -> None:
        await self._calls.when_quiet()
        failure: StorageError | None = None
        if self.capabilities.volatile_cache and not self.read_only and not self.is_fenced:
            try:
                await self._calls.submit(FlushCall("flush"))
            except StorageError as error:
                failure = error
        await self._let_go()
        if failure is not None:
            raise failure

    async def _let_go(self) -> None:
        try:
            # librbd does not stand an image that is closed under a call of another thread.
            await self._blocking.when_idle().addTimeout(self._blocking.deadline_s, self._reactor)
            await self._blocking.run("close", self._handle.close)
        except (StorageError, defer.TimeoutError) as error:
            # What was flushed is durable: nothing is lost with the client. What is not closed must not be closed by the
            # end of the interpreter, either, which would wait for the cluster.
            _abandoned.append(self._handle)
            _log.warn("{url}: its client is left, for the cluster does not answer: {error}", url=self.url, error=error)

    def _run(self, operation: str, function: Callable[[], T], **how: Any) -> Deferred[T]:
        if self._closed is not None:
            return fail(StorageError(operation, errno.EBADF, where=self.url, why="the disk is closed"))
        if self.is_fenced:
            return fail(storage_error(operation, FENCED, where=self.url))
        return self._blocking.run(operation, function, **how).addErrback(self._failed)

    def _failed(self, failure: Failure) -> Failure:
        if isinstance(failure.value, StorageError) and failure.value.errno == FENCED:
            self._calls.fence()
        return failure

    def _check(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        if self._closed is not None:
            return StorageError(operation, errno.EBADF, where=self.url, why="the disk is closed")
        return check_range(operation, self.url, self.size_bytes, offset_bytes, length_bytes)

    def _check_write(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        if self.read_only:
            return StorageError(operation, errno.EROFS, where=self.url, offset_bytes=offset_bytes)
        return self._check(operation, offset_bytes, length_bytes)


def _pass_on(result: Any, to: Deferred[None]) -> Any:
    to.callback(result)
    return None
