"""Starts the processes of workers."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, Protocol

from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.python.failure import Failure

import csvd
from csvd.vm.process import describe_end
from csvd.workers.protocol import WorkerError

CHANNEL: Final = 3
"""The descriptor at which a worker finds its end of the socket pair."""


class RunningWorker(Protocol):
    """The process of a worker."""

    @property
    def process_id(self) -> int:
        """Its number."""

    def kill(self) -> None:
        """End it at once; one that has ended is no error."""


class Launch(Protocol):
    """Starts a worker."""

    def __call__(self, number: int, channel: socket.socket, ended: Callable[[str], None], /) -> RunningWorker:
        """Start it.

        Args:
            channel: what the worker gets; it stays open here.
            ended: called when the process is gone, with how it ended.

        Raises:
            WorkerError: it can not be started.
        """


class WorkerProcess(ProcessProtocol):
    """One process of this program, from its start to its end. With its first two arguments given it is a `Launch`.

    Args:
        log_level: what it logs, to the stderr of this process.
    """

    def __init__(
        self, reactor: Any, log_level: str, number: int, channel: socket.socket, ended: Callable[[str], None]
    ) -> None:
        self._ended = ended
        null = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        try:
            self._process = reactor.spawnProcess(
                self,
                sys.executable,
                _arguments(number, log_level),
                env=_environment(),
                childFDs={0: null, 1: null, 2: 2, CHANNEL: channel.fileno()},
            )
        except OSError as error:
            raise WorkerError("can not be started", where=f"worker {number}", why=str(error)) from error
        finally:
            os.close(null)
        self.process_id = int(self._process.pid)

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessExitedAlready):
            self._process.signalProcess("KILL")

    def processEnded(self, reason: Failure) -> None:  # noqa: N802 - Twisted's name
        status: Any = reason.value
        self._ended(describe_end(getattr(status, "exitCode", None), getattr(status, "signal", None)))


def _arguments(number: int, log_level: str) -> list[str]:
    module = ["-P", "-m", "csvd.workers.worker"]
    return [sys.executable, *module, "--number", str(number), "--channel", str(CHANNEL), "--log-level", log_level]


def _environment() -> dict[str, str]:
    """That of this process, with this program where Python finds it."""
    root = str(Path(csvd.__file__).parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "PYTHONPATH": path}
