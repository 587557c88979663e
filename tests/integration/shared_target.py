"""A target that all nodes of a cluster serve, over disks that they share: made as a person would make it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from csvd.api.client import ClientError
from tests.integration.daemon_rig import DaemonNode, Daemons, eventually

SHARED_TARGET = "iqn.2026-11.org.csvd:shared"
SYSTEM = "system"
TAKEN_OVER_S = 60.0
"""A coordinator's lease, an election, and what a busy machine takes."""


def disk_of(node: DaemonNode) -> dict[str, Any] | None:
    """The system disk as a node sees it, once its own session is live."""
    try:
        found = node.client.disk(SYSTEM)
    except ClientError:
        return None
    return found if found.get("session", {}).get("state") == "live" else None


def all_live(nodes: Sequence[DaemonNode], timeout_s: float = TAKEN_OVER_S) -> None:
    """Wait until every one of these nodes may use the system disk."""
    for node in nodes:
        eventually(partial(disk_of, node), timeout_s)


def disk_coordinator(
    nodes: Sequence[DaemonNode], above_epoch: int = 0, *, timeout_s: float = TAKEN_OVER_S
) -> DaemonNode:
    """The coordinator of the system disk, one of these, in an epoch above the one given."""

    def acting() -> DaemonNode | None:
        for node in nodes:
            disk = disk_of(node)
            office = disk["office"] if disk else None
            if office and office["step"] == "acting" and office["epoch"] > above_epoch:
                return node
        return None

    return eventually(acting, timeout_s)


def exporting_nodes(daemons: Daemons, folder: Path) -> list[DaemonNode]:
    """Three nodes with a system disk, and a portal each for the cluster, which serve nothing else."""
    nodes = daemons.cluster(3, own_targets=False)
    disk = str(folder / "system.img")
    eventually(lambda: nodes[0].csvd("disk", "add", SYSTEM, disk, "--create", "64M").returncode == 0 or None)
    all_live(nodes, timeout_s=20.0)
    return nodes


def portals_of(node: DaemonNode) -> dict[str, str]:
    """Where the cluster is reached, by node, as one of them tells."""
    rows = json.loads(node.asked("portal", "ls", "--json"))["portals"]
    return {row.get("node", node.name): row["address"] for row in rows}


def share(nodes: Sequence[DaemonNode], folder: Path, size_bytes: int = 64 << 20) -> None:
    """Have the nodes share a system disk, and serve a logical unit of one more file together."""

    def shared() -> bool | None:
        try:
            nodes[0].client.add_disk(SYSTEM, f"{folder}/system.img", create_bytes=64 << 20, adopt=False, force=False)
        except ClientError:
            return True if disk_of(nodes[0]) else None
        return True

    eventually(shared, 60)
    all_live(nodes)
    nodes[0].client.create_target(SHARED_TARGET, {})
    unit = {"disk": f"{folder}/shared.img", "create": size_bytes}
    nodes[0].client.add_lun(SHARED_TARGET, unit)
    for node in nodes:
        eventually(lambda node=node: is_served(node), 60)  # type: ignore[misc]


def is_served(node: DaemonNode) -> bool | None:
    """True when the node serves the logical unit; None when it does not yet."""
    try:
        return bool(node.client.luns(SHARED_TARGET)) or None
    except ClientError:
        return None
