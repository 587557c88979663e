"""csv-initiator watch on a LUN of `csvd serve` that is reserved, goes away and comes back."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.bench.targets import Export, start_csvd

INITIATOR = [sys.executable, "-m", "initiator"]
DEADLINE_S = 60


class Watch:
    """A watcher in a process of its own, and what it has told."""

    def __init__(self, url: str) -> None:
        command = [*INITIATOR, "watch", url, "--interval", "0.1", "--json", "--timeout", "5"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.told: list[dict[str, Any]] = []

    def until(self, kind: str) -> dict[str, Any]:
        """Wait for an event of a kind that has not been waited for before."""
        assert self.process.stdout is not None
        while True:
            line = self.process.stdout.readline()
            assert line, self.told
            self.told.append(json.loads(line))
            if self.told[-1]["event"] == kind:
                return self.told[-1]


def test_watch_tells_of_registrations_and_of_a_restart_and_ends_well(tmp_path: Path) -> None:
    export = Export((tmp_path / "lun.img",), create="8M")
    with start_csvd(export, tmp_path) as target:
        watch = Watch(target.url)
        try:
            assert watch.until("capacity")["size_bytes"] == 8 << 20
            register = [*INITIATOR, "reserve", "register", target.url, "--key", "0x1234"]
            done = subprocess.run(register, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
            assert done.returncode == 0, done.stderr
            assert watch.until("registrations")["keys"] == ["0x1234"]
            port = int(target.portal.rpartition(":")[2])
            target.kill()
            watch.until("session_gone")
            with start_csvd(Export(export.disks, port=port), tmp_path) as again:
                watch.until("logged_in_again")
                watch.process.send_signal(signal.SIGINT)
                assert watch.process.wait(DEADLINE_S) == 0
                assert again.stop() == 0
        finally:
            watch.process.kill()
            _, errors = watch.process.communicate()
    assert "Traceback" not in errors
