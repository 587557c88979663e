"""`python -m tests.sim.proof`: switch each guard off, find a seed that shows what it is for, and print the table.

python -m tests.sim.proof --write      put the table into docs/proof.md, between its markers
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.sim.guards import GUARDS
from tests.sim.runner import run_seeds

DOCUMENT: Final = Path(__file__).parents[2] / "docs" / "proof.md"
BEGIN: Final = "<!-- the table of tests.sim.proof: begin -->"
END: Final = "<!-- the table of tests.sim.proof: end -->"
SEARCHED: Final = 400


@dataclass(frozen=True, slots=True)
class Catch:
    """The seed that shows a guard.

    Attributes:
        tried: how many seeds were tried until it did.
        problem: what the checks said.
    """

    guard: str
    seed: int
    tried: int
    problem: str


def catch(guard: str, jobs: int, seeds: Sequence[int]) -> Catch | None:
    """Find a seed that fails without a guard; None where none of these does."""
    with contextlib.closing(run_seeds(seeds, jobs, guard)) as outcomes:
        for tried, outcome in enumerate(outcomes, 1):
            if outcome.problem:
                return Catch(guard, outcome.seed, tried, outcome.problem.splitlines()[0])
    return None


def table(catches: Sequence[Catch]) -> str:
    """The table, in Markdown."""
    lines = ["| guard | without it | seed | tried | what the checks say |", "|---|---|---|---|---|"]
    for one in catches:
        guard = GUARDS[one.guard]
        said = one.problem.removeprefix("logged: ").replace("|", "\\|")
        said = said if len(said) <= 160 else said[:157] + "…"
        lines.append(f"| **{one.guard}**: {guard.what} | {guard.harm} | {one.seed} | {one.tried} | {said} |")
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
    """Print the table, or write it."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.proof", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true", help="write docs/proof.md")
    parser.add_argument(
        "--seeds", type=int, default=SEARCHED, help="how many are tried for each (default: %(default)s)"
    )
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    options = parser.parse_args(arguments)
    catches, missing = [], []
    for guard in GUARDS:
        found = catch(guard, options.jobs, range(1, options.seeds + 1))
        print(f"{guard}: {f'seed {found.seed}: {found.problem}' if found else 'nothing is seen'}", file=sys.stderr)
        if found is None:
            missing.append(guard)
        else:
            catches.append(found)
    if options.write:
        text = DOCUMENT.read_text()
        text = f"{text[: text.index(BEGIN)]}{BEGIN}\n{table(catches)}\n{text[text.index(END) :]}"
        DOCUMENT.write_text(text)
    else:
        print(table(catches))
    return int(bool(missing))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
