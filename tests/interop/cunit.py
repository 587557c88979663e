"""Read what iscsi-test-cu prints: CUnit's "basic" output with libiscsi's own marks in between."""

from __future__ import annotations

import re
from dataclasses import dataclass

# What iscsi-test-cu tries before the first test of a family, and undoes after the last.
SETUP = "(setup)"

PASSED, FAILED, SKIPPED = "passed", "failed", "skipped"


@dataclass(frozen=True, slots=True)
class CUnitReport:
    """One run of iscsi-test-cu.

    Args:
        ran, passed, failed, inactive: counts of tests, from the run summary.
        skipped: (test, reason) for each "[SKIPPED]" mark, without repetition. CUnit counts such a test as run and
            passed, although it may have stopped at its first command.
        failures: the failed assertions and what libiscsi said on them, as printed.
        outcomes: (test, PASSED, FAILED or SKIPPED) in the order of the run; one with a mark counts as skipped, unless
            it failed.
    """

    ran: int
    passed: int
    failed: int
    inactive: int
    skipped: tuple[tuple[str, str], ...]
    failures: tuple[str, ...]
    outcomes: tuple[tuple[str, str], ...] = ()


class NoReport(Exception):
    """iscsi-test-cu printed no run summary: it did not get to the end, or not even to the target."""


def parse_cunit(printed: str) -> CUnitReport:
    """Raises NoReport where there is no run summary."""
    # Columns: total, ran, passed, failed, inactive.
    summary = re.search(r"^ +tests +(\d+) +(\d+) +(\d+) +(\d+) +(\d+)$", printed, re.MULTILINE)
    if summary is None:
        raise NoReport(printed)
    test, over = SETUP, True
    skipped: list[tuple[str, str]] = []
    failures: list[str] = []
    for line in printed.splitlines():
        rest = line
        if started := re.match(r" *Test: (\S+) \.\.\.", line):
            test, over = started[1], False
            rest = line[started.end() :]
        over = over or re.match(r"passed|FAILED", rest) is not None
        if left_out := re.search(r"\[SKIPPED\] *(.*)", rest):
            skipped.append((SETUP if over else test, left_out[1].strip().rstrip(".")))
        if re.match(r" +\d+\. \S+:\d+ +- ", rest) or "[FAILED]" in rest:
            failures.append(f"{test}: {rest.strip()}")
    outcomes = _outcomes(printed, {name for name, _ in skipped})
    ran, passed, failed, inactive = (int(summary[column]) for column in range(2, 6))
    return CUnitReport(ran, passed, failed, inactive, tuple(dict.fromkeys(skipped)), tuple(failures), outcomes)


def _outcomes(printed: str, skipped: set[str]) -> tuple[tuple[str, str], ...]:
    """What became of each test. Its verdict may stand on a line of its own, behind what the test printed."""
    outcomes = []
    for chunk in re.split(r"^ *Test: ", printed, flags=re.MULTILINE)[1:]:
        name = chunk.partition(" ...")[0]
        verdict = re.search(r"(?:^|\.\.\.)(passed|FAILED)", chunk, re.MULTILINE)
        if verdict is None or verdict[1] == "FAILED":
            outcomes.append((name, FAILED))
        else:
            outcomes.append((name, SKIPPED if name in skipped else PASSED))
    return tuple(outcomes)
