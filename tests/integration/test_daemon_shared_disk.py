"""Daemons that share a disk: its coordinator, by the command line, over kill -9, stops and moves."""

from __future__ import annotations

import json
import signal
from functools import partial
from pathlib import Path

import pytest

from tests.integration.daemon_rig import DaemonNode, Daemons, eventually
from tests.integration.shared_target import all_live, disk_coordinator, disk_of

coordinator_of = partial(disk_coordinator, timeout_s=20.0)


@pytest.fixture
def nodes(daemons: Daemons, tmp_path: Path) -> list[DaemonNode]:
    """Three nodes with a shared disk, all with sessions."""
    nodes = daemons.cluster(3)
    nodes[0].asked("disk", "add", "system", str(tmp_path / "d.img"), "--create", "64M")
    all_live(nodes, timeout_s=20.0)
    return nodes


def office_of(nodes: list[DaemonNode]) -> tuple[DaemonNode, int]:
    """The coordinator, and its epoch: on a busy machine it need not be the first."""
    first = coordinator_of(nodes)
    return first, first.client.disk("system")["epoch"]


def test_the_coordinator_is_killed_and_another_acts_for_the_disk(nodes: list[DaemonNode]) -> None:
    first, before = office_of(nodes)
    first.kill()
    rest = [node for node in nodes if node is not first]
    second = coordinator_of(rest, above_epoch=before)
    shown = second.asked("disk", "show", "system")
    assert f"{first.name} is off by file lock" in shown
    epoch = second.client.disk("system")["epoch"]
    assert f"owner block  {second.name}, epoch {epoch}" in shown
    first.start()
    eventually(lambda: disk_of(first))
    states = {
        one["node"]: one["state"]
        for one in json.loads(second.asked("disk", "ls", "--json"))["disks"][0]["office"]["sessions"]
    }
    assert states == {node.name: "live" for node in nodes}


def test_the_coordinator_is_moved_by_hand_and_stays_there(nodes: list[DaemonNode]) -> None:
    first, before = office_of(nodes)
    target = next(node for node in nodes if node is not first)
    assert "coordinates system" in first.asked("coordinator", "move", "system", target.name)
    assert coordinator_of(nodes, above_epoch=before) is target, [node.log for node in nodes]
    assert "by hand" in first.asked("coordinator", "ls")
    assert "released" in target.asked("disk", "show", "system")


def test_a_coordinator_that_stops_in_order_leaves_at_once(nodes: list[DaemonNode]) -> None:
    first, before = office_of(nodes)
    assert first.terminate(signal.SIGTERM) == 0
    rest = [node for node in nodes if node is not first]
    second = coordinator_of(rest, above_epoch=before)
    assert "released" in second.asked("disk", "show", "system")


def test_a_node_that_is_alive_is_fenced_only_by_force(nodes: list[DaemonNode]) -> None:
    office = coordinator_of(nodes)
    victim = next(node for node in nodes if node is not office)
    refused = office.csvd("fence", victim.name)
    assert refused.returncode == 1
    assert "is alive" in refused.stderr
    assert "is off: file lock" in office.asked("fence", victim.name, "--force")
    eventually(lambda: disk_of(victim))
