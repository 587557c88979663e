"""The proposer's side of operational negotiation (RFC 7143 sections 6.2 and 13)."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Final

from csvd.iscsi.keys import (
    KEYS,
    BadValue,
    Key,
    Negotiation,
    Rule,
    SessionParameters,
    Use,
    agree,
    parse_number,
    text_of,
)
from initiator.errors import ProtocolViolation

DEFAULTS: Final = SessionParameters()

PROPOSED: Final = (
    "HeaderDigest",
    "DataDigest",
    "MaxRecvDataSegmentLength",
    "DefaultTime2Wait",
    "DefaultTime2Retain",
    "ErrorRecoveryLevel",
    "InitialR2T",
    "ImmediateData",
    "MaxBurstLength",
    "FirstBurstLength",
    "MaxOutstandingR2T",
    "MaxConnections",
    "DataPDUInOrder",
    "DataSequenceInOrder",
)
"""Keys that we propose, in this order. All are in RFC 3720 too, so no target need fail to understand them."""

_NO_VALUE: Final = ("Irrelevant", "Reject", "NotUnderstood")


class Proposal:
    """What we propose, what the target answers, and what holds in the end.

    Args:
        offer: what this side wants.
        discovery: of a discovery session.
        session: what holds in the session that the connection joins: only what is a connection's own is negotiated.
    """

    def __init__(self, offer: SessionParameters, *, discovery: bool, session: SessionParameters | None = None) -> None:
        self._offer = offer
        self._open: dict[str, Key] = {}
        for name in PROPOSED:
            key = KEYS[name]
            if not (discovery and key.normal_only) and not (session and key.use is Use.LEADING):
                self._open[name] = key
        self._proposed = frozenset(self._open)
        self._agreed: dict[str, Any] = {}
        self._responder = Negotiation(offer, discovery=discovery, session=session)

    def pairs(self) -> list[tuple[str, str]]:
        """Give the text of the proposal."""
        return [(name, text_of(getattr(self._offer, key.attribute))) for name, key in self._open.items()]

    def take(self, name: str, value: str) -> str | None:
        """Take one pair of the target: an answer to what we proposed, or what it proposes or declares itself. Give our
        answer where one is due.

        Raises:
            ProtocolViolation: the answer is none that the rule of the key allows, or the key came twice.
        """
        key = KEYS.get(name)
        if key is None or name not in self._proposed or key.rule is Rule.DECLARE:
            return self._answer(name, value)
        if self._open.pop(name, None) is None:
            raise ProtocolViolation(f"the target answered the key {name} twice")
        if value in _NO_VALUE:
            if key.rule is Rule.LIST and getattr(self._offer, key.attribute) != "None":
                raise ProtocolViolation(f"the target answers {value} to {name}")
            return None
        self._agreed[key.attribute] = self._checked(key, value)
        return None

    def _answer(self, name: str, value: str) -> str | None:
        try:
            answer = self._responder.answer(name, value)
        except BadValue as error:
            raise ProtocolViolation(f"the target sent the key {name} twice") from error
        key = KEYS.get(name)
        if key is not None and key.rule is Rule.DECLARE and answer == "Reject":
            raise ProtocolViolation(f"the target declares {name}={value[:40]!r}")
        return answer

    def _checked(self, key: Key, value: str) -> Any:
        """Check an answer: it must be an outcome that our proposal and some value of the target can have."""
        ours = getattr(self._offer, key.attribute)
        try:
            if key.rule is Rule.LIST:
                agreed: Any = value if value in text_of(ours).split(",") else None
            elif key.rule in (Rule.MINIMUM, Rule.MAXIMUM):
                number = parse_number(value)
                agreed = number if key.low <= number <= key.high and agree(key, ours, value) == number else None
            else:
                agreed = value == "Yes" if agree(key, ours, value) == (value == "Yes") else None
        except BadValue:
            agreed = None
        if agreed is None:
            raise ProtocolViolation(f"the target answers {key.name}={value[:40]!r} to {key.name}={text_of(ours)}")
        return agreed

    def outcome(self) -> SessionParameters:
        """Give what holds. Where a target left a key unanswered, or answered it with no value, it is what is safe
        whatever the target meant: the smaller, and no data that it has not asked for.

        Raises:
            ProtocolViolation: the target leaves a digest unanswered that is demanded.
        """
        silent: dict[str, Any] = {}
        for name in self._proposed:
            key = KEYS[name]
            if key.attribute in self._agreed or key.rule is Rule.DECLARE:
                continue
            ours, default = getattr(self._offer, key.attribute), getattr(DEFAULTS, key.attribute)
            match key.rule:
                case Rule.MINIMUM:
                    silent[key.attribute] = min(ours, default)
                case Rule.MAXIMUM:
                    silent[key.attribute] = max(ours, default)
                case Rule.AND:
                    silent[key.attribute] = False
                case Rule.OR:
                    silent[key.attribute] = True
                case _ if name in self._open and ours != "None":
                    raise ProtocolViolation(f"the target answers nothing to {name}={ours}")
                case _:
                    silent[key.attribute] = default
        outcome = replace(self._responder.outcome, **silent, **self._agreed)
        if outcome.first_burst_length > outcome.max_burst_length:
            outcome = replace(outcome, first_burst_length=outcome.max_burst_length)
        return outcome
