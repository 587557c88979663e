"""A process that writes its journal and is killed with SIGKILL, again and again, also in the middle of a compaction."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path
from random import Random

from csvd.cluster.journal import Journal
from csvd.cluster.state_directory import StateDirectory

_ROOT = Path(__file__).resolve().parents[2]
KILLS = 12


def acknowledged_until_killed(directory: Path, after_s: float) -> int:
    """Run the writer for a while, kill it; the last index that it said was durable."""
    writer = subprocess.Popen(
        [sys.executable, "-m", "tests.integration.cluster_journal_writer", str(directory)],
        cwd=_ROOT,
        stdout=subprocess.PIPE,
    )
    assert writer.stdout is not None
    last = int(writer.stdout.readline())
    killer = threading.Timer(after_s, writer.kill)
    killer.start()
    for line in writer.stdout:
        if line.endswith(b"\n"):
            last = int(line)
    killer.join()
    writer.wait()
    writer.stdout.close()
    return last


def test_nothing_that_was_acknowledged_is_lost_by_kills(tmp_path: Path) -> None:
    random = Random(6)
    in_compaction = 0
    for _ in range(KILLS):
        acknowledged = acknowledged_until_killed(tmp_path, random.uniform(0.01, 0.1))
        in_compaction += (tmp_path / "journal.new").exists()
        files = StateDirectory(tmp_path)
        journal = Journal(files, "n1", now_ms=0)
        last = journal.entries[-1]
        assert acknowledged <= last[1] <= acknowledged + 1
        assert last == (b"entry %d" % last[1], last[1], last[1])
        assert journal.term >= last[1]
        assert journal.snapshot is None or journal.snapshot.state.startswith(b"up to %d" % journal.snapshot.last[1])
        files.close()
    print(f"{KILLS} kills, {in_compaction} of them in the middle of a compaction")  # noqa: T201
