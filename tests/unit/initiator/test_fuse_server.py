"""What the kernel asks by FUSE, asked by a test: a socket of whole messages stands for /dev/fuse."""

from __future__ import annotations

import errno
import os
import random
import socket
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from initiator.errors import SessionLost
from initiator.fuse import protocol, server
from initiator.fuse.disk_file import DiskFile
from initiator.fuse.protocol import FILE, IN_HEADER, ROOT, Operation, Owner
from initiator.fuse.server import MAX_REQUESTS, MAX_TRANSFER_BYTES, FuseServer
from tests.unit.initiator.slow_disk import SlowDisk


class Watch:
    """A reactor that notes who wants to be read, and logs nothing."""

    def __init__(self) -> None:
        self.readers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)


class Kernel:
    """Asks, and takes the answers."""

    def __init__(self, *, read_only: bool = False, direct: bool = False, blocks: int = 64) -> None:
        self.disk = SlowDisk(blocks)
        self.disk.data[:] = random.Random(3).randbytes(len(self.disk.data))
        disk: Any = self.disk
        self.reactor = Watch()
        self.sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        theirs.setblocking(False)
        owner = Owner(1000, 100, 0o400 if read_only else 0o600, 1_700_000_000)
        self.server = FuseServer(
            theirs.detach(),
            DiskFile(disk, read_only=read_only),
            name="disk.img",
            owner=owner,
            direct=direct,
            reactor=self.reactor,
        )
        self.server.start()
        self.unique = 0

    def ask(self, operation: int, body: bytes = b"", *, node: int = FILE) -> int:
        """Send a request; the server takes it when it is read from."""
        self.unique += 1
        length = IN_HEADER.size + len(body)
        self.sock.send(IN_HEADER.pack(length, operation, self.unique, node, 0, 0, 0, 0, 0) + body)
        return self.unique

    def answer(self, operation: int, body: bytes = b"", *, node: int = FILE) -> tuple[int, bytes]:
        """Ask, and give errno and data of the answer."""
        unique = self.ask(operation, body, node=node)
        self.server.doRead()
        self.disk.run()
        answers = self.answers()
        assert list(answers) == [unique]
        return answers[unique]

    def answers(self) -> dict[int, tuple[int, bytes]]:
        found: dict[int, tuple[int, bytes]] = {}
        while True:
            try:
                message = self.sock.recv(MAX_TRANSFER_BYTES + 4096)
            except BlockingIOError:
                return found
            if not message:
                return found
            length, error, unique = protocol.OUT_HEADER.unpack_from(message)
            assert length == len(message)
            found[unique] = (-error, message[protocol.OUT_HEADER.size :])


def move(offset: int, size: int, data: bytes = b"") -> bytes:
    return struct.pack("=QQIIQII", 0, offset, size, 0, 0, 0, 0) + data


@pytest.fixture
def kernel() -> Iterator[Kernel]:
    made = Kernel()
    yield made
    made.sock.close()


def test_the_layouts_are_as_long_as_those_of_the_kernel() -> None:
    owner = Owner(0, 0, 0o600, 0)
    assert IN_HEADER.size == 40
    assert protocol.OUT_HEADER.size == 16
    assert protocol.INIT_OUT.size == 64
    assert len(protocol.attributes(FILE, 1, owner)) == 88
    assert len(protocol.entry(FILE, 1, protocol.attributes(FILE, 1, owner))) == 128
    assert len(protocol.attr_out(1, protocol.attributes(FILE, 1, owner))) == 104
    assert len(protocol.statfs(1)) == 80


def test_the_two_agree_on_large_requests(kernel: Kernel) -> None:
    every_flag = 0xFFFFFFFF
    error, data = kernel.answer(Operation.INIT, struct.pack("=IIII", 7, 41, 131072, every_flag) + bytes(48))
    assert error == 0
    major, minor, read_ahead, flags, background, congestion, max_write, _, max_pages, _, _ = protocol.INIT_OUT.unpack(
        data
    )
    assert (major, minor, read_ahead) == (7, 31, 131072)
    assert (max_write, max_pages, background) == (1 << 20, 256, MAX_REQUESTS)
    assert congestion < background
    assert flags == server._WANTED
    assert kernel.answer(Operation.INIT, struct.pack("=IIII", 7, 12, 131072, 0))[0] == errno.EPROTO
    assert kernel.answer(Operation.INIT, struct.pack("=IIII", 8, 1, 131072, 0))[0] == errno.EPROTO


def test_the_directory_has_one_file(kernel: Kernel) -> None:
    error, data = kernel.answer(Operation.LOOKUP, b"disk.img\0", node=ROOT)
    assert error == 0
    assert struct.unpack_from("=Q", data)[0] == FILE
    assert struct.unpack_from("=QQ", data, 40) == (FILE, 64 * 512)
    assert kernel.answer(Operation.LOOKUP, b"other\0", node=ROOT)[0] == errno.ENOENT
    assert kernel.answer(Operation.LOOKUP, b"x" * 255 + b"\0", node=ROOT)[0] == errno.ENOENT
    error, data = kernel.answer(Operation.READDIR, move(0, 4096), node=ROOT)
    assert (error, b"disk.img" in data, len(data) % 8) == (0, True, 0)
    assert kernel.answer(Operation.READDIR, move(3, 4096), node=ROOT) == (0, b"")
    first = kernel.answer(Operation.READDIR, move(0, 33), node=ROOT)[1]
    rest = kernel.answer(Operation.READDIR, move(1, 4096), node=ROOT)[1]
    assert first + rest == data


def test_modes_tell_directory_and_file(kernel: Kernel) -> None:
    mode = struct.unpack_from("=I", kernel.answer(Operation.GETATTR, bytes(16), node=FILE)[1], 16 + 48 + 12)[0]
    assert mode == 0o100600
    mode = struct.unpack_from("=I", kernel.answer(Operation.GETATTR, bytes(16), node=ROOT)[1], 16 + 48 + 12)[0]
    assert mode == 0o040500
    assert kernel.answer(Operation.GETATTR, bytes(16), node=7)[0] == errno.ENOENT


@pytest.mark.parametrize(("offset", "size"), [(0, 512), (512, 4096), (1, 1), (700, 5000), (32767, 10), (40000, 10)])
def test_reads_and_writes_of_any_alignment(kernel: Kernel, offset: int, size: int) -> None:
    error, data = kernel.answer(Operation.READ, move(offset, size))
    assert (error, data) == (0, bytes(kernel.disk.data[offset : offset + size]))
    new = random.Random(size).randbytes(size)
    error, data = kernel.answer(Operation.WRITE, move(offset, size, new))
    if offset > len(kernel.disk.data):
        assert error == errno.ENOSPC
    else:
        (count,) = struct.unpack_from("=I", data)
        assert kernel.disk.data[offset : offset + size] == new[:count]


def test_requests_are_answered_as_they_end(kernel: Kernel) -> None:
    asked = {kernel.ask(Operation.READ, move(512 * block, 512)): block for block in range(10)}
    kernel.server.doRead()
    assert len(kernel.disk.waiting) == 10
    kernel.disk.run(seed=5)
    answers = kernel.answers()
    assert list(answers) != sorted(answers)
    for unique, (error, data) in answers.items():
        block = asked[unique]
        assert (error, data) == (0, bytes(kernel.disk.data[512 * block : 512 * block + 512]))


def test_no_more_is_taken_than_there_are_buffers_for(kernel: Kernel) -> None:
    asked = []
    for _ in range(MAX_REQUESTS + 10):
        asked.append(kernel.ask(Operation.READ, move(0, 512)))
        kernel.server.doRead()
    assert len(kernel.disk.waiting) == MAX_REQUESTS
    assert kernel.reactor.readers == set()
    kernel.disk.waiting.pop().callback(None)
    assert kernel.reactor.readers == {kernel.server}
    kernel.server.doRead()
    kernel.disk.run()
    while kernel.reactor.readers and len(kernel.disk.calls) < len(asked):
        kernel.server.doRead()
        kernel.disk.run()
    assert sorted(kernel.answers()) == asked


def test_fsync_flushes(kernel: Kernel) -> None:
    assert kernel.answer(Operation.FSYNC, bytes(16)) == (0, b"")
    assert kernel.disk.calls == [("flush", 0, 0)]


@pytest.mark.parametrize(
    ("mode", "offset", "length", "error"),
    [
        (0x03, 512, 1024, 0),
        (0x10, 100, 2000, 0),
        (0x11, 32000, 99999, 0),
        (0x10, 32000, 99999, errno.EFBIG),
        (0x00, 0, 512, errno.EOPNOTSUPP),
        (0x01, 0, 512, errno.EOPNOTSUPP),
        (0x08, 0, 512, errno.EOPNOTSUPP),
    ],
)
def test_fallocate_punches_and_zeroes(kernel: Kernel, mode: int, offset: int, length: int, error: int) -> None:
    want = bytearray(kernel.disk.data)
    if not error:
        stop = min(offset + length, len(want))
        want[offset:stop] = bytes(stop - offset)
    assert kernel.answer(Operation.FALLOCATE, struct.pack("=QQQII", 0, offset, length, mode, 0))[0] == error
    assert kernel.disk.data == want


def test_the_file_keeps_its_length(kernel: Kernel) -> None:
    def truncated(size: int) -> int:
        return kernel.answer(Operation.SETATTR, struct.pack("=IIQQ", 1 << 3, 0, 0, size) + bytes(64))[0]

    assert truncated(0) == 0  # open with O_TRUNC
    assert truncated(64 * 512) == 0
    assert truncated(512) == errno.EPERM
    assert truncated(65 * 512) == errno.EFBIG
    assert kernel.answer(Operation.SETATTR, bytes(88))[0] == 0
    assert struct.unpack_from("=Q", kernel.answer(Operation.GETATTR, bytes(16))[1], 24)[0] == 64 * 512


def test_what_is_read_only_is_not_opened_to_write() -> None:
    kernel = Kernel(read_only=True)
    assert kernel.answer(Operation.OPEN, struct.pack("=II", os.O_RDONLY, 0))[0] == 0
    assert kernel.answer(Operation.OPEN, struct.pack("=II", os.O_RDWR, 0))[0] == errno.EROFS
    assert kernel.answer(Operation.WRITE, move(0, 512, bytes(512)))[0] == errno.EROFS
    kernel.sock.close()


@pytest.mark.parametrize(("direct", "flags"), [(False, 0), (True, 0x41)])
def test_past_the_page_cache_or_through_it(direct: bool, flags: int) -> None:
    kernel = Kernel(direct=direct)
    error, data = kernel.answer(Operation.OPEN, struct.pack("=II", os.O_RDWR, 0))
    assert (error, struct.unpack_from("=QI", data)) == (0, (0, flags))
    kernel.sock.close()


@pytest.mark.parametrize("operation", [Operation.CREATE, Operation.UNLINK, Operation.RENAME2, Operation.MKDIR])
def test_nothing_else_is_made_or_removed(kernel: Kernel, operation: int) -> None:
    assert kernel.answer(operation, bytes(64), node=ROOT)[0] == errno.EPERM


@pytest.mark.parametrize("operation", [22, 25, 46, 52, 9999])
def test_what_is_not_known_is_told(kernel: Kernel, operation: int) -> None:
    assert kernel.answer(operation, bytes(64))[0] == errno.ENOSYS


@pytest.mark.parametrize("operation", [Operation.FORGET, Operation.BATCH_FORGET, Operation.INTERRUPT])
def test_what_wants_no_answer_gets_none(kernel: Kernel, operation: int) -> None:
    kernel.ask(operation, bytes(16))
    kernel.server.doRead()
    assert kernel.answers() == {}


def test_an_error_of_the_disk_is_one_of_the_file(kernel: Kernel) -> None:
    kernel.disk.fails_with = SessionLost("gone")
    assert kernel.answer(Operation.READ, move(0, 512))[0] == errno.EIO
    assert kernel.answer(Operation.WRITE, move(0, 512, bytes(512)))[0] == errno.EIO
    assert kernel.answer(Operation.FSYNC, bytes(16))[0] == errno.EIO
    kernel.disk.fails_with = None
    assert kernel.answer(Operation.READ, move(0, 512))[0] == 0


def test_unmounted_it_ends_and_what_is_under_way_does_no_harm(kernel: Kernel) -> None:
    kernel.ask(Operation.READ, move(0, 512))
    kernel.server.doRead()
    kernel.server.connectionLost(None)
    assert kernel.server.ended.called
    assert kernel.server.fileno() == -1
    assert kernel.reactor.readers == set()
    kernel.disk.run()


def test_closing_waits_for_what_is_under_way_and_takes_no_more(kernel: Kernel) -> None:
    asked = [kernel.ask(Operation.WRITE, move(0, 512, bytes(512))), kernel.ask(Operation.READ, move(512, 512))]
    kernel.server.doRead()
    closed: list[None] = []
    Deferred.fromCoroutine(kernel.server.close()).addCallback(lambda _: closed.append(None))
    kernel.disk.waiting.pop().callback(None)
    assert closed == []
    assert kernel.reactor.readers == set()
    kernel.disk.run()
    assert closed == [None]
    assert kernel.server.fileno() == -1
    assert sorted(kernel.answers()) == asked
