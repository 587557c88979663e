"""libiscsi's conformance suite, iscsi-test-cu, run family by family: a family that hangs costs itself alone."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Final

from tests.bench.targets import Target, TargetFailed
from tests.interop.cunit import FAILED, SETUP, SKIPPED, NoReport, parse_cunit
from tests.interop.programs import run, succeed

FAMILY_TIMEOUT_S: Final = 120
APART: Final[Mapping[str, str]] = {"Sanitize.Reset": "2G"}
"""Tests that get a unit of their own, on a disk of this size, and one session: this one looks twice, seconds apart,
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


def families() -> dict[str, list[str]]:
    """The tests of the suite by family, in order. Its other groups (SCSI, iSCSI, LINUX) hold the same ones again."""
    found: dict[str, list[str]] = {}
    for line in succeed("iscsi-test-cu", "-l").splitlines():
        group, _, rest = line.strip().partition(".")
        family, _, test = rest.partition(".")
        if group == "ALL" and test:
            found.setdefault(family, []).append(test)
    return found


def run_suite(
    serve: Callable[[str | None], AbstractContextManager[str]],
    told: Callable[[str], None],
    *,
    without_leave: Collection[str] = (),
    unfit: Collection[str] = (),
) -> Iterator[Result]:
    """Run every family on a logical unit of its own, with leave to destroy data and to sanitize, over two sessions.

    Args:
        serve: gives the URL of a unit with a fresh disk, of a size where one is given; raises EndedBadly behind it
            where the target did not end well.
        told: gets a line for each family.
        without_leave: families that do not get that leave.
        unfit: tests that are left out.
    """
    for family, tests in families().items():
        leave = () if family in without_leave else ("-d", "-S")
        left_out = [test for test in tests if f"{family}.{test}" in unfit]
        apart = [test for test in tests if f"{family}.{test}" in APART]
        together = [test for test in tests if test not in left_out and test not in apart]
        results = [Result(family, test, SKIPPED, "left out: it writes without asking") for test in left_out]
        try:
            with serve(None) as url:
                results += run_family(url, family, together, whole=together == tests, leave=leave)
            for test in apart:
                with serve(APART[f"{family}.{test}"]) as url:
                    results += run_family(url, family, [test], sessions=1, leave=leave)
        except EndedBadly as why:
            results.append(badly_ended(family, why))
        told(f"{family}: {len(results)} tests, {sum(result.outcome == FAILED for result in results)} failed")
        yield from results


def run_family(
    url: str,
    family: str,
    tests: list[str],
    *,
    sessions: int = 2,
    whole: bool = False,
    leave: Sequence[str] = ("-d", "-S"),
) -> list[Result]:
    """Run tests of one family on a unit that is served. One that was not run, for whatever reason, has failed.

    Args:
        whole: they are all of the family. Then its name selects them: iSCSITMF.LUNResetSimpleAsync fails when it is
            selected by its own name, for it looks at a variable that nothing has set then.
        leave: the options that let the suite write.
    """
    selection = f"ALL.{family}" if whole else ",".join(f"ALL.{family}.{test}" for test in tests)
    try:
        done = run("iscsi-test-cu", *leave, "-t", selection, *[url] * sessions, timeout_s=FAMILY_TIMEOUT_S)
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


class EndedBadly(Exception):
    """A target did not end as it should, or met a fault of ours."""


def end(target: Target) -> None:
    """End a target.

    Raises:
        EndedBadly: it did not end by itself with 0, or its log has a traceback.
    """
    try:
        status = target.stop()
    except TargetFailed as failed:
        raise EndedBadly(str(failed)[-300:]) from failed
    log = target.log()
    if status != 0 or "Traceback" in log:
        raise EndedBadly(f"exit status {status}: {log[-300:]}")


def badly_ended(family: str, why: EndedBadly) -> Result:
    """A failure of its own, beside those of the family's tests."""
    return Result(family, "(the target's end)", FAILED, str(why))
