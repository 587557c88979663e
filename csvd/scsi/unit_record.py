"""What holds for a logical unit that several nodes export as one: the value that its coordinator keeps and changes.

Reservations, mode parameters and what else commands have set are the logical unit's, not a node's. The record is a
value, and each change makes the next one, with an `Effect`: what all nodes have to do about it beside having the new
record. A node that has a record of an older version has missed the effects in between. (SPC-4 5.13, 7.5; SAM-5 6)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from csvd.scsi.reservation_codes import (
    Json,
    SenselessCode,
    decode_asc,
    decode_nexuses,
    decode_registrant,
    decode_shared_state,
    encode_asc,
    encode_nexuses,
    encode_shared_state,
)
from csvd.scsi.reservation_store import Attentions, legacy_is_void
from csvd.scsi.reservations import Action, Change, Registrant, ReservationConflict, State


def _nothing() -> Mapping[str, Any]:
    return MappingProxyType({})


RESET: Final = "reset"
"""LOGICAL UNIT RESET, or TARGET RESET: all tasks are aborted, on all nodes."""
CLEAR: Final = "clear"
"""CLEAR TASK SET: all tasks are aborted, on all nodes."""
MODE: Final = "mode"
"""MODE SELECT has changed current values."""
POWER_ON: Final = "power on"
RESERVATIONS: Final = "reservations"
KEPT: Final = "kept"
"""Something else was kept, such as identifying information."""


@dataclass(frozen=True, slots=True)
class Effect:
    """What nodes do about a change.

    Args:
        kind: RESERVATIONS, MODE, RESET, CLEAR, KEPT or POWER_ON.
        version: of the record that the change made.
        attentions: unit attention conditions to establish.
        preempted: other nexuses whose registrations were preempted.
        aborts: their tasks are aborted (PREEMPT AND ABORT).
        by: the nexus that is not told, for it made the change.
    """

    kind: str
    version: int
    attentions: Attentions = ()
    preempted: tuple[Registrant, ...] = ()
    aborts: bool = False
    by: Registrant | None = None

    def to_json(self) -> Json:
        """As JSON."""
        return {
            "kind": self.kind,
            "version": self.version,
            "attentions": [[*who, *encode_asc(asc)] for who, asc in self.attentions],
            "preempted": encode_nexuses(self.preempted),
            "aborts": self.aborts,
            "by": None if self.by is None else list(self.by),
        }

    @classmethod
    def of(cls, code: Any) -> Effect:
        """Raises:
        SenselessCode: `to_json` did not write it.
        """
        try:
            return cls(
                str(code["kind"]),
                int(code["version"]),
                tuple((decode_registrant(each[:3]), decode_asc(each[3:])) for each in code["attentions"]),
                decode_nexuses(code["preempted"]),
                bool(code["aborts"]),
                None if code["by"] is None else decode_registrant(code["by"]),
            )
        except (LookupError, TypeError, ValueError) as error:
            raise SenselessCode("is no effect", why=repr(error)) from error


@dataclass(frozen=True, slots=True)
class UnitRecord:
    """What holds for a logical unit.

    Args:
        power: counts when it was switched on: when a first node began to export it while none did.
        version: counts its changes.
        resets: counts its resets.
        reservations: registrations and persistent reservation.
        legacy_holder: who holds the reservation that RESERVE(6) made.
        legacy_node: the node of that nexus.
        current, saved: mode parameters that were ever changed: hexadecimal digits by page, as `ModeParameters` keeps
            them.
        kept: what else was kept, by name.
    """

    power: int = 0
    version: int = 0
    resets: int = 0
    reservations: State = field(default_factory=State)
    legacy_holder: Registrant | None = None
    legacy_node: str = ""
    current: Mapping[str, str] = field(default_factory=_nothing)
    saved: Mapping[str, str] = field(default_factory=_nothing)
    kept: Mapping[str, Any] = field(default_factory=_nothing)

    def switched_on(self) -> tuple[UnitRecord, Effect]:
        """It is exported again, after no node did: what APTPL does not keep is gone, and so is what was not saved."""
        kept = self.reservations
        reservations = replace(kept, generation=0) if kept.aptpl else State()
        record = replace(
            self._next(),
            power=self.power + 1,
            reservations=reservations,
            legacy_holder=None,
            legacy_node="",
            current=self.saved,
        )
        return record, Effect(POWER_ON, record.version)

    def acted(self, action: Action, *, aborts: bool) -> tuple[UnitRecord, Effect, Change]:
        """After a service action of PERSISTENT RESERVE OUT; the same record where nothing changes.

        Raises:
            ReservationConflict, CheckCondition: see `Action.apply`.
        """
        if self.legacy_holder is not None:
            raise ReservationConflict("it is reserved by RESERVE")
        change = action.apply(self.reservations)
        record = self if change.state is self.reservations else replace(self._next(), reservations=change.state)
        # A nexus that preempts its own key goes on: its command is not among those that are aborted.
        preempted = tuple(who for who in change.preempted if who != action.who)
        effect = Effect(RESERVATIONS, record.version, change.attentions, preempted, aborts)
        return record, effect, change

    def reserved(self, who: Registrant, node: str) -> tuple[UnitRecord, Effect]:
        """After RESERVE(6) of a nexus at a node.

        Raises:
            ReservationConflict: another nexus has it, or reservations are persistent.
        """
        if legacy_is_void(self.reservations, who) or self.legacy_holder == who:
            return self, Effect(RESERVATIONS, self.version)
        if self.legacy_holder is not None:
            raise ReservationConflict("another nexus has reserved it")
        record = replace(self._next(), legacy_holder=who, legacy_node=node)
        return record, Effect(RESERVATIONS, record.version)

    def released(self, who: Registrant) -> tuple[UnitRecord, Effect]:
        """After RELEASE(6).

        Raises:
            ReservationConflict: reservations are persistent.
        """
        if legacy_is_void(self.reservations, who):
            return self, Effect(RESERVATIONS, self.version)
        return self.legacy_ended(who)

    def legacy_ended(self, who: Registrant | None) -> tuple[UnitRecord, Effect]:
        """After the loss of a nexus; None for whoever has reserved it."""
        if self.legacy_holder is None or who not in (None, self.legacy_holder):
            return self, Effect(RESERVATIONS, self.version)
        record = replace(self._next(), legacy_holder=None, legacy_node="")
        return record, Effect(RESERVATIONS, record.version)

    def selected(self, values: Mapping[str, str], *, saves: bool, by: Registrant) -> tuple[UnitRecord, Effect]:
        """After MODE SELECT.

        Args:
            values: new current values of pages.
            saves: SP: all current values are saved.
        """
        current = {**self.current, **values}
        record = replace(self._next(), current=current, saved=current if saves else self.saved)
        return record, Effect(MODE, record.version, by=by)

    def was_reset(self) -> tuple[UnitRecord, Effect]:
        """After LOGICAL UNIT RESET (SAM-5 6.3.3, SPC-4 7.5.1, SPC-2 5.5)."""
        record = replace(self._next(), resets=self.resets + 1, legacy_holder=None, legacy_node="", current=self.saved)
        return record, Effect(RESET, record.version)

    def cleared(self, by: Registrant) -> tuple[UnitRecord, Effect]:
        """After CLEAR TASK SET."""
        record = self._next()
        return record, Effect(CLEAR, record.version, by=by)

    def keeping(self, name: str, value: Any, by: Registrant | None) -> tuple[UnitRecord, Effect]:
        """After something was kept, or with None forgotten."""
        kept = {key: old for key, old in self.kept.items() if key != name}
        if value is not None:
            kept[name] = value
        record = replace(self._next(), kept=kept)
        return record, Effect(KEPT, record.version, by=by)

    def _next(self) -> UnitRecord:
        return replace(self, version=self.version + 1)

    def to_json(self) -> Json:
        """As JSON."""
        holder = self.legacy_holder
        return {
            "power": self.power,
            "version": self.version,
            "resets": self.resets,
            "reservations": encode_shared_state(self.reservations),
            "legacy": None if holder is None else [*holder, self.legacy_node],
            "current": dict(self.current),
            "saved": dict(self.saved),
            "kept": dict(self.kept),
        }

    @classmethod
    def of(cls, code: Any) -> UnitRecord:
        """Raises:
        SenselessCode: `to_json` did not write it.
        """
        try:
            legacy = code["legacy"]
            return cls(
                int(code["power"]),
                int(code["version"]),
                int(code["resets"]),
                decode_shared_state(code["reservations"]),
                None if legacy is None else decode_registrant(legacy[:3]),
                "" if legacy is None else str(legacy[3]),
                dict(code["current"]),
                dict(code["saved"]),
                dict(code["kept"]),
            )
        except (LookupError, TypeError, ValueError) as error:
            raise SenselessCode("is no record of a logical unit", why=repr(error)) from error
