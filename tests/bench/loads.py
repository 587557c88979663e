"""The loads of the benchmark, each put on a target by a client in a process of its own."""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from tests.bench.machine import ROOT

SECTOR_BYTES = 512
KIB = 1024
# iscsi-perf waits for ever for a target that is gone and takes SIGTERM as "finish first": subprocess's SIGKILL ends it.
TIMEOUT_FACTOR = 20
TIMEOUT_FLOOR_S = 60.0
GOLDEN_RATIO = 0.6180339887498949
GENERATOR = (sys.executable, "-m", "tests.bench.generator")


class LoadFailed(Exception):
    """A client ended with an error, or its figures cannot be read; says what it printed."""


Figures = Mapping[str, float]
"""What one run of a load did: at least `requests` and `requests_per_s`."""


class Load(Protocol):
    """How a client is started, and how its figures are read from what it prints."""

    @property
    def block_bytes(self) -> int: ...

    def command(self, url: str, disk_bytes: int, duration_s: int) -> list[str]: ...

    def figures(self, printed: str, duration_s: int) -> Figures: ...


@dataclass(frozen=True, slots=True)
class RandomRead:
    """iscsi-perf: random READ(16)s, `depth` of them in flight, starting at any sector, for a fixed time."""

    block_bytes: int
    depth: int

    def command(self, url: str, disk_bytes: int, duration_s: int) -> list[str]:
        sectors = self.block_bytes // SECTOR_BYTES
        return ["iscsi-perf", "-r", "-b", str(sectors), "-m", str(self.depth), "-t", str(duration_s), url]

    def figures(self, printed: str, duration_s: int) -> Figures:
        requests_per_s = parse_iscsi_perf(printed)
        return {"requests": requests_per_s * duration_s, "requests_per_s": requests_per_s}


@dataclass(frozen=True, slots=True)
class ScatteredWrite:
    """qemu-img bench -w: aligned writes, `depth` of them in flight, each slot of the disk once before any twice.

    qemu-img steps by a fixed distance modulo the disk; a step near the golden ratio of the disk, and coprime with the
    number of slots, makes of that an order in which no two writes close in time are close on the disk.

    Args:
        requests_per_s: a guess that fixes the number of requests of a run: qemu-img counts requests, not seconds.
    """

    block_bytes: int
    depth: int
    requests_per_s: int

    def command(self, url: str, disk_bytes: int, duration_s: int) -> list[str]:
        count = self.requests_per_s * duration_s
        step = scattering_step(disk_bytes // self.block_bytes) * self.block_bytes
        arguments = {"-c": count, "-d": self.depth, "-s": self.block_bytes, "-S": step}
        flags = [word for option, value in arguments.items() for word in (option, str(value))]
        return ["qemu-img", "bench", "-w", "-f", "raw", "-t", "none", *flags, url]

    def figures(self, printed: str, duration_s: int) -> Figures:
        requests, seconds = parse_qemu_img_bench(printed)
        return {"requests": requests, "requests_per_s": requests / seconds}


@dataclass(frozen=True, slots=True)
class Generated:
    """The bench's own client, for what no tool at hand can do: many sessions, a mix, data digests, FUA, a fixed time.

    Args:
        depth: commands in flight on each session.
        reads: how many of a hundred commands are READs; the rest are WRITEs.
        fua: writes are durable when they are answered.
        digests: CRC32C over data, made and checked by the client too.
        latencies: the figures have `p50_us`, `p99_us` and `longest_us` of a command.
        is_prompt: the client is never kept waiting for a processor, if it may ask for that.
    """

    block_bytes: int
    depth: int
    reads: int = 100
    sessions: int = 1
    fua: bool = False
    digests: bool = False
    latencies: bool = False
    is_prompt: bool = False

    def command(self, url: str, disk_bytes: int, duration_s: int) -> list[str]:
        values = {
            "--sessions": self.sessions,
            "--depth": self.depth,
            "--block": self.block_bytes,
            "--reads": self.reads,
            "--disk-bytes": disk_bytes,
            "--seconds": duration_s,
        }
        flags = [word for option, value in values.items() for word in (option, str(value))]
        flags += [f"--{name}" for name in ("fua", "digests", "latencies") if getattr(self, name)]
        flags += ["--prompt"] if self.is_prompt else []
        return [*GENERATOR, *flags, url]

    def figures(self, printed: str, duration_s: int) -> Figures:
        return parse_generator(printed)


def run_load(load: Load, url: str, disk_bytes: int, duration_s: int) -> Figures:
    """Run a load to its end.

    Raises:
        LoadFailed: the client failed, hung or printed no figures.
    """
    printed = run_client(load.command(url, disk_bytes, duration_s), duration_s)
    return load.figures(printed, duration_s)


def run_client(command: list[str], duration_s: int) -> str:
    """Run a client to its end; gives what it printed.

    Raises:
        LoadFailed: it failed or hung.
    """
    limit_s = max(TIMEOUT_FLOOR_S, float(TIMEOUT_FACTOR * duration_s))
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=limit_s,
            cwd=ROOT,
        )
    except FileNotFoundError:
        raise LoadFailed(f"{command[0]} is not installed: .ci/apt libiscsi-bin qemu-utils qemu-block-extra") from None
    except subprocess.TimeoutExpired as late:
        raise LoadFailed(f"{' '.join(command)}: not done after {limit_s:.0f} s: {late.stdout!r}") from None
    if done.returncode:
        raise LoadFailed(f"{' '.join(command)}: exit status {done.returncode}: {done.stdout}{done.stderr}")
    return done.stdout


def parse_iscsi_perf(printed: str) -> float:
    """The average requests a second that iscsi-perf ends with.

    It redraws one line by carriage returns; only the last segment, printed when the time is up, holds nothing but the
    average. A line on a failed read or connection makes the run worthless, whatever average follows.

    Raises:
        LoadFailed: the run did not finish, a request failed, or there is no average.
    """
    segments = re.split(r"[\r\n]+", printed)
    for segment in segments:
        if "failed" in segment.lower():
            raise LoadFailed(f"iscsi-perf: {segment.strip()}")
    averages = [found[1] for segment in segments if (found := re.match(r"iops average (\d+) \(\d+ MB/s\)", segment))]
    if not averages or "finished." not in segments:
        raise LoadFailed(f"iscsi-perf did not finish: {printed!r}")
    return float(averages[-1])


def parse_qemu_img_bench(printed: str) -> tuple[int, float]:
    """How many requests `qemu-img bench` sent and in how many seconds.

    Raises:
        LoadFailed: it did not say so, or the run was too short for its clock of milliseconds.
    """
    sent = re.search(r"^Sending (\d+) (?:read|write) requests, ", printed, re.MULTILINE)
    took = re.search(r"^Run completed in (\d+\.\d+) seconds\.", printed, re.MULTILINE)
    if sent is None or took is None or float(took[1]) == 0.0:
        raise LoadFailed(f"qemu-img bench gave no figures: {printed!r}")
    return int(sent[1]), float(took[1])


def parse_generator(printed: str) -> dict[str, float]:
    """The figures in the last line of tests.bench.generator, with `requests_per_s` where it says how long it took.

    Raises:
        LoadFailed: there is no such line, or nothing was done.
    """
    try:
        figures = {str(name): float(value) for name, value in json.loads(printed.rstrip().rpartition("\n")[2]).items()}
        requests = figures["requests"]
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LoadFailed(f"the generator gave no figures: {printed!r}") from None
    if "seconds" in figures:
        if not requests or not figures["seconds"]:
            raise LoadFailed(f"the generator had nothing done: {printed!r}")
        figures["requests_per_s"] = requests / figures["seconds"]
    return figures


def scattering_step(slots: int) -> int:
    """The step, in slots, nearest above the golden ratio of `slots` that visits every slot before any twice."""
    step = max(1, round(slots * GOLDEN_RATIO))
    while math.gcd(step, slots) != 1:
        step += 1
    return step
