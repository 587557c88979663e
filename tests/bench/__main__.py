"""`python -m tests.bench`: csvd and tgtd side by side on one file; prints the table and writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.loads import ROWS, LoadFailed, Row, run_load
from tests.bench.machine import ROOT, machine, versions
from tests.bench.report import Plan, Surroundings, document
from tests.bench.table import Comparison, Sample, as_json, markdown
from tests.bench.targets import TARGETS, Export, Target, TargetFailed, cpu_seconds

OURS, THEIRS = "csvd", "tgtd"
DOCUMENT = ROOT / "docs" / "benchmarks.md"
CHUNK_BYTES = 1 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    rows = [row for row in ROWS if not options.row or row.key in options.row]
    plan = (
        Plan(rounds=1, duration_s=1, disk_mib=256, rows=rows)
        if options.quick
        else Plan(options.rounds, options.seconds, options.disk_mib, rows)
    )
    surroundings = Surroundings(f"{datetime.now(UTC):%Y-%m-%d}", machine(options.folder), versions())
    try:
        comparisons = measure(plan, options.folder)
    except (LoadFailed, TargetFailed) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted, nothing is left behind", file=sys.stderr)
        return 130
    print(markdown(comparisons, OURS, THEIRS))
    if options.json:
        everything = {**asdict(surroundings), "rows": as_json(comparisons, OURS, THEIRS)}
        options.json.write_text(json.dumps(everything, indent=2) + "\n")
    if output := options.output or (None if options.quick or options.row else DOCUMENT):
        output.write_text(document(comparisons, plan, surroundings, OURS, THEIRS))
        print(f"written: {output}", file=sys.stderr)
    return 0


def measure(plan: Plan, parent: Path) -> list[Comparison]:
    """Both targets serve one file all the time; only one of them has work at any moment.

    Raises:
        LoadFailed, TargetFailed: a client or a target failed; there are no figures then.
    """
    samples: dict[tuple[str, str], list[Sample]] = {}
    with tempfile.TemporaryDirectory(prefix="csvd-bench-", dir=parent) as temporary:
        folder = Path(temporary)
        disk = folder / "disk.img"
        _fill(disk, plan.disk_mib)
        with ExitStack() as running:
            targets = [running.enter_context(TARGETS[name](Export((disk,)), folder)) for name in (OURS, THEIRS)]
            for target in targets:
                run_load(plan.rows[0].load, target.url, disk.stat().st_size, 1)
            for number in range(plan.rounds):
                for row in plan.rows:
                    # Who goes first changes from round to round.
                    for target in targets if number % 2 == 0 else reversed(targets):
                        sample = _sample(row, target, disk, plan.duration_s)
                        samples.setdefault((row.key, target.name), []).append(sample)
                        _tell(number, plan.rounds, row, target, sample)
            for target in targets:
                target.stop()
    return [Comparison(row, samples[row.key, OURS], samples[row.key, THEIRS]) for row in plan.rows]


def _sample(row: Row, target: Target, disk: Path, duration_s: int) -> Sample:
    _write_out(disk)
    before = cpu_seconds(target.pid)
    figure = run_load(row.load, target.url, disk.stat().st_size, duration_s)
    return Sample(figure.requests_per_s, figure.requests, cpu_seconds(target.pid) - before)


def _fill(disk: Path, size_mib: int) -> None:
    with disk.open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(CHUNK_BYTES))
    _write_out(disk)
    with disk.open("rb") as file:
        while file.read(CHUNK_BYTES):
            pass


def _write_out(disk: Path) -> None:
    with disk.open("rb+") as file:
        os.fdatasync(file.fileno())


def _tell(number: int, rounds: int, row: Row, target: Target, sample: Sample) -> None:
    print(
        f"round {number + 1}/{rounds}  {row.key:16} {target.name:5} {sample.requests_per_s:12,.0f} requests/s"
        f"  {sample.cpu_s_per_million:8.1f} CPU s/million",
        file=sys.stderr,
        flush=True,
    )


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of one second a row, nothing written")
    parser.add_argument("--rounds", type=_positive, default=5, help="runs of each row on each target (default: 5)")
    parser.add_argument("--seconds", type=_positive, default=5, help="length of a run (default: 5)")
    parser.add_argument("--disk-mib", type=_positive, default=1024, help="size of the disk (default: 1024)")
    parser.add_argument("--row", action="append", choices=[row.key for row in ROWS], help="only this row; repeatable")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the disk is made, and removed"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every sample there")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the report there (default: docs/benchmarks.md)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
