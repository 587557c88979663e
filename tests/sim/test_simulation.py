"""The simulation itself: it is the same every time, its seeds pass, and its checks bite."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys

import pytest

from tests.sim.guards import GUARDS
from tests.sim.proof import recorded
from tests.sim.runner import kept_seeds, parse_seeds, report, run_seed, run_seeds

JOBS = min(4, os.cpu_count() or 1)
CI_SEEDS = range(1, 201)
SEARCHED_SEEDS = range(1, 41)


@pytest.mark.timeout(1800)
def test_the_seeds_that_failed_once_and_two_hundred_others_pass() -> None:
    failed = [outcome for outcome in run_seeds([*kept_seeds(), *CI_SEEDS], JOBS) if outcome.problem]
    assert not failed, "\n".join(report(outcome) for outcome in failed)


def checksum(seed: int, hash_seed: str) -> str:
    """The last line of a run in a process of its own, whose strings hash in an order of their own."""
    command = [sys.executable, "-m", "tests.sim", "--trace", str(seed)]
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=120)
    return done.stdout.splitlines()[-1]


@pytest.mark.parametrize("seed", [1, 2, 5, 9])
def test_the_same_seed_gives_the_same_trace_whatever_the_order_of_hashing(seed: int) -> None:
    first = checksum(seed, "1")
    assert "checksum" in first
    assert checksum(seed, "2") == first


def test_other_seeds_give_other_traces() -> None:
    assert len({run_seed(seed).checksum for seed in range(1, 5)}) == 4


@pytest.mark.parametrize("guard", list(recorded()))
def test_the_checks_bite_when_a_guard_is_off(guard: str) -> None:
    # A change of the code gives a seed another course: then others are tried.
    seeds = [recorded()[guard], *SEARCHED_SEEDS]
    with contextlib.closing(run_seeds(seeds, JOBS, guard)) as outcomes:
        assert any(outcome.problem for outcome in outcomes), f"nothing is seen without the {guard}"


def test_with_the_guards_the_seeds_of_the_table_pass() -> None:
    for guard, seed in recorded().items():
        outcome = run_seed(seed, guard, is_off=False)
        assert not outcome.problem, f"{guard}: {report(outcome)}"


def test_the_table_of_docs_has_guards_that_there_are_and_those_without_which_nothing_is_proven() -> None:
    # fsync of the epoch, lease check, disk epoch, snapshot clamp, fence; and who votes, and what bites.
    needed = {"promise sync", "coordinator's lease", "owner block", "snapshot clamp", "fence", "membership", "watchdog"}
    assert needed <= set(recorded()) <= set(GUARDS)


def test_seeds_are_named_by_ranges() -> None:
    assert list(parse_seeds("7,1-3")) == [7, 1, 2, 3]
    with pytest.raises(ValueError, match="x"):
        parse_seeds("x")
