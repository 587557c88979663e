"""The page that `make conformance` writes, and what it counts as not run."""

from __future__ import annotations

from tests.conformance.suite import Result
from tests.conformance.table import failures, never_ran, render
from tests.interop.cunit import FAILED, PASSED, SKIPPED

COLUMNS = {
    "thin": [Result("Unmap", "Simple", PASSED), Result("ReadOnly", "SBC", SKIPPED, "not write-protected")],
    "read-only": [Result("Unmap", "Simple", FAILED, "Simple: no"), Result("ReadOnly", "SBC", SKIPPED, "no data")],
    "tgtd": [Result("Unmap", "Simple", SKIPPED, "no UNMAP"), Result("ReadOnly", "SBC", PASSED)],
}
OURS = ["thin", "read-only"]


def test_a_test_that_is_skipped_on_every_kind_of_ours_has_not_run_whatever_the_peer_did() -> None:
    assert never_ran(COLUMNS, OURS) == [("ReadOnly.SBC", "not write-protected")]


def test_a_failure_on_one_kind_is_a_failure() -> None:
    assert failures(COLUMNS, OURS) == [("read-only", COLUMNS["read-only"][0])]


def test_the_page_counts_each_family_and_names_what_failed() -> None:
    page = render(COLUMNS, OURS, ["date: today"])
    assert "| Unmap | 1 / 0 / 0 | 0 / 1 / 0 | 0 / 0 / 1 |" in page
    assert "| **all** | **1 / 0 / 1** | **0 / 1 / 1** | **1 / 0 / 1** |" in page
    assert "- `Unmap.Simple` on read-only: Simple: no" in page
    assert "- `ReadOnly.SBC`: not write-protected" in page
    assert "- tgtd, 1: no UNMAP" in page
