"""The I_T nexus: the two ports whose commands belong together (SAM-5 4.7), as the target device sees it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from csvd.scsi.reservations import Registrant
from csvd.scsi.task_management import TaskManagementFunction

if TYPE_CHECKING:
    from csvd.scsi.target_device import TargetDevice


@dataclass(frozen=True, slots=True)
class NexusIdentity:
    """Who is at the two ends.

    Args:
        initiator_name: iSCSI name of the initiator.
        isid: the six bytes that tell its ports apart.
        portal_group_tag: the target port; its relative target port identifier and its target port group have the
            same number here.
    """

    initiator_name: str = ""
    isid: bytes = bytes(6)
    portal_group_tag: int = 1

    @property
    def initiator_port(self) -> str:
        """The SCSI initiator port name (SPC-4 7.6.4.6)."""
        return f"{self.initiator_name},i,0x{self.isid.hex()}"


@dataclass(slots=True, eq=False)
class Nexus:
    """An open I_T nexus of a target device.

    Args:
        name: by which the iSCSI layer speaks of it.
        device: the target device.
        numbers: the LUNs that its initiator may see, ascending.
        functions: the task management functions that its transport can carry.
    """

    name: str
    identity: NexusIdentity
    device: TargetDevice
    numbers: list[int] = field(default_factory=list)
    functions: tuple[TaskManagementFunction, ...] = ()
    registrant: Registrant = field(init=False)
    """The nexus as reservations know it: its ports by name, whatever session joins them."""

    def __post_init__(self) -> None:
        tag = self.identity.portal_group_tag
        self.registrant = Registrant(self.identity.initiator_port, target_port_name(self.device.name, tag), tag)


def target_port_name(target: str, portal_group_tag: int) -> str:
    """The SCSI target port name (RFC 7143 4.4.1)."""
    return f"{target},t,0x{portal_group_tag:04x}"
