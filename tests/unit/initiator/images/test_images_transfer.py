"""Copies between ends in memory, that answer when and how the test has them answer."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
from twisted.internet.defer import CancelledError, Deferred
from twisted.python.failure import Failure

from initiator.errors import InitiatorError
from initiator.images.plan import UNBOUNDED, CopyPlan, Run, Side
from initiator.images.transfer import Transfer

CHUNK = 4096


class Memory:
    """An end of bytes. Every call waits until :meth:`Ends.step` picks it."""

    align_bytes = 1
    chunk_bytes = CHUNK
    grows = False

    def __init__(self, name: str, image: bytes, ends: Ends, *, ordered: bool = False) -> None:
        self.name = name
        self.image = bytearray(image)
        self.size_bytes: int | None = len(image)
        self.ordered = ordered
        self.zeroes_fast = True
        self.reads_zero = False
        self.flushed = b""
        self.ended_at: int | None = None
        self.calls: list[tuple[Any, ...]] = []
        self.fail: Callable[[tuple[Any, ...]], Exception | None] = lambda call: None
        self.silent = False
        self._at = 0
        self._ends = ends

    @property
    def identity(self) -> dict[str, Any]:
        return {"kind": self.name}

    async def _turn(self, *call: Any) -> None:
        self.calls.append(call)
        await self._ends.wait()
        error = self.fail(call)
        if error is not None:
            raise error

    async def runs(self, offset: int, length: int) -> list[Run]:
        await self._turn("runs", offset, length)
        end = min(offset + length, offset + 3 * CHUNK)
        found: list[Run] = []
        at = end if self.silent else offset
        while at < end:
            upto = min(end, at + 512)
            found.append(Run(at, upto - at, zero=not any(self.image[at:upto])))
            at = upto
        return found

    async def read_into(self, offset: int, view: memoryview) -> int:
        await self._turn("read", offset, len(view))
        at = self._at if self.ordered else offset
        data = self.image[at : at + len(view)]
        self._at = at + len(data)
        view[: len(data)] = data
        return len(data)

    async def write(self, offset: int, view: memoryview) -> None:
        await self._turn("write", offset, len(view))
        at = self._at if self.ordered else offset
        self.image[at : at + len(view)] = view
        self._at = at + len(view)

    async def zero(self, offset: int, length: int) -> None:
        await self._turn("zero", offset, length)
        at = self._at if self.ordered else offset
        self.image[at : at + length] = bytes(length)
        self._at = at + length

    async def ends_at(self, size: int) -> None:
        self.ended_at = size

    async def flush(self) -> None:
        before = bytes(self.image)
        await self._turn("flush")
        self.flushed = before

    async def close(self) -> None:
        self.calls.append(("close",))


class Ends:
    """The calls that wait, and in which order they are let go."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.waiting: list[Deferred[None]] = []

    async def wait(self) -> None:
        waiting: Deferred[None] = Deferred()
        self.waiting.append(waiting)
        await waiting

    def step(self) -> bool:
        if not self.waiting:
            return False
        self.waiting.pop(self.chance.randrange(len(self.waiting))).callback(None)
        return True


def image_of(chance: random.Random, length: int = 20 * CHUNK + 700) -> bytes:
    image = bytearray(length)
    for _ in range(12):
        at = chance.randrange(length)
        count = min(length - at, chance.randrange(3 * CHUNK))
        image[at : at + count] = chance.randbytes(count)
    return bytes(image)


class Rig:
    def __init__(self, source: bytes, target: bytes, *, seed: int, lanes: int = 4, **how: Any) -> None:
        self.ends = Ends(seed)
        self.source = Memory("source", source, self.ends, ordered=how.pop("source_ordered", False))
        self.target = Memory("target", target, self.ends, ordered=how.pop("target_ordered", False))
        self.kept: list[int] = []
        self.progress: list[int] = []
        sparse = how.pop("sparse", True)
        length = how.pop("length", len(source))
        maps = frozenset(side for side in Side if sparse and not getattr(self, side.value).ordered)
        self.plan = CopyPlan(length, chunk=CHUNK, align=512, zero_chunk=4 * CHUNK, maps=maps)

        async def keep(durable: int) -> None:
            self.kept.append(durable)
            offset = how.get("target_offset", 0)
            assert self.target.flushed[offset : offset + durable] == bytes(self.source.image[:durable])

        self.transfer = Transfer(
            self.plan,
            self.source,
            self.target,
            source_offset=how.get("source_offset", 0),
            target_offset=how.get("target_offset", 0),
            chunk=CHUNK,
            lanes=lanes,
            sparse=sparse,
            keep=keep if how.get("keep", True) else None,
            progressed=self.progress.append,
            flush_every=how.get("flush_every", 5 * CHUNK),
        )
        self.outcome: list[Any] = []
        self.running = Deferred.fromCoroutine(self.transfer.run())
        self.running.addBoth(self.outcome.append)

    def run(self, calls: int = 1 << 30) -> None:
        while calls and self.ends.step():
            calls -= 1

    @property
    def error(self) -> BaseException:
        (failure,) = self.outcome
        assert isinstance(failure, Failure)
        assert failure.value is not None
        return failure.value


@pytest.mark.parametrize("seed", range(20))
def test_in_whichever_order_calls_end_the_target_is_the_source(seed: int) -> None:
    chance = random.Random(seed)
    source = image_of(chance)
    rig = Rig(source, chance.randbytes(len(source)), seed=seed, lanes=chance.randrange(1, 9))
    rig.run()
    assert rig.outcome == [None]
    assert bytes(rig.target.flushed) == source
    assert rig.kept == sorted(rig.kept)
    assert rig.kept[-1] == rig.progress[-1] == len(source)
    assert rig.target.ended_at == len(source)


def test_zeros_are_neither_read_nor_written_where_both_ends_have_them() -> None:
    rig = Rig(bytes(8 * CHUNK), bytes(8 * CHUNK), seed=1)
    rig.run()
    assert {call[0] for call in rig.source.calls + rig.target.calls} == {"runs", "flush"}
    assert rig.outcome == [None]


def test_without_sparse_everything_is_read_and_written() -> None:
    rig = Rig(bytes(8 * CHUNK), b"\1" * 8 * CHUNK, seed=1, sparse=False)
    rig.run()
    assert [call[0] for call in rig.source.calls] == ["read"] * 8
    assert sum(call[2] for call in rig.target.calls if call[0] == "write") == 8 * CHUNK
    assert not any(rig.target.image)


def test_zeros_are_written_as_data_where_zeroing_is_not_fast() -> None:
    source = bytes(CHUNK) + b"\1" * CHUNK + bytes(CHUNK)
    rig = Rig(source, b"\2" * len(source), seed=1)
    rig.target.zeroes_fast = False
    rig.run()
    assert bytes(rig.target.image) == source


def test_offsets_are_those_of_the_ends() -> None:
    source = image_of(random.Random(3))
    rig = Rig(source, b"\5" * (len(source) + 2048), seed=3, target_offset=1024)
    rig.run()
    assert bytes(rig.target.image) == b"\5" * 1024 + source + b"\5" * 1024


def test_a_part_of_the_source_is_copied_from_its_own_offset() -> None:
    source = image_of(random.Random(4))
    rig = Rig(source, bytes(4 * CHUNK), seed=4, source_offset=512, length=4 * CHUNK, keep=False)
    rig.run()
    assert bytes(rig.target.image) == source[512 : 512 + 4 * CHUNK]


@pytest.mark.parametrize("seed", range(10))
def test_a_pipe_is_read_up_to_its_end(seed: int) -> None:
    source = image_of(random.Random(seed), length=9 * CHUNK + 333 * (seed % 3))
    rig = Rig(source, b"\1" * len(source), seed=seed, source_ordered=True, length=UNBOUNDED)
    rig.run()
    assert bytes(rig.target.image) == source
    assert rig.plan.length == len(source)


@pytest.mark.parametrize("seed", range(10))
def test_a_pipe_is_written_in_order(seed: int) -> None:
    source = image_of(random.Random(seed))
    rig = Rig(source, b"", seed=seed, target_ordered=True, keep=False)
    rig.run()
    assert bytes(rig.target.image) == source


def test_after_an_error_nothing_more_is_begun_and_nothing_is_called_durable() -> None:
    source = b"\1" * 20 * CHUNK
    rig = Rig(source, bytes(len(source)), seed=5, lanes=3)
    rig.source.fail = lambda call: OSError(5, "I/O error") if call[:2] == ("read", 6 * CHUNK) else None
    rig.run()
    assert isinstance(rig.error, OSError)
    assert max(call[1] for call in rig.source.calls if call[0] == "read") <= 9 * CHUNK
    assert all(durable <= 6 * CHUNK for durable in rig.kept)


def test_after_an_error_nothing_follows_in_a_pipe() -> None:
    source = bytes(range(1, 11)) * CHUNK
    rig = Rig(source, b"", seed=5, target_ordered=True, keep=False)
    rig.target.fail = lambda call: OSError(32, "Broken pipe") if len(rig.target.image) == 3 * CHUNK else None
    rig.run()
    assert isinstance(rig.error, OSError)
    assert bytes(rig.target.image) == source[: 3 * CHUNK]


def test_a_flush_that_fails_fails_the_copy() -> None:
    source = b"\1" * 20 * CHUNK
    rig = Rig(source, bytes(len(source)), seed=6)
    rig.target.fail = lambda call: OSError(5, "I/O error") if call[0] == "flush" else None
    rig.run()
    assert isinstance(rig.error, OSError)
    assert rig.kept == []


def test_an_end_that_tells_nothing_of_itself_fails_the_copy() -> None:
    rig = Rig(bytes(CHUNK), bytes(CHUNK), seed=7)
    rig.target.silent = True
    rig.run()
    assert isinstance(rig.error, InitiatorError)


@pytest.mark.parametrize("seed", range(10))
def test_cancelled_it_ends_what_is_under_way_and_keeps_what_is_durable(seed: int) -> None:
    source = image_of(random.Random(seed))
    rig = Rig(source, b"\1" * len(source), seed=seed, flush_every=1 << 30)
    rig.run(calls=25)
    begun = len(rig.source.calls)
    rig.running.cancel()
    assert not rig.outcome
    rig.run()
    assert isinstance(rig.error, CancelledError)
    assert len(rig.source.calls) <= begun + 1
    (durable,) = rig.kept
    assert rig.target.flushed[:durable] == source[:durable]
    assert rig.target.ended_at is None


def test_a_copy_of_a_pipe_that_is_cancelled_does_not_wait_for_it() -> None:
    rig = Rig(b"\1" * 4 * CHUNK, bytes(4 * CHUNK), seed=1, source_ordered=True, length=UNBOUNDED)
    rig.running.cancel()
    assert isinstance(rig.error, CancelledError)
