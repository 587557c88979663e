"""Answers what the kernel asks of the file: many requests at once, on any reactor with addReader."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Coroutine
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from initiator.fuse import protocol
from initiator.fuse.disk_file import DiskFile, errno_of
from initiator.fuse.protocol import FILE, ROOT, FallocateMode, InitFlag, OpenFlag, Operation, Owner

MAX_TRANSFER_BYTES: Final = 1 << 20
"""The longest read and write that the kernel is told to ask for."""

MAX_REQUESTS: Final = 48
"""Reads and writes under way at once; each has a buffer of MAX_TRANSFER_BYTES, made when it is first needed."""

REQUESTS_A_PASS: Final = 16
"""Requests taken before the reactor's other work gets its turn."""

VALID_S: Final = 1
"""How long the kernel may believe what it was told of names and sizes; a disk may grow."""

_HEAD: Final = protocol.IN_HEADER.size
_WANTED: Final = InitFlag.ASYNC_READ | InitFlag.BIG_WRITES | InitFlag.ASYNC_DIO | InitFlag.MAX_PAGES
_FORGETS: Final = (Operation.FORGET, Operation.BATCH_FORGET, Operation.INTERRUPT)
_CHANGES: Final = frozenset(
    (
        *(Operation.SYMLINK, Operation.MKNOD, Operation.MKDIR, Operation.UNLINK, Operation.RMDIR),
        *(Operation.RENAME, Operation.RENAME2, Operation.LINK, Operation.CREATE),
    )
)


class FuseServer:
    """A mounted file system with one file in it: an IReadDescriptor of its own to the reactor.

    ``ended`` fires when the file system is unmounted, by whomever.

    Args:
        descriptor: what :func:`initiator.fuse.mount.mount` gave; closed in the end.
        file: what is read and written.
        name: the name of the file.
        owner: to whom it belongs.
        direct: past the kernel's page cache, for a disk that others write, too.
    """

    def __init__(
        self, descriptor: int, file: DiskFile, *, name: str, owner: Owner, direct: bool = False, reactor: Any
    ) -> None:
        self.ended: Deferred[None] = Deferred()
        self.log = Logger()
        self._descriptor = descriptor
        self._file = file
        self._name = os.fsencode(name)
        self._owner = owner
        self._open_flags = OpenFlag.DIRECT_IO | OpenFlag.PARALLEL_DIRECT_WRITES if direct else OpenFlag(0)
        self._reactor = reactor
        self._head = bytearray(protocol.REQUEST_HEAD_BYTES)
        self._free: list[bytearray] = []
        self._made = 0
        self._under_way = 0
        self._idle: Deferred[None] | None = None
        self._reading = False
        self._closing = False
        self._answers: dict[int, Callable[[int, int, bytes], bytes]] = {
            Operation.INIT: self._init,
            Operation.LOOKUP: self._lookup,
            Operation.GETATTR: lambda node, unique, body: self._attributes(node),
            Operation.SETATTR: self._set_attributes,
            Operation.OPEN: self._open,
            Operation.OPENDIR: lambda node, unique, body: protocol.OPEN_OUT.pack(0, 0, 0),
            Operation.READDIR: self._read_directory,
            Operation.STATFS: lambda node, unique, body: protocol.statfs(file.size_bytes),
            Operation.RELEASE: lambda node, unique, body: b"",
            Operation.RELEASEDIR: lambda node, unique, body: b"",
            Operation.FSYNCDIR: lambda node, unique, body: b"",
            Operation.DESTROY: lambda node, unique, body: b"",
        }

    def start(self) -> None:
        """Begin to answer."""
        self._watch(True)

    async def close(self) -> None:
        """Answer what is under way, and take no more. The kernel lets what it still has to ask fail."""
        self._closing = True
        self._watch(False)
        if self._under_way:
            self._idle = Deferred()
            await self._idle
        self._end()

    # --- IReadDescriptor

    def fileno(self) -> int:
        """Give the descriptor; -1 when it is closed."""
        return self._descriptor

    def logPrefix(self) -> str:  # noqa: N802 - the name of ILoggingContext
        """Give the prefix of log lines."""
        return "fuse"

    def connectionLost(self, reason: Any) -> None:  # noqa: N802 - the name of IFileDescriptor
        """The reactor found the descriptor dead: it was unmounted. Or it is shutting down."""
        self._end()

    def doRead(self) -> None:  # noqa: N802 - the name of IReadDescriptor
        """Take requests, as many as there are buffers for."""
        for _ in range(REQUESTS_A_PASS):
            if self._descriptor < 0 or not self._reading:
                return
            if not self._free:
                if self._made == MAX_REQUESTS:
                    self._watch(False)  # until one is given back
                    return
                self._made += 1
                self._free.append(bytearray(MAX_TRANSFER_BYTES + 4096))
            try:
                count = os.readv(self._descriptor, (self._head, self._free[-1]))
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in (errno.EINTR, errno.ENOENT):  # the request was interrupted before we had it
                    continue
                self._end()  # ENODEV: unmounted
                return
            self._request(count)

    def _watch(self, wanted: bool) -> None:
        if wanted is self._reading or self._descriptor < 0:
            return
        self._reading = wanted
        if wanted:
            self._reactor.addReader(self)
        else:
            self._reactor.removeReader(self)

    def _end(self) -> None:
        if self._descriptor < 0:
            return
        self._watch(False)
        os.close(self._descriptor)
        self._descriptor = -1
        self.ended.callback(None)

    # --- requests

    def _request(self, count: int) -> None:
        _, operation, unique, node, *_ = protocol.IN_HEADER.unpack_from(self._head)
        if operation == Operation.READ:
            _, offset, size = protocol.MOVE_IN.unpack_from(self._head, _HEAD)
            self._move(unique, self._read(unique, offset, *self._take(size)))
        elif operation == Operation.WRITE:
            _, offset, size = protocol.MOVE_IN.unpack_from(self._head, _HEAD)
            self._move(unique, self._write(unique, offset, *self._take(size)))
        elif operation == Operation.FSYNC:
            self._move(unique, self._flush(unique))
        elif operation == Operation.FALLOCATE:
            _, offset, length, mode, _ = protocol.FALLOCATE_IN.unpack_from(self._head, _HEAD)
            self._move(unique, self._allocate(unique, offset, length, mode))
        elif operation not in _FORGETS:  # they have no answer
            self._answer_at_once(operation, unique, node, count)

    def _answer_at_once(self, operation: int, unique: int, node: int, count: int) -> None:
        spilled = max(count - len(self._head), 0)
        body = bytes(self._head[_HEAD : min(count, len(self._head))]) + bytes(self._free[-1][:spilled])
        answer = self._answers.get(operation)
        try:
            if answer is None:
                raise OSError(errno.EPERM if operation in _CHANGES else errno.ENOSYS, "")
            self._reply(unique, answer(node, unique, body))
        except OSError as error:
            self._refuse(unique, error.errno or errno.EIO)

    def _take(self, size: int) -> tuple[bytearray, memoryview]:
        buffer = self._free.pop()
        return buffer, memoryview(buffer)[:size]

    def _give(self, buffer: bytearray) -> None:
        self._free.append(buffer)
        if not self._closing:
            self._watch(True)

    def _move(self, unique: int, work: Coroutine[Deferred[Any], Any, None]) -> None:
        """Have a request answered that takes its time; ``work`` ends with the answer given."""
        self._under_way += 1
        Deferred.fromCoroutine(work).addErrback(self._failed, unique).addCallback(self._moved)

    def _moved(self, _: None) -> None:
        self._under_way -= 1
        if self._idle is not None and not self._under_way:
            self._idle.callback(None)

    def _failed(self, failure: Failure, unique: int) -> None:
        error: Any = failure.value
        number = errno_of(error)
        if number == errno.EIO:
            self.log.warn("{what}", what=str(error))
        self._refuse(unique, number)

    async def _read(self, unique: int, offset: int, buffer: bytearray, view: memoryview) -> None:
        try:
            count = await self._file.read_into(offset, view)
            self._reply(unique, view[:count])
        finally:
            self._give(buffer)

    async def _write(self, unique: int, offset: int, buffer: bytearray, view: memoryview) -> None:
        try:
            count = await self._file.write(offset, view)
        finally:
            self._give(buffer)
        self._reply(unique, protocol.WRITE_OUT.pack(count, 0))

    async def _flush(self, unique: int) -> None:
        await self._file.flush()
        self._reply(unique)

    async def _allocate(self, unique: int, offset: int, length: int, mode: int) -> None:
        if mode & ~(FallocateMode.KEEP_SIZE | FallocateMode.PUNCH_HOLE | FallocateMode.ZERO_RANGE) or not mode & (
            FallocateMode.PUNCH_HOLE | FallocateMode.ZERO_RANGE
        ):
            raise OSError(errno.EOPNOTSUPP, "no blocks are allocated ahead")
        if not mode & FallocateMode.KEEP_SIZE and offset + length > self._file.size_bytes:
            raise OSError(errno.EFBIG, "a disk does not grow")
        await self._file.zero(offset, length)
        self._reply(unique)

    # --- answers

    def _reply(self, unique: int, data: bytes | memoryview = b"") -> None:
        self._send(protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size + len(data), 0, unique), data)

    def _refuse(self, unique: int, number: int) -> None:
        self._send(protocol.OUT_HEADER.pack(protocol.OUT_HEADER.size, -number, unique))

    def _send(self, header: bytes, data: bytes | memoryview = b"") -> None:
        if self._descriptor < 0:
            return
        try:
            os.writev(self._descriptor, (header, data))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):  # interrupted meanwhile, or unmounted
                self.log.warn("an answer was not taken: {error}", error=str(error))

    def _init(self, node: int, unique: int, body: bytes) -> bytes:
        major, minor, read_ahead, flags = protocol.INIT_IN.unpack_from(body)
        if major != protocol.MAJOR or minor < protocol.OLDEST_MINOR:
            raise OSError(errno.EPROTO, "a kernel before Linux 4.20")
        return protocol.INIT_OUT.pack(
            protocol.MAJOR,
            min(minor, protocol.MINOR),
            min(read_ahead, MAX_TRANSFER_BYTES),
            flags & _WANTED,
            MAX_REQUESTS,
            MAX_REQUESTS * 3 // 4,
            MAX_TRANSFER_BYTES,
            1,
            MAX_TRANSFER_BYTES // 4096,
            0,
            0,
        )

    def _attributes(self, node: int) -> bytes:
        return protocol.attr_out(VALID_S, self._attr(node))

    def _attr(self, node: int) -> bytes:
        if node not in (ROOT, FILE):
            raise OSError(errno.ENOENT, "")
        return protocol.attributes(node, self._file.size_bytes, self._owner)

    def _lookup(self, node: int, unique: int, body: bytes) -> bytes:
        if node != ROOT or body.rstrip(b"\0") != self._name:
            raise OSError(errno.ENOENT, "")
        return protocol.entry(FILE, VALID_S, self._attr(FILE))

    def _set_attributes(self, node: int, unique: int, body: bytes) -> bytes:
        valid, _, _, size = protocol.SETATTR_IN.unpack_from(body)
        # What opens the file to write it anew truncates it first. As with a block device, that changes nothing.
        if valid & protocol.SIZE_VALID and size not in (0, self._file.size_bytes):
            raise OSError(errno.EFBIG if size > self._file.size_bytes else errno.EPERM, "")
        return self._attributes(node)

    def _open(self, node: int, unique: int, body: bytes) -> bytes:
        flags, _ = protocol.OPEN_IN.unpack_from(body)
        if self._file.read_only and flags & os.O_ACCMODE != os.O_RDONLY:
            raise OSError(errno.EROFS, "")
        return protocol.OPEN_OUT.pack(0, self._open_flags, 0)

    def _read_directory(self, node: int, unique: int, body: bytes) -> bytes:
        _, offset, size = protocol.MOVE_IN.unpack_from(body)
        return protocol.directory(((b".", ROOT), (b"..", ROOT), (self._name, FILE)), offset, size)
