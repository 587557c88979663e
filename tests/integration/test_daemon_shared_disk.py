"""Daemons that share a disk: its coordinator, by the command line, over kill -9, stops and moves."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from csvd.api.client import ClientError
from tests.integration.daemon_rig import DaemonNode, Daemons, eventually


@pytest.fixture
def daemons() -> Iterator[Daemons]:
    rig = Daemons()
    try:
        yield rig
    finally:
        rig.close()


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


def coordinator_of(nodes: list[DaemonNode], above_epoch: int = 0) -> DaemonNode:
    """The node that acts, in an epoch above the one given."""

    def acting() -> DaemonNode | None:
        for node in nodes:
            disk = disk_of(node)
            office = disk["office"] if disk else None
            if office and office["step"] == "acting" and office["epoch"] > above_epoch:
                return node
        return None

    return eventually(acting)


@pytest.fixture
def nodes(daemons: Daemons, tmp_path: Path) -> list[DaemonNode]:
    """Three nodes with a shared disk, all with sessions."""
    nodes = daemons.cluster(3)
    asked(nodes[0], "disk", "add", "system", str(tmp_path / "d.img"), "--create", "64M")
    for node in nodes:
        eventually(partial(disk_of, node))
    return nodes


def test_the_coordinator_is_killed_and_another_acts_for_the_disk(nodes: list[DaemonNode]) -> None:
    first = coordinator_of(nodes)
    first.kill()
    rest = [node for node in nodes if node is not first]
    second = coordinator_of(rest, above_epoch=1)
    shown = asked(second, "disk", "show", "system")
    assert f"{first.name} is off by file lock" in shown
    epoch = second.client.disk("system")["epoch"]
    assert f"owner block  {second.name}, epoch {epoch}" in shown
    first.start()
    eventually(lambda: disk_of(first))
    states = {
        one["node"]: one["state"]
        for one in json.loads(asked(second, "disk", "ls", "--json"))["disks"][0]["office"]["sessions"]
    }
    assert states == {node.name: "live" for node in nodes}


def test_the_coordinator_is_moved_by_hand_and_stays_there(nodes: list[DaemonNode]) -> None:
    first = coordinator_of(nodes)
    target = next(node for node in nodes if node is not first)
    assert "coordinates system" in asked(first, "coordinator", "move", "system", target.name)
    assert coordinator_of(nodes, above_epoch=1) is target
    assert "by hand" in asked(first, "coordinator", "ls")
    assert "released" in asked(target, "disk", "show", "system")


def test_a_coordinator_that_stops_in_order_leaves_at_once(nodes: list[DaemonNode]) -> None:
    first = coordinator_of(nodes)
    assert first.terminate(signal.SIGTERM) == 0
    rest = [node for node in nodes if node is not first]
    second = coordinator_of(rest, above_epoch=1)
    assert "released" in asked(second, "disk", "show", "system")


def test_a_node_that_is_alive_is_fenced_only_by_force(nodes: list[DaemonNode]) -> None:
    office = coordinator_of(nodes)
    victim = next(node for node in nodes if node is not office)
    refused = office.csvd("fence", victim.name)
    assert refused.returncode == 1
    assert "is alive" in refused.stderr
    assert "is off: file lock" in asked(office, "fence", victim.name, "--force")
    eventually(lambda: disk_of(victim))
