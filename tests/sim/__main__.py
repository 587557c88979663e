"""`python -m tests.sim`: run the simulation by hand.

python -m tests.sim --seeds 1-200             run seeds; those of seeds.txt first
python -m tests.sim --trace 17                replay a seed and print everything that happens
python -m tests.sim --without "owner block"   switch a guard off, and find a seed that shows what it is for
python -m tests.sim --pointed "owner block"   the same seeds with the guard: they pass
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections import Counter
from collections.abc import Sequence

from tests.sim.guards import GUARDS
from tests.sim.runner import kept_seeds, parse_seeds, quiet, report, run_seed, run_seeds


def main(arguments: Sequence[str]) -> int:
    """Run; 0 where every seed did what was expected of it."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", default="1-200", help="such as 1-200 or 3,5,70-80 (default: %(default)s)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: %(default)s)")
    parser.add_argument("--trace", type=int, metavar="SEED", help="replay one seed and print all that happens")
    parser.add_argument("--without", default="", choices=["", *GUARDS], metavar="GUARD", help=", ".join(GUARDS))
    parser.add_argument("--pointed", default="", choices=["", *GUARDS], metavar="GUARD", help="one of the same")
    options = parser.parse_args(arguments)
    guard, is_off = options.without or options.pointed, bool(options.without)
    if options.trace is not None:
        return _trace(options.trace, guard, is_off=is_off)
    try:
        seeds = parse_seeds(options.seeds)
    except ValueError:
        parser.error(f"{options.seeds!r} names no seeds")
    if options.without:
        return _find(seeds, options.jobs, options.without)
    return _run(seeds if guard else [*kept_seeds(), *seeds], options.jobs, guard)


def _trace(seed: int, guard: str, *, is_off: bool) -> int:
    quiet()
    outcome = run_seed(seed, guard, is_off=is_off, echo=print)
    print(f"seed {seed}: {outcome.problem or 'all is well'}; {outcome.steps} steps, checksum {outcome.checksum:08x}")
    return int(bool(outcome.problem))


def _run(seeds: Sequence[int], jobs: int, guard: str = "") -> int:
    begin_s = time.monotonic()
    failed, steps, simulated_s, settled_s = [], 0, 0.0, 0.0
    counts: Counter[str] = Counter()
    for outcome in run_seeds(seeds, jobs, guard, is_off=False):
        steps += outcome.steps
        counts.update(outcome.counts)
        simulated_s += outcome.simulated_s
        settled_s = max(settled_s, outcome.settled_s)
        if outcome.problem:
            failed.append(outcome.seed)
            print(report(outcome), flush=True)
    took_s = time.monotonic() - begin_s
    print(
        f"{len(seeds)} seeds, {len(failed)} failed; {simulated_s / 60:.0f} simulated minutes, {steps} steps in "
        f"{took_s:.0f} s; the slowest was well {settled_s:.1f} s after the faults had stopped"
    )
    print(", ".join(f"{what}: {count}" for what, count in sorted(counts.items())))
    if failed:
        print("failed:", ", ".join(map(str, failed)))
    return int(bool(failed))


def _find(seeds: Sequence[int], jobs: int, guard: str) -> int:
    # Closed here: at the end of the interpreter its processes could not be waited for any more.
    with contextlib.closing(run_seeds(seeds, jobs, guard)) as outcomes:
        for tried, outcome in enumerate(outcomes, 1):
            if outcome.problem:
                print(report(outcome, guard))
                print(f"without the {guard}: seed {outcome.seed} shows it, the {tried}. that was tried")
                return 0
    print(f"without the {guard}: none of {len(seeds)} seeds shows it")
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
