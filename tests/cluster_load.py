"""`python -m tests.cluster_load`: ten thousand changes through the coordinator of a real cluster of three nodes; prints
throughput, latencies, memory and what is on disk before and after, and writes docs/cluster-load.md.

A change is a persistent reservation key that an initiator registers, to last over a power loss: it goes through the
node that the initiator is logged in to, to the coordinator, onto the shared disk, to every node, and back.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import initiator
from initiator import SessionOptions
from tests.bench.generator import percentile
from tests.bench.machine import ROOT, facts
from tests.bench.targets import parse_kib
from tests.integration.daemon_rig import DaemonNode
from tests.integration.faults.hosts import HostCluster, host_cluster
from tests.integration.namespaces import why_not

CHANGES: Final = 10_000
SESSIONS: Final = (1, 4, 16)
"""Initiators at once, on each node."""
OPTIONS: Final = SessionOptions(command_timeout_s=60, login_timeout_s=10)


async def change(url: str, first_key: int, count: int, times_s: list[tuple[float, float]]) -> None:
    """One initiator: so many changes, one after another."""
    async with initiator.connect(url, options=OPTIONS) as disk:
        for number in range(count):
            begun_s = time.monotonic()
            await disk.reservations.register(
                first_key + number, ignore_existing=True, through_power_loss=True, timeout_s=60
            )
            times_s.append((begun_s, time.monotonic()))


async def work(plan: dict[str, Any]) -> None:
    """The initiators of one node; prints when each change was begun and acknowledged."""
    times_s: list[tuple[float, float]] = []
    share = plan["changes"] // plan["sessions"]
    await asyncio.gather(
        *(change(plan["url"], plan["key"] + (n << 24), share, times_s) for n in range(plan["sessions"]))
    )
    print(json.dumps(times_s))


@dataclass(frozen=True, slots=True)
class Run:
    """What one run came to."""

    sessions: int
    changes: int
    took_s: float
    latencies_s: Sequence[float]

    @property
    def row(self) -> str:
        figures = [median(self.latencies_s), *(percentile(self.latencies_s, part) for part in (0.9, 0.99, 1.0))]
        cells = " | ".join(f"{figure * 1000:.1f}" for figure in figures)
        return f"| {self.sessions} | {self.changes} | {self.changes / self.took_s:.0f} | {cells} |"


def run(cluster: HostCluster, sessions: int, changes: int) -> Run:
    """So many changes by so many initiators on each node."""
    each = changes // len(cluster.nodes)
    workers = []
    for number, node in enumerate(cluster.nodes, 1):
        plan = {"url": cluster.url(node), "sessions": sessions, "changes": each, "key": number << 40}
        command = [*cluster.host(node).prefix, sys.executable, "-m", "tests.cluster_load", "--worker", json.dumps(plan)]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    times_s: list[tuple[float, float]] = []
    for worker in workers:
        printed, _ = worker.communicate()
        assert worker.returncode == 0, f"exit status {worker.returncode}"
        times_s += json.loads(printed)
    took_s = max(ended_s for _, ended_s in times_s) - min(begun_s for begun_s, _ in times_s)
    return Run(sessions * len(cluster.nodes), len(times_s), took_s, [ended_s - begun_s for begun_s, ended_s in times_s])


def footprint(node: DaemonNode) -> tuple[int, int]:
    """The memory of a node's process, and the bytes of its journal and the rest of its cluster's state."""
    memory_kib = parse_kib(Path(f"/proc/{node.process.pid}/status").read_text(), "VmRSS")
    state = node.folder / "state" / "cluster"
    return memory_kib << 10, sum(path.stat().st_size for path in state.rglob("*") if path.is_file())


_DOCUMENT: Final = """\
# The cluster under load

`python -m tests.cluster_load` writes this page: three daemons in network namespaces of one machine, over one shared
disk in a file. A change is a persistent reservation key that an initiator registers to last over a power loss (APTPL):
from the node that it is logged in to, to the coordinator of the disk, onto the disk (each write there is synced;
changes that wait at the same time share one), to every node, and back. So many initiators change keys at the same time,
a third of them at each node, each again as soon as it is answered.

| initiators | changes | changes/s | p50 ms | p90 ms | p99 ms | max ms |
|--:|--:|--:|--:|--:|--:|--:|
{rows}

What the nodes take before and after these {changes} changes:

| node | memory before, MiB | after, MiB | state directory before, KiB | after, KiB |
|---|--:|--:|--:|--:|
{footprints}

## Measured on

{facts}
"""


def document(
    runs: Sequence[Run], before: Sequence[tuple[int, int]], after: Sequence[tuple[int, int]], known: dict[str, str]
) -> str:
    """docs/cluster-load.md."""
    footprints = [
        f"| node{number} | {was[0] / 2**20:.0f} | {is_[0] / 2**20:.0f} | {was[1] / 1024:.0f} | {is_[1] / 1024:.0f} |"
        for number, (was, is_) in enumerate(zip(before, after, strict=True), 1)
    ]
    return _DOCUMENT.format(
        rows="\n".join(each.row for each in runs),
        changes=sum(each.changes for each in runs),
        footprints="\n".join(footprints),
        facts="\n".join(f"- {name}: {value}" for name, value in known.items()),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster_load", description=__doc__)
    parser.add_argument("--changes", type=int, default=CHANGES, help="of all runs together")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "cluster-load.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        asyncio.run(work(json.loads(options.worker)))
        return 0
    if reason := why_not():
        print(f"cluster_load: {reason}; it needs root", file=sys.stderr)
        return 1
    with host_cluster() as cluster:
        run(cluster, 1, len(cluster.nodes))
        before = [footprint(node) for node in cluster.nodes]
        runs = []
        # A single initiator a node takes longest: it gets a part of the work.
        for sessions, part in zip(SESSIONS, (0.1, 0.3, 0.6), strict=True):
            runs.append(run(cluster, sessions, int(options.changes * part)))
            print(runs[-1].row, file=sys.stderr)
        after = [footprint(node) for node in cluster.nodes]
    text = document(runs, before, after, facts(Path("/tmp")))
    print(text)
    options.output.write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
