"""What a target service is told to serve."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from csvd.iscsi.access import OPEN, Access
from csvd.iscsi.portals import Redirection
from csvd.iscsi.session import QUEUE_DEPTH
from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.target_ports import AccessState


@dataclass(frozen=True, slots=True)
class Export:
    """One target to serve.

    Args:
        name: its iSCSI name.
        logical_units: its logical units, each with its disk as ``device``.
    """

    name: str
    logical_units: Sequence[LogicalUnit]
    alias: str = ""
    access: Access = OPEN
    portal_group_tags: frozenset[int] | None = None
    """The portal groups that it is reached through; None: every one."""
    redirect: Redirection | None = None
    """Where logins are sent on to."""
    queue_depth: int = QUEUE_DEPTH
    access_states: Mapping[int, AccessState] = field(default_factory=dict)
    """The asymmetric access states of portal groups by tag; active/optimized where there is none."""
    is_clustered: bool = False
    """Whether all nodes of the cluster serve it as one: its ports, their states and its reservations are theirs."""
