"""`make soak`: 16 sessions of mixed work with verify, resets, logouts, cuts and reinstatements, and a daemon that is
killed and restarted in the first half of the time; in the second half it must not grow.

    python -m tests.soak [--seconds 600] [--sessions 16] [--seed N]

It exits with 0 when every block held what it had to, no fault of ours stands in a log, and memory and file descriptors
of the daemon were as high at the end as a quarter of the time before.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, DeferredList
from twisted.internet.task import deferLater, react
from twisted.python.failure import Failure

from tests.soak.content import Region
from tests.soak.daemon import Daemon
from tests.soak.worker import Worker

REGION_BLOCKS = 8192
RESTART_S = 20.0
MOST_GROWTH_KIB = 16 << 10


async def soak(reactor: Any, options: argparse.Namespace, folder: Path) -> int:
    chance = random.Random(options.seed)
    counts: Counter[str] = Counter()
    daemon = Daemon(folder, f"{options.sessions * REGION_BLOCKS // 2 + 1024}K")
    at_rest = daemon.file_descriptors()
    workers = [
        Worker(
            reactor,
            Region(number, number * REGION_BLOCKS, REGION_BLOCKS),
            lambda: daemon.url,
            options.seed + number,
            counts,
            resets=number == 0,
        )
        for number in range(options.sessions)
    ]
    began = time.monotonic()
    running = [Deferred.fromCoroutine(worker.run()) for worker in workers]
    failed: list[Failure] = []
    for deferred in running:
        deferred.addErrback(failed.append)

    def left(share: float) -> bool:
        return not failed and time.monotonic() - began < options.seconds * share

    while left(0.5):
        await deferLater(reactor, min(RESTART_S, options.seconds / 10), lambda: None)
        kill = chance.random() < 0.5
        daemon.restart(kill=kill)
        counts["restarts by SIGKILL" if kill else "restarts by SIGTERM"] += 1
    while left(0.75):
        await deferLater(reactor, 0.5, lambda: None)
    memory_before = daemon.memory_kib()
    while left(1):
        await deferLater(reactor, 0.5, lambda: None)
    memory_after = daemon.memory_kib()
    for worker in workers:
        worker.stopping = True
    await DeferredList(running)
    await deferLater(reactor, 2.0, lambda: None)
    descriptors = daemon.file_descriptors()
    daemon.stop()

    for name, count in sorted(counts.items()):
        print(f"{name:28} {count:>9}")
    print(f"{'memory, KiB':28} {memory_before:>9} at three quarters, {memory_after} at the end")
    print(f"{'file descriptors':28} {at_rest:>9} at the start, {descriptors} at the end")
    problems = [failure.getTraceback() for failure in failed] + daemon.complaints()
    if memory_after - memory_before > MOST_GROWTH_KIB:
        problems.append(f"memory grew by {memory_after - memory_before} KiB in a quarter of the time")
    if descriptors > at_rest:
        problems.append(f"{descriptors - at_rest} file descriptors were left open")
    for problem in problems[:20]:
        print(f"PROBLEM: {problem}", file=sys.stderr)
    print(f"soak: {'FAILED' if problems else 'passed'}, seed {options.seed}, {time.monotonic() - began:.0f} s")
    return int(bool(problems))


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.soak")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--sessions", type=int, default=16)
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30))
    options = parser.parse_args()

    async def run(reactor: Any) -> None:
        with tempfile.TemporaryDirectory(prefix="csvd-soak-") as folder:
            status = await soak(reactor, options, Path(folder))
        raise SystemExit(status)

    react(lambda reactor: Deferred.fromCoroutine(run(reactor)))


if __name__ == "__main__":
    main()
