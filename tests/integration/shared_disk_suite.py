"""What holds of a shared disk of any kind that fences, with real daemons and by the command line, as tests.

A test module has, for a kind of disk, a subclass with a fixture ``added``: what `csvd disk add` is told.
"""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.integration.daemon_rig import DaemonNode, Daemons
from tests.integration.shared_target import TAKEN_OVER_S, all_live, disk_coordinator


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


class SharedDiskSuite:
    """What holds of every kind that fences."""

    @pytest.fixture
    def nodes(self, added: Added) -> Iterator[list[DaemonNode]]:
        """Three nodes that share the disk, with sessions."""
        rig = Daemons()
        try:
            nodes = rig.cluster(3, keys=added.keys)
            nodes[0].asked("disk", "add", "system", *added.words)
            all_live(nodes)
            yield nodes
        finally:
            rig.close()

    def test_every_node_shows_the_disk_its_fence_and_its_owner(self, added: Added, nodes: list[DaemonNode]) -> None:
        office = disk_coordinator(nodes)
        for node in nodes:
            shown = json.loads(node.asked("disk", "show", "system", "--json"))
            assert shown["fence"] == added.fence
            assert (shown["owner"]["node"], shown["owner"]["is_released"]) == (office.name, False)
            assert added.fence in node.asked("disk", "show", "system")
        assert added.fence in nodes[0].asked("disk", "ls")

    def test_a_node_is_fenced_by_hand_and_comes_back(self, added: Added, nodes: list[DaemonNode]) -> None:
        office = disk_coordinator(nodes)
        victim = next(node for node in nodes if node is not office)
        refused = office.csvd("fence", victim.name)
        assert (refused.returncode, refused.stdout) == (1, "")
        assert "is alive" in refused.stderr
        told = json.loads(office.asked("fence", victim.name, "--force", "--json"))
        proof = told["proofs"]["system"]
        assert (proof["kind"], proof["node"]) == (added.fence, victim.name)
        assert added.proof in proof["seen"]
        all_live(nodes)
        assert disk_coordinator(nodes) is office

    def test_a_coordinator_that_is_killed_is_fenced_and_comes_back(self, added: Added, nodes: list[DaemonNode]) -> None:
        first = disk_coordinator(nodes)
        first.kill()
        rest = [node for node in nodes if node is not first]
        second = disk_coordinator(rest, above_epoch=1)
        shown = second.asked("disk", "show", "system")
        assert f"{first.name} is off by {added.fence}" in shown
        assert added.proof in shown
        first.start()
        all_live(nodes)

    def test_a_coordinator_that_stands_still_is_fenced_and_never_acts_again(
        self, added: Added, nodes: list[DaemonNode]
    ) -> None:
        first = disk_coordinator(nodes)
        first.process.send_signal(signal.SIGSTOP)
        rest = [node for node in nodes if node is not first]
        second = disk_coordinator(rest, above_epoch=1)
        assert f"{first.name} is off by {added.fence}" in second.asked("disk", "show", "system")
        # Its lease was out, and it had not let go: the kernel has ended it.
        assert first.process.wait(TAKEN_OVER_S) == -signal.SIGKILL
        first.start()
        all_live(nodes)
        assert disk_coordinator(nodes, above_epoch=1) is not first
