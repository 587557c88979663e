"""The driver of a guest that is a process of ours (csvd.vm.guest): it starts it, talks to it, and sees it end."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.error import ProcessExitedAlready
from twisted.internet.protocol import ProcessProtocol
from twisted.logger import Logger
from twisted.python.failure import Failure

import csvd
from csvd.vm.errors import ControlProtocolError, GuestEnded, VmError
from csvd.vm.interfaces import GuestStatus, GuestVerification, SpawningReactor
from csvd.vm.qmp import QmpClient
from csvd.vm.spec import GuestSpec

_STDERR_KEPT_BYTES: Final = 4096
# A check of every page reads all of the guest's RAM: 1 GiB/s is what a busy, slow host still does.
_VERIFY_BYTES_PER_S: Final = 1 << 30


class _GuestProtocol(ProcessProtocol):
    """Hands what the process writes, and how it ended, to its driver."""

    def __init__(self, driver: GuestProcess) -> None:
        self._driver = driver

    def outReceived(self, data: bytes) -> None:  # noqa: N802
        self._driver.control_received(data)

    def errReceived(self, data: bytes) -> None:  # noqa: N802
        self._driver.diagnostics_received(data)

    def processEnded(self, reason: Failure) -> None:  # noqa: N802
        self._driver.process_ended(reason.value)


class GuestProcess:
    """One guest process, from its start to its end; it is not started twice.

    Args:
        reactor: spawns the process and measures time-outs.
        name: the guest's name, for errors and the log.
        image: its memory image, of exactly ``spec.memory_bytes`` bytes.
        spec: memory and rate.
        timeout_s: how long a command may take.

    Every command raises GuestEnded when the process is gone, GuestTimeout when it does not answer, GuestRefused when it
    answers with an error.
    """

    _log = Logger()

    def __init__(
        self, reactor: SpawningReactor, name: str, image: Path, spec: GuestSpec, *, timeout_s: float = 10.0
    ) -> None:
        self.name = name
        self._reactor = reactor
        self._image = image
        self._spec = spec
        self._timeout_s = timeout_s
        self._process: Any = None
        self._qmp = QmpClient(reactor, self._write, where=f"guest {name}", on_event=self._event_received)
        self._boottime_ns: dict[str, int] = {}
        self._stderr = b""
        self._ended: GuestEnded | None = None
        self._end_watchers: list[Deferred[GuestEnded]] = []

    async def start(self, *, paused: bool) -> None:
        """Spawn the process and wait for its greeting. A process that does not greet is killed."""
        root = str(Path(csvd.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
        arguments = [
            sys.executable,
            "-P",
            "-m",
            "csvd.vm.guest",
            "--image",
            str(self._image),
            "--memory-bytes",
            str(self._spec.memory_bytes),
            "--pages-per-s",
            str(self._spec.pages_per_s),
        ]
        if paused:
            arguments.append("--paused")
        environment = {**os.environ, "PYTHONPATH": path}
        try:
            self._process = self._reactor.spawnProcess(_GuestProtocol(self), sys.executable, arguments, env=environment)
        except OSError as error:
            raise VmError("its process could not be started", where=f"guest {self.name}", why=str(error)) from error
        try:
            await self._qmp.greeting(timeout_s=self._timeout_s)
        except VmError:
            await self.kill()
            raise

    async def stop(self) -> int | None:
        """Have it write nothing more. Returns the CLOCK_BOOTTIME nanosecond of its last write (None: it never ran)."""
        await self._qmp.execute("stop", timeout_s=self._timeout_s)
        return self._boottime_ns.get("STOP")

    async def cont(self) -> int | None:
        """Have it run. Returns the CLOCK_BOOTTIME nanosecond at which it (last) began to."""
        await self._qmp.execute("cont", timeout_s=self._timeout_s)
        return self._boottime_ns.get("RESUME")

    async def query_status(self) -> GuestStatus:
        """Ask for its run state and counters."""
        answer = await self._qmp.execute("query-status", timeout_s=self._timeout_s)
        try:
            return GuestStatus(
                status=str(answer["status"]),
                counter=answer["counter"],
                pages_rewritten=answer["pages-rewritten"],
                filled_pages=answer["filled-pages"],
                working_set_pages=answer["working-set-pages"],
            )
        except KeyError as error:
            raise self._incomplete("query-status", error) from error

    async def verify(self) -> GuestVerification:
        """Have it check every page."""
        timeout_s = self._timeout_s + self._spec.memory_bytes / _VERIFY_BYTES_PER_S
        answer = await self._qmp.execute("verify", timeout_s=timeout_s)
        try:
            return GuestVerification(
                pages_checked=int(answer["pages-checked"]),
                pages_bad=int(answer["pages-bad"]),
                missing_rewrites=int(answer["missing-rewrites"]),
                stray_pages=int(answer["stray-pages"]),
                counter=int(answer["counter"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise self._incomplete("verify", error) from error

    def _incomplete(self, command: str, error: Exception) -> ControlProtocolError:
        return ControlProtocolError(
            f"the answer to {command} is not complete", where=f"guest {self.name}", why=repr(error)
        )

    async def quit(self) -> None:
        """Have it end in good order; kill it when it does not."""
        if self._process is None or self._ended is not None:
            return
        ended = self.when_ended()
        try:
            await self._qmp.execute("quit", timeout_s=self._timeout_s)
        except VmError as error:
            self._log.info("guest {name} did not take quit and is killed: {error}", name=self.name, error=error)
            await self.kill()
        else:
            timer = self._reactor.callLater(self._timeout_s, self._signal_kill)
            await ended
            if timer.active():
                timer.cancel()

    async def kill(self) -> None:
        """End it at once, and wait until it is gone: after this, nothing writes to the image."""
        if self._process is None or self._ended is not None:
            return
        ended = self.when_ended()
        self._signal_kill()
        await ended

    def _signal_kill(self) -> None:
        if self._ended is None:
            # It may have been reaped while its pipes are still being drained.
            with contextlib.suppress(ProcessExitedAlready):
                self._process.signalProcess("KILL")

    @property
    def is_alive(self) -> bool:
        """Whether it was started and has not ended."""
        return self._process is not None and self._ended is None

    @property
    def process_id(self) -> int | None:
        """The process's id while it lives."""
        return int(self._process.pid) if self.is_alive else None

    def when_ended(self) -> Deferred[GuestEnded]:
        """Fires, with the reason, when the process is gone (at once when it is gone already)."""
        watcher: Deferred[GuestEnded] = Deferred()
        if self._ended is not None:
            watcher.callback(self._ended)
        else:
            self._end_watchers.append(watcher)
        return watcher

    def _write(self, data: bytes) -> None:
        self._process.write(data)

    def control_received(self, data: bytes) -> None:
        """Bytes of the process's stdout."""
        try:
            self._qmp.data_received(data)
        except ControlProtocolError as error:
            self._log.error("guest {name} is killed: {error}", name=self.name, error=error)
            self._qmp.connection_lost(error)
            self._signal_kill()

    def diagnostics_received(self, data: bytes) -> None:
        """Bytes of the process's stderr; the last of them explain its end."""
        self._stderr = (self._stderr + data)[-_STDERR_KEPT_BYTES:]

    def _event_received(self, event: dict[str, Any]) -> None:
        data = event.get("data")
        if isinstance(data, dict) and isinstance(data.get("boottime-ns"), int):
            self._boottime_ns[str(event["event"])] = data["boottime-ns"]

    def process_ended(self, status: Any) -> None:
        """The process is gone and its pipes are drained."""
        why = describe_end(getattr(status, "exitCode", None), getattr(status, "signal", None))
        last_words = self._stderr.decode(errors="replace").strip().rpartition("\n")[2]
        self._ended = GuestEnded(
            "its process ended", where=f"guest {self.name}", why=f"{why}: {last_words}" if last_words else why
        )
        self._qmp.connection_lost(self._ended)
        watchers, self._end_watchers = self._end_watchers, []
        for watcher in watchers:
            watcher.callback(self._ended)


def describe_end(exit_code: int | None, signal_number: int | None) -> str:
    """How a process ended, in words."""
    if signal_number is None:
        return f"exit status {exit_code}"
    name = signal.Signals(signal_number).name if signal_number in set(signal.Signals) else f"signal {signal_number}"
    if signal_number == signal.SIGBUS:
        return f"{name}, as when the file system of its image is full"
    return f"killed by {name}"
