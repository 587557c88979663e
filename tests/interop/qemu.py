"""qemu-io as a client: one-shot command lists, and a session that stays connected between commands."""

from __future__ import annotations

import os
import re
import subprocess
import time
from types import TracebackType

from tests.interop.programs import TIMEOUT_S, run
from tests.readable import wait_readable

PROMPT = b"qemu-io> "


def qemu_io(url: str, *commands: str, read_only: bool = False, timeout_s: float = TIMEOUT_S) -> str:
    """Run commands on a raw disk; every one must succeed and every pattern that is read must be there.

    qemu-io exits with 0 when a read or write that it sent asynchronously failed, and when an asynchronous read brought
    other data than its pattern: what it prints has to be looked at.

    Raises:
        AssertionError: it failed, a request is missing in what it printed, or a pattern did not match.
    """
    flags = ["-r"] if read_only else []
    arguments = [word for command in commands for word in ("-c", command)]
    done = run("qemu-io", *flags, "-f", "raw", *arguments, url, timeout_s=timeout_s)
    assert done.status == 0, str(done)
    check_output(done.stdout + done.stderr, commands)
    return done.stdout


def check_output(printed: str, commands: tuple[str, ...]) -> None:
    """Raises AssertionError unless every read and write among `commands` is reported whole and none as failed."""
    assert "Pattern verification failed" not in printed, printed
    assert "failed" not in printed, printed
    reports = re.findall(r"^(read|wrote) (\d+)/(\d+) bytes at offset \d+$", printed, re.MULTILINE)
    assert all(done == asked for _, done, asked in reports), printed
    for verb, names in (("read", ("read", "aio_read")), ("wrote", ("write", "aio_write"))):
        expected = sum(command.split()[0] in names for command in commands)
        assert sum(report[0] == verb for report in reports) == expected, printed


class QemuIoSession:
    """A qemu-io that keeps its iSCSI session from command to command, and over a restart of the target."""

    def __init__(self, url: str) -> None:
        self._process = subprocess.Popen(
            ["qemu-io", "-f", "raw", url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        try:
            self._read_to_prompt("open", TIMEOUT_S)
        except BaseException:
            self._end()
            raise

    def __enter__(self) -> QemuIoSession:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def do(self, command: str, timeout_s: float = TIMEOUT_S) -> None:
        """Run one synchronous command.

        Raises:
            AssertionError: it failed, brought other data than its pattern, or did not end in time.
        """
        self.send(command)
        check_output(self._read_to_prompt(command, timeout_s), (command,))

    def send(self, command: str) -> None:
        """Start a command and do not wait for it; `finish` does."""
        assert self._process.stdin is not None
        self._process.stdin.write(command.encode() + b"\n")
        self._process.stdin.flush()

    def finish(self, command: str, timeout_s: float = TIMEOUT_S) -> None:
        """Wait for a command that `send` started; raises as `do`."""
        check_output(self._read_to_prompt(command, timeout_s), (command,))

    def _read_to_prompt(self, command: str, timeout_s: float) -> str:
        assert self._process.stdout is not None
        descriptor = self._process.stdout.fileno()
        deadline = time.monotonic() + timeout_s
        printed = b""
        while not printed.endswith(PROMPT):
            readable = wait_readable(descriptor, deadline - time.monotonic())
            assert readable, f"qemu-io {command}: not done after {timeout_s} s: {printed!r}"
            chunk = os.read(descriptor, 65536)
            assert chunk, f"qemu-io {command}: it ended: {printed!r}"
            printed += chunk
        return printed.removesuffix(PROMPT).decode(errors="replace")

    def _end(self) -> None:
        self._process.kill()
        self._process.communicate()
