from __future__ import annotations

import pytest

from tests.interop.cunit import FAILED, PASSED, SETUP, SKIPPED, CUnitReport, NoReport, parse_cunit

HEAD = """


     CUnit - A unit testing framework for C - Version 2.1-3
     http://cunit.sourceforge.net/


"""


def summary(ran: int, passed: int, failed: int) -> str:
    return f"""
Run Summary:    Type  Total    Ran Passed Failed Inactive
              suites      1      1    n/a      0        0
               tests {ran:6} {ran:6} {passed:6} {failed:6}        0
             asserts      4      4      0      4      n/a

Elapsed time =    0.000 seconds
Tests completed with return value: 0
"""


def test_a_family_that_passes_is_counted_and_its_skips_are_named() -> None:
    printed = f"""{HEAD}Suite: Inquiry
  Test: Standard ...passed
  Test: BlockLimits ...    [SKIPPED] Logical unit is fully provisioned. Skipping test
passed
  Test: MandatoryVPDSBC ...passed
{summary(3, 3, 0)}"""

    assert parse_cunit(printed) == CUnitReport(
        ran=3,
        passed=3,
        failed=0,
        inactive=0,
        skipped=(("BlockLimits", "Logical unit is fully provisioned. Skipping test"),),
        failures=(),
        outcomes=(("Standard", PASSED), ("BlockLimits", SKIPPED), ("MandatoryVPDSBC", PASSED)),
    )


def test_marks_outside_of_a_test_belong_to_what_is_tried_before_and_after_all_tests() -> None:
    printed = f"""    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
{HEAD}Suite: Read10
  Test: Simple ...passed
  Test: Async ...    [SKIPPED] READ10 is not implemented.
    [SKIPPED] READ10 is not implemented.
passed    [SKIPPED] PERSISTENT RESERVE IN is not implemented.
{summary(2, 2, 0)}"""

    assert parse_cunit(printed).skipped == (
        (SETUP, "PERSISTENT RESERVE IN is not implemented"),
        ("Async", "READ10 is not implemented"),
    )


def test_failures_are_told_with_their_test() -> None:
    printed = f"""{HEAD}Suite: ReadOnly
  Test: First ...passed
  Test: ReadOnlySBC ...    [SKIPPED] UNMAP is not implemented.
    [FAILED] WRITESAME10 failed with wrong sense

FAILED
    1. test_readonly_sbc.c:63  - CU_ASSERT_EQUAL(_r,0)
{summary(2, 1, 1)}"""

    report = parse_cunit(printed)

    assert (report.ran, report.passed, report.failed) == (2, 1, 1)
    assert report.skipped == (("ReadOnlySBC", "UNMAP is not implemented"),)
    assert report.failures == (
        "ReadOnlySBC: [FAILED] WRITESAME10 failed with wrong sense",
        "ReadOnlySBC: 1. test_readonly_sbc.c:63  - CU_ASSERT_EQUAL(_r,0)",
    )


def test_an_unknown_family_is_a_run_of_nothing() -> None:
    report = parse_cunit(HEAD + summary(0, 0, 0).replace("suites      1      1", "suites      0      0"))

    assert (report.ran, report.failed) == (0, 0)


@pytest.mark.parametrize("printed", ["", HEAD, HEAD + "Suite: Read10\n  Test: Simple ..."])
def test_a_run_that_was_cut_off_is_no_report(printed: str) -> None:
    with pytest.raises(NoReport):
        parse_cunit(printed)


def test_a_verdict_may_stand_behind_what_the_test_says_and_a_failure_outweighs_a_skip() -> None:
    printed = f"""{HEAD}Suite: Reserve6
  Test: 2Initiators ...    Take out a RESERVE6 from the first initiator
    [FAILED] MODESENSE6 successful but should have failed
FAILED
    1. test_reserve6_2initiators.c:70  - CU_ASSERT_EQUAL(_r,0)
  Test: LUNReset ...    [SKIPPED] nothing to reset
FAILED
  Test: Logout ...    the second initiator passed by
passed    [FAILED] PRIN command: failed
{summary(3, 1, 2)}"""

    assert parse_cunit(printed).outcomes == (("2Initiators", FAILED), ("LUNReset", FAILED), ("Logout", PASSED))
