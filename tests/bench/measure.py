"""One run of the benchmark: all targets serve all the time, only one of them has work at any moment."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from tests.bench.files import cache_in_pages, fill, write_out
from tests.bench.limits import CSVD_NULL, IN_C, NULL, compile_c, compiler, in_c, in_python, start_csvd_null, start_null
from tests.bench.loads import KIB, RandomRead, run_load
from tests.bench.rows import LIMITS, OURS, THEIRS, FileRow, LoadRow, Row, SceneRow
from tests.bench.samples import Record, Sample, Samples
from tests.bench.scenes import Stage
from tests.bench.targets import TARGETS, Export, Target, cpu_seconds, memory_mib

WARM_UP: Final = RandomRead(4 * KIB, 1)
FILE_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Plan:
    """How long and how often.

    Args:
        rounds: runs of each row on csvd and on tgtd, of about `duration_s` each, on disks of `disk_mib`.
        limit_rounds: in how many of them the limits are measured beside them.
        limits: which of them.
    """

    rounds: int
    duration_s: int
    disk_mib: int
    rows: Sequence[Row]
    limit_rounds: int
    limits: tuple[str, ...] = LIMITS

    def runs(self) -> Iterator[tuple[int, Row, str]]:
        """Every run: its round, its row and its target. Who goes first changes from round to round."""
        for number in range(self.rounds):
            for row in self.rows:
                names = [name for name in row.targets if name in (OURS, THEIRS)]
                if number % 2:
                    names.reverse()
                if number < self.limit_rounds:
                    names += [name for name in row.targets if name in self.limits]
                yield from ((number, row, name) for name in names)


def measure(plan: Plan, parent: Path, samples: Samples, record: Record) -> None:
    """Measure all that `samples` does not have yet; each sample goes to it and to the record at once.

    Raises:
        LoadFailed, TargetFailed: a client or a target failed; what was measured before stays in the record.
    """
    due = [run for run in plan.runs() if not samples.has(run[1].key, run[2], run[0])]
    if compiler() is None:
        due = [run for run in due if run[2] not in (NULL, IN_C)]
    if not due:
        return
    begin_s = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="csvd-bench-", dir=parent) as temporary, ExitStack() as running:
        bench = _Bench(plan, Path(temporary), running)
        bench.start({target for _, _, target in due})
        for number, row, name in due:
            sample = Sample(row.key, name, number, bench.run(row, name))
            samples.all.append(sample)
            record.add(sample)
            _tell(plan.rounds, sample, begin_s)
        bench.stop()


class _Bench:
    """The files, the programs and the running targets of a run."""

    def __init__(self, plan: Plan, folder: Path, running: ExitStack) -> None:
        self._running = running
        self._plan = plan
        self._folder = folder
        self._disk, self._cold = folder / "disk.img", folder / "cold.img"
        self._targets: dict[str, Target] = {}
        self._file_limit: Path | None = None

    def start(self, names: set[str]) -> None:
        """Make the files, compile what is needed, start the targets, and have each do something once."""
        fill(self._disk, self._plan.disk_mib)
        shutil.copyfile(self._disk, self._cold)
        write_out(self._cold)
        cache_in_pages(self._disk)
        if IN_C in names:
            self._file_limit = compile_c("file_limit", self._folder)
        for name in (OURS, THEIRS, NULL, CSVD_NULL):
            if name in names:
                self._targets[name] = self._running.enter_context(self._start(name))
        for target in self._targets.values():
            run_load(WARM_UP, target.url, self._plan.disk_mib << 20, 1)

    def _start(self, name: str, *, digests: bool = False) -> Target:
        folder = Path(tempfile.mkdtemp(dir=self._folder))
        if name == NULL:
            return start_null(compile_c("null_target", folder), self._plan.disk_mib, folder)
        if name == CSVD_NULL:
            return start_csvd_null(self._plan.disk_mib, folder)
        return TARGETS[name](Export((self._disk, self._cold), digests=digests), folder)

    def stop(self) -> None:
        """End the targets as they should end: a failure then is one, too."""
        for target in self._targets.values():
            if target.name in TARGETS:
                target.stop()

    def run(self, row: Row, name: str) -> dict[str, float]:
        """One run, with nothing of the one before left to be written out."""
        write_out(self._disk)
        if isinstance(row, FileRow):
            return self._run_file(row, name)
        target = self._target(row, name)
        figures = row.play(self._stage(target)) if isinstance(row, SceneRow) else self._run_load(row, target)
        return {**figures, "peak_mib": memory_mib(target.pid, "VmHWM")}

    def _target(self, row: LoadRow | SceneRow, name: str) -> Target:
        """The running one, or for digests one that was told to do them: only tgtd must be told."""
        with_digests = f"{name} with digests"
        if name != THEIRS or not (isinstance(row, LoadRow) and row.has_digests):
            return self._targets[name]
        if with_digests not in self._targets:
            self._targets[with_digests] = self._running.enter_context(self._start(name, digests=True))
        return self._targets[with_digests]

    def _stage(self, target: Target) -> Stage:
        disks = (self._disk, self._cold)
        return Stage(target, disks, self._folder, self._plan.disk_mib << 20, self._plan.duration_s)

    def _run_load(self, row: LoadRow, target: Target) -> dict[str, float]:
        before_s = cpu_seconds(target.pid)
        figures = run_load(row.load, target.url, self._plan.disk_mib << 20, self._plan.duration_s)
        return {**figures, "cpu_s": cpu_seconds(target.pid) - before_s}

    def _run_file(self, row: FileRow, name: str) -> dict[str, float]:
        seconds = min(FILE_S, self._plan.duration_s / 4)
        if name == IN_C:
            assert self._file_limit is not None
            return in_c(self._file_limit, self._disk, row.block_bytes, seconds, writes=row.writes)
        return in_python(self._disk, row.block_bytes, seconds, writes=row.writes, durable=row.durable)


def _tell(rounds: int, sample: Sample, since_s: float) -> None:
    shown = ("requests_per_s", "cpu_s", "times_alone_p99", "nop_longest_ms", "added_mib", "peak_mib")
    text = "  ".join(f"{name} {sample.figures[name]:,.2f}" for name in shown if name in sample.figures)
    progress = f"{time.monotonic() - since_s:6.1f} s  round {sample.round_number + 1}/{rounds}"
    print(f"{progress}  {sample.row:20} {sample.target:18} {text}", file=sys.stderr, flush=True)
