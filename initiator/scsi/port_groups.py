"""Target port groups and their asymmetric access states (SPC-4 sections 5.15, 6.37 and 6.45)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from initiator.errors import MalformedAnswer

MAINTENANCE_IN: Final = 0xA3
MAINTENANCE_OUT: Final = 0xA4
_SERVICE_ACTION: Final = 0x0A
_CDB = struct.Struct(">BBIIBB")
_GROUP_BYTES: Final = 8
_PORT_BYTES: Final = 4


class AccessState(IntEnum):
    """ASYMMETRIC ACCESS STATE: what can be done with a logical unit through the ports of a group."""

    ACTIVE_OPTIMIZED = 0x0
    ACTIVE_NON_OPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3
    LOGICAL_BLOCK_DEPENDENT = 0x4
    OFFLINE = 0xE
    TRANSITIONING = 0xF

    @property
    def words(self) -> str:
        """The state as people write it."""
        return _WORDS.get(self, self.name.lower())


_WORDS: Final = {
    AccessState.ACTIVE_OPTIMIZED: "active/optimized",
    AccessState.ACTIVE_NON_OPTIMIZED: "active/non-optimized",
    AccessState.LOGICAL_BLOCK_DEPENDENT: "logical block dependent",
}


@dataclass(frozen=True, slots=True)
class TargetPortGroup:
    """Target ports that are always in the same state."""

    tag: int
    """TARGET PORT GROUP, as the port group designator of VPD 83h has it."""
    state: AccessState
    preferred: bool
    """PREF: the target would have it used."""
    ports: tuple[int, ...]
    """Relative target port identifiers."""
    changed_by: int = 0
    """STATUS CODE: what changed the state last: 0 nothing, 1 SET TARGET PORT GROUPS, 2 the target by itself."""
    supported: int = 0
    """The byte of T_SUP to AO_SUP."""


def report_target_port_groups(allocation_length: int) -> bytes:
    """REPORT TARGET PORT GROUPS, in the format that every device has."""
    return _CDB.pack(MAINTENANCE_IN, _SERVICE_ACTION, 0, allocation_length, 0, 0)


def set_target_port_groups(parameter_list_length: int) -> bytes:
    """SET TARGET PORT GROUPS; its data is that of :func:`states_list`."""
    return _CDB.pack(MAINTENANCE_OUT, _SERVICE_ACTION, 0, parameter_list_length, 0, 0)


def states_list(states: Mapping[int, AccessState]) -> bytes:
    """Give the parameter list that asks for states of groups, by their tags."""
    return bytes(4) + b"".join(struct.pack(">BBH", state, 0, tag) for tag, state in states.items())


def parse_groups(data: bytes) -> tuple[list[TargetPortGroup], int]:
    """Parse REPORT TARGET PORT GROUPS; give the groups that are whole, and the bytes that all would take.

    Raises:
        MalformedAnswer: fewer than 4 bytes, or a state that SPC-4 does not have.
    """
    if len(data) < 4:
        raise MalformedAnswer(f"REPORT TARGET PORT GROUPS data of {len(data)} bytes")
    whole = 4 + int.from_bytes(data[0:4], "big")
    end = min(len(data), whole)
    groups: list[TargetPortGroup] = []
    at = 4
    while at + _GROUP_BYTES <= end:
        flags, supported, tag, _, changed_by, _, count = struct.unpack_from(">BBHBBBB", data, at)
        ports_at, at = at + _GROUP_BYTES, at + _GROUP_BYTES + count * _PORT_BYTES
        if at > end:
            break
        try:
            state = AccessState(flags & 0x0F)
        except ValueError as error:
            raise MalformedAnswer(f"target port group {tag} is in state {flags & 0x0F:#x}") from error
        ports = tuple(port for (_, port) in struct.iter_unpack(">HH", data[ports_at:at]))
        groups.append(TargetPortGroup(tag, state, bool(flags & 0x80), ports, changed_by, supported))
    return groups, whole
