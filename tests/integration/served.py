"""A daemon that serves one disk, for tests that speak to it over real sockets."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path


class Daemon:
    """A `csvd serve` with one disk, which is made for it.

    Args:
        target: its name.
        create: the size of the disk, as `csvd serve --create` takes it.
        timeout_s: for each wait.
        options: more of them.
    """

    def __init__(
        self, folder: Path, *, target: str, create: str, timeout_s: float, options: Sequence[str] = ()
    ) -> None:
        self.timeout_s = timeout_s
        command = [sys.executable, "-m", "csvd", "serve", str(folder / "a.img"), "--create", create, "--iqn", target]
        self.process = subprocess.Popen(
            [*command, "--portal", "127.0.0.1:0", *options],
            stdout=subprocess.PIPE,
            stderr=(folder / "log").open("w"),
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        host, _, port = line.removeprefix("ready iscsi://").partition("/")[0].rpartition(":")
        self.address = (host, int(port))
        self.log = folder / "log"

    def memory_mib(self, what: str) -> float:
        """`VmRSS`: now; `VmHWM`: the most that there ever was."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition(f"{what}:")[2].split()[0]) / 1024

    def connect(self) -> socket.socket:
        return socket.create_connection(self.address, timeout=self.timeout_s)


@contextmanager
def serving(
    folder: Path, *, target: str, create: str, timeout_s: float, options: Sequence[str] = ()
) -> Iterator[Daemon]:
    """Start one; it must end well, and with no fault in its log."""
    started = Daemon(folder, target=target, create=create, timeout_s=timeout_s, options=options)
    try:
        yield started
        started.process.send_signal(signal.SIGTERM)
        assert started.process.wait(timeout_s) == 0
        assert "Traceback" not in started.log.read_text()
    finally:
        if started.process.poll() is None:
            started.process.kill()
            started.process.wait()
