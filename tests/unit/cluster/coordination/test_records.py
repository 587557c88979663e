"""The records of an office: shared writes, durable when said, unknown when the lease ran out meanwhile."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.coordination.faces import OfficeOver
from csvd.cluster.coordination.records import RECORDS, Records, RecordsDamaged
from csvd.cluster.errors import CommandRefused, OutcomeUnknown
from csvd.errors import CsvdError
from csvd.shared_disk import MAXIMUM_RECORDS_BYTES, RecordSlot
from tests.unit.cluster.coordination.shared_disks import DiskInMemory, Platter


class Stage:
    """The records of epoch 3 on a disk whose writes take 10 ms."""

    def __init__(self, *, delay_s: float = 0.01) -> None:
        self.clock = Clock()
        self.platter = Platter(self.clock, delay_s=delay_s)
        self.disk = DiskInMemory(self.platter, "n1")
        self.disk.join("n1", 1)
        self.clock.advance(delay_s)
        self.is_live = True
        self.failures: list[CsvdError] = []
        self.records = self.opened()

    def opened(self, epoch: int = 3) -> Records:
        return Records(self.disk, epoch, is_live=lambda: self.is_live, failed=self.failures.append)

    def keep(self, **changes: Any) -> list[Any]:
        outcome: list[Any] = []
        Deferred.fromCoroutine(self.records.keep({RECORDS: changes})).addBoth(outcome.append)
        return outcome


def test_what_was_kept_is_there_for_the_next_office() -> None:
    stage = Stage()
    kept = stage.keep(a=1, b={"c": [1, None, "x"]})
    assert kept == []
    stage.clock.advance(0.01)
    assert kept == [None]
    stage.keep(a=None)
    stage.clock.advance(0.01)
    following = stage.opened(4)
    following.load(stage.platter.newest())
    assert following.table(RECORDS) == {"b": {"c": [1, None, "x"]}}
    assert following.size_bytes == stage.records.size_bytes


def test_changes_that_wait_share_one_write() -> None:
    stage = Stage()
    outcomes = [stage.keep(**{f"k{number}": number}) for number in range(50)]
    stage.clock.advance(0.01)
    assert [bool(outcome) for outcome in outcomes] == [True] + 49 * [False]
    stage.clock.advance(0.01)
    assert all(outcome == [None] for outcome in outcomes)
    assert len(stage.platter.writes) == 2
    assert len(stage.records.table(RECORDS)) == 50


def test_a_change_is_seen_only_when_it_is_durable() -> None:
    stage = Stage()
    stage.keep(a=1)
    assert stage.records.table(RECORDS) == {}
    stage.clock.advance(0.01)
    assert stage.records.table(RECORDS) == {"a": 1}


def test_without_a_lease_nothing_is_written() -> None:
    stage = Stage()
    stage.is_live = False
    (failure,) = stage.keep(a=1)
    assert failure.check(OfficeOver)
    stage.clock.advance(1)
    assert stage.platter.writes == []


def test_a_lease_that_runs_out_during_a_write_leaves_the_outcome_unknown_and_what_waits_undone() -> None:
    stage = Stage()
    written, waiting = stage.keep(a=1), stage.keep(a=2)
    stage.is_live = False
    stage.clock.advance(0.01)
    assert written[0].check(OutcomeUnknown)
    assert waiting[0].check(OfficeOver)
    stage.clock.advance(1)
    assert len(stage.platter.writes) == 1


def test_a_disk_that_fails_ends_the_office() -> None:
    stage = Stage()
    stage.platter.failing = {"n1"}
    kept = stage.keep(a=1)
    stage.clock.advance(0.01)
    assert kept[0].check(OutcomeUnknown)
    assert [str(error) for error in stage.failures] == ["the disk failed"]
    assert stage.keep(a=2)[0].check(OfficeOver)


def test_the_end_waits_for_the_write_that_is_under_way() -> None:
    stage = Stage()
    written, waiting = stage.keep(a=1), stage.keep(b=1)
    ended: list[Any] = []
    Deferred.fromCoroutine(stage.records.end()).addBoth(ended.append)
    assert waiting[0].check(OfficeOver)
    assert ended == []
    stage.clock.advance(0.01)
    assert ended == [None]
    assert written == [None]


def test_the_records_are_bounded_and_a_refusal_changes_nothing() -> None:
    stage = Stage(delay_s=0)
    assert stage.keep(a="x" * (MAXIMUM_RECORDS_BYTES // 2)) == [None]
    (failure,) = stage.keep(b="x" * (MAXIMUM_RECORDS_BYTES // 2))
    assert failure.check(CommandRefused)
    assert stage.keep(a="x" * 10) == [None]
    assert stage.keep(b="x" * (MAXIMUM_RECORDS_BYTES // 2)) == [None]
    assert len(stage.platter.newest().data) <= MAXIMUM_RECORDS_BYTES


@pytest.mark.parametrize("value", [object(), float("nan"), {1: 2}, b"bytes", 2**80])
def test_what_is_not_json_is_refused(value: object) -> None:
    (failure,) = Stage().keep(a=value)
    assert failure.check(CommandRefused)


@pytest.mark.parametrize("data", [b"\xc1", b"text", msgspec.msgpack.encode({"format": 9}), msgspec.msgpack.encode([1])])
def test_damaged_records_are_not_guessed_at(data: bytes) -> None:
    with pytest.raises(RecordsDamaged):
        Stage().records.load(RecordSlot(1, 1, data))
