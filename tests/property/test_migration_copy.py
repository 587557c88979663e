"""Whatever a guest writes while it is copied, and however the stream is cut: the copy is the original."""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.defer import Deferred

from csvd.migration.chunks import Opening, encode_end, encode_opening
from csvd.migration.image import MemoryImage, digest_image
from csvd.migration.interfaces import Buffer
from csvd.migration.receiver import Complete, ImageWriter, Notice
from csvd.migration.sender import RoundSender
from csvd.migration.tracker import SLICE_BYTES, PageCompareTracker, Slice
from tests.unit.migration.fakes import run_here

PAGE = 4096
MEMORY = 3 * SLICE_BYTES + 5 * PAGE
SEED = 11


class Guest:
    """Writes at random: single bytes, whole pages, zeroes, long ranges; often to the same few pages."""

    def __init__(self, image: MemoryImage, seed: int) -> None:
        self._image = image
        self._random = random.Random(seed)

    def write(self) -> None:
        pick = self._random
        for _ in range(pick.randrange(4)):
            page = pick.choice([0, 1, 2, 511, 512, 513, MEMORY // PAGE - 1, pick.randrange(MEMORY // PAGE)])
            start = page * PAGE
            kind = pick.randrange(4)
            if kind == 0:
                self._image.write(pick.randbytes(1), start + pick.randrange(PAGE))
            elif kind == 1:
                self._image.write(pick.randbytes(PAGE), start)
            elif kind == 2:
                self._image.write_zeroes(start, min(PAGE * pick.randrange(1, 400), MEMORY - start))
            else:
                data = pick.randbytes(min(pick.randrange(1, 300_000), MEMORY - start))
                self._image.write(data, start)


class WritingTracker(PageCompareTracker):
    """A tracker with the guest at work between its slices."""

    guest: Guest | None = None

    def collect(self, offset_bytes: int, length_bytes: int) -> Slice:
        if self.guest is not None:
            self.guest.write()
        return super().collect(offset_bytes, length_bytes)


class Wire:
    """Takes what is sent, and puts it into the copy in pieces of any size."""

    def __init__(self, writer: ImageWriter, seed: int) -> None:
        self._writer = writer
        self._random = random.Random(seed)
        self.notices: list[Notice] = []

    def write(self, buffers: Iterable[Buffer]) -> None:
        stream = b"".join(bytes(buffer) for buffer in buffers)
        batch: list[bytes] = []
        while stream:
            length = self._random.choice([1, 7, 23, 24, 25, 4096, 65536, 1 << 20])
            batch.append(stream[:length])
            stream = stream[length:]
            if self._random.random() < 0.3:
                self.notices += self._writer.take(batch)
                batch = []
        self.notices += self._writer.take(batch)


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), rounds=st.integers(0, 4))
def test_the_copy_is_the_original(seed: int, rounds: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        original = MemoryImage.create(Path(directory) / "original", MEMORY)
        copy = MemoryImage.create(Path(directory) / "copy", MEMORY)
        guest = Guest(original, seed)
        for _ in range(10):
            guest.write()
        opening = Opening(bytes(16), "g", MEMORY, PAGE, SEED)
        tracker = WritingTracker(original, PAGE, SEED)
        wire = Wire(ImageWriter(copy, opening), seed + 1)
        wire.write([encode_opening(opening)])

        async def writable() -> None:
            if tracker.guest is not None:
                tracker.guest.write()

        sender = RoundSender(wire.write, tracker, MEMORY, run_here, writable)
        for number in range(1, rounds + 2):
            tracker.guest = guest if number <= rounds else None
            sent: Any = Deferred.fromCoroutine(sender.send_round(number, is_last=number > rounds))
            assert sent.result.pages_scanned == MEMORY // PAGE
        wire.write([encode_end(tracker.digest())])

        complete = wire.notices[-1]
        assert isinstance(complete, Complete)
        assert complete.expected == complete.found == digest_image(original, PAGE, SEED)
        assert original.path.read_bytes() == copy.path.read_bytes()
        original.close()
        copy.close()
