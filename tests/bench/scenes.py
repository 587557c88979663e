"""Loads of several clients at once, and of memory: what a rate does not tell."""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final

from tests.bench.generator import RUNNING
from tests.bench.loads import GENERATOR, KIB, TIMEOUT_FLOOR_S, Generated, LoadFailed, parse_generator, run_load
from tests.bench.machine import ROOT
from tests.bench.targets import TARGETS, Export, Target, children, memory_mib

IDLE_SESSIONS: Final = 64
SETTLE_S: Final = 0.5
BACKGROUND_S: Final = 3600
"""More than any run takes: a client in the background ends when it is told to."""
GIVE_WAY: Final = 19
DROP_EVERY_S: Final = 0.25
READER: Final = Generated(4 * KIB, 1, latencies=True, is_prompt=True)
WRITER: Final = Generated(256 * KIB, 32, reads=0)
COLD_READER: Final = Generated(4 * KIB, 32)


@dataclass(frozen=True, slots=True)
class Stage:
    """Where a scene plays: a running target, its files, and for how long.

    Args:
        disks: the file of each of the target's URLs; the first is in the page cache.
    """

    target: Target
    disks: tuple[Path, ...]
    folder: Path
    disk_bytes: int
    duration_s: int


class Client:
    """A generator that runs beside others until its context ends or it is done.

    Raises:
        LoadFailed: from `figures`: it failed, or told nothing.
    """

    def __init__(self, command: Sequence[str]) -> None:
        self._command = command
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self.running:
            self._process.kill()
        self._process.communicate()

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def wait_until_it_runs(self) -> None:
        """Wait for its word that every session has had an answer.

        Raises:
            LoadFailed: it ended instead.
        """
        assert self._process.stdout is not None
        if self._process.stdout.readline().strip() != RUNNING:
            self.figures()
            raise LoadFailed(f"{' '.join(self._command)} did not say that it runs")

    def figures(self) -> Mapping[str, float]:
        """End it where it runs in the background, and wait for what it tells."""
        try:
            output, errors = self._process.communicate(timeout=TIMEOUT_FLOOR_S)
        except subprocess.TimeoutExpired:
            raise LoadFailed(f"{' '.join(self._command)}: not done after {TIMEOUT_FLOOR_S:.0f} s") from None
        if self._process.returncode:
            raise LoadFailed(f"{' '.join(self._command)}: exit status {self._process.returncode}: {errors}")
        return parse_generator(output)


def background(load: Generated, url: str, disk_bytes: int) -> Client:
    """A load that runs until its figures are asked for."""
    return Client([*load.command(url, disk_bytes, BACKGROUND_S), "--announce", "--nice", str(GIVE_WAY)])


@contextmanager
def apart(target: Target) -> Iterator[None]:
    """Half of the processors for the target and half for its clients, as if they were on two machines.

    Else the scheduler would at times let the target wait for a busy client, for milliseconds, and it would seem slow.
    """
    processors = sorted(os.sched_getaffinity(0))
    middle = len(processors) // 2
    try:
        if middle:
            # Clients inherit it.
            os.sched_setaffinity(0, processors[middle:])
            _keep_on(target, processors[:middle])
        yield
    finally:
        os.sched_setaffinity(0, processors)
        _keep_on(target, processors)


def _keep_on(target: Target, processors: Sequence[int]) -> None:
    for process in (target.pid, *children(target.pid)):
        for thread in os.listdir(f"/proc/{process}/task"):
            os.sched_setaffinity(int(thread), processors)


def fairness(stage: Stage) -> dict[str, float]:
    """The latency of a depth-1 reader of 4 KiB: alone, then beside a depth-32 writer of 256 KiB on the same disk."""
    url, size = stage.target.url, stage.disk_bytes
    with apart(stage.target):
        alone = run_load(READER, url, size, stage.duration_s)
    with apart(stage.target), background(WRITER, url, size) as writer:
        writer.wait_until_it_runs()
        beside = run_load(READER, url, size, stage.duration_s)
        written = writer.figures()
    return {
        **{f"alone_{name}": alone[name] for name in ("requests_per_s", "p50_us", "p99_us", "longest_us")},
        **{f"beside_{name}": beside[name] for name in ("requests_per_s", "p50_us", "p99_us", "longest_us")},
        "times_alone_p99": beside["p99_us"] / alone["p99_us"],
        "writer_requests_per_s": written["requests_per_s"],
    }


def cold_file(stage: Stage) -> dict[str, float]:
    """A depth-32 reader of a file that is not in the page cache, a depth-1 reader of one that is, and NOP-Outs.

    `from_drive_share` is what the target had read from the drive, of what the cold reader was sent.
    """
    cold, size = stage.disks[1], stage.disk_bytes
    drop_from_cache(cold)
    ping = [*GENERATOR, "--work", "ping", "--prompt", "--seconds", str(stage.duration_s), stage.target.url]
    with apart(stage.target), background(COLD_READER, stage.target.urls[1], size) as reader:
        reader.wait_until_it_runs()
        before = read_bytes(stage.target.pid)
        begin_s = time.monotonic()
        with Client(READER.command(stage.target.url, size, stage.duration_s)) as cached, Client(ping) as pings:
            while cached.running or pings.running:
                drop_from_cache(cold)
                time.sleep(DROP_EVERY_S)
                if time.monotonic() > begin_s + stage.duration_s + TIMEOUT_FLOOR_S:
                    raise LoadFailed("the clients of the cold file are not done")
            cached_figures, ping_figures = cached.figures(), pings.figures()
        from_drive = read_bytes(stage.target.pid) - before
        took_s = time.monotonic() - begin_s
        cold_figures = reader.figures()
    sent = cold_figures["requests_per_s"] * took_s * COLD_READER.block_bytes
    return {
        "nop_longest_ms": ping_figures["longest_us"] / 1000,
        "nop_p99_ms": ping_figures["p99_us"] / 1000,
        "cached_requests_per_s": cached_figures["requests_per_s"],
        "cached_p50_us": cached_figures["p50_us"],
        "cached_p99_us": cached_figures["p99_us"],
        "cached_longest_us": cached_figures["longest_us"],
        "cold_requests_per_s": cold_figures["requests_per_s"],
        "from_drive_share": from_drive / sent,
    }


def idle_sessions(stage: Stage) -> dict[str, float]:
    """What 64 sessions that do nothing add to the memory of a target that was just started."""
    with (
        tempfile.TemporaryDirectory(dir=stage.folder) as folder,
        TARGETS[stage.target.name](Export((stage.disks[0],)), Path(folder)) as target,
    ):
        time.sleep(SETTLE_S)
        before_mib = memory_mib(target.pid, "VmRSS")
        with Client([*GENERATOR, "--work", "idle", "--sessions", str(IDLE_SESSIONS), target.url]) as client:
            client.wait_until_it_runs()
            time.sleep(SETTLE_S)
            after_mib = memory_mib(target.pid, "VmRSS")
            client.figures()
        target.stop()
    return {"before_mib": before_mib, "added_mib": after_mib - before_mib}


def drop_from_cache(file: Path) -> None:
    """Have the kernel forget what it holds of a file that has nothing to be written out."""
    fd = os.open(file, os.O_RDONLY)
    try:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(fd)


def read_bytes(pid: int) -> int:
    """What a process had read from drives until now (proc(5), /proc/PID/io)."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        name, _, value = line.partition(": ")
        if name == "read_bytes":
            return int(value)
    raise LoadFailed(f"/proc/{pid}/io has no read_bytes")
