"""docs/conformance.md: what iscsi-test-cu found, family by family, csvd's kinds of logical unit beside tgtd."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from tests.conformance.suite import Result
from tests.interop.cunit import FAILED, PASSED, SKIPPED

Columns = Mapping[str, Sequence[Result]]
"""The results of each column, every test once, in the order of the suite."""

INTRODUCTION: Final = """\
# Conformance

Written by `make conformance` (`python -m tests.conformance`); run it instead of editing this.

libiscsi's test suite, `iscsi-test-cu -d -S URL URL` (leave to destroy data and to sanitize, and a second session for
the tests that need one), family by family, each on a fresh disk of 256 MiB, in one run on one machine. A cell reads
*passed / failed / skipped*: iscsi-test-cu skips a test by itself when the logical unit is not of the kind that it is
about, or has no such command. The suite lists its 230 tests up to three times, in groups; here each is run once.

The kinds of csvd's (`tests/conformance/kinds.py`):

- **thin**, 512-byte blocks;
- **full**, allocated when it was made;
- **read-only**: with `-d -S` the suite expects of every disk that it can be written, so the families that write run
  without, and nine tests that write without asking are left out;
- **removable**, thin, with physical blocks of 128 KiB. GetLBAStatus.UnmapSingle contradicts itself on a disk that has
  from 2 to 128 logical blocks in a physical one (it asks for a block and expects the answer to begin at another), and
  other tests need more than one: hence the two sizes of thin disks.
"""


def never_ran(columns: Columns, ours: Sequence[str]) -> list[tuple[str, str]]:
    """(test, reason) for every test that passed or failed on none of our kinds."""
    found: dict[str, str] = {}
    ran = {result.name for kind in ours for result in columns[kind] if result.outcome != SKIPPED}
    for kind in ours:
        for result in columns[kind]:
            if result.name not in ran:
                found.setdefault(result.name, result.why)
    return list(found.items())


def failures(columns: Columns, ours: Sequence[str]) -> list[tuple[str, Result]]:
    """(kind, result) of every test that failed on one of our kinds."""
    return [(kind, result) for kind in ours for result in columns[kind] if result.outcome == FAILED]


def render(columns: Columns, ours: Sequence[str], facts: Sequence[str]) -> str:
    """The whole page."""
    families = list(dict.fromkeys(result.family for result in next(iter(columns.values()))))
    lines = [INTRODUCTION, f"| family | {' | '.join(columns)} |", "|---|" + "---:|" * len(columns)]
    for family in families:
        cells = [_counts([result for result in results if result.family == family]) for results in columns.values()]
        lines.append(f"| {family} | {' | '.join(cells)} |")
    totals = [f"**{_counts(results)}**" for results in columns.values()]
    lines += [f"| **all** | {' | '.join(totals)} |", ""]
    lines += _section(
        "Tests that ran on no kind of csvd's", [f"`{name}`: {why}" for name, why in never_ran(columns, ours)]
    )
    lines += _section(
        "Failures", [f"`{result.name}` on {kind}: {result.why}" for kind, result in _all_failures(columns)]
    )
    lines += _section("Skipped on each kind", _skips(columns))
    lines += _section("Measured", facts)
    return "\n".join(lines)


def _all_failures(columns: Columns) -> list[tuple[str, Result]]:
    return failures(columns, list(columns))


def _counts(results: Sequence[Result]) -> str:
    return " / ".join(
        str(sum(result.outcome == outcome for result in results)) for outcome in (PASSED, FAILED, SKIPPED)
    )


def _skips(columns: Columns) -> list[str]:
    """A line for each column and reason, with the number of tests."""
    lines = []
    for kind, results in columns.items():
        reasons: dict[str, int] = {}
        for result in results:
            if result.outcome == SKIPPED:
                reasons[result.why] = reasons.get(result.why, 0) + 1
        lines += [f"{kind}, {count}: {why}" for why, count in sorted(reasons.items(), key=lambda item: -item[1])]
    return lines


def _section(title: str, lines: Sequence[str]) -> list[str]:
    return [f"## {title}", "", *(f"- {line}" for line in lines or ["none"]), ""]
