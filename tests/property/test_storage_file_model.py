from __future__ import annotations

import os
import tempfile
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from twisted.internet.defer import Deferred

from csvd.storage.disk import Disk
from csvd.storage.memory import MemoryDisk
from tests.unit.storage.pool_doubles import InlinePool

SIZE = 64 << 10
OFFSETS = st.one_of(st.integers(0, SIZE), st.sampled_from([0, 511, 512, 4095, 4096, SIZE - 1, SIZE]))
LENGTHS = st.one_of(st.integers(0, 9000), st.sampled_from([0, 1, 512, 4096, SIZE]))
PIECES = st.lists(st.integers(0, 3000), max_size=20)


class DisksAgreeWithABytearray(RuleBasedStateMachine):
    """A file disk, opened anew now and then, and a memory disk, against a bytearray."""

    def __init__(self) -> None:
        super().__init__()
        self.inline = InlinePool()
        self.folder = tempfile.TemporaryDirectory()
        self.path = str(Path(self.folder.name) / "disk.img")
        self.model = bytearray(SIZE)
        file: Disk = self.inline.open(self.path, create_bytes=SIZE)
        self.disks: list[Disk] = [file, MemoryDisk(SIZE)]
        self.seed = 0

    @rule(offset=OFFSETS, pieces=PIECES, fua=st.booleans())
    def write(self, offset: int, pieces: list[int], fua: bool) -> None:
        self.seed += 1
        buffers = [bytes((self.seed + index) % 256 for index in range(piece)) for piece in pieces]
        data = b"".join(buffers)
        inside = offset + len(data) <= SIZE
        for disk in self.disks:
            self.expect(disk.write_from(buffers, offset, fua=fua), inside)
        if inside:
            self.model[offset : offset + len(data)] = data

    @rule(offset=OFFSETS, pieces=PIECES)
    def write_at_once_or_not(self, offset: int, pieces: list[int]) -> None:
        self.seed += 1
        buffers = [bytes((self.seed + index) % 256 for index in range(piece)) for piece in pieces]
        data = b"".join(buffers)
        inside = offset + len(data) <= SIZE
        for disk in self.disks:
            if disk.write_nowait(buffers, offset):
                assert inside
            else:
                self.expect(disk.write_from(buffers, offset), inside)
        if inside:
            self.model[offset : offset + len(data)] = data

    @rule(offset=OFFSETS, length=LENGTHS)
    def read(self, offset: int, length: int) -> None:
        inside = offset + length <= SIZE
        for disk in self.disks:
            buffer = bytearray(length)
            self.expect(disk.read_into(memoryview(buffer), offset), inside)
            if inside:
                assert buffer == self.model[offset : offset + length]
            at_once = bytearray(length)
            if disk.read_nowait(memoryview(at_once), offset):
                assert inside
                assert at_once == self.model[offset : offset + length]

    @rule(offset=OFFSETS, length=LENGTHS, unmap=st.booleans())
    def zero(self, offset: int, length: int, unmap: bool) -> None:
        inside = offset + length <= SIZE
        for disk in self.disks:
            self.expect((disk.unmap if unmap else disk.write_zeroes)(offset, length), inside)
        if inside:
            self.model[offset : offset + length] = bytes(length)

    @rule()
    def flush_and_open_anew(self) -> None:
        self.inline.settle(self.disks[0].flush())
        self.inline.settle(self.disks[0].close())
        self.disks[0] = self.inline.open(self.path)

    @invariant()
    def the_file_has_the_size_and_content_of_the_model(self) -> None:
        assert os.path.getsize(self.path) == SIZE
        assert Path(self.path).read_bytes() == self.model

    def expect(self, deferred: Deferred[None], inside: bool) -> None:
        failures: list[object] = []
        deferred.addErrback(failures.append)
        self.inline.settle(deferred)
        assert bool(failures) != inside

    def teardown(self) -> None:
        self.inline.settle(self.disks[0].close())
        self.folder.cleanup()


DisksAgreeWithABytearray.TestCase.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
TestDisksAgreeWithABytearray = DisksAgreeWithABytearray.TestCase
