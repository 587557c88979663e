"""What holds of a shared disk of any kind that fences, with real daemons and by the command line, as tests.

A test module has, for a kind of disk, a subclass with a fixture ``added``: what `csvd disk add` is told.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest

from csvd.api.client import ClientError
from tests.integration.daemon_rig import DaemonNode, Daemons, eventually

TAKEN_OVER_S = 60.0
"""A coordinator's lease, an election, and what a busy machine takes."""


@dataclass(frozen=True)
class Added:
    """A disk, as it is added.

    Attributes:
        words: after the name: its URL, and options.
        fence: as `csvd disk show` tells it.
        proof: a part of what proves that a node is off it.
        keys: what every node has in its section [cluster].
    """

    words: tuple[str, ...]
    fence: str
    proof: str
    keys: str = ""


def asked(node: DaemonNode, *arguments: str) -> str:
    done = node.csvd(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def disk_of(node: DaemonNode) -> dict[str, Any] | None:
    """The system disk as a node sees it, once its own session is live."""
    try:
        found = node.client.disk("system")
    except ClientError:
        return None
    return found if found.get("session", {}).get("state") == "live" else None


def acting(nodes: list[DaemonNode], above_epoch: int = 0) -> DaemonNode:
    """The node that acts for the disk, in an epoch above the one given."""

    def found() -> DaemonNode | None:
        for node in nodes:
            disk = disk_of(node)
            office = disk["office"] if disk else None
            if office and office["step"] == "acting" and office["epoch"] > above_epoch:
                return node
        return None

    return eventually(found, TAKEN_OVER_S)


def all_live(nodes: list[DaemonNode]) -> None:
    for node in nodes:
        eventually(partial(disk_of, node), TAKEN_OVER_S)


class SharedDiskSuite:
    """What holds of every kind that fences."""

    @pytest.fixture
    def nodes(self, added: Added) -> Iterator[list[DaemonNode]]:
        """Three nodes that share the disk, with sessions."""
        rig = Daemons()
        try:
            nodes = rig.cluster(3, keys=added.keys)
            asked(nodes[0], "disk", "add", "system", *added.words)
            all_live(nodes)
            yield nodes
        finally:
            rig.close()

    def test_every_node_shows_the_disk_its_fence_and_its_owner(self, added: Added, nodes: list[DaemonNode]) -> None:
        office = acting(nodes)
        for node in nodes:
            shown = json.loads(asked(node, "disk", "show", "system", "--json"))
            assert shown["fence"] == added.fence
            assert (shown["owner"]["node"], shown["owner"]["is_released"]) == (office.name, False)
            assert added.fence in asked(node, "disk", "show", "system")
        assert added.fence in asked(nodes[0], "disk", "ls")

    def test_a_node_is_fenced_by_hand_and_comes_back(self, added: Added, nodes: list[DaemonNode]) -> None:
        office = acting(nodes)
        victim = next(node for node in nodes if node is not office)
        refused = office.csvd("fence", victim.name)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "is alive" in refused.stderr
        told = json.loads(asked(office, "fence", victim.name, "--force", "--json"))
        proof = told["proofs"]["system"]
        assert (proof["kind"], proof["node"]) == (added.fence, victim.name)
        assert added.proof in proof["seen"]
        all_live(nodes)
        assert acting(nodes) is office

    def test_a_coordinator_that_is_killed_is_fenced_and_comes_back(self, added: Added, nodes: list[DaemonNode]) -> None:
        first = acting(nodes)
        first.kill()
        rest = [node for node in nodes if node is not first]
        second = acting(rest, above_epoch=1)
        shown = asked(second, "disk", "show", "system")
        assert f"{first.name} is off by {added.fence}" in shown
        assert added.proof in shown
        first.start()
        all_live(nodes)

    def test_a_coordinator_that_stands_still_is_fenced_and_never_acts_again(
        self, added: Added, nodes: list[DaemonNode]
    ) -> None:
        first = acting(nodes)
        first.process.send_signal(signal.SIGSTOP)
        rest = [node for node in nodes if node is not first]
        second = acting(rest, above_epoch=1)
        assert f"{first.name} is off by {added.fence}" in asked(second, "disk", "show", "system")
        # Its lease was out, and it had not let go: the kernel has ended it.
        assert first.process.wait(TAKEN_OVER_S) == -signal.SIGKILL
        first.start()
        all_live(nodes)
        assert acting(nodes, above_epoch=1) is not first
