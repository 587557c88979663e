"""Counters of commands: what is counted where, and that a peer can not make them many."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.lun import lun_spellings
from csvd.scsi.sense import Asc, CheckCondition, SenseKey, encode_sense
from csvd.scsi.target_device import TargetDevice
from csvd.storage.memory import MemoryDisk
from csvd.target.statistics import (
    BUCKET_SHIFT,
    BUCKETS,
    BYTES_IN,
    FIRST_BUCKET,
    NANOSECONDS,
    NO_UNIT,
    ConnectionCounter,
    TargetStatistics,
    bounds_s,
    error_name,
    new_row,
    totals_of,
)

READ_10 = 0x28
INQUIRY = 0x12


def device_of(*numbers: int) -> TargetDevice:
    units = {number: LogicalUnit(number, MemoryDisk(1 << 20), 512, 2048, Identity()) for number in numbers}
    return TargetDevice(units, name="iqn.2026-11.org.example:x")


def counted(statistics: TargetStatistics) -> list[tuple[int, str, int]]:
    return [(number, name, totals.count) for number, name, totals in statistics.commands()]


def count(row: list[int], elapsed_ns: int = 5000, times: int = 1) -> None:
    row[FIRST_BUCKET + (elapsed_ns >> BUCKET_SHIFT).bit_length()] += times
    row[NANOSECONDS] += times * elapsed_ns


def test_commands_are_counted_by_unit_and_name_however_the_lun_is_spelt() -> None:
    statistics = TargetStatistics(device_of(0, 1))
    for number in (0, 1, 1):
        for lun in lun_spellings(number):
            count(statistics.row(lun, READ_10))
    count(statistics.row(0, INQUIRY))
    assert counted(statistics) == [(0, "INQUIRY", 1), (0, "READ(10)", 2), (1, "READ(10)", 4)]
    assert [(number, totals.count) for number, totals in statistics.units()] == [(0, 3), (1, 4)]


def test_the_row_is_found_again_by_the_hot_path() -> None:
    statistics = TargetStatistics(device_of(0))
    row = statistics.row(0, READ_10)
    assert statistics.tables[0][READ_10] is row
    assert statistics.row(0, READ_10) is row


def test_what_a_peer_makes_up_takes_one_row_and_no_more() -> None:
    statistics = TargetStatistics(device_of(0))
    for lun in range(1000):
        for code in (READ_10, 0xFE):
            count(statistics.row(lun << 48 | 1, code))
    for code in range(0xC0, 0x100):
        count(statistics.row(0, code))
    assert counted(statistics) == [(NO_UNIT, "other", 2000), (0, "other", 0x40)]
    assert list(statistics.tables) == [0]


def test_errors_are_counted_by_sense_key_and_by_status() -> None:
    statistics = TargetStatistics(device_of(0))
    sense = encode_sense(CheckCondition(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR), descriptor=False)
    count(statistics.row(0, READ_10), times=3)
    for status, data in ((2, sense), (2, sense), (0x18, b"")):
        statistics.failed(0, READ_10, status, data)
    (totals,) = [totals for _, _, totals in statistics.commands()]
    assert totals.errors == {"medium_error": 2, "reservation_conflict": 1}
    ((_, of_unit),) = statistics.units()
    assert of_unit.errors == totals.errors


@pytest.mark.parametrize("descriptor", [False, True])
def test_an_errors_name_is_its_sense_key(descriptor: bool) -> None:
    sense = encode_sense(CheckCondition(SenseKey.UNIT_ATTENTION, Asc.WRITE_ERROR), descriptor=descriptor)
    assert error_name(2, sense) == "unit_attention"
    assert error_name(2, b"") == "check_condition"
    assert error_name(0x77, b"") == "status_77"


def test_another_unit_of_the_same_number_begins_with_zeros() -> None:
    statistics = TargetStatistics(device_of(0, 1))
    count(statistics.row(1 << 48, READ_10))
    statistics.failed(1 << 48, READ_10, 8, b"")
    count(statistics.row(0, READ_10))
    statistics.forget(1)
    assert counted(statistics) == [(0, "READ(10)", 1)]
    assert list(statistics.tables) == [0]


def test_times_fall_into_buckets_that_double() -> None:
    row = new_row()
    for elapsed_ns in (0, 4095, 4096, 8191, 8192, 1 << 40, 1 << 62):
        count(row, elapsed_ns)
    row[BYTES_IN] = 7
    totals = totals_of([row, new_row()])
    assert totals.count == 7
    assert totals.buckets[:3] == [2, 2, 1]
    assert totals.buckets[BUCKETS - 1] == 2
    assert sum(totals.buckets) == 7
    bounds = bounds_s()
    assert bounds[0] == 4096e-9
    assert all(after == 2 * before for before, after in itertools.pairwise(bounds))
    assert totals.to_json()["bytes_in"] == 7


def test_totals_of_nothing_are_zeros() -> None:
    face: dict[str, Any] = totals_of([]).to_json()
    assert face == {
        "count": 0,
        "bytes_in": 0,
        "bytes_out": 0,
        "seconds": 0.0,
        "errors": {},
        "buckets": [0] * BUCKETS,
    }


def test_what_is_answered_in_one_turn_is_counted_together_and_the_next_run_apart() -> None:
    counter = ConnectionCounter()
    first, second = new_row(), new_row()
    counter.count_run(first, 1, 512, 0)
    counter.count_run(first, 2, 1024, 0)
    counter.count_run(second, 1, 0, 8192)
    counter.end_run()
    counter.end_run()
    counter.count(second, counter.turn_ns, 0, 4096)
    assert (totals_of([first]).count, totals_of([first]).bytes_in) == (3, 1536)
    assert (totals_of([second]).count, totals_of([second]).bytes_out) == (2, 12288)
    mine = totals_of([counter.row])
    assert (mine.count, mine.bytes_in, mine.bytes_out) == (5, 1536, 12288)
    assert mine.nanoseconds == first[NANOSECONDS] + second[NANOSECONDS]
