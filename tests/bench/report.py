"""docs/benchmarks.md: the tables, how to read them, what they were measured on and with which commands."""

from __future__ import annotations

import shlex
import sys

from tests.bench import aims, table
from tests.bench.limits import IN_C, NULL
from tests.bench.rows import OURS, THEIRS, load_rows
from tests.bench.samples import Beginning, Samples

TEMPLATE = """\
# Benchmarks

Written by `make bench` (`python -m tests.bench`); run it instead of editing this. Where the time goes:
[performance.md](performance.md).

## Against {theirs}

{rates}
{costs}
## What it must reach

{aims}
Ratios are medians of rounds. The CPU of a command counts every thread and process of the target.

## Durability, digests, fairness, memory

{durable_writes}
{digests}
{fairness}
{cold_file}
{memory}
## The initiators

{initiators}
The three read the same LUN one after the other, in a process of their own each; a ratio is of two runs next to each
other. CPU is the client's, start and end included.

{copies}
Each takes its turn from an empty target, and its time is that of the whole process. csv-initiator ends when all is on
stable storage, and so does qemu-img with `-t none`; with the flags that it has by itself it does not flush.

## The limits beside it

{limits}
- **null target**: a small C program without a disk (`tests/bench/null_target.c`): zeros for a READ, GOOD for a WRITE,
  one `recv` and one `sendmsg` a batch, one thread. It looks at nothing that it need not, so it is the limit of the
  network, the client and this machine's kernel; where a ratio to it is near 1, the client is what was measured.
- **csvd over null:**: csvd itself, over a disk that keeps nothing: what it costs without its file. That disk has no
  write cache, so its WRITEs count as durable ones and go a longer way than those to a file.
- **file alone**: random `pread` or `pwrite` of the block, one after another, no network; for the row with FUA each
  `pwrite` is followed by an `fdatasync`, from Python only. A dash: nothing of that kind to measure{without_compiler}.

## How to read it

- **The ratio is the claim.** Rates depend on the machine and on what else it does. {ours} and {theirs} take turns in
  one run, on the same file, with the same client, so the ratio depends on that little.
- A cell is the median of all rounds ({rounds}; of the first {limit_rounds} for the limits), with the least and the
  greatest in brackets. A ratio is taken round by round, of two runs next to each other, and the median of those is
  given.
- CPU seconds are the user and system time of the target's process with all its threads and processes, from
  `/proc/PID/stat`. Client and target share the processors: what the target leaves, the client can use.
- The disk is one file of {disk_mib} MiB of random data, allocated in full and held by the page cache: the figures are
  those of the targets, not of a drive, but for FUA and the cold file. Both acknowledge other writes from their write
  cache, for no other load flushes; what is dirty is written out between two runs.
- The page cache holds the file in single pages. Were it written in one go it would be held in large folios, where
  ext4 (Linux 6.18) takes some 20 µs for each small write, whoever writes it.
- "Random" READs are those of libiscsi's iscsi-perf, which start at any sector. All other rows but one come from
  `tests/bench/generator.py`, a client on plain sockets that has nothing of csvd in it. It makes commands
  once and patches them, and can do several times as many writes as `qemu-img bench`, whose own limit is told by its row
  against the null target. With digests the client makes and checks them, too.
- Where latency is taken beside other work, target and clients have half of the processors each, the client whose
  latency it is goes before all others (SCHED_RR, which root may ask for), and the busy one after them (`nice` 19): as
  if they were on machines of their own. It is the target that lets it wait then, not the scheduler. What is left of
  this machine are the softirqs of the loopback device; the null target shows them.
- Depth 1 shows the latency of one request, depth 32 what one connection carries.
- The cold file is a second disk of the target, dropped from the page cache by `posix_fadvise` before and during the
  run. `read from the drive` near 1 shows that it was cold. A client with nothing else to do sends NOP-Outs, one every
  millisecond or so.
- Memory is `VmRSS` and `VmHWM` of the target with all its processes; the sessions are those of a target that was just
  started.

## Measured

- date: {date}
{facts}
- rounds: {rounds}; rows: {row_count}; a run: about {duration_s} s; no setting for speed was given to either target

## Commands

```
csvd serve disk.img cold.img --portal 127.0.0.1:0
tgtd -f -C 1 --iscsi portal=127.0.0.1:0    # by tgtadm: one target, the files as its LUNs 1 and 2, bound to ALL
{commands}
```
"""


def document(beginning: Beginning, samples: Samples, limit_rounds: int) -> str:
    """The whole of docs/benchmarks.md."""
    has_compiler = any(sample.target in (NULL, IN_C) for sample in samples.all)
    facts = {**beginning.machine, **beginning.versions}
    rows = [row for row in load_rows() if samples.has(row.key, OURS)]
    url = "iscsi://127.0.0.1:PORT/IQN/LUN"
    commands = (row.load.command(url, beginning.disk_mib << 20, beginning.duration_s) for row in rows)
    return TEMPLATE.format(
        ours=OURS,
        theirs=THEIRS,
        rates=table.rates(samples),
        costs=table.costs(samples),
        aims=aims.table(samples),
        durable_writes=table.durable_writes(samples),
        digests=table.digests(samples),
        fairness=table.fairness(samples),
        cold_file=table.cold_file(samples),
        memory=table.memory(samples),
        initiators=table.initiators(samples),
        copies=table.copies(samples),
        limits=table.limits(samples, has_compiler=has_compiler),
        without_compiler="" if has_compiler else ", or no C compiler where it was measured",
        rounds=beginning.rounds,
        limit_rounds=min(limit_rounds, beginning.rounds),
        disk_mib=beginning.disk_mib,
        duration_s=beginning.duration_s,
        row_count=len({sample.row for sample in samples.all}),
        date=beginning.date,
        facts="\n".join(f"- {name}: {value}" for name, value in facts.items()),
        commands="\n".join(map(_shown, commands)),
    )


def summary(samples: Samples) -> str:
    """The tables of a run for the terminal: those that have something to say."""
    parts = [table.rates(samples), table.costs(samples)]
    if any(sample.target == NULL for sample in samples.all):
        parts.append(table.limits(samples, has_compiler=True))
    scenes = {
        "fua-write-4k-d32": table.durable_writes,
        "digest-read-256k": table.digests,
        "digest-write-256k": table.digests,
        "fairness": table.fairness,
        "cold-file": table.cold_file,
        "idle-sessions": table.memory,
        "initiators-4k": table.initiators,
        "initiators-256k": table.initiators,
        "copy-to-lun": table.copies,
        "copy-from-lun": table.copies,
    }
    parts += [tell(samples) for tell in dict.fromkeys(tell for key, tell in scenes.items() if samples.has(key, OURS))]
    return "\n".join([*parts, aims.table(samples)])


def _shown(command: list[str]) -> str:
    return shlex.join(["python" if word == sys.executable else word for word in command])
