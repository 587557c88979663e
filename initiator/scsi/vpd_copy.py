"""VPD page 8Fh: what third-party copies a logical unit can do (SPC-4 section 7.8.17)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from initiator.errors import MalformedAnswer

_ROD_LIMITS: Final = 0x0000
_SUPPORTED_COMMANDS: Final = 0x0001
_PARAMETER_DATA: Final = 0x0004
_SUPPORTED_DESCRIPTORS: Final = 0x0008
_GENERAL: Final = 0x8001


@dataclass(frozen=True, slots=True)
class ThirdPartyCopy:
    """VPD 8Fh. A number is 0 and a list is empty where the page does not tell."""

    commands: frozenset[tuple[int, int]] = frozenset()
    """Pairs of operation code and service action."""
    descriptor_types: frozenset[int] = frozenset()
    """Type codes of the segment and CSCD descriptors that EXTENDED COPY takes."""
    maximum_cscd_descriptors: int = 0
    maximum_segment_descriptors: int = 0
    maximum_descriptor_list_bytes: int = 0
    maximum_segment_bytes: int = 0
    maximum_token_ranges: int = 0
    maximum_token_blocks: int = 0
    default_inactivity_timeout_s: int = 0
    maximum_inactivity_timeout_s: int = 0
    descriptors: dict[int, bytes] = field(default_factory=dict)
    """All descriptors of the page by their types, as bytes."""


def parse(body: bytes) -> ThirdPartyCopy:
    """Parse VPD 8Fh.

    Raises:
        MalformedAnswer: a descriptor runs past the end.
    """
    found: dict[int, bytes] = {}
    at = 0
    while at < len(body):
        first = at + 4
        end = first + int.from_bytes(body[at + 2 : first], "big")
        if first > len(body) or end > len(body):
            raise MalformedAnswer("a descriptor of VPD page 8Fh runs past its end")
        found.setdefault(int.from_bytes(body[at : at + 2], "big"), body[first:end])
        at = end

    def number(kind: int, offset: int, length: int) -> int:
        return int.from_bytes(found.get(kind, b"")[offset : offset + length].ljust(length, b"\0"), "big")

    listed = found.get(_SUPPORTED_DESCRIPTORS, b"\0")
    return ThirdPartyCopy(
        commands=_commands(found.get(_SUPPORTED_COMMANDS, b"")),
        descriptor_types=frozenset(listed[1 : 1 + listed[0]]) if listed else frozenset(),
        maximum_cscd_descriptors=number(_PARAMETER_DATA, 4, 2),
        maximum_segment_descriptors=number(_PARAMETER_DATA, 6, 2),
        maximum_descriptor_list_bytes=number(_PARAMETER_DATA, 8, 4),
        maximum_segment_bytes=number(_GENERAL, 8, 4),
        maximum_token_ranges=number(_ROD_LIMITS, 6, 2),
        maximum_inactivity_timeout_s=number(_ROD_LIMITS, 8, 4),
        default_inactivity_timeout_s=number(_ROD_LIMITS, 12, 4),
        maximum_token_blocks=number(_ROD_LIMITS, 16, 8),
        descriptors=found,
    )


def _commands(body: bytes) -> frozenset[tuple[int, int]]:
    """Take the list of commands apart: an operation code, a count, and so many service actions."""
    found: set[tuple[int, int]] = set()
    at, end = 1, min(len(body), 1 + body[0]) if body else 0
    while at + 2 <= end:
        code, count = body[at], body[at + 1]
        found.update((code, action) for action in body[at + 2 : min(at + 2 + count, end)])
        at += 2 + count
    return frozenset(found)
