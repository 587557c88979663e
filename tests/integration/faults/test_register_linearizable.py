"""The register under faults: what clients of all nodes saw of it could have come of one register on one machine."""

from __future__ import annotations

import queue
import random
import signal
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.integration.cluster_processes import ClusterProcesses, NodeError, NodeProcess, running_cluster, wait_until
from tests.integration.namespaces import World, world
from tests.linearizability.checker import check
from tests.linearizability.history import History, Outcome
from tests.linearizability.models import EpochRegister

GUESTS = ("a", "b")
CLIENTS_OF_A_NODE = 2
CALL_S = 1.5
ASK_AGAIN = 4
ENOUGH = 50
FAULTS = ("kill", "stop", "cut", "deafen", "mute")


class Client:
    """Reads and claims guests through one node, and records what it saw; in a thread."""

    def __init__(self, cluster: ClusterProcesses, node: str, number: int, history: History) -> None:
        self.name = f"{node}-{number}"
        self.done = 0
        self.granted = 0
        self._cluster = cluster
        self._node = node
        self._chance = random.Random(self.name)
        self._history = history
        self._seen: dict[str, tuple[str, int]] = {}
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Have it end with the call that is under way."""
        self._stopping.set()
        self._thread.join(60)
        assert not self._thread.is_alive()

    def _work(self) -> None:
        while not self._stopping.is_set():
            node = self._cluster.nodes.get(self._node)
            if node is None or not node.events:
                time.sleep(0.05)
                continue
            guest = self._chance.choice(GUESTS)
            known = self._seen.get(guest)
            if known is None or self._chance.random() < 0.4:
                self._read(node, guest)
            else:
                self._claim(node, guest, known)
            time.sleep(self._chance.random() * 0.02)

    def _read(self, node: NodeProcess, guest: str) -> None:
        self._history.invoke(self.name, guest, ("read",), time.monotonic())
        try:
            record = node.ask("read_guest", name=guest, timeout_s=CALL_S).result()
        except (NodeError, BrokenPipeError, queue.Empty):
            # A read that did not come to an end has changed nothing.
            self._history.fail(self.name, time.monotonic())
            return
        self._seen[guest] = record["owner"], record["epoch"]
        self._ended(self._seen[guest])

    def _claim(self, node: NodeProcess, guest: str, known: tuple[str, int]) -> None:
        owner, epoch = known
        new_owner = self._chance.choice(list(self._cluster.members))
        command = {"op": "guest_move", "name": guest, "owner": owner, "epoch": epoch, "new_owner": new_owner}
        self._history.invoke(self.name, guest, ("claim", new_owner, epoch), time.monotonic())
        self._seen.pop(guest)
        key = None
        for _ in range(ASK_AGAIN):
            try:
                node.submit(command, timeout_s=CALL_S, key=key)
            except NodeError as error:
                if error.kind == "OutcomeUnknown" and error.key:
                    key = error.key
                    continue
                if error.kind == "CommandRefused" and "is owned by" in str(error):
                    self._ended(False)
                    return
                # What was asked before, under the same key, may have been done though this was not.
                if error.kind == "CommandRefused" and key is None:
                    self._history.fail(self.name, time.monotonic())
                    return
                break
            except (BrokenPipeError, queue.Empty):
                break
            self._seen[guest] = new_owner, epoch + 1
            self.granted += 1
            self._ended(True)
            return
        self._history.info(self.name)

    def _ended(self, answer: Any) -> None:
        self._history.ok(self.name, answer, time.monotonic())
        self.done += 1


def break_one(cluster: ClusterProcesses, made: World, chance: random.Random, fault: str) -> None:
    """A fault of one node, for a second or two; then it is mended."""
    name = chance.choice(sorted(cluster.nodes))
    node, host = cluster.nodes[name], made.hosts[sorted(cluster.members).index(name)]
    if fault == "kill":
        cluster.kill(name)
    elif fault == "stop":
        node.process.send_signal(signal.SIGSTOP)
    elif fault == "cut":
        made.cut(host)
    elif fault == "deafen":
        host.deafen(*made.hosts)
    else:
        host.mute(*made.hosts)
    time.sleep(0.8 + chance.random() * 1.5)
    if fault == "kill":
        cluster.start(name)
    elif fault == "stop":
        node.process.send_signal(signal.SIGCONT)
    else:
        made.heal()


@pytest.mark.timeout(180)
def test_the_register_is_linearizable_under_kills_stops_and_cuts(tmp_path: Path) -> None:
    seed = random.SystemRandom().randrange(1 << 32)
    chance = random.Random(seed)
    history = History()
    with world(3) as made, running_cluster(tmp_path, hosts=made.hosts) as cluster:
        node = cluster.coordinator()
        for guest in GUESTS:
            node.submit({"op": "guest_create", "name": guest, "owner": "n1", "spec": {}})
        first = {guest: node.ask("read_guest", name=guest, timeout_s=5).result() for guest in GUESTS}
        assert {record["epoch"] for record in first.values()} == {1}
        clients = [
            Client(cluster, name, number, history) for name in cluster.members for number in range(CLIENTS_OF_A_NODE)
        ]
        for fault in chance.sample(FAULTS, len(FAULTS)):
            break_one(cluster, made, chance, fault)
            before = [client.done for client in clients]
            wait_until(
                lambda before=before: all(  # type: ignore[misc]
                    client.done > done for client, done in zip(clients, before, strict=True)
                ),
                what=f"seed {seed}: nobody answers any more after {fault}",
            )
        wait_until(
            lambda: sum(client.granted for client in clients) > ENOUGH, what=f"seed {seed}: few claims are granted"
        )
        for client in clients:
            client.end()
    operations = history.operations
    verdict = check(EpochRegister("n1", 1), operations)
    assert verdict, f"seed {seed}: {verdict}"
    granted = [each for each in operations if each.outcome is Outcome.OK and each.answer is True]
    assert len(granted) > ENOUGH
