"""What a node knows of the others when it is started again, before it has applied its log."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import Any, cast

from twisted.internet import defer
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.beginning import begin_cluster, founding_members
from csvd.cluster.cluster import Cluster
from csvd.cluster.network import Network
from tests.unit.cluster.simulated_files import SimulatedFiles


class SilentNetwork:
    """A network that only remembers who the members are said to be."""

    address = ("n1.test", 7000)

    def __init__(self) -> None:
        self.members: Mapping[str, Any] = {}

    def start(self, events: object) -> None:
        """Nothing to listen at."""

    async def stop(self) -> None:
        """Nothing to end."""

    def set_members(self, members: Mapping[str, Any]) -> None:
        self.members = dict(members)

    def link_to(self, peer: str) -> None:
        """No links."""

    def link_state(self, peer: str) -> tuple[bool, str]:
        return False, ""

    def serve(self, method: str, handler: object) -> None:
        """Nobody calls."""


def started(files: SimulatedFiles, clock: Clock) -> tuple[Cluster, SilentNetwork]:
    network = SilentNetwork()
    cluster = Cluster(
        node="n1",
        network=cast(Network, network),
        files=files,
        clock=clock,
        boottime=clock.seconds,
        now_ms=lambda: 1,
        run_blocking=defer.execute,
        random=Random(1),
    )
    outcome: list[object] = []
    Deferred.fromCoroutine(cluster.start()).addBoth(outcome.append)
    assert outcome == [None]
    return cluster, network


def change(cluster: Cluster, clock: Clock, command: dict[str, Any]) -> None:
    outcome: list[object] = []
    Deferred.fromCoroutine(cluster.submit(command, timeout_s=5)).addBoth(outcome.append)
    for _ in range(100):
        clock.advance(0.01)
    assert isinstance(outcome[0], dict), outcome


def test_who_has_joined_since_the_snapshot_is_linked_before_the_log_is_applied() -> None:
    """Two that vote need one another to have the log committed that says how one reaches the other."""
    files, clock = SimulatedFiles(), Clock()
    begin_cluster(files, "n1", founding_members({"n1": "n1.test:7000"}), now_ms=1)
    first, _ = started(files, clock)
    token = "a" * 64
    change(first, clock, {"op": "token_add", "id": token, "expires_at_s": 9, "is_witness": False, "at_s": 1})
    joining = {"op": "member_join", "token": token, "id": "n2", "address": "n2.test:7000"}
    change(first, clock, {**joining, "fingerprint": "b" * 64, "at_s": 2})
    defer.ensureDeferred(first.stop())

    _, network = started(files.after_kill(), Clock())
    assert network.members["n2"] == (("n2.test", 7000), ("b" * 64,))
