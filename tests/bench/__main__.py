"""`python -m tests.bench`: csvd and tgtd side by side on one file; prints the tables and writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from tests.bench.limits import CSVD_NULL
from tests.bench.loads import LoadFailed
from tests.bench.machine import ROOT, machine, versions
from tests.bench.measure import Plan, measure
from tests.bench.report import document, summary
from tests.bench.rows import LIMITS, ROWS
from tests.bench.samples import Beginning, Record, RecordFailed, Samples, check_same_run, read_record
from tests.bench.targets import TargetFailed

DOCUMENT = ROOT / "docs" / "benchmarks.md"
LIMIT_ROUNDS = 3


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    try:
        if options.report:
            beginning, samples = read_record(options.report)
        else:
            beginning, samples = _run(options)
    except (LoadFailed, TargetFailed, RecordFailed) as failure:
        print(f"bench: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted; nothing is left behind but the record, if one was asked for", file=sys.stderr)
        return 130
    print(summary(samples))
    is_whole = not (options.quick or options.row or options.report)
    if output := options.output or (DOCUMENT if is_whole else None):
        output.write_text(document(beginning, samples, LIMIT_ROUNDS))
        print(f"written: {output}", file=sys.stderr)
    return 0


def _run(options: argparse.Namespace) -> tuple[Beginning, Samples]:
    plan = _plan(options)
    now = Beginning(
        f"{datetime.now(UTC):%Y-%m-%d}",
        machine(options.folder),
        versions(),
        plan.rounds,
        plan.duration_s,
        plan.disk_mib,
    )
    record, samples = Record(options.json), Samples()
    if options.resume and options.json and options.json.exists():
        before, samples = read_record(options.json)
        check_same_run(options.json, before, now)
        now = before
    # Written anew also when it is gone on with: its last line may have been cut off.
    record.begin(now)
    for sample in samples.all:
        record.add(sample)
    measure(plan, options.folder, samples, record)
    return now, samples


def _plan(options: argparse.Namespace) -> Plan:
    rows = [row for row in ROWS if not options.row or row.key in options.row]
    if options.quick:
        return Plan(1, 1, 128, rows, 1, tuple(name for name in LIMITS if name != CSVD_NULL))
    return Plan(
        options.rounds, options.seconds, options.disk_mib, rows, LIMIT_ROUNDS, () if options.no_limits else LIMITS
    )


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is not positive")
    return number


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "--quick", action="store_true", help="one round of one second a row, without csvd over null:; nothing written"
    )
    parser.add_argument("--rounds", type=_positive, default=5, help="runs of each row on each target (default: 5)")
    parser.add_argument("--seconds", type=_positive, default=3, help="length of a run (default: 3)")
    parser.add_argument("--disk-mib", type=_positive, default=512, help="size of each of two disks (default: 512)")
    parser.add_argument("--row", action="append", choices=[row.key for row in ROWS], help="only this row; repeatable")
    parser.add_argument("--no-limits", action="store_true", help="csvd and tgtd only")
    parser.add_argument(
        "--folder", type=Path, default=Path(tempfile.gettempdir()), help="where the disks are made, and removed"
    )
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write every sample there as it comes: JSON lines, whole at any time"
    )
    parser.add_argument("--resume", action="store_true", help="measure only what the file of --json does not have yet")
    parser.add_argument("--report", type=Path, metavar="FILE", help="measure nothing: tell what such a file has")
    parser.add_argument(
        "--output", type=Path, metavar="FILE", help="write the report there (default: docs/benchmarks.md)"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main())
