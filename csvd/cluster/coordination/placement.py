"""Which member should be the coordinator of each disk. PURE: one snapshot in, one decision out.

A coordinator that does its work stays, unless its node is draining, or another node that has been up for a while has so
much less to do that a move makes the share more even. A disk whose coordinator is gone goes to the node with the least
to do, at once.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class NodeView:
    """A member, as Raft's leader sees it now.

    Attributes:
        is_there: it answers; or is believed to come back at once.
        is_eligible: it may hold offices at all: no witness.
        is_draining: it is to give its offices away.
        up_s: how long its daemon has been up.
        attached: the disks that it has open.
        acting: the epoch of each office that it holds or is taking, by disk.
        troubled: the disks at which it has just failed to take the office.
    """

    is_there: bool
    is_eligible: bool = True
    is_draining: bool = False
    up_s: float = 0.0
    attached: Collection[str] = ()
    acting: Mapping[str, int] = field(default_factory=dict)
    troubled: Collection[str] = ()


@dataclass(frozen=True, slots=True)
class DiskView:
    """A disk of the register."""

    coordinator: str
    epoch: int
    is_pinned: bool = False


@dataclass(frozen=True, slots=True)
class Move:
    """A node is to take an office: of the epoch after the one that is expected."""

    disk: str
    node: str
    expected_epoch: int
    why: str


def place(disks: Mapping[str, DiskView], nodes: Mapping[str, NodeView], *, settle_s: float) -> list[Move]:
    """What should move.

    Offices without a coordinator are given out first, all of them; then those of draining nodes; only where nothing
    else is to do, one is moved for balance.

    Args:
        settle_s: how long a node must have been up to be given an office for balance.
    """
    kept = {name: disk for name, disk in sorted(disks.items()) if _is_acting(name, disk, nodes)}
    load: Counter[str] = Counter(disk.coordinator for disk in kept.values())
    moves = []
    for name, disk in sorted(disks.items()):
        if name not in kept:
            why = f"{disk.coordinator} does not act" if disk.coordinator else "it never had a coordinator"
        elif nodes[disk.coordinator].is_draining:
            why = f"{disk.coordinator} is draining"
        else:
            continue
        chosen = _best(name, nodes, load, but=disk.coordinator if name in kept else "")
        if chosen is not None:
            moves.append(Move(name, chosen, disk.epoch, why))
            load[chosen] += 1
            load[disk.coordinator] -= name in kept
    return moves or _balance(kept, nodes, load, settle_s)


def _is_acting(name: str, disk: DiskView, nodes: Mapping[str, NodeView]) -> bool:
    """Whether the coordinator that the register names is at it."""
    node = nodes.get(disk.coordinator)
    return node is not None and node.is_there and node.is_eligible and node.acting.get(name) == disk.epoch


def _may(name: str, node: NodeView) -> bool:
    return node.is_there and node.is_eligible and not node.is_draining and name in node.attached


def _best(name: str, nodes: Mapping[str, NodeView], load: Mapping[str, int], *, but: str) -> str | None:
    """The node with the least to do that may have a disk; one at which it has just failed only where there is no
    other. A node that is draining only where nobody else has the disk, and it would have no coordinator at all."""
    able = [node for node, view in nodes.items() if _may(name, view) and node != but]
    if not able and not but:
        able = [node for node, view in nodes.items() if view.is_there and view.is_eligible and name in view.attached]
    return min(able, key=lambda node: (name in nodes[node].troubled, load.get(node, 0), node), default=None)


def _balance(
    kept: Mapping[str, DiskView], nodes: Mapping[str, NodeView], load: Mapping[str, int], settle_s: float
) -> list[Move]:
    """One move that makes the share more even, or none."""
    choices = []
    for name, disk in kept.items():
        if disk.is_pinned or name in nodes[disk.coordinator].troubled:
            continue
        for node, view in nodes.items():
            gain = load.get(disk.coordinator, 0) - load.get(node, 0)
            if gain >= 2 and _may(name, view) and view.up_s >= settle_s and name not in view.troubled:
                choices.append((-gain, node, name, disk))
    if not choices:
        return []
    _, node, name, disk = min(choices, key=lambda choice: choice[:3])
    return [Move(name, node, disk.epoch, f"{disk.coordinator} coordinates more disks than {node}")]
