"""Target port groups and their asymmetric access states: REPORT and SET TARGET PORT GROUPS (SPC-4 5.15, 6.37, 6.45)."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from initiator.errors import InitiatorError, MalformedAnswer

_EXTENDED: Final = 0x20
"""PARAMETER DATA FORMAT 001b: a header with the implicit transition time."""

_GROUP: Final = struct.Struct(">BBHBBBB")


class AccessState(IntEnum):
    """ASYMMETRIC ACCESS STATE (SPC-4 section 6.37)."""

    ACTIVE_OPTIMIZED = 0x0
    ACTIVE_NON_OPTIMIZED = 0x1
    STANDBY = 0x2
    UNAVAILABLE = 0x3
    LOGICAL_BLOCK_DEPENDENT = 0x4
    OFFLINE = 0xE
    TRANSITIONING = 0xF

    @property
    def active(self) -> bool:
        """Whether commands that move data are taken."""
        return self in (AccessState.ACTIVE_OPTIMIZED, AccessState.ACTIVE_NON_OPTIMIZED)

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
    """TARGET PORT GROUP, as the designator of type 5 in VPD page 83h names it."""
    state: AccessState
    preferred: bool
    status_code: int
    """What changed the state last: 0 not said, 1 SET TARGET PORT GROUPS, 2 the target by itself."""
    supported: int
    """Bits of the states that it may have: T U O LBD S A/N A/O from the highest on, with O the bit 40h."""
    ports: tuple[int, ...]
    """Relative target port identifiers."""


@dataclass(frozen=True, slots=True)
class TargetPortGroups:
    """REPORT TARGET PORT GROUPS."""

    groups: tuple[TargetPortGroup, ...]
    implicit_transition_time_s: int | None = None
    """How long a transition by the target itself may take; 0 is not told, None: the target has no extended header."""

    def group_of(self, relative_target_port: int) -> TargetPortGroup | None:
        """Give the group of a target port."""
        return next((group for group in self.groups if relative_target_port in group.ports), None)


def report_cdb(allocation_length: int, *, extended: bool = False) -> bytes:
    """REPORT TARGET PORT GROUPS, by choice with the extended header (SPC-4 section 6.37)."""
    return struct.pack(">BBIIBB", 0xA3, 0x0A | (_EXTENDED if extended else 0), 0, allocation_length, 0, 0)


def set_cdb(parameter_list_length: int) -> bytes:
    """SET TARGET PORT GROUPS (SPC-4 section 6.45)."""
    return struct.pack(">BBIIBB", 0xA4, 0x0A, 0, parameter_list_length, 0, 0)


def set_list(states: Mapping[int, AccessState]) -> bytes:
    """Build the parameter list of SET TARGET PORT GROUPS: a state for each group tag.

    Raises:
        InitiatorError: a tag is not of 16 bits.
    """
    if any(not 0 <= tag <= 0xFFFF for tag in states):
        raise InitiatorError("there is no such target port group", hint="a tag has 16 bits")
    return bytes(4) + b"".join(struct.pack(">BBH", state, 0, tag) for tag, state in states.items())


def parse(data: bytes) -> TargetPortGroups:
    """Parse REPORT TARGET PORT GROUPS, with either header.

    Raises:
        MalformedAnswer: it is shorter than it says, or a group's ports run past its end.
    """
    if len(data) < 4:
        raise MalformedAnswer(f"REPORT TARGET PORT GROUPS data of {len(data)} bytes")
    end = 4 + int.from_bytes(data[0:4], "big")
    if len(data) < end:
        raise MalformedAnswer(f"REPORT TARGET PORT GROUPS says {end - 4} bytes and has {len(data) - 4}")
    at, time_s = 4, None
    # A group begins with PREF and a state; its bits 4 to 6 are zero, and so the header's format can not be one.
    if end >= 8 and data[4] & 0x70 == 0x10:
        at, time_s = 8, data[5]
    groups: list[TargetPortGroup] = []
    while at < end:
        if at + _GROUP.size > end:
            raise MalformedAnswer("a target port group runs past the end of the data")
        pref_and_state, supported, tag, _, status_code, _, count = _GROUP.unpack_from(data, at)
        at += _GROUP.size
        if at + 4 * count > end:
            raise MalformedAnswer(f"the {count} ports of target port group {tag} run past the end of the data")
        ports = tuple(int.from_bytes(data[port + 2 : port + 4], "big") for port in range(at, at + 4 * count, 4))
        at += 4 * count
        state = _state(pref_and_state & 0x0F)
        groups.append(TargetPortGroup(tag, state, bool(pref_and_state & 0x80), status_code, supported, ports))
    return TargetPortGroups(tuple(groups), time_s)


def _state(value: int) -> AccessState:
    try:
        return AccessState(value)
    except ValueError:
        return AccessState.UNAVAILABLE  # what the standard does not know can not be counted on
