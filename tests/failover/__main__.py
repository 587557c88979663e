"""`python -m tests.failover`: breaks the coordinator of a real cluster again and again; prints a table of how long that
was felt, and writes docs/failover.md and docs/failover.svg.

With `--json FILE` every trial is appended to a file; `--report` makes the documents of such a file, and runs nothing.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from tests.bench.machine import ROOT, facts
from tests.failover.probes import Probes
from tests.failover.report import document, picture, table
from tests.failover.trials import FAULTS, Trial, Trials, run_trials
from tests.integration.faults.hosts import host_cluster
from tests.integration.namespaces import why_not


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.failover", description=__doc__)
    parser.add_argument("--kills", type=int, default=20, help="how many kills -9 of the coordinator")
    parser.add_argument("--stops", type=int, default=5, help="how many SIGSTOPs")
    parser.add_argument("--partitions", type=int, default=5, help="how many times it is cut off")
    parser.add_argument("--json", type=Path, help="append each trial to this file")
    parser.add_argument("--report", type=Path, help="run nothing; make the documents of this file")
    parser.add_argument("--folder", type=Path, default=ROOT / "docs", help="where the documents go")
    options = parser.parse_args(arguments)
    if not options.report and (reason := why_not()):
        print(f"failover: {reason}; it needs root", file=sys.stderr)
        return 1
    if options.report:
        trials = [Trial(**json.loads(line)) for line in options.report.read_text().splitlines()]
    else:
        trials = measure(
            dict(zip(FAULTS, (options.kills, options.stops, options.partitions), strict=True)), options.json
        )
    print(table(trials))
    if options.json is None:
        (options.folder / "failover.md").write_text(document(trials, facts(Path("/tmp"))))
        (options.folder / "failover.svg").write_text(picture(trials))
        print(f"written: {options.folder}/failover.md", file=sys.stderr)
    return 0


def measure(counts: dict[str, int], record: Path | None) -> list[Trial]:
    """Run so many of each fault; tell of each."""
    found = []
    with host_cluster() as cluster:
        probes = Probes(cluster)
        try:
            for trial in run_trials(Trials(cluster, probes), counts):
                found.append(trial)
                line = json.dumps(trial.to_json())
                print(line, file=sys.stderr)
                if record is not None:
                    with record.open("a") as file:
                        file.write(line + "\n")
        finally:
            probes.close()
    return found


if __name__ == "__main__":
    sys.exit(main())
