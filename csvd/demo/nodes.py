"""The three daemons of the demo: their folders, configuration, processes and control sockets."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from csvd.api.client import ClientError, ControlClient
from csvd.demo.interrupts import Interrupts
from csvd.errors import CsvdError

TARGET = "iqn.2026-11.org.csvd:demo"
SERIAL = "csvd-demo"
NAMES = ("node1", "node2", "node3")
STOP_S = 15.0
POLL_S = 0.005
SHARED_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of our own is made in it
_STATUS_TIMEOUT_S = 1.0

T = TypeVar("T")


class DemoFailed(CsvdError):
    """A step did not hold."""


class DemoNode:
    """One daemon: ``csvd run`` in a process of its own."""

    def __init__(self, name: str, folder: Path, portal: str) -> None:
        self.name = name
        self.folder = folder
        self.portal = portal
        self.config = folder / "csvd.toml"
        self.socket = folder / "control.sock"
        self.log = folder / "log"
        self.process: subprocess.Popen[bytes] | None = None
        self.client = ControlClient(self.socket)
        self._status_client = ControlClient(self.socket, timeout_s=_STATUS_TIMEOUT_S)

    @property
    def url(self) -> str:
        """The shared disk at this node's portal."""
        return f"iscsi://{self.portal}/{TARGET}/0"

    def start(self) -> None:
        """Start the daemon; it is not ready yet."""
        with self.log.open("ab") as log:
            # A session of its own: Ctrl-C at the terminal is the demo's, which stops the daemons in its order.
            self.process = subprocess.Popen(
                [sys.executable, "-m", "csvd", "run", "--config", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def run_command(self, *arguments: str, secret: str = "") -> None:
        """Run ``csvd init`` or ``csvd join`` for this node, with a secret on its standard input.

        Raises:
            DemoFailed: it failed.
        """
        command = [sys.executable, "-m", "csvd", *arguments, "--config", str(self.config)]
        done = subprocess.run(command, input=secret, capture_output=True, text=True, check=False)
        if done.returncode:
            raise DemoFailed(f"csvd {arguments[0]} ended with status {done.returncode}", why=done.stderr.strip())

    def is_coordinator(self) -> bool | None:
        """True when the daemon acts as the coordinator; None before."""
        status = self.status()
        return True if status is not None and status["is_coordinator"] else None

    def status(self) -> dict[str, Any] | None:
        """What the daemon says of itself and the cluster; None while it does not answer.

        Raises:
            DemoFailed: its process has ended.
        """
        if self.process is not None and self.process.poll() is not None:
            raise DemoFailed(
                f"{self.name} ended with status {self.process.returncode}", why=self.last_words(), hint=str(self.log)
            )
        try:
            return self._status_client.status()
        except ClientError:
            return None

    def last_words(self) -> str:
        """The last line of its log."""
        lines = self.log.read_text(errors="replace").splitlines() if self.log.exists() else []
        return lines[-1] if lines else "its log is empty"

    def kill(self) -> None:
        """SIGKILL, as a power cut would look to the others."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def terminate(self) -> None:
        """SIGTERM; :meth:`wait_for_end` waits."""
        if self.process is not None and self.process.poll() is None:
            self.process.terminate()

    def wait_for_end(self, deadline_s: float) -> None:
        """Wait until the process has ended, by force at the deadline."""
        if self.process is None:
            return
        try:
            self.process.wait(max(0.0, deadline_s - time.monotonic()))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None


class DemoNodes:
    """Three nodes over one sparse shared file, in a folder that is removed at the end."""

    def __init__(self, interrupts: Interrupts, *, disk_bytes: int, guest_bytes: int) -> None:
        self._interrupts = interrupts
        self._disk_bytes = disk_bytes
        self._guest_bytes = guest_bytes
        self._folders: list[Path] = []
        self.folder = Path()
        self.disk = Path()
        self.nodes: list[DemoNode] = []

    def __iter__(self) -> Any:
        return iter(self.nodes)

    def __getitem__(self, name: str) -> DemoNode:
        return next(node for node in self.nodes if node.name == name)

    def make(self) -> None:
        """Make the folder, the shared file and the configurations."""
        self.folder = self._make_folder(None)
        guests = self.folder
        if _free_bytes(SHARED_MEMORY) > 3 * self._guest_bytes:
            # The memory of a guest belongs into memory: on a disk the kernel would write its dirty pages out.
            guests = self._make_folder(SHARED_MEMORY)
        self.disk = self.folder / "shared.img"
        self.disk.touch(0o600)
        os.truncate(self.disk, self._disk_bytes)
        ports = _free_ports(2 * len(NAMES))
        members = {name: ("127.0.0.1", ports.pop()) for name in NAMES}
        for tag, name in enumerate(NAMES, 1):
            node = DemoNode(name, self.folder / name, f"127.0.0.1:{ports.pop()}")
            node.folder.mkdir(0o700)
            node.config.write_text(self._configuration(node, members[name], tag, guests / f"guests-{name}"))
            self.nodes.append(node)

    def _make_folder(self, parent: Path | None) -> Path:
        with self._interrupts.shielded():
            folder = Path(tempfile.mkdtemp(prefix="csvd-demo-", dir=parent))
            self._folders.append(folder)
        return folder

    def _configuration(self, node: DemoNode, listen: tuple[str, int], tag: int, guests: Path) -> str:
        lines = [
            "[node]",
            f'name = "{node.name}"',
            f'state_directory = "{node.folder / "state"}"',
            "[cluster]",
            f'listen = "{listen[0]}:{listen[1]}"',
            "[control]",
            f'socket = "{node.socket}"',
            "[target]",
            f'name = "{TARGET}"',
            f'portals = ["{node.portal}"]',
            f"portal_group_tag = {tag}",
            "[[target.lun]]",
            "number = 0",
            f'disk = "{self.disk}"',
            f'serial = "{SERIAL}"',
            "[guests]",
            f'directory = "{guests}"',
        ]
        return "\n".join(lines) + "\n"

    def start(self, node: DemoNode) -> None:
        """Start one daemon."""
        with self._interrupts.shielded():
            node.start()

    def stop(self) -> None:
        """Stop all daemons and remove everything. Never raises for what is gone already."""
        for node in self.nodes:
            node.terminate()
        deadline_s = time.monotonic() + STOP_S
        for node in self.nodes:
            node.wait_for_end(deadline_s)
        for folder in self._folders:
            shutil.rmtree(folder, ignore_errors=True)

    def how_to_stop(self) -> str:
        """The command that does what :meth:`stop` does, for ``--keep``."""
        pids = " ".join(str(node.process.pid) for node in self.nodes if node.process)
        folders = " ".join(map(str, self._folders))
        return f"kill {pids}; sleep 2; rm -r {folders}"

    def wait(self, what: str, timeout_s: float, found: Callable[[], T | None]) -> T:
        """Ask again and again until ``found`` gives something.

        Raises:
            DemoFailed: it does not in time.
        """
        deadline_s = time.monotonic() + timeout_s
        while (result := found()) is None:
            if time.monotonic() > deadline_s:
                raise DemoFailed(f"{what} not within {timeout_s:.0f} s", hint=f"the logs are in {self.folder}")
            time.sleep(POLL_S)
        return result

    def all_vote(self) -> bool | None:
        """True when every node knows that all vote; None before."""
        for node in self.nodes:
            try:
                known = node.client.nodes()
            except ClientError:
                return None
            if sorted(one["id"] for one in known if one["is_voter"]) != sorted(NAMES):
                return None
        return True

    def coordinator_at(self, nodes: Sequence[DemoNode], above_epoch: int = 0) -> tuple[str, int] | None:
        """The coordinator that all these nodes name, with an epoch above this one; None while they do not."""
        named = set()
        for node in nodes:
            status = node.status()
            coordinator = status and status["coordinator"]
            if not coordinator or coordinator["epoch"] <= above_epoch:
                return None
            named.add((coordinator["node"], coordinator["epoch"]))
        return named.pop() if len(named) == 1 else None


def _free_bytes(folder: Path) -> int:
    with contextlib.suppress(OSError):
        status = os.statvfs(folder)
        if os.access(folder, os.W_OK):
            return status.f_bavail * status.f_frsize
    return 0


def _free_ports(count: int) -> list[int]:
    """Ports that are free now: all held at once, so that none is given twice."""
    with contextlib.ExitStack() as held:
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
