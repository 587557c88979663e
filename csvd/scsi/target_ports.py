"""Target ports, their groups, and the asymmetric access states of these (SPC-4 5.15)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Final

from csvd.scsi.sense import Asc, CheckCondition, SenseKey

if TYPE_CHECKING:
    from csvd.scsi.command import Command
    from csvd.scsi.device_server import ItlNexus
    from csvd.scsi.outcome import Reply


class AccessState(IntEnum):
    """ASYMMETRIC ACCESS STATE (SPC-4 6.37)."""

    ACTIVE_OPTIMIZED = 0x0
    ACTIVE_NON_OPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3
    TRANSITIONING = 0xF


class StateChange(IntEnum):
    """STATUS CODE: what changed the state last."""

    NONE = 0
    EXPLICIT = 1
    IMPLICIT = 2


@dataclass(slots=True)
class TargetPortGroup:
    """Target ports that are always in the same state.

    Args:
        tag: TARGET PORT GROUP. Here it is the portal group tag, and the relative identifier of its one port.
        ports: relative target port identifiers.
        state: its asymmetric access state.
        preferred: PREF: initiators do best to use it.
        changed_by: what changed the state last.
    """

    tag: int
    ports: tuple[int, ...]
    state: AccessState = AccessState.ACTIVE_OPTIMIZED
    preferred: bool = False
    changed_by: StateChange = field(default=StateChange.NONE)


ACTIVE: Final = frozenset({AccessState.ACTIVE_OPTIMIZED, AccessState.ACTIVE_NON_OPTIMIZED})

# Operation codes, and operation codes with a service action (SPC-4 5.15.2.5 to 5.15.2.8).
_IN_TRANSITION: Final = frozenset({0x03, 0x12, 0xA0, (0xA3, 0x0A)})
"""REQUEST SENSE, INQUIRY, REPORT LUNS and REPORT TARGET PORT GROUPS."""
_UNAVAILABLE: Final = _IN_TRANSITION | {(0xA4, 0x0A), 0x3B, 0x3C}
"""With SET TARGET PORT GROUPS, WRITE BUFFER and READ BUFFER."""
_STANDBY: Final = _UNAVAILABLE | {0x15, 0x55, 0x1A, 0x5A, 0x4C, 0x4D, 0x5E, 0x5F, 0x25, (0x9E, 0x10), 0xA3}
"""With MODE SELECT and SENSE, LOG SELECT and SENSE, PERSISTENT RESERVE IN and OUT; and what a host asks of a new disk:
READ CAPACITY and all of MAINTENANCE IN."""

_REFUSALS: Final = {
    AccessState.STANDBY: (_STANDBY, Asc.LOGICAL_UNIT_NOT_ACCESSIBLE_TARGET_PORT_IN_STANDBY_STATE),
    AccessState.UNAVAILABLE: (_UNAVAILABLE, Asc.LOGICAL_UNIT_NOT_ACCESSIBLE_TARGET_PORT_IN_UNAVAILABLE_STATE),
    AccessState.TRANSITIONING: (
        _IN_TRANSITION,
        Asc.LOGICAL_UNIT_NOT_ACCESSIBLE_ASYMMETRIC_ACCESS_STATE_TRANSITION,
    ),
}


class TargetPorts:
    """The target ports of one target device. A `Guard` of each of its logical units.

    A target that several nodes serve is one target device to its initiators: ports of the other nodes are ports of it,
    too, in the state in which these nodes are. Its own ports are those through which commands come here.

    Args:
        tags: portal group tags; each is a target port in a target port group of its own.

    Attributes:
        groups: own and elsewhere, by tag, ascending.
    """

    __slots__ = ("_elsewhere", "groups")

    def __init__(self, tags: Iterable[int] = (1,)) -> None:
        self.groups: dict[int, TargetPortGroup] = {}
        self._elsewhere: frozenset[int] = frozenset()
        self.serve(tags)

    def serve(self, tags: Iterable[int]) -> bool:
        """Have these ports here, and no others; what stays keeps its state.

        Returns:
            Whether they were others.
        """
        return self._have(set(tags), self._elsewhere)

    def serve_elsewhere(self, states: Mapping[int, AccessState]) -> tuple[bool, bool]:
        """Have these ports at other nodes, and no others there.

        Args:
            states: the states of their groups by tag. A tag of a port that is here is left out.

        Returns:
            Whether there are other ports now, and whether the state of one that stays is another one.
        """
        own = self.groups.keys() - self._elsewhere
        there = {tag: state for tag, state in states.items() if tag not in own}
        stayed = there.keys() & self.groups.keys()
        ports_changed = self._have(own, frozenset(there))
        for tag in there.keys() - stayed:
            self.groups[tag].state = there[tag]
        return ports_changed, self.change({tag: there[tag] for tag in stayed}, StateChange.IMPLICIT)

    def _have(self, own: Set[int], elsewhere: frozenset[int]) -> bool:
        before = self.groups
        self._elsewhere = elsewhere - own
        self.groups = {tag: before.get(tag) or TargetPortGroup(tag, (tag,)) for tag in sorted(own | elsewhere)}
        return list(before) != list(self.groups)

    def group_of(self, port: int) -> TargetPortGroup:
        """The group of a port; one that was not told of yet is added, active/optimized."""
        group = self.groups.get(port)
        if group is None:
            group = TargetPortGroup(port, (port,))
            self.groups = dict(sorted({**self.groups, port: group}.items()))
        return group

    def change(self, states: Mapping[int, AccessState], by: StateChange) -> bool:
        """Set the states of groups that are there.

        Returns:
            Whether any of them was another one.
        """
        changed = False
        for tag, state in states.items():
            group = self.groups[tag]
            if group.state is not state:
                group.state, group.changed_by = state, by
                changed = True
        return changed

    def concerns(self, itl: ItlNexus) -> bool:
        """See `Guard`."""
        return self.group_of(itl.nexus.identity.portal_group_tag).state not in ACTIVE

    def condition(self, itl: ItlNexus) -> CheckCondition | None:
        """Why commands of a nexus are refused; None where its port is in an active state."""
        state = self.group_of(itl.nexus.identity.portal_group_tag).state
        return None if state in ACTIVE else CheckCondition(SenseKey.NOT_READY, _REFUSALS[state][1])

    def check(self, itl: ItlNexus, command: Command, _cdb: bytes) -> Reply | None:
        """See `Guard`: what each state lets through."""
        condition = self.condition(itl)
        if condition is None:
            return None
        allowed, _ = _REFUSALS[self.group_of(itl.nexus.identity.portal_group_tag).state]
        code = command.operation_code
        if code not in allowed and (code, command.service_action) not in allowed:
            raise condition
        return None
