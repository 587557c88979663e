"""FileDisk: a regular file or a block device, through the page cache or past it."""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Callable, Sequence
from mmap import PAGESIZE
from typing import Final

from twisted.internet.defer import Deferred, fail, succeed
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.shared_disk import FenceProof
from csvd.storage.calm import Calm
from csvd.storage.direct import BounceBuffers, read_direct, write_direct
from csvd.storage.disk import (
    COMPARED_BLOCK_BYTES,
    FENCED,
    MAX_RUNS,
    Buffer,
    DiskCapabilities,
    StorageError,
    check_range,
)
from csvd.storage.file_compare import compare_and_write
from csvd.storage.file_fence import FileFence
from csvd.storage.file_jobs import FileJob, WriteJob, adjoining_writes
from csvd.storage.filesystem import Store, store_of
from csvd.storage.pool import DiskPool, Manner
from csvd.storage.ranges import (
    allocation_of,
    fill_file,
    punch_range,
    read_range,
    resize_file,
    write_range,
    zero_range,
)
from csvd.storage.resident import Residency

_log = Logger()

_RWF_NOWAIT: Final = os.RWF_NOWAIT
_FLUSHES_AT_A_TIME: Final = 64
"""After so many others have the thread, and what else must be alone on this disk."""
_CANNOT: Final = (errno.EOPNOTSUPP, errno.ENOSYS)
_PAGE_MASK: Final = PAGESIZE - 1

_MOST_INLINE_BYTES: Final = 256 << 10
"""What is longer goes to the pool: its copy keeps the loop, and a thread can make it beside."""

_WAITS_FOR_NO_READER: Final = (Store.EXT4, Store.BLOCK_DEVICE, Store.MEMORY)
"""Where a write of whole pages needs nothing that a read under way may hold: there `Calm` can tell. XFS makes writers
wait for the readers of a file, a network file system for its server."""


class FileDisk:
    """A disk over a file descriptor; `open_disk` makes it.

    Reads are served inline from the page cache where it has them, and by the pool where it has not. Writes go to the
    page cache inline where the kernel can be asked not to wait, or where `Calm` says so; else, and with all flushes, to
    the pool. All that must be durable in one batch shares one fdatasync, and no two run at once.

    When an fdatasync fails, the kernel has dropped the pages that it could not write and tells so once. Nobody can say
    then which acknowledged writes are on the disk: every later flush and every FUA write fails with the same errno,
    until the disk is opened anew. Reads and plain writes go on.

    With `direct` its descriptor is one of O_DIRECT: nothing is cached here, and every transfer goes to the pool.

    Several processes of one host may have the same file open: they share its page cache. One that has joined it as a
    node writes until it leaves, and what it would write after that fails with `FENCED`, until it joins again.
    """

    def __init__(
        self,
        fd: int,
        *,
        url: str,
        size_bytes: int,
        read_only: bool,
        capabilities: DiskCapabilities,
        identity: str,
        pool: DiskPool,
        direct: bool = False,
        calm: Calm | None = None,
        fence: FileFence | None = None,
    ) -> None:
        self.url = url
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.capabilities = capabilities
        self._fd = fd
        self._identity = identity
        self._lane = pool.lane(self._run)
        self._bounce = BounceBuffers() if direct else None
        self._can_read_nowait = not direct
        self._in_memory = False
        self._can_write_nowait = not direct and not read_only
        self._write_flags = _RWF_NOWAIT
        self._calm = calm or Calm()
        self._resident = None if direct else Residency(fd)
        self._refuses = False
        self._fence = fence or FileFence(fd, pool, url)
        self._has_left = False
        self.may_act: Callable[[], bool] | None = None
        """Asked in a thread right before it goes to the file, where this node may act for a time only; a transfer that
        is too late fails with `FENCED`."""
        self._pool = pool
        self._flushes: deque[Deferred[None]] = deque()
        """Who waits for a flush. The loop puts in, the thread that flushes takes out."""
        self._is_flushing = False
        self._closers: list[Deferred[None]] = []
        self._lost_writes: StorageError | None = None

    def fileno(self) -> int:
        """The file descriptor, for sendfile; -1 when the disk is closed."""
        return self._fd

    def identity(self) -> str:
        """A name of the disk that is the same after any restart and on every node."""
        return self._identity

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        """Fill the buffer from the page cache; False where it has not all of it."""
        if not self._can_read_nowait or offset_bytes + buffer.nbytes > self.size_bytes:
            return False
        if self._in_memory:
            return self._read_memory(buffer, offset_bytes)
        try:
            return os.preadv(self._fd, (buffer,), offset_bytes, _RWF_NOWAIT) == buffer.nbytes
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno not in _CANNOT:
                return False  # it comes again in the pool
            # tmpfs and some network file systems cannot: of these every read goes to the pool.
            self._in_memory = self._can_read_nowait = store_of(self._fd) is Store.MEMORY
            return self._in_memory and self._read_memory(buffer, offset_bytes)

    def _read_memory(self, buffer: memoryview, offset_bytes: int) -> bool:
        """From tmpfs, where only what was swapped out is waited for."""
        began_ns = self._calm.begin(0)
        if not began_ns:
            return False
        try:
            return os.preadv(self._fd, (buffer,), offset_bytes) == buffer.nbytes
        except OSError:
            return False
        finally:
            self._calm.end(began_ns)

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        """Fill the buffer; fires when it is full."""
        refusal = self._check("read", offset_bytes, buffer.nbytes)
        if refusal is not None:
            return fail(refusal)
        job = FileJob(
            lambda: self._read(buffer, offset_bytes),
            length_bytes=buffer.nbytes,
        )
        # What the page cache did not have waits for the device, so it is worth a thread of its own.
        apart = self._can_read_nowait or self._bounce is not None
        return self._lane.submit(job, Manner.APART if apart else Manner.TOGETHER)

    def write_from(self, buffers: Sequence[Buffer], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        """Write the buffers one after the other; fires when they are written, with `fua` when they are durable."""
        length_bytes = sum(map(len, buffers))
        refusal = self._check_write("write", offset_bytes, length_bytes)
        if refusal is not None:
            return fail(refusal)
        job = WriteJob(
            lambda: self._write(buffers, offset_bytes),
            buffers,
            offset_bytes,
            length_bytes=length_bytes,
            # The rest of its pages may have to be read, and whoever writes to the file waits for that.
            holds_up=bool((offset_bytes | length_bytes) & _PAGE_MASK),
        )
        written = self._lane.submit(job, Manner.TOGETHER if self._bounce is None or fua else Manner.APART)
        # It is written while another fdatasync may be under way, and shares the next one.
        return written.addCallback(self._wait_for_flush) if fua else written

    def cached(self, offset_bytes: int, length_bytes: int) -> bool:
        """Whether the page cache has all of a range, so that sendfile need not wait; never with `direct`."""
        return (
            self._resident is not None
            and not self._refuses
            and offset_bytes + length_bytes <= self.size_bytes
            and self._resident.has(offset_bytes, length_bytes)
        )

    def write_nowait(self, buffers: Sequence[Buffer], offset_bytes: int) -> bool:
        """Write the buffers to the page cache; False where that may have to wait, and for whatever else is wrong.

        Writes that wait in the pool are not waited for: who has both under way has asked for no order.
        """
        length_bytes = len(buffers[0]) if len(buffers) == 1 else sum(map(len, buffers))
        if (
            not self._can_write_nowait
            or length_bytes > _MOST_INLINE_BYTES
            or offset_bytes + length_bytes > self.size_bytes
        ):
            return False
        if self._write_flags:
            return self._write_if_nowait(buffers, offset_bytes, length_bytes)
        if self._lane.holding_up or (
            (offset_bytes | length_bytes) & _PAGE_MASK
            and not self._in_memory
            and not self._has_ends(offset_bytes, length_bytes)
        ):
            return False
        calm = self._calm
        began_ns = calm.begin(length_bytes)
        if not began_ns:
            return False
        try:
            return os.pwritev(self._fd, buffers, offset_bytes) == length_bytes
        except OSError:
            return False
        finally:
            calm.end(began_ns)

    def _write_if_nowait(self, buffers: Sequence[Buffer], offset_bytes: int, length_bytes: int) -> bool:
        """Where the kernel takes it upon itself not to wait. What it can not do is asked for once."""
        try:
            return os.pwritev(self._fd, buffers, offset_bytes, self._write_flags) == length_bytes
        except OSError as error:
            if error.errno not in _CANNOT:
                return False
        store = store_of(self._fd)
        self._in_memory = store is Store.MEMORY
        self._write_flags = 0
        if store not in _WAITS_FOR_NO_READER:
            self._can_write_nowait = False
        return self.write_nowait(buffers, offset_bytes)

    def _has_ends(self, offset_bytes: int, length_bytes: int) -> bool:
        """Whether the page cache has the pages that a range has only in part: else a write there waits for a read."""
        end = offset_bytes + length_bytes
        starts = {at & ~_PAGE_MASK for at in (offset_bytes, end) if at & _PAGE_MASK}
        byte = bytearray(1)
        try:
            return all(os.preadv(self._fd, (byte,), start, _RWF_NOWAIT) == 1 for start in starts)
        except OSError:
            return False

    def flush(self) -> Deferred[None]:
        """Fires when all writes that were acknowledged before the call are durable."""
        refusal = self._check("flush", 0, 0)
        if refusal is not None:
            return fail(refusal)
        if self.read_only:
            return succeed(None)
        flushed = self._wait_for_flush(None)
        # To a thread at once: what the loop does until its end is time that the device can use.
        self._pool.dispatch()
        return flushed

    def _wait_for_flush(self, _: None) -> Deferred[None]:
        flushed: Deferred[None] = Deferred()
        self._flushes.append(flushed)
        if not self._is_flushing:
            self._begin_flushing()
        return flushed

    def _begin_flushing(self) -> None:
        """Have a thread flush for all who wait, and go on as long as others come meanwhile: what it would cost to ask
        the loop between two of them is time in which the device does nothing."""
        self._is_flushing = True
        work = self._lane.submit(FileJob(self._flush_all), Manner.SINGLE_FILE)
        work.addBoth(self._flushing_ended)

    def _flush_all(self) -> None:
        """In a thread."""
        for _ in range(_FLUSHES_AT_A_TIME):
            waiting = [self._flushes.popleft() for _ in range(len(self._flushes))]
            if not waiting:
                return
            self._pool.tell(_tell, waiting, self._synchronize("flush"))

    def _flushing_ended(self, result: Failure | None) -> None:
        self._is_flushing = False
        if isinstance(result, Failure):
            while self._flushes:
                self._flushes.popleft().errback(result)
        elif self._flushes:
            self._begin_flushing()

    def unmap(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Give the range back to the store; it reads as zeros. Fails with EOPNOTSUPP without `discard`."""
        return self._change("unmap", punch_range, offset_bytes, length_bytes)

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Make the range read as zeros."""
        return self._change("write zeroes", zero_range, offset_bytes, length_bytes)

    def allocation(
        self, offset_bytes: int, length_bytes: int, most_runs: int = MAX_RUNS
    ) -> Deferred[list[tuple[int, int, bool]]]:
        """Fires with runs of data and holes; a block device is all data."""
        refusal = self._check("read", offset_bytes, length_bytes)
        if refusal is not None:
            return fail(refusal)
        runs: list[tuple[int, int, bool]] = []
        most = max(1, min(most_runs, MAX_RUNS))
        job = FileJob(
            lambda: runs.extend(allocation_of(self._fd, offset_bytes, length_bytes, most, self.url)), holds_up=True
        )
        return self._lane.submit(job, Manner.TOGETHER).addCallback(lambda _: runs)

    def prefetch(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Tell the kernel to read ahead (POSIX_FADV_WILLNEED, which begins to read and does not wait)."""
        refusal = self._check("read", offset_bytes, length_bytes)
        if refusal is not None:
            return fail(refusal)
        if self._bounce is not None:
            return succeed(None)  # what would be read ahead goes to the page cache, where nobody looks
        job = FileJob(lambda: os.posix_fadvise(self._fd, offset_bytes, length_bytes, os.POSIX_FADV_WILLNEED))
        self._lane.submit(job, Manner.TOGETHER).addErrback(lambda _: None)
        return succeed(None)

    def allocated_bytes(self) -> Deferred[int | None]:
        """Fires with the blocks of the file; of a block device, with its size."""
        refusal = self._check("read", 0, 0)
        if refusal is not None:
            return fail(refusal)
        found: list[int] = []

        def look() -> None:
            status = os.fstat(self._fd)
            found.append(status.st_blocks * 512 if stat.S_ISREG(status.st_mode) else self.size_bytes)

        return self._lane.submit(FileJob(look), Manner.TOGETHER).addCallback(lambda _: min(found[0], self.size_bytes))

    def resize(self, size_bytes: int | None, *, full: bool = False) -> Deferred[int]:
        """Give a file another size, durably; what lies beyond the end of a smaller one is lost. Fires with the size.

        Args:
            size_bytes: None, and any size for a block device, takes the size that it has by now.
            full: have the file system allocate what is added.
        """
        refusal = self._check("resize", 0, 0) if size_bytes is None else self._check_write("resize", 0, 0)
        if refusal is not None:
            return fail(refusal)
        before_bytes = self.size_bytes
        found: list[int] = []

        def change() -> None:
            if full and size_bytes is not None and size_bytes > before_bytes:
                fill_file(self._fd, before_bytes, size_bytes - before_bytes, self.url)
            found.append(resize_file(self._fd, size_bytes, self.url))

        def changed(_: None) -> int:
            self.size_bytes = found[0]
            return self.size_bytes

        def failed(failure: Failure) -> Failure:
            self.size_bytes = before_bytes
            return failure

        if size_bytes is not None:
            # What begins from now on beyond the new end is refused: it would make the file longer again.
            self.size_bytes = min(before_bytes, size_bytes)
        job = FileJob(change, durable=size_bytes is not None, holds_up=True)
        return self._lane.submit(job, Manner.SINGLE_FILE).addCallbacks(changed, failed)

    # Who may write

    def join(self, node: str, number: int = 0) -> Deferred[None]:
        """Take the place of a node, by its number; see `FencingDisk`."""
        refusal = self._check("join", 0, 0)
        if refusal is None and self.read_only:
            refusal = StorageError("join", errno.EROFS, where=self.url)
        return fail(refusal) if refusal is not None else self._fence.join(node, number).addCallback(self._joined)

    def _joined(self, _: None) -> None:
        if self._has_left:
            self._has_left = False
            self._can_write_nowait = self._bounce is None and self._lost_writes is None

    def fence(self, node: str, number: int = 0) -> Deferred[FenceProof]:
        """Prove that the process of a node is gone, by its number; see `FencingDisk`."""
        refusal = self._check("fence", 0, 0)
        return fail(refusal) if refusal is not None else self._fence.fence(node, number)

    def is_gone(self, node: str, number: int = 0) -> Deferred[bool]:
        """Whether no process has the place of a number; see `FencingDisk`."""
        refusal = self._check("fence", 0, 0)
        return fail(refusal) if refusal is not None else self._fence.is_gone(number)

    def leave(self) -> Deferred[None]:
        """Give the place up; see `FencingDisk`. From now on writes fail."""
        if self._refuses or not self._fence.has_place:
            return succeed(None)
        self._has_left = True
        self._can_write_nowait = False
        return self._lane.when_idle().addCallback(lambda _: self._fence.leave())

    def read_compared(self, offset_bytes: int) -> Deferred[bytes]:
        """Fires with a block; see `ComparingDisk`."""
        block = bytearray(COMPARED_BLOCK_BYTES)
        return self.read_into(memoryview(block), offset_bytes).addCallback(lambda _: bytes(block))

    def compare_and_write(self, offset_bytes: int, expected: bytes, new: bytes) -> Deferred[None]:
        """Write a block if it holds another one, by a lock of the file; see `ComparingDisk`."""
        refusal = self._check_write("compare and write", offset_bytes, len(new))
        if refusal is not None:
            return fail(refusal)
        job = FileJob(lambda: compare_and_write(self._fd, offset_bytes, expected, new, self.url), durable=True)
        return self._lane.submit(job, Manner.SINGLE_FILE)

    def close(self) -> Deferred[None]:
        """Refuse new work, wait for what is under way, flush, and close the file. Closing twice is no error."""
        if self._fd < 0:
            return succeed(None)
        closed: Deferred[None] = Deferred()
        self._closers.append(closed)
        if not self._refuses:
            self._refuses = True
            self._can_write_nowait = False
            done = self._lane.when_idle().addCallback(lambda _: self._fence.when_idle())
            done.addCallback(lambda _: self._lane.submit(FileJob(self._close_file), Manner.SINGLE_FILE))
            done.addBoth(self._tell_closers)
        return closed

    def _check(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        if self._refuses:
            return StorageError(operation, errno.EBADF, where=self.url, why="the disk is closed")
        return check_range(operation, self.url, self.size_bytes, offset_bytes, length_bytes)

    def _check_write(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        if self.read_only:
            return StorageError(operation, errno.EROFS, where=self.url, offset_bytes=offset_bytes)
        if self._has_left:
            why = "this node has left the disk"
            return StorageError(operation, FENCED, where=self.url, offset_bytes=offset_bytes, why=why)
        return self._check(operation, offset_bytes, length_bytes)

    def _change(
        self, operation: str, change: Callable[[int, int, int, str], None], offset_bytes: int, length_bytes: int
    ) -> Deferred[None]:
        refusal = self._check_write(operation, offset_bytes, length_bytes)
        if refusal is not None:
            return fail(refusal)
        if not length_bytes:
            return succeed(None)

        def make() -> None:
            self._check_may_act(operation, offset_bytes)
            change(self._fd, offset_bytes, length_bytes, self.url)

        return self._lane.submit(FileJob(make, holds_up=True), Manner.TOGETHER)

    def _check_may_act(self, operation: str, offset_bytes: int) -> None:
        """In a thread: what has waited for it may be too late."""
        if self.may_act is not None and not self.may_act():
            raise StorageError(operation, FENCED, where=self.url, offset_bytes=offset_bytes, why="the lease is out")

    def _read(self, buffer: memoryview, offset_bytes: int) -> None:
        """In a thread."""
        self._check_may_act("read", offset_bytes)
        if self._bounce is None:
            read_range(self._fd, buffer, offset_bytes, self.url)
        else:
            read_direct(self._fd, buffer, offset_bytes, self.url, self._bounce)

    def _write(self, buffers: Sequence[Buffer], offset_bytes: int) -> None:
        """In a thread."""
        self._check_may_act("write", offset_bytes)
        if self._bounce is None:
            write_range(self._fd, buffers, offset_bytes, self.url)
        else:
            write_direct(self._fd, buffers, offset_bytes, self.url, self._bounce)

    def _run(self, batch: Sequence[FileJob]) -> None:
        """In a thread: each job, then one fdatasync for all that must be durable."""
        at = 0
        while at < len(batch):
            run = adjoining_writes(batch, at)
            if len(run) < 2 or not self._write_as_one(run):
                for job in run or batch[at : at + 1]:
                    try:
                        job.work()
                    except StorageError as error:
                        job.error = error
            at += len(run) or 1
        durable = [job for job in batch if job.durable and job.error is None]
        if durable:
            lost = self._synchronize("flush")
            for job in durable:
                job.error = lost

    def _write_as_one(self, jobs: Sequence[WriteJob]) -> bool:
        """In a thread: False where it fails, for each is to fail, or not, for itself."""
        try:
            self._write([buffer for job in jobs for buffer in job.buffers], jobs[0].offset_bytes)
        except StorageError:
            return False
        return True

    def _synchronize(self, operation: str) -> StorageError | None:
        """In a thread, one at a time: fdatasync."""
        if self._lost_writes is None:
            try:
                os.fdatasync(self._fd)
            except OSError as error:
                number = error.errno or errno.EIO
                self._lost_writes = StorageError(operation, number, where=self.url)
                self._can_write_nowait = False
                _log.critical(
                    "{url}: fdatasync failed, {why}: writes may be lost; flushes fail until the disk is reopened",
                    url=self.url,
                    why=os.strerror(number),
                )
                return self._lost_writes
            return None
        number = self._lost_writes.errno
        why = f"an earlier flush failed ({os.strerror(number)}), acknowledged writes may be lost"
        return StorageError(operation, number, where=self.url, why=why)

    def _close_file(self) -> None:
        error = None if self.read_only else self._synchronize("close")
        fd, self._fd = self._fd, -1
        if self._resident is not None:
            self._resident.close()
        try:
            os.close(fd)
        except OSError as failure:
            error = error or StorageError("close", failure.errno or errno.EIO, where=self.url)
        if error is not None:
            raise error

    def _tell_closers(self, result: Failure | None) -> None:
        closers, self._closers = self._closers, []
        for closer in closers:
            if result is None:
                closer.callback(None)
            else:
                closer.errback(result)


def _tell(waiting: Sequence[Deferred[None]], error: StorageError | None) -> None:
    """A flush has ended, well or not."""
    for flushed in waiting:
        if error is None:
            flushed.callback(None)
        else:
            flushed.errback(error)
