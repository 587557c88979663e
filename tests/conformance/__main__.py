"""`make conformance`: run iscsi-test-cu on every kind of logical unit and on tgtd, and write docs/conformance.md."""

from __future__ import annotations

import sys
import tempfile
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

from tests.bench.machine import ROOT, machine, versions
from tests.bench.targets import Target
from tests.conformance.kinds import KINDS, PEER_KINDS, SIZE, Kind, serve
from tests.conformance.suite import Result, run_suite
from tests.conformance.table import failures, never_ran, render

PAGE = ROOT / "docs" / "conformance.md"
MOST_THAT_NEVER_RAN = 10


def main() -> int:
    """Give 0 when nothing of ours failed, and no more tests than MOST_THAT_NEVER_RAN ran on no kind."""
    columns = {name: _run(name, kind) for name, kind in {**KINDS, **PEER_KINDS}.items()}
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **machine(ROOT), **versions()}
    PAGE.write_text(render(columns, list(KINDS), [f"{name}: {value}" for name, value in facts.items()]))
    failed, unseen = failures(columns, list(KINDS)), never_ran(columns, list(KINDS))
    for kind, result in failed:
        sys.stderr.write(f"failed on {kind}: {result.name}: {result.why}\n")
    for name, why in unseen:
        sys.stderr.write(f"ran on no kind: {name}: {why}\n")
    sys.stdout.write(f"written: {PAGE}\n")
    return int(bool(failed) or len(unseen) > MOST_THAT_NEVER_RAN)


def _run(name: str, kind: Kind) -> list[Result]:
    with tempfile.TemporaryDirectory(prefix="csvd-conformance-") as scratch:
        numbers = count()

        def fresh(size: str | None) -> Target:
            folder = Path(scratch, str(next(numbers)))
            folder.mkdir()
            return serve(kind, folder, size or SIZE)

        def tell(line: str) -> None:
            sys.stderr.write(f"{name}: {line}\n")

        return list(run_suite(fresh, tell))


if __name__ == "__main__":
    sys.exit(main())
