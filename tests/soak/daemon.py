"""The daemon under soak: started, killed and started again on the same port, and watched for what it holds."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from tests.bench.targets import Export, Target, start_csvd

BAD_WORDS: Final = ("Traceback", "Unhandled", "a fault in", "a fault of", "executing <Task", "CRITICAL")
"""What stands in a log only when something of ours went wrong."""


class Daemon:
    """One `csvd serve` at a time, over one disk."""

    def __init__(self, folder: Path, size: str) -> None:
        self._folder = folder
        self._size = size
        self._port = 0
        self._logs: list[str] = []
        self.target = self._start()

    def _start(self) -> Target:
        options = ("--state-directory", str(self._folder / "state"), "--log-level", "info")
        folder = self._folder / f"life-{len(self._logs)}"
        folder.mkdir()
        target = start_csvd(
            Export((self._folder / "disk.img",), create=self._size, port=self._port, options=options), folder
        )
        self._port = int(target.portal.rpartition(":")[2])
        return target

    @property
    def url(self) -> str:
        return self.target.url

    def restart(self, *, kill: bool) -> None:
        """End it, politely or not, and start it again."""
        if kill:
            self.target.kill()
        else:
            status = self.target.stop()
            assert status == 0, f"exit status {status}: {self.target.log()[-2000:]}"
        self._logs.append(self.target.log())
        self.target = self._start()

    def stop(self) -> None:
        """End it for good."""
        status = self.target.stop()
        self._logs.append(self.target.log())
        assert status == 0, f"exit status {status}"

    def memory_kib(self) -> int:
        """Resident memory of the process."""
        status = Path(f"/proc/{self.target.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0])

    def file_descriptors(self) -> int:
        """Open file descriptors of the process."""
        return len(os.listdir(f"/proc/{self.target.pid}/fd"))

    def complaints(self) -> list[str]:
        """Lines of all logs that tell of a fault of ours."""
        lines = [line for log in self._logs for line in log.splitlines()]
        return [line for line in lines if any(word in line for word in BAD_WORDS)]
