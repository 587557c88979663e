"""The calls of an image: how many are under way, when they end, and whose memory is touched."""

from __future__ import annotations

import errno
import gc
import weakref
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.storage.disk import FENCED, StorageError
from csvd.storage.rbd.calls import Call, FlushCall, RbdCalls, ReadCall, UnmapCall, WriteCall, ZeroCall
from tests.unit.storage.pool_doubles import PoolClock, outcomes_of

DEADLINE_S = 30.0


class Completion:
    def __init__(self, result: int) -> None:
        self._result = result

    def get_return_value(self) -> int:
        return self._result


class HeldImage:
    """An image that does nothing before the test says what becomes of a call."""

    def __init__(self) -> None:
        self.begun: list[tuple[Any, ...]] = []
        self._done: list[Any] = []
        self.refusal: Exception | None = None

    def aio_read(self, offset_bytes: int, length_bytes: int, done: Any) -> None:
        self._begin(("read", offset_bytes, length_bytes), done)

    def aio_write(self, data: bytes, offset_bytes: int, done: Any) -> None:
        self._begin(("write", offset_bytes, data), done)

    def aio_discard(self, offset_bytes: int, length_bytes: int, done: Any) -> None:
        self._begin(("discard", offset_bytes, length_bytes), done)

    def aio_write_zeroes(self, offset_bytes: int, length_bytes: int, done: Any) -> None:
        self._begin(("zero", offset_bytes, length_bytes), done)

    def aio_flush(self, done: Any) -> None:
        self._begin(("flush",), done)

    def finish(self, number: int, result: int = 0, *data: bytes | None) -> None:
        """A call that was begun is done."""
        self._done[number](Completion(result), *data)

    def _begin(self, what: tuple[Any, ...], done: Any) -> None:
        if self.refusal is not None:
            raise self.refusal
        self.begun.append(what)
        self._done.append(done)


class Rig:
    def __init__(self, *, most_calls: int = 4, most_bytes: int = 1 << 20) -> None:
        self.clock = PoolClock()
        self.image = HeldImage()
        self.calls = RbdCalls(
            self.image,
            self.clock,
            deadline_s=DEADLINE_S,
            where="rbd:pool/image",
            most_calls=most_calls,
            most_bytes=most_bytes,
        )

    def submit(self, *calls: Call) -> list[Any]:
        """What each ends with, when it does."""
        return outcomes_of(*[self.calls.submit(call) for call in calls])

    def turn(self) -> None:
        """What is due in the loop is done; time stands still."""
        self.clock.advance(0)


@pytest.fixture
def rig() -> Rig:
    return Rig()


def errnos(outcomes: list[Any]) -> list[int | None]:
    assert all(each is None or isinstance(each, StorageError) for each in outcomes), outcomes
    return [None if each is None else each.errno for each in outcomes]


def test_every_kind_of_call_goes_to_its_function_of_librbd() -> None:
    rig = Rig(most_calls=8)
    buffer = bytearray(4)
    outcomes = rig.submit(
        ReadCall(memoryview(buffer), 8),
        WriteCall((b"ab", bytearray(b"cd"), memoryview(b"ef")), 16),
        UnmapCall("unmap", 32, 64),
        ZeroCall("write zeroes", 128, 256),
        FlushCall("flush"),
    )
    assert rig.image.begun == [
        ("read", 8, 4),
        ("write", 16, b"abcdef"),
        ("discard", 32, 64),
        ("zero", 128, 256),
        ("flush",),
    ]
    rig.image.finish(0, 4, b"data")
    for number in range(1, 5):
        rig.image.finish(number)
    rig.turn()
    assert outcomes == [None] * 5
    assert buffer == b"data"


def test_calls_that_are_done_together_are_told_with_one_hand_over(rig: Rig) -> None:
    outcomes = rig.submit(*[FlushCall("flush") for _ in range(4)])
    for number in range(4):
        rig.image.finish(number)
    assert outcomes == []
    assert rig.clock.calls_from_thread == 1
    rig.turn()
    assert outcomes == [None] * 4
    rig.submit(FlushCall("flush"))
    rig.image.finish(4)
    assert rig.clock.calls_from_thread == 2


def test_no_more_are_under_way_than_may_be_and_the_rest_follows_in_order(rig: Rig) -> None:
    outcomes = rig.submit(*[WriteCall((b"x",), at) for at in range(7)])
    assert [begun[1] for begun in rig.image.begun] == [0, 1, 2, 3]
    rig.image.finish(2)
    rig.turn()
    assert [begun[1] for begun in rig.image.begun] == [0, 1, 2, 3, 4]
    for number in (0, 1, 3, 4):
        rig.image.finish(number)
    rig.turn()
    assert [begun[1] for begun in rig.image.begun] == list(range(7))
    assert outcomes == [None] * 5


def test_the_bytes_under_way_are_bounded_and_a_call_of_more_goes_alone() -> None:
    rig = Rig(most_calls=100, most_bytes=1000)
    rig.submit(WriteCall((bytes(600),), 0), WriteCall((bytes(600),), 1), ReadCall(memoryview(bytearray(5000)), 2))
    assert len(rig.image.begun) == 1
    rig.image.finish(0)
    rig.turn()
    assert len(rig.image.begun) == 2
    rig.image.finish(1)
    rig.turn()
    assert rig.image.begun[2] == ("read", 2, 5000)


def test_a_range_without_data_takes_no_memory_however_long_it_is() -> None:
    rig = Rig(most_calls=100, most_bytes=1000)
    rig.submit(*[ZeroCall("write zeroes", at, 1 << 40) for at in range(5)])
    assert len(rig.image.begun) == 5


def test_each_call_ends_at_its_own_deadline(rig: Rig) -> None:
    outcomes = rig.submit(FlushCall("flush"))
    rig.clock.advance(10)
    later = rig.submit(FlushCall("flush"))
    rig.clock.advance(DEADLINE_S - 10 - 0.001)
    assert outcomes == []
    rig.clock.advance(0.001)
    assert errnos(outcomes) == [errno.ETIMEDOUT]
    assert "within 30 s" in str(outcomes[0])
    assert later == []
    rig.clock.advance(10)
    assert errnos(later) == [errno.ETIMEDOUT]


def test_a_late_read_touches_nothing_and_its_place_is_free_when_librbd_is_done_with_it() -> None:
    rig = Rig(most_calls=1)
    buffer = bytearray(b"mine")
    outcomes = rig.submit(ReadCall(memoryview(buffer), 0))
    rig.clock.advance(DEADLINE_S)
    assert errnos(outcomes) == [errno.ETIMEDOUT]
    buffer.extend(b" still")
    next_one = rig.submit(FlushCall("flush"))
    assert len(rig.image.begun) == 1
    assert rig.calls.under_way == 1
    rig.image.finish(0, 4, b"late")
    rig.turn()
    assert buffer == b"mine still"
    assert rig.image.begun[1] == ("flush",)
    rig.image.finish(1)
    rig.turn()
    assert next_one == [None]


def test_what_is_written_is_what_the_buffer_held_however_late_librbd_is(rig: Rig) -> None:
    buffer = bytearray(b"before")
    rig.submit(WriteCall((buffer,), 0))
    rig.clock.advance(DEADLINE_S)
    buffer[:] = b"after!"
    assert rig.image.begun == [("write", 0, b"before")]


def test_late_writes_count_as_unknown_and_late_reads_do_not(rig: Rig) -> None:
    rig.submit(ReadCall(memoryview(bytearray(4)), 0), FlushCall("flush"))
    rig.clock.advance(DEADLINE_S)
    assert rig.calls.unknown_writes == 0
    rig.submit(WriteCall((b"x",), 0), ZeroCall("write zeroes", 0, 1))
    rig.image.finish(2, -errno.ETIMEDOUT)
    rig.turn()
    assert rig.calls.unknown_writes == 1
    rig.clock.advance(DEADLINE_S)
    assert rig.calls.unknown_writes == 2


def test_what_never_began_by_its_deadline_never_begins_and_keeps_no_memory() -> None:
    rig = Rig(most_calls=1)

    class Memory(bytearray):
        """A bytearray that can be watched."""

    memory = Memory(b"held")
    watched = weakref.ref(memory)
    rig.submit(FlushCall("flush"), WriteCall((memory,), 0))
    del memory
    rig.clock.advance(DEADLINE_S)
    gc.collect()
    assert watched() is None
    rig.image.finish(0)
    rig.turn()
    assert rig.image.begun == [("flush",)]


def test_a_cluster_that_is_gone_for_long_holds_no_more_than_one_that_is_busy() -> None:
    rig = Rig(most_calls=2)
    for _ in range(50):
        outcomes = rig.submit(*[WriteCall((bytes(512),), 0) for _ in range(10)])
        rig.clock.advance(DEADLINE_S)
        assert errnos(outcomes) == [errno.ETIMEDOUT] * 10
    assert len(rig.image.begun) == 2
    assert not rig.calls._waiting


def test_it_goes_on_when_the_cluster_is_back() -> None:
    rig = Rig(most_calls=2)
    rig.submit(FlushCall("flush"), FlushCall("flush"), FlushCall("flush"))
    rig.clock.advance(DEADLINE_S)
    rig.image.finish(0, -errno.ETIMEDOUT)
    rig.image.finish(1)
    rig.turn()
    assert rig.calls.under_way == 0
    outcomes = rig.submit(WriteCall((b"x",), 0))
    rig.image.finish(2)
    rig.turn()
    assert outcomes == [None]


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EINVAL])
def test_errors_of_librbd_keep_their_number_and_place(rig: Rig, number: int) -> None:
    outcomes = rig.submit(WriteCall((b"x",), 4096))
    rig.image.finish(0, -number)
    rig.turn()
    assert errnos(outcomes) == [number]
    assert (outcomes[0].operation, outcomes[0].offset_bytes, outcomes[0].where) == ("write", 4096, "rbd:pool/image")


def test_a_read_that_brings_too_little_is_an_error(rig: Rig) -> None:
    buffer = bytearray(b"....")
    outcomes = rig.submit(ReadCall(memoryview(buffer), 0), ReadCall(memoryview(buffer), 0))
    rig.image.finish(0, 2, b"ab")
    rig.image.finish(1, 4, None)
    rig.turn()
    assert errnos(outcomes) == [errno.EIO, errno.EIO]
    assert buffer == b"...."


def test_a_call_that_librbd_does_not_take_fails_and_leaves_its_place(rig: Rig) -> None:
    class Refused(Exception):
        errno = errno.EROFS

    rig.image.refusal = Refused()
    outcomes = rig.submit(*[WriteCall((b"x",), at) for at in range(9)])
    rig.clock.run()
    assert errnos(outcomes) == [errno.EROFS] * 9
    assert rig.calls.under_way == 0


def test_a_fault_in_a_call_is_an_error_of_the_disk(rig: Rig) -> None:
    rig.image.refusal = TypeError("no")
    outcomes = rig.submit(FlushCall("flush"))
    rig.turn()
    assert errnos(outcomes) == [errno.EIO]


def test_a_client_that_was_fenced_asks_nothing_more() -> None:
    rig = Rig(most_calls=2)
    outcomes = rig.submit(*[WriteCall((b"x",), at) for at in range(5)])
    rig.image.finish(0, -errno.ESHUTDOWN)
    rig.turn()
    assert rig.calls.is_fenced
    assert errnos(outcomes) == [FENCED] * 4
    assert "fenced" in str(outcomes[0])
    rig.image.finish(1, -errno.ESHUTDOWN)
    rig.turn()
    assert errnos(outcomes) == [FENCED] * 5
    assert errnos(rig.submit(ReadCall(memoryview(bytearray(1)), 0))) == [FENCED]
    assert len(rig.image.begun) == 2


def test_it_is_quiet_when_nobody_waits(rig: Rig) -> None:
    quiet: list[Any] = []
    rig.submit(FlushCall("flush"), FlushCall("flush"))
    rig.calls.when_quiet().addCallback(quiet.append)
    rig.image.finish(0)
    rig.turn()
    assert quiet == []
    rig.clock.advance(DEADLINE_S)
    assert quiet == [None]
    rig.calls.when_quiet().addCallback(quiet.append)
    assert quiet == [None, None]
    assert not rig.clock.getDelayedCalls()


def test_who_cancels_a_call_does_not_disturb_the_others(rig: Rig) -> None:
    cancelled: Deferred[None] = rig.calls.submit(WriteCall((b"x",), 0))
    cancelled.addErrback(lambda _: None)
    outcomes = rig.submit(WriteCall((b"y",), 1))
    cancelled.cancel()
    rig.image.finish(0)
    rig.image.finish(1)
    rig.turn()
    assert outcomes == [None]
    assert rig.calls.under_way == 0


def test_a_result_after_the_end_of_the_loop_harms_nobody(rig: Rig) -> None:
    def closed(*_: object) -> None:
        raise RuntimeError("Event loop is closed")

    rig.submit(FlushCall("flush"))
    rig.clock.callFromThread = closed  # type: ignore[assignment,method-assign]
    rig.image.finish(0)
