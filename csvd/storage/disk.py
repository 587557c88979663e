"""What a disk is: one small interface, what it can do of itself, and the error of every failure."""

from __future__ import annotations

import errno as error_numbers
import os
from collections.abc import Sequence
from dataclasses import dataclass
from mmap import mmap
from typing import Final, Protocol, TypeAlias, runtime_checkable

from twisted.internet.defer import Deferred

from csvd.errors import CsvdError
from csvd.shared_disk import FenceProof

MAX_RUNS: Final = 1024
"""Runs that one question about allocation is answered with."""

FENCED: Final = error_numbers.EBADE
"""The `errno` of what a node may not do to a disk: it was fenced, or others have joined the disk and it has not. A
store may refuse the reads of a fenced node, too, as Ceph does."""

DIFFERS: Final = error_numbers.EILSEQ
"""The `errno` of a block that is not what it was compared with, as Ceph and the kernel have it."""

COMPARED_BYTES: Final = 512
"""What can be compared and written in one step, whatever the sectors of the disk are."""

COMPARED_BLOCK_BYTES: Final = 4096
"""The block that has them, whatever the pages of the host are."""

Buffer: TypeAlias = bytes | bytearray | memoryview | mmap


class StorageError(CsvdError):
    """A disk did not do what it was asked.

    Attributes:
        errno: why, an `errno` number. EIO too for a read that the disk is too short for.
        operation: "read", "write", "flush", "unmap", "write zeroes", "resize", "allocate",
            "compare and write", "join", "fence", "leave" or "close".
        offset_bytes: where on the disk; of a transfer, the first byte that was not transferred.
    """

    def __init__(self, operation: str, errno: int, *, where: str, offset_bytes: int = 0, why: str = "") -> None:
        self.errno = errno
        self.operation = operation
        self.offset_bytes = offset_bytes
        super().__init__(
            f"{operation} at byte {offset_bytes} failed", where=where, why=why or os.strerror(errno) or f"errno {errno}"
        )


@dataclass(frozen=True, slots=True)
class DiskCapabilities:
    """What a disk can do, as its opener found out.

    Args:
        discard: it is sparse: `unmap` gives space back where it is not read-only, and what was unmapped reads as zeros.
        write_zeroes: `write_zeroes` is faster than writing zeros.
        volatile_cache: a write may be lost with the power before a flush.
        fence: how a dead node can be kept off it; "none" where that takes waiting for its lease.
        shared_between: who may use it at once: "processes of a host" or "hosts".
        physical_block_bytes: the unit in which it writes; smaller writes cost a read.
        keeps_data: what was written can be read again: of every disk but one for measuring.
    """

    discard: bool
    write_zeroes: bool
    volatile_cache: bool
    fence: str
    shared_between: str
    physical_block_bytes: int
    keeps_data: bool = True


class Disk(Protocol):
    """A block store. Failures are `StorageError`s, of the Deferred, never raised.

    A buffer belongs to the disk from the call until its Deferred fires, also when the caller cancels the Deferred.
    """

    @property
    def url(self) -> str:
        """The name it was opened by."""

    @property
    def size_bytes(self) -> int:
        """Its size."""

    @property
    def read_only(self) -> bool:
        """Whether writes fail with EROFS."""

    @property
    def capabilities(self) -> DiskCapabilities:
        """What it can do."""

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        """Fill the buffer without blocking.

        Returns:
            True when the whole range was served. False: nothing may be assumed of the buffer, use `read_into`.
        """

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        """Fill the buffer; fires when it is full."""

    def write_from(self, buffers: Sequence[Buffer], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        """Write the buffers one after the other; fires when they are written, with `fua` when they are durable."""

    def cached(self, offset_bytes: int, length_bytes: int) -> bool:
        """Whether the page cache has all of a range, so that sendfile from the disk's descriptor need not wait.

        False where nobody can tell, and of a disk without a descriptor.
        """

    def write_nowait(self, buffers: Sequence[Buffer], offset_bytes: int) -> bool:
        """Write the buffers one after the other without blocking, as `write_from` without `fua` would.

        Returns:
            True when all is written. False: perhaps a part of it is, use `write_from`, which also tells what is wrong.
        """

    def flush(self) -> Deferred[None]:
        """Fires when all writes that were acknowledged before the call are durable."""

    def unmap(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Give the range back to the store; it reads as zeros. Fails with EOPNOTSUPP without `discard`."""

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Make the range read as zeros; the fastest way that keeps the promise."""

    def allocation(
        self, offset_bytes: int, length_bytes: int, most_runs: int = MAX_RUNS
    ) -> Deferred[list[tuple[int, int, bool]]]:
        """Fires with runs (offset_bytes, length_bytes, allocated) of a range, ascending and without gaps; all that is
        not known to be unallocated counts as allocated. The first run begins at the offset; the last may end before the
        range does. There are at most `most_runs`, and never more than `MAX_RUNS`."""

    def prefetch(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Have a range at hand soon; fires at once. What can not be had does not matter."""

    def allocated_bytes(self) -> Deferred[int | None]:
        """Fires with how many bytes of the store the disk takes, or None where nobody knows."""

    def identity(self) -> str:
        """A name of the disk that is the same after any restart and on every node."""

    def close(self) -> Deferred[None]:
        """Refuse new work, wait for what is under way, flush, and let go. Closing twice is no error."""


@runtime_checkable
class ResizableDisk(Protocol):
    """A disk whose size can change while it is open."""

    def resize(self, size_bytes: int | None, *, full: bool = False) -> Deferred[int]:
        """Take another size, or with None the one that its store has by now; fires with it. ``full`` has the store
        allocate what is added."""


@runtime_checkable
class FencingDisk(Protocol):
    """A disk from which a node can be kept off: one that is dead, or that nobody hears of any more.

    Nodes are known by their names, and by their numbers as members of a cluster (1 to 32), the same on every node.
    Locks go by the number, all else goes by the name. A node joins before it writes what others write, too. Failures
    are `StorageError`s, and `NotProven`, of the Deferred: after one it is unknown whether the node is fenced, and
    asking again does no harm.
    """

    def join(self, node: str, number: int = 0) -> Deferred[None]:
        """Take the place of a node on the disk: from now on this process writes as that node.

        Joining anew under the same name is no error. It ends a fence of this node: the caller must know that whoever
        fenced it agrees. Fails with EINVAL where the process has joined under another name; with EBUSY where locks
        fence and another process has the place.
        """

    def fence(self, node: str, number: int = 0) -> Deferred[FenceProof]:
        """Keep a node off. Fires when none of its writes can land any more, also none that it has sent already.

        Reservations and blocklists do that to a node whatever it is at: stopped, cut off, or alive. Its writes fail
        with errno FENCED, or ESHUTDOWN; its reads may go on. Locks wait for its process to end, or to leave: until then
        this fails with `NotProven`, and nothing was done.

        To fence one that is fenced, or that never joined, is no error. Fails with EINVAL where this process has not
        joined, or would fence itself; with FENCED where it was fenced itself.
        """

    def is_gone(self, node: str, number: int = 0) -> Deferred[bool]:
        """Whether a node is seen to have no place, by a look that changes nothing. False is no news where reservations
        and blocklists fence: there nobody looks."""

    def leave(self) -> Deferred[None]:
        """Give the place up, when the writes under way have ended; nobody need fence this node any more. Who is fenced
        stays so. Leaving twice, or without having joined, is no error."""


@runtime_checkable
class ComparingDisk(Protocol):
    """A disk that compares and writes a block in one step, among all hosts that use it.

    A block is `COMPARED_BLOCK_BYTES`, at a multiple of that, of which only the first `COMPARED_BYTES` may be other than
    0. It is written by this alone.
    """

    def read_compared(self, offset_bytes: int) -> Deferred[bytes]:
        """Fires with the block as it is now."""

    def compare_and_write(self, offset_bytes: int, expected: bytes, new: bytes) -> Deferred[None]:
        """Write the new block if it holds the expected one; fires when it is durable. Fails with errno `DIFFERS`, and
        nothing was written, if it does not; of any other failure it is unknown whether it was written."""


def differs(url: str, offset_bytes: int) -> StorageError:
    """The error of a block that is not what it was compared with."""
    why = "the block is not what it was compared with"
    return StorageError("compare and write", DIFFERS, where=url, offset_bytes=offset_bytes, why=why)


def check_range(operation: str, url: str, size_bytes: int, offset_bytes: int, length_bytes: int) -> StorageError | None:
    """The error of a range that is not within a disk of this size, None for one that is."""
    if 0 <= offset_bytes <= offset_bytes + length_bytes <= size_bytes:
        return None
    return StorageError(
        operation,
        error_numbers.EINVAL,
        where=url,
        offset_bytes=offset_bytes,
        why=f"{length_bytes} bytes there are not within the {size_bytes} bytes of the disk",
    )
