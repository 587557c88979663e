"""Real daemons that export as one: set through any node, served by all, over the death of the coordinator."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from csvd.api.client import ClientError
from csvd.cluster.at_once import make_members
from initiator import ReservationConflict, ReservationType, connect
from tests.integration.daemon_rig import DaemonNode, Daemons, eventually, free_ports
from tests.own_reactor import run

SHARED = "iqn.2026-11.org.csvd:shared"
HOST = "iqn.2026-11.org.example:host"


@pytest.fixture
def daemons() -> Iterator[Daemons]:
    rig = Daemons()
    yield rig
    rig.close()


def asked(node: DaemonNode, *arguments: str) -> str:
    done = node.csvd(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def session_of(node: DaemonNode) -> dict[str, Any] | None:
    """The system disk as a node sees it, once its session is live."""
    try:
        found = node.client.disk("system")
    except ClientError:
        return None
    return found if found.get("session", {}).get("state") == "live" else None


def coordinator_of(nodes: list[DaemonNode], above_epoch: int = 0) -> DaemonNode:
    def acting() -> DaemonNode | None:
        for node in nodes:
            office = (session_of(node) or {}).get("office")
            if office and office["step"] == "acting" and office["epoch"] > above_epoch:
                return node
        return None

    return eventually(acting)


@pytest.fixture
def nodes(daemons: Daemons, tmp_path: Path) -> list[DaemonNode]:
    """Three nodes with a system disk, and a portal each for the cluster."""
    names = ["node1", "node2", "node3"]
    ports = free_ports(6)
    addresses = dict(zip(names, (("127.0.0.1", port) for port in ports), strict=False))
    made = []
    for (name, (host, port)), portal in zip(addresses.items(), ports[3:], strict=True):
        configuration = (
            f'[node]\nname = "{name}"\nstate_directory = "state"\n'
            f'[cluster]\nlisten = "{host}:{port}"\nportals = ["127.0.0.1:{portal}"]\n'
        )
        node = DaemonNode(name, daemons.folder, configuration)
        daemons.nodes.append(node)
        made.append(node)
    make_members({node.name: node.folder / "state" / "cluster" for node in made}, addresses)
    for node in made:
        node.start()
    for node in made:
        node.ready()
    disk = str(tmp_path / "system.img")
    eventually(lambda: made[0].csvd("disk", "add", "system", disk, "--create", "64M").returncode == 0 or None)
    for node in made:
        eventually(lambda node=node: session_of(node))  # type: ignore[misc]
    return made


def initiator(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "initiator", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def portals_of(node: DaemonNode) -> dict[str, str]:
    """Where the cluster is reached, by node, as one of them tells."""
    rows = json.loads(asked(node, "portal", "ls", "--json"))["portals"]
    return {row.get("node", node.name): row["address"] for row in rows}


def all_told(node: DaemonNode) -> dict[str, str] | None:
    found = portals_of(node)
    return found if len(found) == 3 else None


def test_what_is_made_through_one_node_is_reached_through_another_and_outlives_the_coordinator(
    nodes: list[DaemonNode], tmp_path: Path
) -> None:
    _, two, three = nodes
    disk = str(tmp_path / "a.img")
    assert "is served at" in asked(two, "target", "create", SHARED)
    asked(two, "acl", "add", HOST)
    assert "is served" in asked(two, "lun", "add", disk, "--create", "8M")
    portals = eventually(lambda: all_told(three))
    url = f"iscsi://{portals['node3']}/{SHARED}/0?initiator={HOST}"
    found = initiator("info", url)
    assert found.returncode == 0, found.stderr
    serials = {json.loads(asked(node, "lun", "show", "0", "--json"))["serial"] for node in nodes}
    assert len(serials) == 1

    coordinator = coordinator_of(nodes)
    epoch = (session_of(coordinator) or {})["epoch"]
    coordinator.kill()
    rest = [node for node in nodes if node is not coordinator]
    coordinator_of(rest, above_epoch=epoch)
    asked(rest[0], "acl", "add", HOST + "2")
    asked(rest[1], "acl", "rm", HOST)
    for node in rest:
        refused = initiator("info", f"iscsi://{portals[node.name]}/{SHARED}/0?initiator={HOST}")
        assert refused.returncode == 1
        taken = initiator("info", f"iscsi://{portals[node.name]}/{SHARED}/0?initiator={HOST}2")
        assert taken.returncode == 0, taken.stderr
    rows = json.loads(asked(rest[0], "target", "show", SHARED, "--json"))["nodes"]
    assert rows[coordinator.name]["state"] == "unavailable"
    coordinator.start().ready()
    eventually(lambda: all_told(coordinator) if session_of(coordinator) else None)
    again = eventually(
        lambda: (
            initiator("info", f"iscsi://{portals[coordinator.name]}/{SHARED}/0?initiator={HOST}2").returncode == 0
            or None
        )
    )
    assert again


def test_a_reservation_through_one_node_holds_at_all_and_outlives_the_coordinator(
    nodes: list[DaemonNode], tmp_path: Path
) -> None:
    one, _, three = nodes
    asked(one, "target", "create", SHARED)
    asked(one, "lun", "add", str(tmp_path / "a.img"), "--create", "8M")
    portals = eventually(lambda: all_told(three))
    urls = {name: f"iscsi://{portal}/{SHARED}/0" for name, portal in portals.items()}
    coordinator = coordinator_of(nodes)
    rest = [node for node in nodes if node is not coordinator]

    async def reserve(reactor: Any) -> None:
        async with connect(urls[rest[0].name], reactor=reactor, initiator_name=HOST) as disk:
            await disk.reservations.register(0x11, through_power_loss=True)
            await disk.reservations.reserve(ReservationType.WRITE_EXCLUSIVE, key=0x11)
            await disk.write(0, b"1" * 512)

    async def write(reactor: Any) -> None:
        for node in rest:
            async with connect(urls[node.name], reactor=reactor, initiator_name=HOST + "2") as disk:
                with pytest.raises(ReservationConflict):
                    await disk.write(0, b"2" * 512)
                assert await disk.read(0, 1) == b"1" * 512

    run(reserve, time_limit_s=60.0)
    run(write, time_limit_s=60.0)
    epoch = (session_of(coordinator) or {})["epoch"]
    coordinator.kill()
    coordinator_of(rest, above_epoch=epoch)
    run(write, time_limit_s=60.0)
