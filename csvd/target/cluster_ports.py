"""The target ports of a target that all nodes of a cluster serve: of each node, where it is reached and how it is."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from csvd.iscsi.node import TargetNode
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.target_ports import AccessState


@dataclass(frozen=True, slots=True)
class ClusterPort:
    """A portal group of a node.

    Args:
        addresses: its portals, ``host:port``, as initiators reach them.
        state: the asymmetric access state of its node.
    """

    addresses: tuple[str, ...]
    state: AccessState


ClusterPorts: TypeAlias = Mapping[int, ClusterPort]
"""The portal groups of all nodes, by tag."""


def tell_ports(ports: ClusterPorts, own: Collection[int], node: TargetNode, device: TargetDevice) -> None:
    """Have a target tell its initiators of the ports of all nodes.

    Args:
        own: the tags of groups of this node.
    """
    node.elsewhere = {tag: port.addresses for tag, port in ports.items() if tag not in own}
    device.set_ports_elsewhere({tag: port.state for tag, port in ports.items() if tag not in own})
    device.set_access_states({tag: port.state for tag, port in ports.items() if tag in own})
