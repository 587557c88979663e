"""Persistent reservations of one logical unit: what is registered and reserved, and how each service action changes it.

The state is a value, and an action is one, too: applied to a state it gives the next state, with the unit attention
conditions to establish and the I_T nexuses that were preempted. Who keeps the state, and where, is not known here: see
`reservation_store`. (SPC-4 5.13 and 6.16)
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Final, NamedTuple, Protocol

from csvd.errors import CsvdError
from csvd.scsi.sense import Asc, CheckCondition, FieldPointer, illegal_request, invalid_field_in_cdb

MAXIMUM_REGISTRATIONS: Final = 1024
"""Registrations of one logical unit; more end in INSUFFICIENT REGISTRATION RESOURCES."""

_GENERATION_MASK: Final = 0xFFFF_FFFF
SCOPE_AND_TYPE: Final = FieldPointer(2)
SERVICE_ACTION_KEY: Final = FieldPointer(8, in_cdb=False)
FLAGS: Final = FieldPointer(20, in_cdb=False)
TRANSPORT_IDS: Final = FieldPointer(24, in_cdb=False)


class ReservationConflict(CsvdError):
    """A command that must end in RESERVATION CONFLICT."""


class Registrant(NamedTuple):
    """An I_T nexus as reservations know it: by the names of its ports, so it is the same after any nexus loss.

    Args:
        initiator_port: SCSI initiator port name.
        target_port: SCSI target port name.
        relative_target_port: RELATIVE TARGET PORT IDENTIFIER.
    """

    initiator_port: str
    target_port: str
    relative_target_port: int

    def with_initiator(self, other: Registrant) -> Registrant:
        """The nexus of another's initiator port with this target port."""
        return self._replace(initiator_port=other.initiator_port)


@dataclass(frozen=True, slots=True)
class ReservationType:
    """The row of one type (SPC-4 6.15.3.4).

    Args:
        code, name: TYPE field and its name in the standard.
        exclusive_access: other nexuses may not read either.
        registrants: every registered nexus has access: registrants only and all registrants types.
        all_registrants: every registered nexus is a holder.
        mask: its bit in the PERSISTENT RESERVATION TYPE MASK field.
    """

    code: int
    name: str
    exclusive_access: bool
    registrants: bool
    all_registrants: bool
    mask: int


TYPES: Final = {
    row.code: row
    for row in (
        ReservationType(0x1, "Write Exclusive", False, False, False, 0x0200),
        ReservationType(0x3, "Exclusive Access", True, False, False, 0x0800),
        ReservationType(0x5, "Write Exclusive - Registrants Only", False, True, False, 0x2000),
        ReservationType(0x6, "Exclusive Access - Registrants Only", True, True, False, 0x4000),
        ReservationType(0x7, "Write Exclusive - All Registrants", False, True, True, 0x8000),
        ReservationType(0x8, "Exclusive Access - All Registrants", True, True, True, 0x0001),
    )
}


@dataclass(frozen=True, slots=True)
class State:
    """What is registered and reserved.

    Args:
        keys: the reservation key of each registered I_T nexus, in the order of their registration.
        type: the type of the persistent reservation; None where there is none.
        holder: who holds it; None where there is none, and for an all registrants type.
        generation: PRGENERATION.
        aptpl: the last APTPL bit: all this outlives a loss of power.
    """

    keys: Mapping[Registrant, int] = field(default_factory=lambda: MappingProxyType({}))
    type: ReservationType | None = None
    holder: Registrant | None = None
    generation: int = 0
    aptpl: bool = False

    def holds(self, who: Registrant) -> bool:
        """Whether this nexus is a persistent reservation holder (SPC-4 5.13.10)."""
        if self.type is None:
            return False
        return who in self.keys if self.type.all_registrants else who == self.holder

    def admits(self, who: Registrant) -> bool:
        """Whether the persistent reservation, if any, restricts no command of this nexus (SPC-4 table 65)."""
        kind = self.type
        return kind is None or who == self.holder or (kind.registrants and who in self.keys)


@dataclass(frozen=True, slots=True)
class Change:
    """What an action comes to.

    Args:
        state: the next state; the same object where nothing changes.
        attentions: unit attention conditions to establish.
        preempted: whose registrations PREEMPT removed.
    """

    state: State
    attentions: tuple[tuple[Registrant, Asc], ...] = ()
    preempted: tuple[Registrant, ...] = ()


class Action(Protocol):
    """A service action of PERSISTENT RESERVE OUT with its parameters."""

    @property
    def who(self) -> Registrant:
        """The nexus that sent it."""

    def apply(self, state: State) -> Change:
        """What it does to a state.

        Raises:
            ReservationConflict: it ends in that status.
            CheckCondition: it ends in that; in both cases nothing changes.
        """


@dataclass(frozen=True, slots=True)
class Register:
    """REGISTER, and REGISTER AND IGNORE EXISTING KEY (SPC-4 5.13.7).

    Args:
        who: the nexus that sent it.
        key: RESERVATION KEY.
        new_key: SERVICE ACTION RESERVATION KEY; zero unregisters.
        ignores_key: REGISTER AND IGNORE EXISTING KEY.
        other_ports: its initiator port at the other target ports, for ALL_TG_PT.
        specified: the nexuses that SPEC_I_PT names; None without that bit.
        aptpl: APTPL.
    """

    who: Registrant
    key: int
    new_key: int
    ignores_key: bool = False
    other_ports: tuple[Registrant, ...] = ()
    specified: tuple[Registrant, ...] | None = None
    aptpl: bool = False

    def apply(self, state: State) -> Change:
        """See `Action.apply`; the tables 67 and 68 of SPC-4."""
        registered = self.who in state.keys
        if not self.ignores_key:
            _check_key(state, self.who, self.key, unregistered_key=0)
            if any(state.keys.get(port, self.key) != self.key for port in self.other_ports):
                raise ReservationConflict("registered with another key at another target port")
        if registered and self.specified is not None:
            raise invalid_in_list(FLAGS)
        if not registered and not self.new_key:
            return Change(state)
        if any(nexus in state.keys for nexus in self.specified or ()):
            raise invalid_in_list(TRANSPORT_IDS)
        nexuses = (self.who, *self.other_ports, *(self.specified or ()))
        after = _next_generation(replace(state, aptpl=self.aptpl))
        if not self.new_key:
            return _unregister(after, nexuses, self.who)
        return Change(replace(after, keys=_with_keys(state, nexuses, self.new_key)))


@dataclass(frozen=True, slots=True)
class Reserve:
    """RESERVE (SPC-4 5.13.9)."""

    who: Registrant
    key: int
    type: ReservationType

    def apply(self, state: State) -> Change:
        """See `Action.apply`."""
        _check_key(state, self.who, self.key)
        if state.type is None:
            return Change(_reserved(state, self.who, self.type))
        if state.holds(self.who) and state.type is self.type:
            return Change(state)
        raise ReservationConflict("it is reserved")


@dataclass(frozen=True, slots=True)
class Release:
    """RELEASE (SPC-4 5.13.11.2.2).

    Args:
        type: None for a scope or type that no reservation has.
    """

    who: Registrant
    key: int
    type: ReservationType | None

    def apply(self, state: State) -> Change:
        """See `Action.apply`."""
        _check_key(state, self.who, self.key)
        if not state.holds(self.who):
            return Change(state)
        if state.type is not self.type:
            raise illegal_request(Asc.INVALID_RELEASE_OF_PERSISTENT_RESERVATION)
        return Change(replace(state, type=None, holder=None), _released(state, state.keys, self.who))


@dataclass(frozen=True, slots=True)
class Clear:
    """CLEAR (SPC-4 5.13.11.2.7)."""

    who: Registrant
    key: int

    def apply(self, state: State) -> Change:
        """See `Action.apply`."""
        _check_key(state, self.who, self.key)
        after = _next_generation(replace(state, keys=MappingProxyType({}), type=None, holder=None))
        return Change(after, _told(state.keys, Asc.RESERVATIONS_PREEMPTED, self.who))


@dataclass(frozen=True, slots=True)
class Preempt:
    """PREEMPT, and PREEMPT AND ABORT (SPC-4 5.13.11.2.4 to 5.13.11.2.6).

    Args:
        preempted_key: SERVICE ACTION RESERVATION KEY.
        type: of the new reservation, where one is made; None for a scope or type that no reservation has.
    """

    who: Registrant
    key: int
    preempted_key: int
    type: ReservationType | None

    def apply(self, state: State) -> Change:
        """See `Action.apply`; table 72 of SPC-4."""
        _check_key(state, self.who, self.key)
        kind, key = state.type, self.preempted_key
        if kind is not None and kind.all_registrants:
            return self._remove(state) if key else self._take_over(state, list(state.keys))
        if not key:
            raise invalid_in_list(SERVICE_ACTION_KEY)
        if state.holder is not None and state.keys[state.holder] == key:
            return self._take_over(state, _registered_with(state, key))
        return self._remove(state)

    def _take_over(self, state: State, lost: list[Registrant]) -> Change:
        """Replace the reservation, and remove registrations but the own."""
        if self.type is None:
            raise invalid_field_in_cdb(SCOPE_AND_TYPE)
        removed = tuple(nexus for nexus in lost if nexus != self.who)
        kept = MappingProxyType({nexus: key for nexus, key in state.keys.items() if nexus not in set(removed)})
        told = _told(removed, Asc.REGISTRATIONS_PREEMPTED, self.who)
        if state.type is not self.type:
            told += _told(kept, Asc.RESERVATIONS_RELEASED, self.who)
        after = _reserved(_next_generation(replace(state, keys=kept)), self.who, self.type)
        return Change(after, told, removed)

    def _remove(self, state: State) -> Change:
        """Remove registrations, the own too where it has that key; no reservation of one nexus is affected."""
        removed = _registered_with(state, self.preempted_key)
        if not removed:
            raise ReservationConflict("nobody is registered with this key")
        change = _unregister(_next_generation(state), removed, self.who)
        told = _told(removed, Asc.REGISTRATIONS_PREEMPTED, self.who)
        return replace(change, attentions=told, preempted=tuple(removed))


@dataclass(frozen=True, slots=True)
class Move:
    """REGISTER AND MOVE (SPC-4 5.13.8).

    Args:
        new_key: the key that the new holder is registered with.
        to: the new holder.
        unregisters: UNREG: the sender is registered no more.
    """

    who: Registrant
    key: int
    new_key: int
    to: Registrant
    unregisters: bool
    aptpl: bool

    def apply(self, state: State) -> Change:
        """See `Action.apply`; table 70 of SPC-4."""
        _check_key(state, self.who, self.key)
        if state.type is None:
            # The standard names the CDB: it is the service action that does not fit.
            raise invalid_field_in_cdb(FieldPointer(1, bit=4))
        if state.type.all_registrants or state.holder != self.who:
            raise ReservationConflict("only the one holder of a reservation can move it")
        if not self.new_key:
            raise invalid_in_list(SERVICE_ACTION_KEY)
        if self.to.initiator_port == self.who.initiator_port:
            raise invalid_in_list(TRANSPORT_IDS)
        keys = _with_keys(state, (self.to,), self.new_key)
        moved = replace(state, keys=keys, holder=self.to, aptpl=self.aptpl)
        after = _next_generation(moved)
        return _unregister(after, (self.who,), self.who) if self.unregisters else Change(after)


def invalid_in_list(field: FieldPointer) -> CheckCondition:
    """ILLEGAL REQUEST, INVALID FIELD IN PARAMETER LIST."""
    return illegal_request(Asc.INVALID_FIELD_IN_PARAMETER_LIST, field)


def _check_key(state: State, who: Registrant, key: int, *, unregistered_key: int | None = None) -> None:
    """Raises:
    ReservationConflict: it is not the key of this nexus.
    """
    if state.keys.get(who, unregistered_key) != key:
        raise ReservationConflict("not registered with this key")


def _registered_with(state: State, key: int) -> list[Registrant]:
    return [nexus for nexus, its_key in state.keys.items() if its_key == key]


def _with_keys(state: State, nexuses: Iterable[Registrant], key: int) -> Mapping[Registrant, int]:
    keys = {**state.keys, **dict.fromkeys(nexuses, key)}
    if len(keys) > MAXIMUM_REGISTRATIONS:
        raise illegal_request(Asc.INSUFFICIENT_REGISTRATION_RESOURCES)
    return MappingProxyType(keys)


def _reserved(state: State, who: Registrant, kind: ReservationType) -> State:
    return replace(state, type=kind, holder=None if kind.all_registrants else who)


def _next_generation(state: State) -> State:
    return replace(state, generation=state.generation + 1 & _GENERATION_MASK)


def _told(nexuses: Iterable[Registrant], asc: Asc, by: Registrant) -> tuple[tuple[Registrant, Asc], ...]:
    return tuple((nexus, asc) for nexus in nexuses if nexus != by)


def _released(state: State, nexuses: Iterable[Registrant], by: Registrant) -> tuple[tuple[Registrant, Asc], ...]:
    """Whom the release of this reservation is told: those whose access came from it."""
    if state.type is None or not state.type.registrants:
        return ()
    return _told(nexuses, Asc.RESERVATIONS_RELEASED, by)


def _unregister(state: State, nexuses: Iterable[Registrant], by: Registrant) -> Change:
    """Remove registrations; a reservation goes with its last holder (SPC-4 5.13.11.2.3)."""
    removed = set(nexuses)
    keys = MappingProxyType({nexus: key for nexus, key in state.keys.items() if nexus not in removed})
    after = replace(state, keys=keys)
    if state.type is None:
        return Change(after)
    if not keys or state.holder in removed:
        return Change(replace(after, type=None, holder=None), _released(state, keys, by))
    return Change(after)
