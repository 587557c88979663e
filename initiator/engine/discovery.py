"""The answer to SendTargets (RFC 7143 appendix C)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from csvd.iscsi import text
from csvd.iscsi.errors import TextError
from csvd.iscsi.names import is_iscsi_name, normalize
from initiator.errors import InitiatorError, ProtocolViolation
from initiator.url import Portal, parse_portal

MAX_TARGETS: Final = 4096
MAX_PAIRS: Final = 65536
MAX_ADDRESSES: Final = 256
"""Addresses of one target."""

ANSWER_BYTES: Final = 4 << 20
"""The longest answer taken."""


@dataclass(frozen=True, slots=True)
class TargetAddress:
    """A portal of a target, and the tag of the group that it belongs to (RFC 7143 section 13.8)."""

    portal: Portal
    portal_group_tag: int

    def __str__(self) -> str:
        return f"{self.portal},{self.portal_group_tag}"


@dataclass(frozen=True, slots=True)
class DiscoveredTarget:
    """A target that SendTargets named. Without an address it is at the portal that was asked."""

    name: str
    addresses: tuple[TargetAddress, ...] = ()


def parse_address(value: str) -> TargetAddress:
    """Parse ``host[:port][,tag]``, as TargetAddress has it; IPv6 in brackets.

    Raises:
        ProtocolViolation: it is none.
    """
    address, comma, tag = value.rpartition(",")
    if not comma:
        address, tag = value, "1"
    if not (tag.isascii() and tag.isdigit() and len(tag) <= 5 and int(tag) <= 0xFFFF):
        raise ProtocolViolation(f"not a portal group tag: {tag[:20]!r}")
    try:
        return TargetAddress(parse_portal(address), int(tag))
    except InitiatorError as error:
        raise ProtocolViolation(f"not a TargetAddress: {value[:80]!r}") from error


def parse_targets(answer: bytes) -> list[DiscoveredTarget]:
    """Parse the whole answer: TargetName, then the addresses of that target, again and again.

    Raises:
        ProtocolViolation: it is not such a list, or one beyond all bounds.
    """
    targets: dict[str, list[TargetAddress]] = {}
    addresses: list[TargetAddress] | None = None
    try:
        pairs = text.parse(answer, MAX_PAIRS)
    except TextError as error:
        raise ProtocolViolation("the target's answer to SendTargets is malformed", why=str(error)) from error
    for key, value in pairs:
        if key == "TargetName":
            if not is_iscsi_name(value) or len(targets) == MAX_TARGETS:
                raise ProtocolViolation(f"not a target name, or one too many: {value[:80]!r}")
            addresses = targets.setdefault(normalize(value), [])
        elif key == "TargetAddress":
            if addresses is None or len(addresses) == MAX_ADDRESSES:
                raise ProtocolViolation("an address before the first target, or one too many")
            addresses.append(parse_address(value))
    return [DiscoveredTarget(name, tuple(dict.fromkeys(found))) for name, found in targets.items()]
