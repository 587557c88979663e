"""`make conformance`: run iscsi-test-cu on every kind of logical unit and on tgtd, and write docs/conformance.md."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from functools import partial

from tests.bench.machine import ROOT, machine, versions
from tests.conformance.kinds import KINDS, PEER_KINDS, run_kind
from tests.conformance.table import failures, never_ran, render

PAGE = ROOT / "docs" / "conformance.md"
MOST_THAT_NEVER_RAN = 10


def main() -> int:
    """Give 0 when nothing of ours failed, and no more tests than MOST_THAT_NEVER_RAN ran on no kind."""
    columns = {name: run_kind(kind, partial(_tell, name)) for name, kind in {**KINDS, **PEER_KINDS}.items()}
    facts = {"date": f"{datetime.now(UTC):%Y-%m-%d}", **machine(ROOT), **versions()}
    PAGE.write_text(render(columns, list(KINDS), [f"{name}: {value}" for name, value in facts.items()]))
    failed, unseen = failures(columns, list(KINDS)), never_ran(columns, list(KINDS))
    for kind, result in failed:
        sys.stderr.write(f"failed on {kind}: {result.name}: {result.why}\n")
    for name, why in unseen:
        sys.stderr.write(f"ran on no kind: {name}: {why}\n")
    sys.stdout.write(f"written: {PAGE}\n")
    return int(bool(failed) or len(unseen) > MOST_THAT_NEVER_RAN)


def _tell(name: str, line: str) -> None:
    sys.stderr.write(f"{name}: {line}\n")


if __name__ == "__main__":
    sys.exit(main())
