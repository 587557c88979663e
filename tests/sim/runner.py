"""Runs many seeds, in several processes at once, and says of those that fail what is needed to look into them."""

from __future__ import annotations

import gc
import multiprocessing
import signal
from collections.abc import Callable, Generator, Iterable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import Final

from twisted.logger import globalLogBeginner

from tests.sim.guards import pointed_at
from tests.sim.simulation import Outcome, Simulation
from tests.sim.world import Violation

KEPT: Final = Path(__file__).with_name("seeds.txt")
"""Seeds that failed once: what they found was mended, and they run first, always."""
SHOWN_LINES: Final = 60
LONGEST_S: Final = 100
"""Of the processor, for one seed, which takes a second or two. What goes in circles within one step is found by this
alone."""


def run_seed(seed: int, guard: str = "", *, is_off: bool = True, echo: Callable[[str], None] | None = None) -> Outcome:
    """Run one seed in this process; where a guard is named, pointed at what it prevents, and with it switched off."""
    is_collecting = gc.isenabled()
    gc.disable()  # it costs a third of the time, and a run is short
    before = signal.signal(signal.SIGPROF, _stands_still)
    signal.setitimer(signal.ITIMER_PROF, LONGEST_S)
    try:
        with pointed_at(guard, is_off=is_off):
            return Simulation(seed, echo).run()
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)
        if is_collecting:
            gc.enable()
        gc.collect()


def _stands_still(signal_number: int, frame: object) -> None:
    raise Violation(f"it has not ended in {LONGEST_S} s: a step goes in circles")


def run_seeds(
    seeds: Iterable[int], jobs: int, guard: str = "", *, is_off: bool = True
) -> Generator[Outcome, None, None]:
    """Run seeds in processes of their own; the outcomes in the order in which they end."""
    context = multiprocessing.get_context("spawn")
    waiting = iter(seeds)
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=quiet) as pool:
        under_way: set[Future[Outcome]] = set()
        try:
            while True:
                while len(under_way) < 2 * jobs and (seed := next(waiting, None)) is not None:
                    under_way.add(pool.submit(run_seed, seed, guard, is_off=is_off))
                if not under_way:
                    return
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for one in done:
                    yield one.result()
        finally:
            for one in under_way:
                one.cancel()


def quiet() -> None:
    """Let nothing that is logged come to the terminal: what matters is in the traces."""
    globalLogBeginner.beginLoggingTo([], redirectStandardIO=False, discardBuffer=True)


def kept_seeds() -> list[int]:
    """The seeds of seeds.txt."""
    lines = (line.split("#")[0].strip() for line in KEPT.read_text().splitlines())
    return [int(line.split()[0]) for line in lines if line]


def parse_seeds(text: str) -> Sequence[int]:
    """The seeds that a text names: `7`, `1-200`, or several of these with commas.

    Raises:
        ValueError: it names none.
    """
    seeds: list[int] = []
    for part in text.split(","):
        low, _, high = part.partition("-")
        seeds.extend(range(int(low), int(high or low) + 1))
    if not seeds:
        raise ValueError(text)
    return seeds


def report(outcome: Outcome, guard: str = "") -> str:
    """What is said of a seed that failed."""
    option = f" --without {guard!r}" if guard else ""
    lines = [
        f"seed {outcome.seed} FAILED: {outcome.problem}",
        *(f"  {line}" for line in outcome.last[-SHOWN_LINES:]),
        f"seed {outcome.seed}: replay it by: python -m tests.sim --trace {outcome.seed}{option}",
    ]
    return "\n".join(lines)
