"""IscsiDisk: a LUN of an iSCSI target, by our own initiator."""

from __future__ import annotations

import errno
import time
from collections.abc import Coroutine, Sequence
from typing import Any, Final, TypeVar

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.shared_disk import PERSISTENT_RESERVATION, FenceProof
from csvd.storage.disk import COMPARED_BLOCK_BYTES, MAX_RUNS, Buffer, StorageError, check_range, differs
from csvd.storage.iscsi.calls import Calls
from csvd.storage.iscsi.description import DPOFUA, Description, mode_of
from csvd.storage.iscsi.errors import storage_error
from csvd.storage.iscsi.fence import Connect, Fence
from initiator import CommandFailed, Disk, InitiatorError, Miscompare, SenseKey, UnsupportedCommand
from initiator.scsi.provisioning import ProvisioningStatus
from initiator.scsi.sense import Sense

T = TypeVar("T")

_ZEROS_BYTES: Final = 1 << 20
_PREFETCH_16: Final = 0x90
_IMMEDIATE: Final = 0x02


class IscsiDisk:
    """A disk over a LUN; `csvd.storage.iscsi.opening` makes it.

    Nothing is cached here, and nothing is done but whole blocks of the LUN: to read one, to change it and to write it
    back would lose what another node writes meanwhile. When the session is lost the calls wait until it is there again,
    at most as long as the timeout of the session; then they fail with ETIMEDOUT, and whether a write was done is
    unknown.

    What one range of it is claimed for (`csvd.scsi.range_locks`) is known to this process alone: a COMPARE AND WRITE of
    a logical unit over this disk is atomic among all who use it through this process, and not against those who use the
    LUN by another one.
    """

    log = Logger()

    def __init__(
        self, unit: Disk, description: Description, *, url: str, read_only: bool, connect: Connect, serial: str | None
    ) -> None:
        self.url = url
        self.size_bytes = unit.size_bytes
        self.read_only = read_only
        self.capabilities = description.capabilities
        self._identity = serial or description.identity
        self._unit = unit
        self._block_bytes = unit.block_bytes
        self._fua = description.fua
        self._provisioned = description.provisioned
        self._prefetches = True
        self._writes_same = True
        self._fence = Fence(unit, description.identity, connect, url)
        self._is_flushed = True
        """Whether nothing was changed since the last flush began."""
        self._calls = Calls(unit.road.reactor, self._ask, where=url, block_bytes=unit.block_bytes)
        self._is_closing = False
        self._closed = False
        self._closers: list[Deferred[None]] = []
        unit.on_unit_attention.append(self._attention)

    def identity(self) -> str:
        """The name of the LUN: its designator in VPD page 83h."""
        return self._identity

    # Data

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        """False: nothing is here."""
        return False

    def write_nowait(self, buffers: Sequence[Buffer], offset_bytes: int) -> bool:
        """False: nothing is here."""
        return False

    def cached(self, offset_bytes: int, length_bytes: int) -> bool:
        """False: it has no descriptor."""
        return False

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        """Fill the buffer; fires when it is full."""
        refusal = self._check("read", offset_bytes, buffer.nbytes)
        if refusal is not None:
            return fail(refusal)
        return self._call("read", offset_bytes, self._unit.read_into(offset_bytes // self._block_bytes, buffer))

    def write_from(self, buffers: Sequence[Buffer], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        """Write the buffers one after the other; fires when they are written, with `fua` when they are durable."""
        refusal = self._check_write("write", offset_bytes, sum(map(len, buffers)))
        if refusal is not None:
            return fail(refusal)
        return self._call("write", offset_bytes, self._write(buffers, offset_bytes, fua))

    async def _write(self, buffers: Sequence[Buffer], offset_bytes: int, fua: bool) -> None:
        durable = fua and self.capabilities.volatile_cache
        views = [memoryview(buffer) for buffer in buffers]
        data = views[0] if len(views) == 1 else views
        await self._unit.write(offset_bytes // self._block_bytes, data, fua=durable and self._fua)
        if durable and not self._fua:
            await self._unit.flush()

    def flush(self) -> Deferred[None]:
        """Fires when all writes that were acknowledged before the call are durable."""
        refusal = self._check("flush", 0, 0)
        if refusal is not None:
            return fail(refusal)
        return succeed(None) if self.read_only else self._call("flush", 0, self._flush())

    async def _flush(self) -> None:
        was_flushed, self._is_flushed = self._is_flushed, True
        try:
            await self._unit.flush()
        except BaseException:
            self._is_flushed = was_flushed
            raise

    def unmap(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Give the range back to the target; it reads as zeros. Fails with EOPNOTSUPP without `discard`."""
        refusal = self._check_write("unmap", offset_bytes, length_bytes)
        if refusal is None and not self.capabilities.discard:
            refusal = StorageError("unmap", errno.EOPNOTSUPP, where=self.url, offset_bytes=offset_bytes)
        if refusal is not None:
            return fail(refusal)
        return self._call("unmap", offset_bytes, self._zero(offset_bytes, length_bytes, unmap=True))

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Make the range read as zeros; its blocks keep their place, or get one."""
        refusal = self._check_write("write zeroes", offset_bytes, length_bytes)
        if refusal is not None:
            return fail(refusal)
        return self._call("write zeroes", offset_bytes, self._zero(offset_bytes, length_bytes, unmap=False))

    async def _zero(self, offset_bytes: int, length_bytes: int, *, unmap: bool) -> None:
        if self._writes_same:
            try:
                await self._unit.write_same(*self._blocks(offset_bytes, length_bytes), unmap=unmap)
            except CommandFailed as failed:
                if failed.sense_key != SenseKey.ILLEGAL_REQUEST or unmap:
                    raise
            else:
                return
        zeros = memoryview(bytes(min(_ZEROS_BYTES, length_bytes)))
        for at in range(0, length_bytes, _ZEROS_BYTES):
            await self._unit.write((offset_bytes + at) // self._block_bytes, zeros[: length_bytes - at])

    def read_compared(self, offset_bytes: int) -> Deferred[bytes]:
        """Fires with a block; see `ComparingDisk`."""
        block = bytearray(COMPARED_BLOCK_BYTES)
        return self.read_into(memoryview(block), offset_bytes).addCallback(lambda _: bytes(block))

    def compare_and_write(self, offset_bytes: int, expected: bytes, new: bytes) -> Deferred[None]:
        """Write a block if it holds another one, by COMPARE AND WRITE of the LUN's first block of it; see
        `ComparingDisk`. Fails with EOPNOTSUPP where the target does not have that command."""
        refusal = self._check_write("compare and write", offset_bytes, len(new))
        if refusal is not None:
            return fail(refusal)
        size = min(self._block_bytes, len(new))
        return self._call("compare and write", offset_bytes, self._compare(offset_bytes, expected[:size], new[:size]))

    async def _compare(self, offset_bytes: int, expected: bytes, new: bytes) -> None:
        try:
            await self._unit.compare_and_write(offset_bytes // self._block_bytes, expected, new)
        except Miscompare as error:
            raise differs(self.url, offset_bytes) from error
        except UnsupportedCommand as error:
            why = "the target has no COMPARE AND WRITE, by which nodes share a disk"
            raise StorageError("compare and write", errno.EOPNOTSUPP, where=self.url, why=why) from error
        if self.capabilities.volatile_cache:
            await self._unit.flush()

    # What it knows

    def allocation(
        self, offset_bytes: int, length_bytes: int, most_runs: int = MAX_RUNS
    ) -> Deferred[list[tuple[int, int, bool]]]:
        """Fires with runs of what GET LBA STATUS says; all is allocated where the target does not have that."""
        refusal = self._check_range("read", offset_bytes, length_bytes)
        if refusal is not None:
            return fail(refusal)
        if not self._provisioned or not self.capabilities.discard or not length_bytes:
            return succeed([(offset_bytes, length_bytes, True)] if length_bytes else [])
        most = max(1, min(most_runs, MAX_RUNS))
        return self._call("read", offset_bytes, self._runs(offset_bytes, length_bytes, most))

    async def _runs(self, offset_bytes: int, length_bytes: int, most: int) -> list[tuple[int, int, bool]]:
        size, end_bytes = self._block_bytes, offset_bytes + length_bytes
        first = offset_bytes // size
        try:
            found = await self._unit.get_lba_status(first, -(-end_bytes // size) - first, most=most)
        except CommandFailed as failed:
            if failed.sense_key != SenseKey.ILLEGAL_REQUEST:
                raise
            self._provisioned = False
            return [(offset_bytes, length_bytes, True)]
        runs = []
        for run in found:
            begin, end = max(run.lba * size, offset_bytes), min(run.end * size, end_bytes)
            runs.append((begin, end - begin, run.status is not ProvisioningStatus.DEALLOCATED))
        return runs

    def prefetch(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Have the target read ahead (PRE-FETCH with IMMED); fires at once, whatever that comes to."""
        refusal = self._check_range("read", offset_bytes, length_bytes)
        if refusal is not None:
            return fail(refusal)
        if self._prefetches and length_bytes:
            lba, blocks = self._blocks(offset_bytes, length_bytes)
            cdb = bytes((_PREFETCH_16, _IMMEDIATE)) + lba.to_bytes(8) + min(blocks, 0xFFFFFFFF).to_bytes(4) + bytes(2)
            self._call("read", offset_bytes, self._unit.command(cdb)).addErrback(self._prefetch_failed)
        return succeed(None)

    def _prefetch_failed(self, failure: Failure) -> None:
        error = failure.value
        if isinstance(error, StorageError) and error.errno in (errno.EOPNOTSUPP, errno.EINVAL):
            self._prefetches = False

    def allocated_bytes(self) -> Deferred[int | None]:
        """Fires with None: the target knows, and does not tell."""
        refusal = self._check_range("read", 0, 0)
        return fail(refusal) if refusal is not None else succeed(None)

    def resize(self, size_bytes: int | None, *, full: bool = False) -> Deferred[int]:
        """Take the size that the LUN has by now; fires with it. Another one is the target's to give."""
        refusal = self._check_range("resize", 0, 0)
        if refusal is None and size_bytes is not None:
            why = "the size of a LUN is its target's to change"
            refusal = StorageError("resize", errno.EOPNOTSUPP, where=self.url, why=why)
        if refusal is not None:
            return fail(refusal)
        return self._call("resize", 0, self._resize())

    async def _resize(self) -> int:
        capacity = await self._unit.read_capacity()
        if capacity.block_bytes != self._block_bytes:
            why = f"its blocks have {capacity.block_bytes} bytes by now, and had {self._block_bytes}"
            raise StorageError("resize", errno.EINVAL, where=self.url, why=why)
        self.size_bytes = capacity.size_bytes
        return self.size_bytes

    # Who may write

    def join(self, node: str, number: int = 0) -> Deferred[None]:
        """Take the place of a node; see `FencingDisk`."""
        return self._call("join", 0, self._join(node))

    async def _join(self, node: str) -> None:
        await self._fence.join(node)
        self._calls.watching = True
        # What of this node might land late must be what the target refuses.
        self._writes_same = await self._fence.writes_same_off()
        # Before, the target may have refused to tell.
        device_specific, _ = await mode_of(self._unit)
        self._fua = bool(device_specific & DPOFUA)

    def fence(self, node: str, number: int = 0) -> Deferred[FenceProof]:
        """Keep a node off; see `FencingDisk`."""
        return self._call("fence", 0, self._keep_off(node))

    async def _keep_off(self, node: str) -> FenceProof:
        seen = await self._fence.fence(node)
        return FenceProof(PERSISTENT_RESERVATION, node, seen, time.clock_gettime(time.CLOCK_BOOTTIME))

    def is_gone(self, node: str, number: int = 0) -> Deferred[bool]:
        """False: who has no registration may have commands under way by one that it had."""
        return succeed(False)

    def leave(self) -> Deferred[None]:
        """Give the place up; see `FencingDisk`."""
        return self._call("leave", 0, self._leave())

    async def _leave(self) -> None:
        await self._fence.leave()
        self._calls.watching = False

    # The end

    def close(self) -> Deferred[None]:
        """Refuse new work, wait for what is under way, flush, and log out. Closing twice is no error."""
        if self._closed:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closers.append(closed)
        if not self._is_closing:
            self._is_closing = True
            Deferred.fromCoroutine(self._close()).addBoth(self._tell_closers)
        return closed

    async def _close(self) -> None:
        await self._calls.when_idle()
        try:
            if not self._is_flushed:
                await self._unit.flush()
        except InitiatorError as error:
            raise storage_error("close", error, where=self.url) from error
        finally:
            await self._unit.close()

    def _tell_closers(self, result: Any) -> None:
        self._closed = True
        closers, self._closers = self._closers, []
        for closed in closers:
            closed.callback(result)

    # How

    def _blocks(self, offset_bytes: int, length_bytes: int) -> tuple[int, int]:
        return offset_bytes // self._block_bytes, length_bytes // self._block_bytes

    def _call(self, operation: str, offset_bytes: int, work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        return self._calls.run(operation, offset_bytes, work)

    def _ask(self) -> None:
        """Have the LUN tell what is new, to `_attention`."""
        Deferred.fromCoroutine(self._unit.test_unit_ready()).addErrback(lambda _: None)

    def _check_range(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        if self._is_closing:
            return StorageError(operation, errno.EBADF, where=self.url, why="the disk is closed")
        return check_range(operation, self.url, self.size_bytes, offset_bytes, length_bytes)

    def _check(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        refusal = self._check_range(operation, offset_bytes, length_bytes)
        if refusal is None and (offset_bytes % self._block_bytes or length_bytes % self._block_bytes):
            why = f"{length_bytes} bytes there are not whole blocks of {self._block_bytes}"
            return StorageError(operation, errno.EINVAL, where=self.url, offset_bytes=offset_bytes, why=why)
        return refusal

    def _check_write(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        if self.read_only:
            return StorageError(operation, errno.EROFS, where=self.url, offset_bytes=offset_bytes)
        self._is_flushed = False
        return self._check(operation, offset_bytes, length_bytes)

    def _attention(self, sense: Sense) -> None:
        """News of the LUN."""
        match sense.asc, sense.ascq:
            case (0x2A, 0x09):  # CAPACITY DATA HAS CHANGED
                self.log.warn("{url}: has another size by now; csvd lun resize takes it over", url=self.url)
            case (0x2A, 0x03 | 0x05) if self._fence.node:  # RESERVATIONS PREEMPTED, REGISTRATIONS PREEMPTED
                node = self._fence.node
                self.log.critical("{url}: {node} was fenced: {sense}", url=self.url, node=node, sense=str(sense))
                self._calls.aborted(was_fenced=True)
            case (0x29, 0x03) | (
                0x2F,
                0x00,
            ):  # a reset, or tasks cleared, by another initiator
                self.log.warn("{url}: {sense}", url=self.url, sense=str(sense))
                self._calls.aborted(was_fenced=False)
            case _:
                self.log.info("{url}: {sense}", url=self.url, sense=str(sense))
