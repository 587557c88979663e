"""Reservations of one logical unit at three nodes under faults: what initiators at all of them saw, writes that were
kept out among it, could have come of one device."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from typing import Any

import pytest

from tests.integration.daemon_rig import DaemonNode
from tests.integration.faults.hosts import HostCluster, host_cluster
from tests.linearizability.checker import check
from tests.linearizability.history import FOR_EVER, Operation, Outcome
from tests.linearizability.models import CONFLICT, GOOD, Reservations

CLIENTS_OF_A_NODE = 2
END_S = 40.0
MORE = 15


class Client:
    """An initiator in the host of a node."""

    def __init__(self, cluster: HostCluster, node: DaemonNode, number: int, count: int) -> None:
        own = number + 1
        others = [key for key in range(1, count + 1) if key != own]
        self.name = f"c{number}"
        plan = {"url": cluster.url(node), "name": self.name, "keys": [own, *others], "block": 16 + number}
        self.lines: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [
                *cluster.host(node).prefix,
                sys.executable,
                "-m",
                "tests.integration.faults.reservation_client",
                json.dumps(plan),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def answers(self) -> int:
        """How many calls were answered."""
        return sum(line["outcome"] == "ok" for line in list(self.lines))

    def _read(self) -> None:
        assert self._process.stdout is not None
        self.lines.extend(map(json.loads, self._process.stdout))

    def end(self) -> None:
        """Have it end with the call that is under way."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(END_S) == 0

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join(10)
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            pipe.close()


def operation(line: dict[str, Any]) -> Operation:
    """A line as the checker has it."""
    outcome, answer = Outcome(line["outcome"]), line.get("answer")
    ended_s = line["ended_s"] if outcome is Outcome.OK else FOR_EVER
    hashable = tuple(answer) if isinstance(answer, list) else answer
    return Operation(line["client"], "unit", tuple(line["call"]), line["begun_s"], outcome, hashable, ended_s)


def go_on(clients: list[Client]) -> None:
    """Wait until each has had so many more answers. One that only hears that its session is gone gets none: a client
    whose initiator had ended for good once told of 295 calls of unknown outcome, and nobody saw why."""
    goals = [client.answers + MORE for client in clients]

    def late() -> list[Client]:
        return [client for client, goal in zip(clients, goals, strict=True) if client.answers < goal]

    deadline_s = time.monotonic() + 60
    while late():
        assert time.monotonic() < deadline_s, [client.lines[-3:] for client in late()]
        time.sleep(0.02)


@pytest.mark.timeout(240)
def test_reservations_are_linearizable_under_kills_and_cuts() -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    with host_cluster() as cluster:
        count = CLIENTS_OF_A_NODE * len(cluster.nodes)
        clients = [Client(cluster, cluster.nodes[n % 3], n, count) for n in range(count)]
        try:
            go_on(clients)
            for fault in chance.sample(("kill the coordinator", "kill another", "cut off"), 3):
                coordinator = cluster.disk_coordinator()
                victim = chance.choice(cluster.others(coordinator)) if fault == "kill another" else coordinator
                if fault == "cut off":
                    cluster.world.cut(cluster.host(victim))
                    time.sleep(3)
                    cluster.world.heal()
                else:
                    cluster.kill(victim)
                    time.sleep(2)
                    cluster.restart(victim)
                cluster.wait_live()
                go_on(clients)
            for client in clients:
                client.end()
        finally:
            for client in clients:
                client.close()
    lines = [line for client in clients for line in client.lines]
    verdict = check(Reservations(), map(operation, lines))
    assert verdict, f"seed {seed}: {verdict}"
    answers = Counter((line["call"][0], line.get("answer") == GOOD) for line in lines if line["outcome"] == "ok")
    assert answers["write", True] > 10
    assert answers["write", False] > 10, answers
    assert answers["preempt", True] > 5
    assert sum(line["outcome"] == "ok" for line in lines) > 10 * count
    assert any(line.get("answer") == CONFLICT for line in lines)
