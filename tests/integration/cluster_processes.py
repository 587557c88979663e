"""A cluster of real processes on addresses of the loopback network, for tests to kill, pause, start again and ask."""

from __future__ import annotations

import itertools
import json
import os
import queue
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.integration.namespaces import Host
from tests.members_at_once import make_members

_ROOT = Path(__file__).resolve().parents[2]
_cluster_numbers = itertools.count(1)


def free_port(host: str) -> int:
    with socket.socket() as probe:
        probe.bind((host, 0))
        port: int = probe.getsockname()[1]
        return port


class NodeError(Exception):
    """What a node answered by an error."""

    def __init__(self, answer: dict[str, Any]) -> None:
        super().__init__(answer["text"])
        self.kind: str = answer["error"]
        self.key: str = answer.get("key", "")


class Answer:
    """What a node will answer."""

    def __init__(self) -> None:
        self._lines: queue.Queue[dict[str, Any]] = queue.Queue()

    def put(self, line: dict[str, Any]) -> None:
        self._lines.put(line)

    def line(self, timeout_s: float = 60) -> dict[str, Any]:
        return self._lines.get(timeout=timeout_s)

    def result(self, timeout_s: float = 60) -> Any:
        line = self.line(timeout_s)
        if "error" in line:
            raise NodeError(line)
        return line["result"]


class NodeProcess:
    """One node.

    Args:
        prefix: the words before its command line, by which it runs elsewhere: in a network namespace.
    """

    def __init__(self, config: dict[str, Any], log: Path, prefix: Sequence[str] = ()) -> None:
        self.name: str = config["node"]
        self.events: list[dict[str, Any]] = []
        self._answers: dict[int, Answer] = {}
        self._numbers = itertools.count(1)
        self.begun_s = time.monotonic()
        with log.open("ab") as stderr:
            self.process = subprocess.Popen(
                [*prefix, sys.executable, "-m", "tests.integration.cluster_node", json.dumps(config)],
                cwd=_ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
            )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            message = json.loads(line)
            if "id" in message:
                self._answers.pop(message["id"]).put(message)
            else:
                self.events.append(message)
        for answer in list(self._answers.values()):
            answer.put({"error": "Dead", "text": "the process has ended"})

    def ask(self, do: str, **arguments: object) -> Answer:
        number = next(self._numbers)
        answer = self._answers[number] = Answer()
        assert self.process.stdin is not None
        if self.process.stdin.closed:
            raise BrokenPipeError(f"{self.name} has been ended")
        self.process.stdin.write(json.dumps({"id": number, "do": do, **arguments}).encode() + b"\n")
        self.process.stdin.flush()
        return answer

    def submit(self, command: dict[str, Any], *, timeout_s: float = 20, key: str | None = None) -> Any:
        return self.ask("submit", command=command, timeout_s=timeout_s, key=key).result()

    def status(self) -> dict[str, Any]:
        result: dict[str, Any] = self.ask("status").result()
        return result

    def coordinators(self) -> list[tuple[str, int, float]]:
        """(node, epoch, when) of every coordinator that this node has heard of, in order."""
        return [
            (event["node"], event["epoch"], event["at_s"]) for event in self.events if event["event"] == "coordinator"
        ]

    def wait_started(self) -> None:
        wait_until(lambda: bool(self.events))
        assert self.events[0]["event"] == "started", self.events

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()
        self._close()

    def stop(self) -> int:
        assert self.process.stdin is not None
        self.process.stdin.close()
        status = self.process.wait(timeout=30)
        self._close()
        return status

    def _close(self) -> None:
        self._reader.join(timeout=10)
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            with suppress(BrokenPipeError):
                pipe.close()


def wait_until(condition: Callable[[], bool], *, limit_s: float = 60.0, what: str = "it did not come to pass") -> None:
    deadline_s = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline_s, what
        time.sleep(0.005)


class ClusterProcesses:
    """Nodes n1, n2, … with a host address of their own each, so that no other connection takes their ports.

    Args:
        hosts: network namespaces for them to run in; None for addresses of the loopback network.
    """

    def __init__(self, directory: Path, count: int, hosts: Sequence[Host] | None = None) -> None:
        self.directory = directory
        number = next(_cluster_numbers)
        addresses = [f"127.{os.getpid() % 200 + 10}.{number % 250}.{node}" for node in range(1, count + 1)]
        self.members = {f"n{node}": (host, free_port(host)) for node, host in enumerate(addresses, 1)}
        self._prefixes: dict[str, Sequence[str]] = {}
        if hosts is not None:
            self.members = {f"n{node}": (host.address, 7000) for node, host in enumerate(hosts, 1)}
            self._prefixes = {f"n{node}": host.prefix for node, host in enumerate(hosts, 1)}
        self.identities = make_members({name: directory / name for name in self.members}, self.members)
        self.nodes: dict[str, NodeProcess] = {}

    def start(self, *names: str) -> None:
        for name in names or self.members:
            config = {
                "node": name,
                "members": self.members,
                "state_directory": str(self.directory / name),
            }
            self.nodes[name] = NodeProcess(config, self.directory / f"{name}.log", self._prefixes.get(name, ()))
        for name in names or self.members:
            self.nodes[name].wait_started()

    def kill(self, name: str) -> None:
        self.nodes.pop(name).kill()

    def acting(self) -> list[NodeProcess]:
        return [node for node in self.nodes.values() if node.status()["is_coordinator"]]

    def coordinator(self) -> NodeProcess:
        """The one node that acts as the coordinator, as soon as there is one and every node agrees."""

        found: list[str] = []

        def agreed() -> bool:
            states = [node.status() for node in self.nodes.values()]
            found[:] = [state["node"] for state in states if state["is_coordinator"]]
            return len(found) == 1 and all(
                (state["coordinator"], state["leader"]) == (found[0], found[0]) for state in states
            )

        wait_until(agreed, what="no coordinator was agreed upon")
        return self.nodes[found[0]]

    def others(self) -> list[NodeProcess]:
        coordinator = self.coordinator()
        return [node for node in self.nodes.values() if node is not coordinator]

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()


@contextmanager
def running_cluster(directory: Path, count: int = 3, hosts: Sequence[Host] | None = None) -> Iterator[ClusterProcesses]:
    cluster = ClusterProcesses(directory, count, hosts)
    try:
        cluster.start()
        yield cluster
    finally:
        for node in cluster.nodes.values():
            node.process.send_signal(signal.SIGCONT)
            node.kill()
