"""The keys of operational negotiation: one row a key (RFC 7143 section 13).

A row says by which rule two values become one. What the outcome is worth to a connection stands in
:class:`SessionParameters`, by the same names.
"""

from __future__ import annotations

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


@dataclass(frozen=True, slots=True)
class Key:
    """One row: the key, its rule, its bounds and the attribute of :class:`SessionParameters` that holds the outcome."""

    name: str
    rule: Rule
    attribute: str = ""
    low: int = 0
    high: int = 0
    values: tuple[str, ...] = ()
    normal_only: bool = False
    """Irrelevant in a discovery session."""


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
    iscsi_protocol_level: int = 1


KEYS: Final[dict[str, Key]] = {
    key.name: key
    for key in (
        Key("HeaderDigest", Rule.LIST, "header_digest", values=("CRC32C", "None")),
        Key("DataDigest", Rule.LIST, "data_digest", values=("CRC32C", "None")),
        Key("MaxConnections", Rule.MINIMUM, "max_connections", 1, 65535, normal_only=True),
        Key("InitialR2T", Rule.OR, "initial_r2t", normal_only=True),
        Key("ImmediateData", Rule.AND, "immediate_data", normal_only=True),
        Key(
            "MaxRecvDataSegmentLength",
            Rule.DECLARE,
            "max_recv_data_segment_length",
            512,
            MAX_DATA_SEGMENT_BYTES,
        ),
        Key("MaxBurstLength", Rule.MINIMUM, "max_burst_length", 512, MAX_DATA_SEGMENT_BYTES, normal_only=True),
        Key("FirstBurstLength", Rule.MINIMUM, "first_burst_length", 512, MAX_DATA_SEGMENT_BYTES, normal_only=True),
        Key("DefaultTime2Wait", Rule.MAXIMUM, "default_time2wait", 0, 3600),
        Key("DefaultTime2Retain", Rule.MINIMUM, "default_time2retain", 0, 3600),
        Key("MaxOutstandingR2T", Rule.MINIMUM, "max_outstanding_r2t", 1, 65535, normal_only=True),
        Key("DataPDUInOrder", Rule.OR, "data_pdu_in_order", normal_only=True),
        Key("DataSequenceInOrder", Rule.OR, "data_sequence_in_order", normal_only=True),
        Key("ErrorRecoveryLevel", Rule.MINIMUM, "error_recovery_level", 0, 2),
        Key("iSCSIProtocolLevel", Rule.MINIMUM, "iscsi_protocol_level", 0, 31),
        Key("TaskReporting", Rule.LIST, values=("RFC3720",), normal_only=True),
        # Obsolete since RFC 7143 section 13.25, but open-iscsi and others still offer them: No is what all take.
        Key("IFMarker", Rule.AND),
        Key("OFMarker", Rule.AND),
    )
}

OFFER: Final = SessionParameters(
    initial_r2t=False,
    immediate_data=True,
    max_recv_data_segment_length=262144,
    max_burst_length=1048576,
    first_burst_length=262144,
    max_connections=1,
    default_time2retain=20,
)
"""What this side wants. Bursts follow what was measured: open-iscsi's own FirstBurstLength is 262144, and a longer
MaxBurstLength than 1 MiB brought nothing."""


class BadValue(ValueError):
    """A value that breaks the rule of its key: it is answered by ``Reject`` (RFC 7143 section 6.2)."""


def parse_number(value: str) -> int:
    """Parse a numerical value, decimal or hex (RFC 7143 section 6.1).

    Raises:
        BadValue: it is not one of 0 to 2**64-1.
    """
    if not value.isascii() or not 0 < len(value) <= 20:
        raise BadValue(value)
    try:
        number = int(value, 16) if value[:2].lower() == "0x" else int(value, 10)
    except ValueError as error:
        raise BadValue(value) from error
    if number < 0 or "_" in value or "+" in value or " " in value:
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
    """The responder's side of operational negotiation, over as many texts as the peer takes (RFC 7143 section 6.2)."""

    def __init__(self, offer: SessionParameters = OFFER, *, discovery: bool = False) -> None:
        self._offer = offer
        self._discovery = discovery
        self._seen: set[str] = set()
        self.outcome = SessionParameters()

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
        if self._discovery and key.normal_only:
            return "Irrelevant"
        if value in ("Irrelevant", "Reject", "NotUnderstood"):
            return None
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
