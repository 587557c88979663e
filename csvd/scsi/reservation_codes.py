"""Reservations on their way between nodes, and in what the cluster keeps: each value as JSON, and back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from types import MappingProxyType
from typing import Any, Final, TypeAlias

from csvd.errors import CsvdError
from csvd.scsi.reservations import (
    TYPES,
    Action,
    Clear,
    Move,
    Preempt,
    Register,
    Registrant,
    Release,
    ReservationType,
    Reserve,
    State,
)
from csvd.scsi.sense import AdditionalSense, Asc, CheckCondition, FieldPointer, SenseKey

Json: TypeAlias = dict[str, Any]


class SenselessCode(CsvdError):
    """Another node sent, or the cluster keeps, what none of the functions here writes."""


def decode_registrant(code: Any) -> Registrant:
    """Raises:
    SenselessCode: it is none.
    """
    try:
        initiator, target, port = code
        return Registrant(str(initiator), str(target), int(port))
    except (TypeError, ValueError) as error:
        raise SenselessCode("is no I_T nexus", why=repr(error)) from error


def encode_nexuses(nexuses: Iterable[Registrant] | None) -> list[Any] | None:
    """Several; None stays None."""
    return None if nexuses is None else [list(who) for who in nexuses]


def decode_nexuses(code: Any) -> tuple[Registrant, ...]:
    """Raises:
    SenselessCode: they are none.
    """
    if not isinstance(code, list):
        raise SenselessCode("are no I_T nexuses")
    return tuple(decode_registrant(each) for each in code)


def encode_state(state: State) -> Json:
    """Registrations and reservation: what is kept over a restart; PRGENERATION is not (SPC-4 6.15.2)."""
    nexuses = list(state.keys)
    return {
        "registrations": [[*nexus, f"{key:016x}"] for nexus, key in state.keys.items()],
        "type": _encode_type(state.type),
        "holder": None if state.holder is None else nexuses.index(state.holder),
    }


def decode_state(code: Any) -> State:
    """What was kept, which is with APTPL.

    Raises:
        SenselessCode: `encode_state` did not write it.
    """
    try:
        keys = {decode_registrant(who): int(key, 16) for *who, key in code["registrations"]}
        kind = _decode_type(code["type"])
        holder = None if code["holder"] is None else list(keys)[code["holder"]]
    except (LookupError, TypeError, ValueError) as error:
        raise SenselessCode("are no reservations", why=repr(error)) from error
    if (holder is not None) != (kind is not None and not kind.all_registrants) or (kind is not None and not keys):
        raise SenselessCode("are no reservations", why="a reservation has one holder, or all that are registered")
    return State(MappingProxyType(keys), kind, holder, aptpl=True)


def encode_shared_state(state: State) -> Json:
    """Registrations and reservation with PRGENERATION and APTPL, which other nodes must know."""
    return {**encode_state(state), "generation": state.generation, "aptpl": state.aptpl}


def decode_shared_state(code: Any) -> State:
    """Raises:
    SenselessCode: `encode_shared_state` did not write it.
    """
    try:
        return replace(decode_state(code), generation=int(code["generation"]), aptpl=bool(code["aptpl"]))
    except (LookupError, TypeError, ValueError) as error:
        raise SenselessCode("are no reservations", why=repr(error)) from error


def _encode_type(kind: ReservationType | None) -> int | None:
    return None if kind is None else kind.code


def _decode_type(code: Any) -> ReservationType | None:
    return None if code is None else TYPES[code]


def _known_type(code: Any) -> ReservationType:
    return TYPES[code]


_REGISTER: Final = "register"


def encode_action(action: Action) -> Json:
    """A service action of PERSISTENT RESERVE OUT with its parameters."""
    match action:
        case Register():
            return {
                "action": _REGISTER,
                "who": list(action.who),
                "key": f"{action.key:016x}",
                "new_key": f"{action.new_key:016x}",
                "ignores_key": action.ignores_key,
                "other_ports": encode_nexuses(action.other_ports),
                "specified": encode_nexuses(action.specified),
                "aptpl": action.aptpl,
            }
        case Move():
            return {
                "action": "move",
                "who": list(action.who),
                "key": f"{action.key:016x}",
                "new_key": f"{action.new_key:016x}",
                "to": list(action.to),
                "unregisters": action.unregisters,
                "aptpl": action.aptpl,
            }
        case Preempt():
            return {**_basic("preempt", action), "preempted_key": f"{action.preempted_key:016x}"} | _typed(action)
        case Reserve():
            return _basic("reserve", action) | _typed(action)
        case Release():
            return _basic("release", action) | _typed(action)
        case Clear():
            return _basic("clear", action)
    raise AssertionError(action)


def _basic(name: str, action: Reserve | Release | Clear | Preempt) -> Json:
    return {"action": name, "who": list(action.who), "key": f"{action.key:016x}"}


def _typed(action: Reserve | Release | Preempt) -> Json:
    return {"type": _encode_type(action.type)}


def decode_action(code: Any) -> Action:
    """Raises:
    SenselessCode: `encode_action` did not write it.
    """
    try:
        decode = _ACTIONS[code["action"]]
        return decode(code, decode_registrant(code["who"]), int(code["key"], 16))
    except (LookupError, TypeError, ValueError) as error:
        raise SenselessCode("is no service action", why=repr(error)) from error


def _decode_register(code: Json, who: Registrant, key: int) -> Action:
    return Register(
        who,
        key,
        int(code["new_key"], 16),
        ignores_key=bool(code["ignores_key"]),
        other_ports=decode_nexuses(code["other_ports"]),
        specified=None if code["specified"] is None else decode_nexuses(code["specified"]),
        aptpl=bool(code["aptpl"]),
    )


def _decode_move(code: Json, who: Registrant, key: int) -> Action:
    return Move(
        who,
        key,
        int(code["new_key"], 16),
        to=decode_registrant(code["to"]),
        unregisters=bool(code["unregisters"]),
        aptpl=bool(code["aptpl"]),
    )


_ACTIONS: Final[dict[str, Callable[[Json, Registrant, int], Action]]] = {
    _REGISTER: _decode_register,
    "move": _decode_move,
    "reserve": lambda code, who, key: Reserve(who, key, _known_type(code["type"])),
    "release": lambda code, who, key: Release(who, key, _decode_type(code["type"])),
    "clear": lambda code, who, key: Clear(who, key),
    "preempt": lambda code, who, key: Preempt(who, key, int(code["preempted_key"], 16), _decode_type(code["type"])),
}


def encode_asc(asc: Asc) -> list[int]:
    """An additional sense code."""
    return list(asc.value)


def decode_asc(code: Any) -> Asc:
    """Raises:
    SenselessCode: there is no such code.
    """
    try:
        first, qualifier = code
        return Asc(AdditionalSense(first, qualifier))
    except (TypeError, ValueError) as error:
        raise SenselessCode("is no additional sense code", why=repr(error)) from error


def encode_condition(condition: CheckCondition) -> Json:
    """A CHECK CONDITION of an action: sense key, code, and the field that is wrong."""
    field = condition.field
    pointer = [field.byte, field.bit, field.in_cdb] if isinstance(field, FieldPointer) else None
    return {"key": int(condition.key), "asc": encode_asc(condition.asc), "field": pointer}


def decode_condition(code: Any) -> CheckCondition:
    """Raises:
    SenselessCode: `encode_condition` did not write it.
    """
    try:
        pointer = None if code["field"] is None else FieldPointer(*code["field"])
        return CheckCondition(SenseKey(code["key"]), decode_asc(code["asc"]), field=pointer)
    except (LookupError, TypeError, ValueError) as error:
        raise SenselessCode("is no CHECK CONDITION", why=repr(error)) from error
