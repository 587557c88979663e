"""Sequential objects: what a register with epochs, a record and a unit's reservations answer. PURE.

Each is written by the standard, or by what the register's commands promise, and not by csvd's code.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

GOOD: Final = "good"
CONFLICT: Final = "conflict"
INVALID: Final = "invalid"


class EpochRegister:
    """An owner with an epoch, changed by compare-and-set on the epoch: every change makes it one higher.

    Calls: ("read",) answers (owner, epoch); ("claim", owner, expected epoch) answers whether it was done.

    Args:
        owner, epoch: at the beginning.
    """

    def __init__(self, owner: str | None = None, epoch: int = 0) -> None:
        self.initial: tuple[str | None, int] = (owner, epoch)

    def apply(self, state: tuple[str | None, int], call: Hashable) -> tuple[tuple[str | None, int], Hashable]:
        match call:
            case ("read",):
                return state, state
            case ("claim", str(owner), int(expected)):
                return ((owner, expected + 1), True) if expected == state[1] else (state, False)
        raise ValueError(f"no call of a register: {call!r}")


class Record:
    """A record of a key-value store.

    Calls: ("get",) answers the value, None where there is none; ("put", value) and ("remove",) answer True; ("swap",
    expected, value) answers whether it was done; ("add", value) makes one where none is, and answers whether it did.
    """

    initial: Hashable = None

    def apply(self, state: Hashable, call: Hashable) -> tuple[Hashable, Hashable]:
        match call:
            case ("get",):
                return state, state
            case ("put", value):
                return value, True
            case ("remove",):
                return None, True
            case ("swap", expected, value):
                return (value, True) if state == expected else (state, False)
            case ("add", value):
                return (value, True) if state is None else (state, False)
        raise ValueError(f"no call of a record: {call!r}")


WRITE_EXCLUSIVE: Final = 1
EXCLUSIVE_ACCESS: Final = 3
WRITE_EXCLUSIVE_REGISTRANTS: Final = 5
EXCLUSIVE_ACCESS_REGISTRANTS: Final = 6
WRITE_EXCLUSIVE_ALL: Final = 7
EXCLUSIVE_ACCESS_ALL: Final = 8

_ALL: Final = (WRITE_EXCLUSIVE_ALL, EXCLUSIVE_ACCESS_ALL)
_REGISTRANTS: Final = (WRITE_EXCLUSIVE_REGISTRANTS, EXCLUSIVE_ACCESS_REGISTRANTS, *_ALL)
_READABLE: Final = (WRITE_EXCLUSIVE, WRITE_EXCLUSIVE_REGISTRANTS, WRITE_EXCLUSIVE_ALL)


@dataclass(frozen=True, slots=True)
class Reserved:
    """A unit's reservations: the key of each registered I_T nexus, and who holds it in what way.

    Args:
        keys: (nexus, key), sorted.
        holder: the nexus; of a type for all registrants the one that made it, who is no more than the others.
        kind: the type; 0 is none.
    """

    keys: tuple[tuple[str, int], ...] = ()
    holder: str = ""
    kind: int = 0

    def key_of(self, nexus: str) -> int:
        return dict(self.keys).get(nexus, 0)

    def holds(self, nexus: str) -> bool:
        """Whether a nexus is a reservation holder (SPC-4 5.13.10)."""
        return self.kind != 0 and (bool(self.key_of(nexus)) if self.kind in _ALL else nexus == self.holder)


_Step: TypeAlias = tuple[Reserved, Hashable]


class Reservations:
    """The persistent reservations of one logical unit (SPC-4 5.13, 6.15, 6.16).

    Calls: ("register", nexus, key, new key), ("register and ignore", nexus, new key), ("reserve", nexus, key, type),
    ("release", nexus, key, type), ("clear", nexus, key), ("preempt", nexus, key, victim key, type): each answers GOOD,
    CONFLICT or INVALID. ("keys",) answers the keys, sorted; ("reservation",) answers (key, type), or None;
    ("write", nexus) and ("read", nexus) answer GOOD or CONFLICT.
    """

    initial = Reserved()

    def apply(self, state: Reserved, call: Hashable) -> _Step:
        match call:
            case ("keys",):
                return state, tuple(sorted(key for _, key in state.keys))
            case ("reservation",):
                held = 0 if state.kind in _ALL else state.key_of(state.holder)
                return state, (held, state.kind) if state.kind else None
            case ("write" | "read" as act, str(nexus)):
                return state, GOOD if self._may(state, act, nexus) else CONFLICT
            case ("register and ignore", str(nexus), int(new)):
                return _registered(state, nexus, new), GOOD
            case ("register", str(nexus), int(key), int(new)):
                return (_registered(state, nexus, new), GOOD) if key == state.key_of(nexus) else (state, CONFLICT)
            case (str(name), str(nexus), int(key), *rest):
                if not key or key != state.key_of(nexus):
                    return state, CONFLICT
                acts: dict[str, Any] = {
                    "reserve": _reserve,
                    "release": _release,
                    "clear": lambda *_: (Reserved(), GOOD),
                    "preempt": _preempt,
                }
                step: _Step = acts[name](state, nexus, *rest)
                return step
        raise ValueError(f"no call of reservations: {call!r}")

    @staticmethod
    def _may(state: Reserved, act: str, nexus: str) -> bool:
        """SPC-4 table 66: what other nexuses may while one holds a reservation."""
        if not state.kind or state.holds(nexus) or (state.kind in _REGISTRANTS and state.key_of(nexus)):
            return True
        return act == "read" and state.kind in _READABLE


def _with_keys(state: Reserved, keys: dict[str, int]) -> Reserved:
    return replace(state, keys=tuple(sorted(keys.items())))


def _registered(state: Reserved, nexus: str, new: int) -> Reserved:
    """5.13.7 and 5.13.11.3: with a key of zero a registration ends, and what it alone held."""
    keys = dict(state.keys)
    if new:
        keys[nexus] = new
        return _with_keys(state, keys)
    keys.pop(nexus, None)
    after = _with_keys(state, keys)
    ends = not keys if state.kind in _ALL else state.holder == nexus
    return replace(after, holder="", kind=0) if ends else after


def _reserve(state: Reserved, nexus: str, kind: int) -> _Step:
    """5.13.9: who holds it already in this way keeps it."""
    if not state.kind:
        return replace(state, holder=nexus, kind=kind), GOOD
    return state, GOOD if state.holds(nexus) and kind == state.kind else CONFLICT


def _release(state: Reserved, nexus: str, kind: int) -> _Step:
    """5.13.11.2: who holds nothing releases nothing, and that is well; another type than that held is not."""
    if not state.holds(nexus):
        return state, GOOD
    return (replace(state, holder="", kind=0), GOOD) if kind == state.kind else (state, INVALID)


def _preempt(state: Reserved, nexus: str, victim: int, kind: int) -> _Step:
    """5.13.11.4: take away the registrations of a key, and the reservation where it holds it."""
    keys = dict(state.keys)
    if not victim:
        if state.kind not in _ALL:
            return state, INVALID
        return Reserved(((nexus, keys[nexus]),), nexus, kind), GOOD
    takes = state.kind != 0 and state.kind not in _ALL and victim == state.key_of(state.holder)
    victims = {each for each, key in keys.items() if key == victim}
    if not victims:
        return state, CONFLICT
    if takes:
        left = {each: key for each, key in keys.items() if key != victim or each == nexus}
        return Reserved(tuple(sorted(left.items())), nexus, kind), GOOD
    left = {each: key for each, key in keys.items() if key != victim}
    after = _with_keys(state, left)
    if state.kind in _ALL and not left:
        after = Reserved()
    return after, GOOD
