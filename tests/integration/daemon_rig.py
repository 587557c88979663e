"""Real daemons in processes of their own, on loopback, in a folder that is removed."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from csvd.api.client import ClientError, ControlClient
from tests.members_at_once import make_members

ROOT = Path(__file__).parents[2]
TARGET = "iqn.2026-11.org.csvd:test"
READY_S = 30.0
END_S = 30.0
PATIENCE_S = 60.0
"""A machine with much else to do takes many times the usual."""

T = TypeVar("T")


def free_ports(count: int) -> list[int]:
    """Ports that are free now."""
    held = [socket.socket() for _ in range(count)]
    for each in held:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in held]
    for each in held:
        each.close()
    return ports


def eventually(found: Callable[[], T | None], timeout_s: float = PATIENCE_S) -> T:
    """Ask again and again until there is something."""
    deadline_s = time.monotonic() + timeout_s
    while (result := found()) is None:
        assert time.monotonic() < deadline_s, "not in time"
        time.sleep(0.02)
    return result


class DaemonNode:
    """One ``csvd run``.

    Args:
        prefix: the words before its command line, by which it runs elsewhere: in a network namespace.
    """

    def __init__(self, name: str, folder: Path, configuration: str, prefix: Sequence[str] = ()) -> None:
        self.name = name
        self.prefix = tuple(prefix)
        self.folder = folder / name
        self.folder.mkdir()
        self.config = self.folder / "csvd.toml"
        self.config.write_text(configuration)
        self.socket = self.folder / "state" / "control.sock"
        self.client = ControlClient(self.socket)
        self.ready_line = ""
        self.cluster_portal = ""
        """Where it serves the targets of the cluster."""
        self.log: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def use_socket(self, path: Path) -> None:
        """Ask it there: its configuration says so."""
        self.socket = path
        self.client = ControlClient(path)

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def start(self, **environment: str) -> DaemonNode:
        """Start it; ``ready`` waits until it is."""
        self.log = []
        self._process = subprocess.Popen(
            [*self.prefix, sys.executable, "-m", "csvd", "run", "--config", str(self.config)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        )
        assert self._process.stderr is not None
        self._reader = threading.Thread(target=self.log.extend, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        return self

    def ready(self) -> DaemonNode:
        """Wait for the line that says so."""
        assert self.process.stdout is not None
        self.ready_line = self.process.stdout.readline().strip()
        assert self.ready_line.startswith("ready "), self.end_of_process()
        return self

    @property
    def portal(self) -> str:
        """Where its target listens."""
        return next(word.removeprefix("portal=") for word in self.ready_line.split() if word.startswith("portal="))

    def terminate(self, number: int = signal.SIGTERM) -> int:
        """Have it stop; give its exit status."""
        self.process.send_signal(number)
        return self.end_of_process()[0]

    def end_of_process(self) -> tuple[int, str, list[str]]:
        """Wait for its end: exit status, what else it printed, its log."""
        assert self.process.stdout is not None
        rest = self.process.stdout.read()
        status = self.process.wait(END_S)
        assert self._reader is not None
        self._reader.join(END_S)
        return status, rest, self.log

    def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def csvd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command that asks this node."""
        return subprocess.run(
            [*self.prefix, sys.executable, "-m", "csvd", "--socket", str(self.socket), *arguments],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            check=False,
            timeout=120,
        )

    def asked(self, *arguments: str) -> str:
        """What a command that asks this node prints; it must not fail."""
        done = self.csvd(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def status(self) -> dict[str, Any] | None:
        """Its status; None while it does not answer."""
        try:
            return self.client.status()
        except ClientError:
            return None


class Daemons:
    """Makes nodes over one shared file, and takes all away at the end."""

    def __init__(self) -> None:
        # Short, whatever TMPDIR is: a control socket's path has at most 107 bytes.
        self.folder = Path(tempfile.mkdtemp(prefix="cd-", dir="/tmp"))
        self.nodes: list[DaemonNode] = []

    def node(
        self, name: str = "node1", *, more: str = "", disk: str = "disk.img", portal: str = "127.0.0.1:0"
    ) -> DaemonNode:
        """A node by itself, not started."""
        (port,) = free_ports(1)
        return self._add(name, self._cluster_of_one(port), self._target(disk, portal) + more)

    def cluster(self, count: int = 3, *, keys: str = "", own_targets: bool = True) -> list[DaemonNode]:
        """Nodes of one cluster, started and agreed on a coordinator.

        Args:
            keys: more of their section [cluster].
            own_targets: each serves a target of its own, too, over one file.
        """
        names = [f"node{number}" for number in range(1, count + 1)]
        found = free_ports(2 * count)
        ports = dict(zip(names, found[:count], strict=True))
        nodes = []
        for tag, (name, port) in enumerate(ports.items(), 1):
            portal = f"127.0.0.1:{found[count + tag - 1]}"
            section = f'{self._cluster_of_one(port)}portals = ["{portal}"]\n{keys}'
            target = self._target("disk.img", "127.0.0.1:0", f"portal_group_tag = {tag}\n") if own_targets else ""
            nodes.append(self._add(name, section, target))
            nodes[-1].cluster_portal = portal
        directories = {node.name: node.config.parent / "state" / "cluster" for node in nodes}
        make_members(directories, {name: ("127.0.0.1", port) for name, port in ports.items()})
        for node in nodes:
            node.start()
        for node in nodes:
            node.ready()
        coordinator_of(nodes)
        return nodes

    @staticmethod
    def _cluster_of_one(port: int) -> str:
        return f'[cluster]\nlisten = "127.0.0.1:{port}"\n'

    def _target(self, disk: str, portal: str, keys: str = "") -> str:
        return (
            f'[target]\nname = "{TARGET}"\nportals = ["{portal}"]\n{keys}'
            f'[[target.lun]]\nnumber = 0\ndisk = "{self.folder}/{disk}"\ncreate = "16M"\nserial = "test"\n'
        )

    def _add(self, name: str, cluster: str, target: str) -> DaemonNode:
        configuration = f'[node]\nname = "{name}"\nstate_directory = "state"\n{cluster}{target}'
        node = DaemonNode(name, self.folder, configuration)
        self.nodes.append(node)
        return node

    def close(self) -> None:
        """End what runs, and remove the folder."""
        for node in self.nodes:
            node.kill()
        shutil.rmtree(self.folder, ignore_errors=True)


def coordinator_of(nodes: list[DaemonNode], above_epoch: int = 0) -> tuple[str, int]:
    """The coordinator that all these nodes name."""

    def named() -> tuple[str, int] | None:
        found = set()
        for node in nodes:
            status = node.status()
            if status is None or status["coordinator"] is None:
                return None
            found.add((status["coordinator"]["node"], status["coordinator"]["epoch"]))
        one = found.pop()
        return None if found or one[1] <= above_epoch else one

    return eventually(named)


def is_alive(process_id: int) -> bool:
    """Whether a process is there and not only its entry."""
    try:
        return Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
