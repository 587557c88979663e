"""libiscsi's conformance suite, iscsi-test-cu, run family by family: a family that hangs costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from tests.bench.targets import Target
from tests.interop.cunit import FAILED, SETUP, NoReport, parse_cunit
from tests.interop.programs import run, succeed

FAMILY_TIMEOUT_S: Final = 120
APART: Final[Mapping[str, str]] = {"Sanitize.Reset": "2G"}
"""Tests that get a target of their own, with a disk of this size and one session: this one looks twice, seconds apart,
whether a sanitize operation still goes on, and the test before it never gives back what its second session reserved.
"""


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one test on one target.

    Args:
        family, test: its names; together they are unique.
        outcome: PASSED, FAILED or SKIPPED of `tests.interop.cunit`.
        why: what iscsi-test-cu said, where it did not pass.
    """

    family: str
    test: str
    outcome: str
    why: str = ""

    @property
    def name(self) -> str:
        return f"{self.family}.{self.test}"


def tests_by_family() -> dict[str, list[str]]:
    """Every test of the suite, in its order. Its other groups (SCSI, iSCSI, LINUX) hold the same tests again."""
    families: dict[str, list[str]] = {}
    for line in succeed("iscsi-test-cu", "-l").splitlines():
        group, _, rest = line.strip().partition(".")
        family, _, test = rest.partition(".")
        if group == "ALL" and test:
            families.setdefault(family, []).append(test)
    return families


def run_suite(serve: Callable[[str | None], Target], told: Callable[[str], None]) -> Iterator[Result]:
    """Run every family on a target of its own, with leave to destroy data and to sanitize, over two sessions.

    Args:
        serve: starts a target with a fresh disk, of a size where one is given.
        told: gets a line for each family.
    """
    for family, tests in tests_by_family().items():
        with serve(None) as target:
            results = run_family(target, family, [test for test in tests if f"{family}.{test}" not in APART])
        for test in tests:
            size = APART.get(f"{family}.{test}")
            if size is not None:
                with serve(size) as target:
                    results += run_family(target, family, [test], sessions=1)
        told(f"{family}: {len(results)} tests, {sum(result.outcome == FAILED for result in results)} failed")
        yield from results


def run_family(target: Target, family: str, tests: list[str], *, sessions: int = 2) -> list[Result]:
    """Run tests of one family on a target that is there. One that was not run, for whatever reason, has failed."""
    selection = ",".join(f"ALL.{family}.{test}" for test in tests)
    try:
        done = run("iscsi-test-cu", "-d", "-S", "-t", selection, *[target.url] * sessions, timeout_s=FAMILY_TIMEOUT_S)
        report = parse_cunit(done.stdout)
    except (AssertionError, NoReport) as error:
        return [Result(family, test, FAILED, f"no report: {str(error)[-300:]}") for test in tests]
    reasons = dict(report.skipped)
    outcomes = dict(report.outcomes)
    results = []
    for test in tests:
        outcome = outcomes.get(test, FAILED)
        failures = [text for text in report.failures if text.startswith(f"{test}: ")]
        why = "; ".join(failures[:3]) if outcome == FAILED else reasons.get(test, "")
        if test not in outcomes:
            why = f"not run: {reasons.get(SETUP, 'no reason given')}"
        results.append(Result(family, test, outcome, why))
    return results
