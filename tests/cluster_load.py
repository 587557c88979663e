"""`python -m tests.cluster_load`: ten thousand changes through the coordinator of a real cluster of three nodes; prints
throughput, latencies, memory and what is on disk before and after, and writes docs/cluster-load.md. Exits with status 1
where memory or what is kept has grown with the changes.

A change is a persistent reservation key that an initiator registers, to last over a power loss: it goes through the
node that the initiator is logged in to, to the coordinator, onto the shared disk, to every node, and back. Changes of
the register go through Raft: join tokens are made and revoked, by requests to the nodes' control sockets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

import initiator
from csvd.api.client import ControlClient
from csvd.cluster.election import MAXIMUM_LOG_BYTES, MAXIMUM_LOG_ENTRIES
from csvd.cluster.journal import JOURNAL_NAME
from csvd.cluster.journal_records import JournalState, decode_file
from initiator import SessionOptions
from tests.bench.generator import percentile
from tests.bench.machine import ROOT, facts
from tests.bench.targets import parse_kib
from tests.integration.daemon_rig import DaemonNode
from tests.integration.faults.hosts import HostCluster, host_cluster
from tests.integration.namespaces import why_not
from tests.integration.shared_target import SYSTEM

CHANGES: Final = 10_000
SESSIONS: Final = (1, 4, 16)
"""Initiators at once, on each node."""
FEW_PART: Final = 0.3
"""Of the changes, where there is one initiator at each node: it takes longest."""
REGISTER_CHANGES: Final = 3_000
REGISTER_CLIENTS: Final = (1, 4)
"""Who change the register at once, at each node."""
OPTIONS: Final = SessionOptions(command_timeout_s=60, login_timeout_s=10)

MOST_GROWN_BYTES: Final = 24 << 20
"""By how much the memory of a node may grow: ten thousand changes of which each left 2.5 KiB would be more."""
MOST_RECORDS_GROWN_BYTES: Final = 4096
"""By how much the records may grow: initiators take their registrations back in the end, so that answers to the last
asks remain alone."""
MOST_STATE_BYTES: Final = MAXIMUM_LOG_BYTES + (256 << 10)
"""Of a node's state directory: its log, which is compacted when it is longer, and what the register holds."""
MORE_ENTRIES: Final = 10
"""By which a log may be longer than MAXIMUM_LOG_ENTRIES: those that came while it was being compacted."""

Times = list[tuple[float, float]]
"""When each change was begun and acknowledged, in seconds of the monotonic clock."""


async def change(url: str, first_key: int, count: int, times_s: Times) -> None:
    """One initiator: so many changes, one after another; the last one takes its registration back."""
    async with initiator.connect(url, options=OPTIONS) as disk:
        for number in range(count):
            key = first_key + number if number < count - 1 else 0
            begun_s = time.monotonic()
            await disk.reservations.register(key, ignore_existing=True, through_power_loss=True, timeout_s=60)
            times_s.append((begun_s, time.monotonic()))


async def reserve(plan: dict[str, Any]) -> Times:
    """The initiators of one node."""
    times_s: Times = []
    share = plan["changes"] // plan["at_once"]
    await asyncio.gather(
        *(change(plan["url"], plan["key"] + (n << 24), share, times_s) for n in range(plan["at_once"]))
    )
    return times_s


def administer(plan: dict[str, Any]) -> Times:
    """Those who change the register at one node: join tokens come and go."""

    def administrate(count: int) -> Times:
        client = ControlClient(plan["socket"])
        times_s: Times = []

        def timed(ask: Callable[[], dict[str, Any]]) -> dict[str, Any]:
            begun_s = time.monotonic()
            answer = ask()
            times_s.append((begun_s, time.monotonic()))
            return answer

        for _ in range(count // 2):
            token = timed(client.create_token)["id"]
            timed(lambda token=token: client.revoke_token(token))  # type: ignore[misc]
        return times_s

    with ThreadPoolExecutor(plan["at_once"]) as threads:
        shares = [plan["changes"] // plan["at_once"]] * plan["at_once"]
        return [each for times_s in threads.map(administrate, shares) for each in times_s]


@dataclass(frozen=True, slots=True)
class Run:
    """What one run came to.

    Args:
        what: was changed, by whom.
        at_once: who changed it at once.
        writes: of the records, for all changes together; of the register None.
    """

    what: str
    at_once: int
    took_s: float
    latencies_s: Sequence[float]
    writes: int | None

    @property
    def changes(self) -> int:
        return len(self.latencies_s)

    @property
    def row(self) -> str:
        parts = (0.9, 0.99, 0.999, 1.0)
        figures = [median(self.latencies_s), *(percentile(self.latencies_s, part) for part in parts)]
        cells = " | ".join(f"{figure * 1000:.1f}" for figure in figures)
        writes = "-" if self.writes is None else str(self.writes)
        return (
            f"| {self.what} | {self.at_once} | {self.changes} | {self.changes / self.took_s:.0f} | {cells} | {writes} |"
        )


@dataclass(frozen=True, slots=True)
class Footprint:
    """What the nodes take, in bytes.

    Args:
        memory, state: of each node: its process, and its cluster's state directory, in which the Raft journal is.
        entries: of each node's Raft log. Changes that wait at the same time are one entry.
        all_entries: the number of the last of them.
        records: what the coordinator keeps on the shared disk.
    """

    memory: Sequence[int]
    state: Sequence[int]
    entries: Sequence[int]
    all_entries: int
    records: int

    @classmethod
    def of(cls, cluster: HostCluster) -> Footprint:
        logs = [_log(cluster, node) for node in cluster.nodes]
        return cls(
            [_memory(node) for node in cluster.nodes],
            [_state(cluster, node) for node in cluster.nodes],
            [len(log.entries) for log in logs],
            max(log.entries[-1][1] for log in logs),
            _office(cluster)["records_bytes"],
        )


def _memory(node: DaemonNode) -> int:
    return parse_kib(Path(f"/proc/{node.process.pid}/status").read_text(), "VmRSS") << 10


def _state(cluster: HostCluster, node: DaemonNode) -> int:
    folder = cluster.states[node.name] / "cluster"
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _log(cluster: HostCluster, node: DaemonNode) -> JournalState:
    """The Raft log of a node that nobody changes now."""
    log = JournalState(node.name)
    decode_file((cluster.states[node.name] / "cluster" / JOURNAL_NAME).read_bytes(), log)
    return log


def _office(cluster: HostCluster) -> dict[str, Any]:
    """The office of the system disk, as its coordinator tells of it."""
    office: dict[str, Any] = cluster.disk_coordinator().client.disk(SYSTEM)["office"]
    return office


def _work(cluster: HostCluster, at_once: int, changes: int, plans: Sequence[dict[str, Any]]) -> Times:
    """Run the clients of all nodes, each a third of the changes."""
    workers = []
    for node, plan in zip(cluster.nodes, plans, strict=True):
        told = json.dumps({**plan, "at_once": at_once, "changes": changes // len(cluster.nodes)})
        command = [*cluster.host(node).prefix, sys.executable, "-m", "tests.cluster_load", "--worker", told]
        workers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT))
    times_s: Times = []
    for worker in workers:
        printed, _ = worker.communicate()
        assert worker.returncode == 0, f"exit status {worker.returncode}"
        times_s += json.loads(printed)
    return times_s


def _run(what: str, at_once: int, times_s: Times, writes: int | None = None) -> Run:
    took_s = max(ended_s for _, ended_s in times_s) - min(begun_s for begun_s, _ in times_s)
    return Run(what, at_once, took_s, [ended_s - begun_s for begun_s, ended_s in times_s], writes)


def change_reservations(cluster: HostCluster, at_once: int, changes: int) -> Run:
    """So many changes by so many initiators on each node."""
    plans = [{"url": cluster.url(node), "key": number << 40} for number, node in enumerate(cluster.nodes, 1)]
    before = _office(cluster)
    times_s = _work(cluster, at_once, changes, plans)
    after = _office(cluster)
    # Where the office has moved meanwhile, nobody has counted.
    writes = after["record_sequence"] - before["record_sequence"] if after["epoch"] == before["epoch"] else None
    return _run("reservations", at_once * len(plans), times_s, writes)


def change_register(cluster: HostCluster, at_once: int, changes: int) -> Run:
    """So many changes of the register by so many at each node."""
    plans = [{"socket": str(node.socket)} for node in cluster.nodes]
    return _run("register", at_once * len(plans), _work(cluster, at_once, changes, plans))


def grown(before: Footprint, after: Footprint) -> list[str]:
    """What has grown with the number of changes, and must not: a sentence for each."""
    wrong = [
        f"node{number} takes {is_ - was} bytes of memory more than before, and may {MOST_GROWN_BYTES}"
        for number, (was, is_) in enumerate(zip(before.memory, after.memory, strict=True), 1)
        if is_ - was > MOST_GROWN_BYTES
    ]
    wrong += [
        f"the state directory of node{number} has {is_} bytes, and may have {MOST_STATE_BYTES}"
        for number, is_ in enumerate(after.state, 1)
        if is_ > MOST_STATE_BYTES
    ]
    wrong += [
        f"the log of node{number} has {count} entries, and may have {MAXIMUM_LOG_ENTRIES}"
        for number, count in enumerate(after.entries, 1)
        if count > MAXIMUM_LOG_ENTRIES + MORE_ENTRIES
    ]
    if after.records > before.records + MOST_RECORDS_GROWN_BYTES:
        wrong.append(f"the records have {after.records} bytes, and had {before.records}")
    return wrong


_DOCUMENT: Final = """\
# The cluster under load

`python -m tests.cluster_load` (`make load`) writes this page: three daemons in network namespaces of one machine, over
one shared disk in a file; they and all their clients share its processors.

A change of *reservations* is a persistent reservation key that an initiator registers to last over a power loss
(APTPL): from the node that it is logged in to, to the coordinator of the disk, onto the disk (each write there is
synced), to every node, and back. So many initiators, a third of them at each node, change keys of one logical unit at
the same time, each again as soon as it is answered. Changes that wait at the same time share one write of the records
and one push to each node.

A change of the *register* is a join token that is made or revoked by a request to a node's control socket: it goes
through Raft, and is synced into the journals of a majority.

| changed | at once | changes | changes/s | p50 ms | p90 ms | p99 ms | p99.9 ms | max ms | writes of the records |
|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|
{rows}

What the nodes take before and after these {changes} changes:

| node | memory before, MiB | after, MiB | Raft journal and state before, KiB | after, KiB | entries of the log after |
|---|--:|--:|--:|--:|--:|
{footprints}

The log had {entries_before} entries before, and has had {all_entries} in all: changes of the register that wait at the
same time are one, and it is compacted when it has more than {most_entries} or {most_log} MiB. The records on the shared
disk take {records_before} bytes before and {records_after} bytes after all changes.

The program fails where a node's memory grows by more than {most_grown} MiB, the records by more than {most_records}
bytes, or where a log is longer than that.

## Measured on

{facts}
"""


def document(runs: Sequence[Run], before: Footprint, after: Footprint, known: dict[str, str]) -> str:
    """docs/cluster-load.md."""
    footprints = [
        f"| node{number} | {memory / 2**20:.1f} | {after.memory[number - 1] / 2**20:.1f} "
        f"| {before.state[number - 1] / 1024:.1f} | {after.state[number - 1] / 1024:.1f} "
        f"| {after.entries[number - 1]} |"
        for number, memory in enumerate(before.memory, 1)
    ]
    return _DOCUMENT.format(
        rows="\n".join(each.row for each in runs),
        changes=sum(each.changes for each in runs),
        footprints="\n".join(footprints),
        records_before=before.records,
        records_after=after.records,
        most_grown=MOST_GROWN_BYTES >> 20,
        most_records=MOST_RECORDS_GROWN_BYTES,
        most_entries=MAXIMUM_LOG_ENTRIES,
        most_log=MAXIMUM_LOG_BYTES >> 20,
        entries_before=max(before.entries),
        all_entries=after.all_entries,
        facts="\n".join(f"- {name}: {value}" for name, value in known.items()),
    )


def warm_up(cluster: HostCluster) -> Footprint:
    """Have everything there that many clients need; gives what the nodes take then."""
    change_reservations(cluster, SESSIONS[-1], 2 * SESSIONS[-1] * len(cluster.nodes))
    change_register(cluster, REGISTER_CLIENTS[-1], 2 * REGISTER_CLIENTS[-1] * len(cluster.nodes))
    return Footprint.of(cluster)


def worker(plan: dict[str, Any]) -> Times:
    """The clients of one node."""
    return asyncio.run(reserve(plan)) if "url" in plan else administer(plan)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.cluster_load", description=__doc__)
    parser.add_argument(
        "--changes", type=int, default=CHANGES, help="of the reservations, by as many initiators each time"
    )
    parser.add_argument("--register-changes", type=int, default=REGISTER_CHANGES, help="by as many clients each time")
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "cluster-load.md")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.worker:
        print(json.dumps(worker(json.loads(options.worker))))
        return 0
    if reason := why_not():
        print(f"cluster_load: {reason}; it needs root", file=sys.stderr)
        return 1
    with host_cluster() as cluster:
        before = warm_up(cluster)
        runs = []
        for at_once in SESSIONS:
            changes = options.changes if at_once > 1 else int(FEW_PART * options.changes)
            runs.append(change_reservations(cluster, at_once, changes))
            print(runs[-1].row, file=sys.stderr)
        for at_once in REGISTER_CLIENTS:
            runs.append(change_register(cluster, at_once, options.register_changes))
            print(runs[-1].row, file=sys.stderr)
        after = Footprint.of(cluster)
    text = document(runs, before, after, facts(Path("/tmp")))
    print(text)
    options.output.write_text(text)
    wrong = grown(before, after)
    for each in wrong:
        print(f"cluster_load: {each}", file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
