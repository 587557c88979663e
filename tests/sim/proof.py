"""`python -m tests.sim.proof`: switch each guard off, find a seed that shows what it is for, and print the table.

python -m tests.sim.proof --write      put the table into docs/proof.md, between its markers
python -m tests.sim.proof fence gate   only these
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.sim.guards import GUARDS
from tests.sim.runner import report, run_seeds

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "proof.md"
BEGIN: Final = "<!-- the table of tests.sim.proof: begin -->"
END: Final = "<!-- the table of tests.sim.proof: end -->"
SEARCHED: Final = 40
CONTROLS: Final = 8
SHOWN_CHARACTERS: Final = 160


@dataclass(frozen=True, slots=True)
class Catch:
    """The seed that shows a guard.

    Attributes:
        tried: how many seeds were tried until it did.
        passed: how many of the same plans passed with the guard.
        problem: what the checks said.
    """

    guard: str
    seed: int
    tried: int
    passed: int
    problem: str


def catch(guard: str, jobs: int, seeds: Sequence[int]) -> Catch | None:
    """Find a seed that fails without a guard, and see that it and others pass with it; None where there is none."""
    with contextlib.closing(run_seeds(seeds, jobs, guard)) as outcomes:
        tried, found = next(
            ((tried, outcome) for tried, outcome in enumerate(outcomes, 1) if outcome.problem), (len(seeds), None)
        )
    if found is None:
        print(f"{guard}: nothing is seen by {tried} seeds", file=sys.stderr)
        return None
    controls = sorted({found.seed, *seeds[: max(CONTROLS, tried)]})
    failed = [outcome for outcome in run_seeds(controls, jobs, guard, is_off=False) if outcome.problem]
    if failed:
        print(f"{guard}: fails WITH the guard\n{report(failed[0], guard)}", file=sys.stderr)
        return None
    return Catch(guard, found.seed, tried, len(controls), found.problem.splitlines()[0])


def table(catches: Sequence[Catch]) -> str:
    """The table, in Markdown."""
    lines = [
        "| guard | without it | seed | tried | what the checks say | with it |",
        "|---|---|---|---|---|---|",
    ]
    for one in catches:
        guard = GUARDS[one.guard]
        said = one.problem.removeprefix("logged: ").replace("|", "\\|")
        said = said if len(said) <= SHOWN_CHARACTERS else said[: SHOWN_CHARACTERS - 1] + "…"
        what = f"**{one.guard}**: {guard.what}" + f"; *set aside*: {guard.aside_what}" * bool(guard.aside_what)
        lines.append(f"| {what} | {guard.harm} | {one.seed} | {one.tried} | {said} | {one.passed} pass |")
    return "\n".join(lines)


def recorded() -> Mapping[str, int]:
    """The seed of each guard, as docs/proof.md has it."""
    text = DOCUMENT.read_text()
    rows = text[text.index(BEGIN) : text.index(END)].splitlines()
    found = {}
    for row in rows:
        cells = row.split(" | ")
        if row.startswith("| **"):
            found[cells[0].removeprefix("| **").split("**")[0]] = int(cells[2])
    return found


def main(arguments: Sequence[str]) -> int:
    """Print the table, or write it; 0 where every guard is shown."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.proof", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("guards", nargs="*", metavar="GUARD", help="all, where none is named")
    parser.add_argument("--write", action="store_true", help="write docs/proof.md, where every guard is shown")
    parser.add_argument(
        "--seeds", type=int, default=SEARCHED, help="how many are tried for each, at most (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    guards = options.guards or list(GUARDS)
    if unknown := sorted(set(guards) - set(GUARDS)):
        parser.error(f"there is no guard {', '.join(unknown)}; there are {', '.join(GUARDS)}")
    if options.write and options.guards:
        parser.error("the whole table is written, or none")
    catches = []
    for number, guard in enumerate(guards, 1):
        began_s = time.monotonic()
        found = catch(guard, options.jobs, range(1, options.seeds + 1))
        if found is not None:
            catches.append(found)
            took_s = time.monotonic() - began_s
            print(
                f"{number}/{len(guards)} {guard}: seed {found.seed}, the {found.tried}. tried: {found.problem}; "
                f"{found.passed} pass with it; {took_s:.0f} s",
                file=sys.stderr,
                flush=True,
            )
    missing = len(guards) - len(catches)
    if options.write and not missing:
        text = DOCUMENT.read_text()
        text = f"{text[: text.index(BEGIN)]}{BEGIN}\n{table(catches)}\n{text[text.index(END) :]}"
        DOCUMENT.write_text(text)
    else:
        print(table(catches))
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
