"""The keys of operational negotiation: one row a key (RFC 7143 section 13).

A row says by which rule two values become one. What the outcome is worth to a connection stands in
:class:`SessionParameters`, by the same names.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, Final

from csvd.iscsi.codes import MAX_DATA_SEGMENT_BYTES


class Rule(Enum):
    """How two values become one (RFC 7143 section 6.2)."""

    MINIMUM = "numerical, the smaller"
    MAXIMUM = "numerical, the larger"
    AND = "boolean AND"
    OR = "boolean OR"
    LIST = "list, the first that both have"
    DECLARE = "declared, no answer"
    OBSOLETE = "rejected (RFC 7143 section 13.25)"


class Use(Enum):
    """When a key may be negotiated (RFC 7143 section 13)."""

    INITIALIZE = "IO: in the login of any connection, for once"
    LEADING = "LO: in the login of the first connection of a session"
    FULL_FEATURE = "FFPO: in full-feature phase"
    ALWAYS = "ALL: in login and in full-feature phase"


@dataclass(frozen=True, slots=True)
class Key:
    """One row: the key, its rule, its bounds and the attribute of :class:`SessionParameters` that holds the outcome."""

    name: str
    rule: Rule
    use: Use = Use.LEADING
    attribute: str = ""
    low: int = 0
    high: int = 0
    values: tuple[str, ...] = ()
    normal_only: bool = False
    """Irrelevant in a discovery session."""
    from_target: bool = False
    """Declared by targets alone."""


@dataclass(frozen=True, slots=True)
class SessionParameters:
    """The outcome of negotiation. The defaults are those of RFC 7143 section 13: they hold for keys nobody offered."""

    header_digest: str = "None"
    data_digest: str = "None"
    max_connections: int = 1
    initial_r2t: bool = True
    immediate_data: bool = True
    max_recv_data_segment_length: int = 8192
    """What the peer declared that it takes in one PDU."""
    max_burst_length: int = 262144
    first_burst_length: int = 65536
    default_time2wait: int = 2
    default_time2retain: int = 20
    max_outstanding_r2t: int = 1
    data_pdu_in_order: bool = True
    data_sequence_in_order: bool = True
    error_recovery_level: int = 0
    task_reporting: str = "RFC3720"
    iscsi_protocol_level: int = 1


_LENGTHS: Final = (512, MAX_DATA_SEGMENT_BYTES)

KEYS: Final[dict[str, Key]] = {
    key.name: key
    for key in (
        # RFC 7143 section 12: settled before these rules come into play (csvd.iscsi.login).
        Key("AuthMethod", Rule.LIST, Use.INITIALIZE),
        # Section 13.
        Key("HeaderDigest", Rule.LIST, Use.INITIALIZE, "header_digest", values=("CRC32C", "None")),
        Key("DataDigest", Rule.LIST, Use.INITIALIZE, "data_digest", values=("CRC32C", "None")),
        Key("MaxConnections", Rule.MINIMUM, Use.LEADING, "max_connections", 1, 65535, normal_only=True),
        Key("SendTargets", Rule.DECLARE, Use.FULL_FEATURE),
        Key("TargetName", Rule.DECLARE, Use.INITIALIZE),
        Key("InitiatorName", Rule.DECLARE, Use.INITIALIZE),
        Key("TargetAlias", Rule.DECLARE, Use.ALWAYS, from_target=True),
        Key("InitiatorAlias", Rule.DECLARE, Use.ALWAYS),
        Key("TargetAddress", Rule.DECLARE, Use.ALWAYS, from_target=True),
        Key("TargetPortalGroupTag", Rule.DECLARE, Use.INITIALIZE, from_target=True),
        Key("InitialR2T", Rule.OR, Use.LEADING, "initial_r2t", normal_only=True),
        Key("ImmediateData", Rule.AND, Use.LEADING, "immediate_data", normal_only=True),
        Key("MaxRecvDataSegmentLength", Rule.DECLARE, Use.ALWAYS, "max_recv_data_segment_length", *_LENGTHS),
        Key("MaxBurstLength", Rule.MINIMUM, Use.LEADING, "max_burst_length", *_LENGTHS, normal_only=True),
        Key("FirstBurstLength", Rule.MINIMUM, Use.LEADING, "first_burst_length", *_LENGTHS, normal_only=True),
        Key("DefaultTime2Wait", Rule.MAXIMUM, Use.LEADING, "default_time2wait", 0, 3600),
        Key("DefaultTime2Retain", Rule.MINIMUM, Use.LEADING, "default_time2retain", 0, 3600),
        Key("MaxOutstandingR2T", Rule.MINIMUM, Use.LEADING, "max_outstanding_r2t", 1, 65535, normal_only=True),
        Key("DataPDUInOrder", Rule.OR, Use.LEADING, "data_pdu_in_order", normal_only=True),
        Key("DataSequenceInOrder", Rule.OR, Use.LEADING, "data_sequence_in_order", normal_only=True),
        Key("ErrorRecoveryLevel", Rule.MINIMUM, Use.LEADING, "error_recovery_level", 0, 2),
        Key("SessionType", Rule.DECLARE, Use.LEADING),
        Key("TaskReporting", Rule.LIST, Use.LEADING, "task_reporting", values=("RFC3720",), normal_only=True),
        # RFC 7144 section 7.1.1 gives level 2 its meaning.
        Key("iSCSIProtocolLevel", Rule.MINIMUM, Use.LEADING, "iscsi_protocol_level", 0, 31, normal_only=True),
        Key("X-NodeArchitecture", Rule.DECLARE, Use.LEADING),
        # Obsolete, but open-iscsi and others still offer the first two: No is what all take.
        Key("IFMarker", Rule.AND, Use.INITIALIZE),
        Key("OFMarker", Rule.AND, Use.INITIALIZE),
        Key("IFMarkInt", Rule.OBSOLETE, Use.INITIALIZE),
        Key("OFMarkInt", Rule.OBSOLETE, Use.INITIALIZE),
    )
}

MAX_SIMPLE_VALUE_BYTES: Final = 255
"""RFC 7143 section 6.1: the longest value of a key whose section says nothing else."""

OFFER: Final = SessionParameters(
    initial_r2t=False,
    immediate_data=True,
    max_recv_data_segment_length=262144,
    max_burst_length=1048576,
    first_burst_length=262144,
    default_time2wait=0,
    default_time2retain=20,
    iscsi_protocol_level=2,
)
"""What this side wants. Bursts follow what was measured: open-iscsi's own FirstBurstLength is 262144, and a longer
MaxBurstLength than 1 MiB brought nothing."""


_OF_A_CONNECTION: Final[dict[str, Any]] = {
    attribute: getattr(SessionParameters(), attribute)
    for attribute in ("header_digest", "data_digest", "max_recv_data_segment_length")
}


class BadValue(ValueError):
    """A value that breaks the rule of its key: it is answered by ``Reject`` (RFC 7143 section 6.2)."""


_NUMBER: Final = re.compile(r"(?:0[xX][0-9a-fA-F]{1,16}|[0-9]{1,20})\Z")


def parse_number(value: str) -> int:
    """Parse a numerical value, decimal or hex (RFC 7143 section 6.1).

    Raises:
        BadValue: it is not one of 0 to 2**64-1.
    """
    if not _NUMBER.match(value):
        raise BadValue(value)
    number = int(value, 16 if value[1:2] in ("x", "X") else 10)
    if number >= 2**64:
        raise BadValue(value)
    return number


def _boolean(value: str) -> bool:
    if value not in ("Yes", "No"):
        raise BadValue(value)
    return value == "Yes"


def agree(key: Key, ours: Any, theirs: str) -> Any:
    """Apply a rule to our value and the peer's text.

    Raises:
        BadValue: the peer's value is malformed, out of bounds, or a list without anything that we have.
    """
    if len(theirs) > MAX_SIMPLE_VALUE_BYTES:
        raise BadValue(theirs[:40])
    match key.rule:
        case Rule.LIST:
            offered = theirs.split(",")
            for value in offered[:16]:
                if value in key.values:
                    return value
            raise BadValue(theirs)
        case Rule.AND | Rule.OR:
            yes = _boolean(theirs)
            return (bool(ours) and yes) if key.rule is Rule.AND else (bool(ours) or yes)
        case _:
            number = parse_number(theirs)
            if not key.low <= number <= key.high:
                raise BadValue(theirs)
            if key.rule is Rule.DECLARE:
                return number
            return min(ours, number) if key.rule is Rule.MINIMUM else max(ours, number)


def text_of(value: object) -> str:
    """Give a value as text: Yes and No for booleans."""
    if isinstance(value, bool):
        return "Yes" if value else "No"
    return str(value)


class Negotiation:
    """The responder's side of operational negotiation, over as many texts as the peer takes (RFC 7143 section 6.2).

    Args:
        offer: what this side wants.
        discovery: of a discovery session.
        session: what holds in the session that this connection joins; None for the first connection of a session.
    """

    def __init__(
        self, offer: SessionParameters = OFFER, *, discovery: bool = False, session: SessionParameters | None = None
    ) -> None:
        self._offer = offer
        self._discovery = discovery
        self._leading = session is None
        self._seen: set[str] = set()
        # What each connection negotiates for itself begins at its default.
        self.outcome = SessionParameters() if session is None else replace(session, **_OF_A_CONNECTION)

    def answer(self, name: str, value: str) -> str | None:
        """Take one pair of the peer; give the value to answer with, or None where none is due.

        Raises:
            BadValue: the key was negotiated before (RFC 7143 section 6.3 allows it once).
        """
        key = KEYS.get(name)
        if key is None:
            return "NotUnderstood"
        if name in self._seen:
            raise BadValue(name)
        self._seen.add(name)
        if value in ("Irrelevant", "Reject", "NotUnderstood"):
            return None
        if self._discovery and key.normal_only:
            return "Irrelevant"
        if key.use is Use.FULL_FEATURE or key.from_target or key.rule is Rule.OBSOLETE:
            return "Reject"
        if key.use is Use.LEADING and not self._leading:
            return "Reject"
        if not key.attribute and key.rule is Rule.DECLARE:
            return None
        return self._settle(key, value)

    def _settle(self, key: Key, value: str) -> str | None:
        ours = getattr(self._offer, key.attribute) if key.attribute else False
        try:
            agreed = agree(key, ours, value)
        except BadValue:
            return "Reject"
        if key.attribute:
            self.outcome = replace(self.outcome, **{key.attribute: agreed})
        return None if key.rule is Rule.DECLARE else text_of(agreed)

    def finish(self) -> SessionParameters:
        """Give the outcome, with FirstBurstLength held to MaxBurstLength (RFC 7143 section 13.14)."""
        outcome = self.outcome
        if outcome.first_burst_length > outcome.max_burst_length:
            outcome = replace(outcome, first_burst_length=outcome.max_burst_length)
        return outcome
