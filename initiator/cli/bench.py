"""``csv-initiator bench``."""

from __future__ import annotations

import random
import sys
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import Any

import click

from initiator import client
from initiator.cli import options, runtime
from initiator.cli.login import Login, login_options
from initiator.cli.path_options import PathChoice, several_paths
from initiator.disk import Disk
from initiator.load.generator import Load
from initiator.load.histogram import Histogram
from initiator.load.report import Measured
from initiator.load.workload import Commands, Workload
from initiator.parallel import all_of
from initiator.url import IscsiUrl


@click.command()
@click.argument("url", type=options.url, metavar="URL")
@click.option("--read", "reads", flag_value=100, type=int, default=100, help="Read.  [default]")
@click.option("--write", "reads", flag_value=0, type=int, help="Write; wants --destroy-data.")
@click.option(
    "--mix",
    type=click.IntRange(0, 100),
    metavar="PERCENT",
    help="Read so many of a hundred commands and write the others; wants --destroy-data.",
)
@click.option("--random/--sequential", "is_random", default=True, help="In what order.  [default: random]")
@click.option("--block-size", "block_bytes", type=options.size, default="4K", show_default=True, help="Of a command.")
@click.option(
    "--queue-depth",
    "depth",
    type=click.IntRange(1, 4096),
    default=32,
    show_default=True,
    help="Commands under way at once, in each session.",
)
@click.option("--sessions", type=click.IntRange(1, 256), default=1, show_default=True, help="How many.")
@click.option(
    "--time",
    "time_s",
    type=click.FloatRange(min=0, min_open=True),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="How long.",
)
@click.option("--offset", "first_bytes", type=options.size, default="0", help="Where the range begins, in bytes.")
@click.option("--length", "length_bytes", type=options.size, help="Of the range.  [default: up to the end]")
@click.option("--fua", is_flag=True, help="Have every write on stable storage before it is answered.")
@click.option("--destroy-data", is_flag=True, help="What is on the LUN may be written over.")
@login_options
@several_paths
@options.json_option
def bench(
    url: IscsiUrl,
    reads: int,
    mix: int | None,
    is_random: bool,
    block_bytes: int,
    depth: int,
    sessions: int,
    time_s: float,
    first_bytes: int,
    length_bytes: int | None,
    fua: bool,
    destroy_data: bool,
    paths: PathChoice,
    login: Login,
    as_json: bool,
) -> None:
    """Measure a LUN: commands a second, bytes a second, and the time that each command takes.

    Latencies are from handing a command to the session until its answer has been taken; percentiles are exact to
    1.6 %. Where --queue-depth is more than the target's command window, the wait for it counts.

    \b
    Examples:
      csv-initiator bench iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0
      csv-initiator bench iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --sequential --block-size 1M --time 30 --json
      csv-initiator bench iscsi://192.0.2.7/iqn.2026-11.org.csvd:disk/0 --mix 70 --sessions 4 --destroy-data
    """
    reads = reads if mix is None else mix
    if reads < 100 and not destroy_data:
        raise click.UsageError("writing destroys what is on the LUN: say --destroy-data if it may")
    if not block_bytes:
        raise click.UsageError("--block-size is not 0")
    login = replace(login, session=replace(login.session, queue_depth=depth))
    how = login.of(url.user, recover=False)  # a session that is lost is a result, and nothing to be smoothed over

    async def connect(reactor: Any) -> Disk:
        return await client.connect(paths.to(url), multipath=paths.how(), reactor=reactor, **how)

    async def work(reactor: Any) -> Measured:
        async with AsyncExitStack() as opened:
            disks = [await opened.enter_async_context(await connect(reactor)) for _ in range(sessions)]
            size = disks[0].size_bytes
            workload = Workload(
                block_bytes=block_bytes,
                reads=reads,
                random=is_random,
                first_bytes=first_bytes,
                length_bytes=max(0, size - first_bytes) if length_bytes is None else length_bytes,
                fua=fua,
            )
            workload.check(disks[0].block_bytes, size, disks[0].limits.maximum_transfer_length * disks[0].block_bytes)
            title = f"{options.size_text(block_bytes)} {_kind(workload)}, depth {depth}, sessions {sessions}"
            return await _measure(reactor, disks, workload, depth, time_s, title)

    measured = runtime.run(work)
    if as_json:
        options.echo_json({"url": str(url)} | measured.as_json())
    else:
        for line in measured.lines():
            click.echo(line)


def _kind(workload: Workload) -> str:
    order = "random" if workload.random else "sequential"
    match workload.reads:
        case 100:
            return f"{order} read"
        case 0:
            return f"{order} write"
        case _:
            return f"{order}, {workload.reads} % read"


async def _measure(
    reactor: Any, disks: list[Disk], workload: Workload, depth: int, time_s: float, title: str
) -> Measured:
    """Run the load of every session for the time; a failure of one ends all."""
    spread = workload.slots // len(disks)
    loads = [
        Load(
            disk,
            Commands(workload, disk.block_bytes, random.random, start=number * spread),
            block_bytes=workload.block_bytes,
            depth=depth,
            now_ns=time.perf_counter_ns,
        )
        for number, disk in enumerate(disks)
    ]
    began_ns = time.perf_counter_ns()
    running = [load.start() for load in loads]

    def stop(passed: Any = None) -> Any:
        for load in loads:
            load.stop()
        return passed

    late = reactor.callLater(time_s, stop)
    for done in running:
        done.addErrback(stop)
    try:
        with _watching(reactor, loads, time_s):
            await all_of(running)
    finally:
        if late.active():
            late.cancel()
    took_s = (time.perf_counter_ns() - began_ns) / 1e9
    latencies = {"read": Histogram(), "write": Histogram()}
    for load in loads:
        latencies["read"].merge(load.reads)
        latencies["write"].merge(load.writes)
    return Measured(title, workload.block_bytes, took_s, latencies, sum(load.busy for load in loads))


class _watching:  # noqa: N801 - reads as a statement
    """The seconds that are left, on stderr where that is a terminal."""

    def __init__(self, reactor: Any, loads: list[Load], time_s: float) -> None:
        self._reactor = reactor
        self._loads = loads
        self._ends_s = reactor.seconds() + time_s
        self._shown: Any = None
        self._count = 0

    def __enter__(self) -> None:
        if sys.stderr.isatty():
            self._shown = self._reactor.callLater(1, self._show)

    def __exit__(self, *_: object) -> None:
        if self._shown is not None:
            self._shown.cancel()
            sys.stderr.write("\r\x1b[K")

    def _show(self) -> None:
        count = sum(load.reads.count + load.writes.count for load in self._loads)
        left_s = max(0.0, self._ends_s - self._reactor.seconds())
        sys.stderr.write(f"\r\x1b[K{count - self._count:,} IOPS, {left_s:.0f} s left")
        sys.stderr.flush()
        self._count = count
        self._shown = self._reactor.callLater(1, self._show)
