from __future__ import annotations

from mmap import PAGESIZE
from pathlib import Path

import pytest

from csvd.storage.calm import Calm, dirty_room_bytes, room_in

MS = 1_000_000
S = 1000 * MS
MIB = 1 << 20


class Bench:
    """A `Calm` with a clock and a memory of the test's own."""

    def __init__(self) -> None:
        self.now_ns = 1000 * S
        self.room_bytes = 1 << 30
        self.looks = 0
        self.waits = 0
        self.asked = 0
        self.calm = Calm(clock_ns=lambda: self.now_ns, room_bytes=self.look, switches=self.switches)

    def switches(self) -> int:
        self.asked += 1
        return self.waits

    def look(self) -> int:
        self.looks += 1
        return self.room_bytes

    def watched(self) -> Bench:
        """One write was rather long already."""
        assert self.write(took_ns=2 * MS)
        return self

    def write(self, length_bytes: int = 4096, *, took_ns: int = 5000, waits: bool = True) -> bool:
        """A write that takes so long, if it may be made; where it waits the thread gives the processor away."""
        began_ns = self.calm.begin(length_bytes)
        if not began_ns:
            return False
        self.now_ns += took_ns
        self.waits += waits
        self.calm.end(began_ns)
        return True

    def pause_ns(self) -> int:
        """How long no write may be made, to 100 ms."""
        began_ns = self.now_ns
        while not self.write():
            self.now_ns += 100 * MS
        return self.now_ns - began_ns


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_writes_that_take_no_time_are_made_in_the_loop(bench: Bench) -> None:
    assert all(bench.write() for _ in range(10_000))


def test_the_dirty_pages_are_looked_at_ten_times_a_second_and_not_with_every_write(bench: Bench) -> None:
    for _ in range(1000):
        assert bench.write(512)
        bench.now_ns += MS
    assert 9 <= bench.looks <= 11


def test_the_dirty_pages_are_looked_at_again_after_many_writes(bench: Bench) -> None:
    assert all(bench.write(MIB // 4, took_ns=1) for _ in range(256))
    assert bench.looks == 4


def test_nothing_is_written_in_the_loop_while_there_is_little_room_for_dirty_pages(bench: Bench) -> None:
    bench.room_bytes = 15 * MIB
    assert not any(bench.write() for _ in range(1000))
    assert bench.looks == 1
    bench.room_bytes = 17 * MIB
    bench.now_ns += 101 * MS
    assert bench.write()


def test_room_that_is_gone_is_seen_before_much_more_is_written(bench: Bench) -> None:
    assert bench.write()
    bench.room_bytes = 0
    written = 0
    while bench.write(MIB // 4, took_ns=1):
        written += MIB // 4
    assert written <= 16 * MIB


@pytest.mark.parametrize("took_ms", [11, 50])
def test_a_long_write_sends_the_next_ones_elsewhere_for_a_second(bench: Bench, took_ms: int) -> None:
    assert bench.watched().write(took_ns=took_ms * MS)
    assert S - 100 * MS <= bench.pause_ns() <= S + 100 * MS


def test_a_write_that_takes_very_long_counts_also_where_nobody_watched(bench: Bench) -> None:
    assert bench.write(took_ns=50 * MS, waits=False)
    assert not bench.write()


def test_a_write_that_only_lost_the_processor_does_not_count(bench: Bench) -> None:
    assert all(bench.write(took_ns=18 * MS, waits=False) for _ in range(1000))


def test_the_first_of_some_long_writes_is_not_known_to_have_waited(bench: Bench) -> None:
    assert [bench.write(took_ns=11 * MS) for _ in range(3)] == [True, True, False]


def test_the_switches_of_the_thread_are_asked_for_only_while_writes_were_long(bench: Bench) -> None:
    assert all(bench.write() for _ in range(1000))
    assert bench.asked == 0
    bench.watched()
    assert all(bench.write() for _ in range(10))
    before = bench.asked
    assert before >= 10
    bench.now_ns += 2 * S
    assert all(bench.write() for _ in range(1000))
    assert bench.asked == before


def test_many_writes_that_are_rather_long_count_as_a_long_one(bench: Bench) -> None:
    writes = 0
    while bench.watched().write(took_ns=2 * MS) if not writes else bench.write(took_ns=2 * MS):
        writes += 1
    assert 5 <= writes <= 7


def test_rather_long_writes_that_are_rare_are_forgiven(bench: Bench) -> None:
    for _ in range(100):
        assert bench.write(took_ns=4 * MS)
        bench.now_ns += 100 * MS


def test_while_writes_are_long_whenever_they_are_tried_the_pause_doubles_up_to_half_a_minute(bench: Bench) -> None:
    pauses = []
    bench.watched()
    for _ in range(8):
        assert bench.write(took_ns=50 * MS)
        pauses.append(round(bench.pause_ns() / S))
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_time_that_went_well_makes_the_next_pause_short_again(bench: Bench) -> None:
    bench.watched()
    for _ in range(5):
        assert bench.write(took_ns=50 * MS)
        bench.pause_ns()
    bench.now_ns += 16 * S
    assert bench.write(took_ns=50 * MS)
    assert round(bench.pause_ns() / S) == 16
    bench.now_ns += 200 * S
    assert bench.write(took_ns=50 * MS)
    assert round(bench.pause_ns() / S) == 1


def test_the_room_is_what_lies_below_the_lower_limit_on_dirty_pages() -> None:
    text = b"nr_free_pages 9\nnr_dirty 300\nnr_writeback 50\nnr_writeback_temp 7\nnr_dirty_threshold 4000\n"
    assert room_in(text + b"nr_dirty_background_threshold 1000\nworkingset 1\n") == 650 * PAGESIZE
    assert room_in(text + b"nr_dirty_background_threshold 349\n") == 0
    assert room_in(text) == 0
    assert room_in(b"") == 0


def test_this_system_tells_its_room() -> None:
    assert ("nr_dirty_background_threshold" in Path("/proc/vmstat").read_text()) == (dirty_room_bytes() > 0)
