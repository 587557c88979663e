"""A daemon with two workers and three targets, of which two have a disk in common."""

from __future__ import annotations

import os
import signal
from typing import Any

from tests.integration.daemon_rig import TARGET, DaemonNode, Daemons, eventually, is_alive

OTHER = f"{TARGET}:other"
SHARING = f"{TARGET}:sharing"


def node_with_workers(daemons: Daemons, *, more: str = "", portal: str = "127.0.0.1:0") -> DaemonNode:
    """One node, started: two workers, of which the first serves TARGET and SHARING, the second OTHER."""
    targets = (
        f'[[target]]\nname = "{OTHER}"\nportals = ["{portal}"]\n'
        f'[[target.lun]]\nnumber = 0\ndisk = "{daemons.folder}/other.img"\ncreate = "16M"\n'
        f'[[target]]\nname = "{SHARING}"\nportals = ["{portal}"]\n'
        f'[[target.lun]]\nnumber = 0\ndisk = "{daemons.folder}/disk.img"\nserial = "test"\n{more}'
    )
    node = daemons.node(more=targets, portal=portal)
    text = node.config.read_text()
    node.config.write_text(text.replace("[node]\n", "[node]\nworkers = 2\n").replace("[target]\n", "[[target]]\n"))
    return node.start().ready()


def url_of(node: DaemonNode, target: str, lun: int = 0) -> str:
    """A LUN at the portal that everybody knows."""
    return f"iscsi://{node.portal}/{target}/{lun}"


def workers(node: DaemonNode) -> list[dict[str, Any]]:
    """What the node says of its workers."""
    found: list[dict[str, Any]] = node.client.request("GET", "/v1/node")["workers"]
    return found


def worker_of(node: DaemonNode, target: str) -> dict[str, Any]:
    """The worker that serves a target."""
    return next(worker for worker in workers(node) if target in worker["targets"])


def kill_worker(node: DaemonNode, target: str) -> int:
    """SIGKILL for the process that serves a target; gives its number."""
    process_id: int = worker_of(node, target)["process_id"]
    os.kill(process_id, signal.SIGKILL)
    eventually(lambda: None if is_alive(process_id) else True)
    return process_id


def wait_until_up(node: DaemonNode, target: str) -> dict[str, Any]:
    """Wait for the worker of a target."""

    def up() -> dict[str, Any] | None:
        worker = worker_of(node, target)
        return worker if worker["state"] == "up" else None

    return eventually(up)


def count_of(node: DaemonNode, target: str) -> int:
    """Commands that a target has answered, as the node counts them."""
    units = node.client.statistics()["units"]
    return sum(row["count"] for row in units if row["target"] == target)
