"""Totals over workers and their processes: they never go back."""

from __future__ import annotations

from typing import Any

from csvd.workers.ledger import Ledger


def row(count: int, target: str = "a", lun: int | None = 0, **more: Any) -> dict[str, Any]:
    return {
        "target": target,
        "lun": lun,
        "count": count,
        "bytes_in": 512 * count,
        "bytes_out": 0,
        "seconds": count / 8,
        "errors": {},
        "buckets": [count, 0],
        **more,
    }


def said(*units: dict[str, Any]) -> dict[str, Any]:
    return {"units": list(units), "commands": [{**unit, "command": "READ(10)"} for unit in units]}


def counts(ledger: Ledger, kind: str = "units") -> dict[tuple[str, int | None], int]:
    return {(found["target"], found["lun"]): found["count"] for found in ledger.rows(kind)}


def test_what_a_worker_says_replaces_what_it_said_before() -> None:
    ledger = Ledger()
    ledger.said(0, said(row(3)))
    ledger.said(0, said(row(5)))
    ledger.said(1, said(row(2, "b")))
    assert counts(ledger) == counts(ledger, "commands") == {("a", 0): 5, ("b", 0): 2}


def test_the_successor_of_a_process_counts_on() -> None:
    ledger = Ledger()
    ledger.said(0, said(row(5, errors={"medium_error": 1})))
    ledger.ended(0)
    assert counts(ledger) == {("a", 0): 5}
    ledger.said(0, said(row(2, errors={"medium_error": 2, "not_ready": 1}, buckets=[1, 1])))
    ledger.said(0, said(row(4, errors={"medium_error": 2, "not_ready": 1}, buckets=[1, 3])))
    (found,) = ledger.rows("units")
    assert (found["count"], found["bytes_in"], found["seconds"]) == (9, 9 * 512, 9 / 8)
    assert (found["errors"], found["buckets"]) == ({"medium_error": 3, "not_ready": 1}, [6, 3])


def test_a_process_that_ends_twice_without_a_word_is_counted_once() -> None:
    ledger = Ledger()
    ledger.said(0, said(row(5)))
    ledger.ended(0)
    ledger.ended(0)
    assert counts(ledger) == {("a", 0): 5}


def test_a_target_that_goes_to_another_worker_counts_on_there() -> None:
    ledger = Ledger()
    ledger.said(0, said(row(5), row(1, "b")))
    ledger.released(0, "a")
    ledger.said(0, said(row(1, "b")))
    ledger.said(1, said(row(2)))
    assert counts(ledger) == {("a", 0): 7, ("b", 0): 1}


def test_what_is_gone_begins_with_zeros() -> None:
    ledger = Ledger()
    ledger.said(0, said(row(5), row(6, lun=1), row(1, lun=None)))
    ledger.ended(0)
    ledger.said(0, said(row(5), row(6, lun=1)))
    ledger.forget("a", 1)
    assert counts(ledger) == {("a", 0): 10, ("a", None): 1}
    ledger.forget("a")
    assert counts(ledger) == {}
