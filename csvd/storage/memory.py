"""MemoryDisk: a disk in anonymous memory, for tests and for measuring what is above it. Everything is done at once."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from mmap import mmap

from twisted.internet.defer import Deferred, fail, succeed

from csvd.errors import ConfigError
from csvd.storage.disk import (
    COMPARED_BLOCK_BYTES,
    DIFFERS,
    MAX_RUNS,
    Buffer,
    DiskCapabilities,
    StorageError,
    check_range,
)


class MemoryDisk:
    """A disk in memory; it is sparse: pages that were never written take no memory.

    Args:
        size_bytes: its size, at least 1.
        url: its name in errors.
        read_only: writes fail with EROFS.

    Raises:
        ConfigError: the system has not so much memory to give.
    """

    def __init__(self, size_bytes: int, *, url: str = "memory:", read_only: bool = False) -> None:
        self.url = url
        self.size_bytes = size_bytes
        self.read_only = read_only
        self.capabilities = DiskCapabilities(
            discard=True,
            write_zeroes=True,
            volatile_cache=False,
            fence="none",
            shared_between="processes of a host",
            physical_block_bytes=512,
        )
        try:
            self._memory = mmap(-1, size_bytes)
        except (OSError, ValueError, OverflowError) as error:
            raise ConfigError(f"{size_bytes} bytes cannot be had", where=url, why=str(error)) from error
        self._closed = False

    def identity(self) -> str:
        """Its name."""
        return self.url

    def read_nowait(self, buffer: memoryview, offset_bytes: int) -> bool:
        """Fill the buffer; False for a range outside the disk."""
        if self._check("read", offset_bytes, buffer.nbytes) is not None:
            return False
        buffer[:] = self._memory[offset_bytes : offset_bytes + buffer.nbytes]
        return True

    def read_into(self, buffer: memoryview, offset_bytes: int) -> Deferred[None]:
        """Fill the buffer."""
        refusal = self._check("read", offset_bytes, buffer.nbytes)
        if refusal is not None:
            return fail(refusal)
        self.read_nowait(buffer, offset_bytes)
        return succeed(None)

    def write_from(self, buffers: Sequence[Buffer], offset_bytes: int, *, fua: bool = False) -> Deferred[None]:
        """Write the buffers one after the other."""
        refusal = self._check_write("write", offset_bytes, sum(map(len, buffers)))
        if refusal is not None:
            return fail(refusal)
        self._write(buffers, offset_bytes)
        return succeed(None)

    def cached(self, offset_bytes: int, length_bytes: int) -> bool:
        """False: it has no descriptor."""
        return False

    def write_nowait(self, buffers: Sequence[Buffer], offset_bytes: int) -> bool:
        """Write the buffers one after the other; False for a range outside the disk, or where it can not be written."""
        if self._check_write("write", offset_bytes, sum(map(len, buffers))) is not None:
            return False
        self._write(buffers, offset_bytes)
        return True

    def flush(self) -> Deferred[None]:
        """Nothing to do: it is as durable as it gets."""
        refusal = self._check("flush", 0, 0)
        return fail(refusal) if refusal is not None else succeed(None)

    def unmap(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Make the range read as zeros."""
        return self._zero("unmap", offset_bytes, length_bytes)

    def write_zeroes(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Make the range read as zeros."""
        return self._zero("write zeroes", offset_bytes, length_bytes)

    def allocation(
        self, offset_bytes: int, length_bytes: int, most_runs: int = MAX_RUNS
    ) -> Deferred[list[tuple[int, int, bool]]]:
        """All of it is allocated as far as anybody knows."""
        refusal = self._check("read", offset_bytes, length_bytes)
        return fail(refusal) if refusal is not None else succeed([(offset_bytes, length_bytes, True)])

    def prefetch(self, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        """Memory is at hand."""
        return succeed(None)

    def allocated_bytes(self) -> Deferred[int | None]:
        """Nobody knows."""
        return succeed(None)

    def read_compared(self, offset_bytes: int) -> Deferred[bytes]:
        """Fires with a block; see `ComparingDisk`."""
        block = bytearray(COMPARED_BLOCK_BYTES)
        return self.read_into(memoryview(block), offset_bytes).addCallback(lambda _: bytes(block))

    def compare_and_write(self, offset_bytes: int, expected: bytes, new: bytes) -> Deferred[None]:
        """Write a block if it holds another one; see `ComparingDisk`."""
        refusal = self._check_write("compare and write", offset_bytes, len(new))
        if refusal is None and self._memory[offset_bytes : offset_bytes + len(expected)] != expected:
            refusal = StorageError("compare and write", DIFFERS, where=self.url, offset_bytes=offset_bytes)
        return fail(refusal) if refusal is not None else self.write_from((new,), offset_bytes)

    def close(self) -> Deferred[None]:
        """Refuse new work."""
        self._closed = True
        return succeed(None)

    def _write(self, buffers: Sequence[Buffer], offset_bytes: int) -> None:
        for buffer in buffers:
            self._memory[offset_bytes : offset_bytes + len(buffer)] = bytes(buffer)
            offset_bytes += len(buffer)

    def _zero(self, operation: str, offset_bytes: int, length_bytes: int) -> Deferred[None]:
        refusal = self._check_write(operation, offset_bytes, length_bytes)
        if refusal is not None:
            return fail(refusal)
        self._memory[offset_bytes : offset_bytes + length_bytes] = bytes(length_bytes)
        return succeed(None)

    def _check(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        if self._closed:
            return StorageError(operation, errno.EBADF, where=self.url, why="the disk is closed")
        return check_range(operation, self.url, self.size_bytes, offset_bytes, length_bytes)

    def _check_write(self, operation: str, offset_bytes: int, length_bytes: int) -> StorageError | None:
        if self.read_only:
            return StorageError(operation, errno.EROFS, where=self.url, offset_bytes=offset_bytes)
        return self._check(operation, offset_bytes, length_bytes)
