"""A target that all nodes of a cluster serve, over disks that they share: made as a person would make it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from csvd.api.client import ClientError
from tests.integration.daemon_rig import DaemonNode, eventually

SHARED_TARGET = "iqn.2026-11.org.csvd:shared"
SYSTEM = "system"


def disk_of(node: DaemonNode) -> dict[str, Any] | None:
    """The system disk as a node sees it, once its own session is live."""
    try:
        found = node.client.disk(SYSTEM)
    except ClientError:
        return None
    return found if found.get("session", {}).get("state") == "live" else None


def all_live(nodes: Sequence[DaemonNode], timeout_s: float = 60.0) -> None:
    """Wait until every one of these nodes may use the system disk."""
    for node in nodes:
        eventually(lambda node=node: disk_of(node), timeout_s)  # type: ignore[misc]


def disk_coordinator(nodes: Sequence[DaemonNode], above_epoch: int = 0) -> tuple[DaemonNode, int]:
    """The coordinator of the system disk, one of these, in an epoch above the one given; and the epoch."""

    def acting() -> tuple[DaemonNode, int] | None:
        for node in nodes:
            disk = disk_of(node)
            office = disk["office"] if disk else None
            if office and office["step"] == "acting" and office["epoch"] > above_epoch:
                return node, office["epoch"]
        return None

    return eventually(acting, 60)


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
