"""Writes a journal without end, compacting all the time, and says what is durable; to be killed."""

from __future__ import annotations

import sys
from pathlib import Path

from csvd.cluster.journal import Journal
from csvd.cluster.journal_records import Snapshot
from csvd.cluster.state_directory import StateDirectory


def main() -> None:
    journal = Journal(StateDirectory(Path(sys.argv[1])), "n1", now_ms=0)
    index = journal.entries[-1][1] if journal.entries else 0
    while True:
        index += 1
        journal.set_term(index, None)
        journal.append((b"entry %d" % index, index, index))
        if index % 3 == 0:
            journal.compact(Snapshot(b"up to %d" % index + bytes(200_000), *journal.entries[-2:]))
        journal.flush()
        sys.stdout.write(f"{index}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
