"""docs/benchmarks.md: the tables, how to read them, what they were measured on and with which commands."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.bench.loads import Row
from tests.bench.table import Comparison, markdown

TEMPLATE = """\
# Benchmarks

Written by `make bench` (`python -m tests.bench`); run it instead of editing this.

{table}
## How to read it

- **The ratio is the claim.** Rates depend on the machine and on what else it does. {ours} and {theirs} take turns in
  one run, on the same file, with the same client, so the ratio depends on that little.
- A cell is the median of all rounds ({rounds}), with the least and the greatest in brackets. The ratio is taken round
  by round, of two runs next to each other, and the median of those is given.
- CPU seconds are the user and system time of the target's process with all its threads, from `/proc/PID/stat`. Client
  and target share the processors: what the target leaves, the client can use.
- The disk is one file of {disk_mib} MiB of random data, allocated in full and held by the page cache: the figures are
  those of the targets, not of a drive. Both acknowledge writes from their write cache, for no load flushes or sets FUA;
  what is dirty is written out between two runs.
- iscsi-perf reads from any sector on; qemu-img writes aligned slots in scattered order, each once before any twice.
- Depth 1 shows the latency of one request, depth 32 what one connection carries.

## Measured

- date: {date}
{facts}
- rounds: {rounds}; rows: {row_count}; a run: about {duration_s} s; no setting for speed was given to either target

## Commands

```
csvd serve disk.img --portal 127.0.0.1:0
tgtd -f -C 1 --iscsi portal=127.0.0.1:0    # by tgtadm: one target, the file as its LUN 1, bound to ALL
{commands}
```
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often: `rounds` runs of about `duration_s` for each row and target, on a disk of `disk_mib`."""

    rounds: int
    duration_s: int
    disk_mib: int
    rows: Sequence[Row]


@dataclass(frozen=True, slots=True)
class Surroundings:
    """When, on which machine and with which versions the figures were measured."""

    date: str
    machine: Mapping[str, str]
    versions: Mapping[str, str]


def document(comparisons: Sequence[Comparison], plan: Plan, surroundings: Surroundings, ours: str, theirs: str) -> str:
    """The whole of docs/benchmarks.md."""
    facts = {**surroundings.machine, **surroundings.versions}
    commands = (
        row.load.command("iscsi://127.0.0.1:PORT/IQN/LUN", plan.disk_mib << 20, plan.duration_s) for row in plan.rows
    )
    return TEMPLATE.format(
        table=markdown(comparisons, ours, theirs),
        ours=ours,
        theirs=theirs,
        rounds=plan.rounds,
        disk_mib=plan.disk_mib,
        duration_s=plan.duration_s,
        row_count=len(plan.rows),
        date=surroundings.date,
        facts="\n".join(f"- {name}: {value}" for name, value in facts.items()),
        commands="\n".join(map(shlex.join, commands)),
    )
