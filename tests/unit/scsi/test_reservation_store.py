"""The store of one node: one change at a time, kept before it is in force, and shared by all targets of a unit."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from csvd.errors import ConfigError
from csvd.scsi.procedure import Keep, Request, Until
from csvd.scsi.reservation_codes import decode_state, encode_state
from csvd.scsi.reservation_store import LocalReservations
from csvd.scsi.reservations import (
    TYPES,
    Change,
    Clear,
    Preempt,
    Register,
    Registrant,
    ReservationConflict,
    Reserve,
    State,
)
from csvd.scsi.sense import Asc
from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.application_client import a_unit
from tests.unit.scsi.reserving_host import CONFLICT, EA, GOOD, REGISTRATIONS_PREEMPTED, TARGET, Host

ONE = Registrant("iqn.2026-11.test:one,i,0x000000000001", "iqn.2026-11.test:t,t,0x0001", 1)
TWO = Registrant("iqn.2026-11.test:two,i,0x000000000001", "iqn.2026-11.test:t,t,0x0002", 2)


class Steps:
    """Steps of a store that a test takes one by one."""

    def __init__(self, steps: Any) -> None:
        self.steps = steps
        self.request: Request | None = None
        self.result: Any = None
        self.granted = False
        self.go()

    def go(self, answer: Any = None) -> None:
        """Answer the request; what comes next waits."""
        try:
            self.request = self.steps.send(answer)
        except StopIteration as end:
            self.request, self.result = None, end.value
        except ReservationConflict as conflict:
            self.request, self.result = None, conflict
        if isinstance(self.request, Until):
            begin: Callable[[Callable[[], None]], None] = self.request.begin
            self.request = None
            begin(self._granted)

    def _granted(self) -> None:
        self.granted = True
        self.go()


def test_changes_take_turns_and_see_one_another() -> None:
    unit = a_unit(keeps=True)
    store = LocalReservations(unit)
    first = Steps(store.carry_out(unit, Register(ONE, 0, 0x1, aptpl=True)))
    assert isinstance(first.request, Keep)
    second = Steps(store.carry_out(unit, Register(ONE, 0, 0x2)))
    third = Steps(store.carry_out(unit, Register(TWO, 0, 0x3, aptpl=True)))
    assert not second.granted
    assert store.state.keys == {}, "not in force before it is kept"
    unit.kept[first.request.name] = first.request.value
    first.go()
    assert isinstance(first.result, Change)
    assert isinstance(second.result, ReservationConflict), "it saw the first"
    assert isinstance(third.request, Keep)
    unit.kept[third.request.name] = third.request.value
    third.go()
    assert list(store.state.keys.values()) == [0x1, 0x3]


def test_reserve_waits_for_a_registration_under_way() -> None:
    unit = a_unit(keeps=True)
    store = LocalReservations(unit)
    first = Steps(store.carry_out(unit, Register(ONE, 0, 0x1, aptpl=True)))
    assert isinstance(first.request, Keep)
    second = Steps(store.reserve_unit(TWO))
    unit.kept[first.request.name] = first.request.value
    first.go()
    assert isinstance(second.result, ReservationConflict)
    assert store.legacy_holder is None


@pytest.mark.parametrize("is_kept", [False, True])
def test_a_change_whose_command_is_aborted_is_in_force_when_it_is_kept(is_kept: bool) -> None:
    unit = a_unit(keeps=True)
    store = LocalReservations(unit)
    aborted = Steps(store.carry_out(unit, Register(ONE, 0, 0x1, aptpl=True)))
    waiting = Steps(store.carry_out(unit, Register(TWO, 0, 0x2)))
    assert isinstance(aborted.request, Keep)
    if is_kept:
        unit.kept[aborted.request.name] = aborted.request.value
    aborted.steps.close()
    assert ONE in store.state.keys if is_kept else ONE not in store.state.keys
    assert waiting.granted, "and the next has its turn"


def test_a_command_that_is_aborted_while_it_waits_passes_its_turn_on() -> None:
    unit = a_unit(keeps=True)
    store = LocalReservations(unit)
    first = Steps(store.carry_out(unit, Register(ONE, 0, 0x1, aptpl=True)))
    steps = store.carry_out(unit, Register(TWO, 0, 0x2))
    asked = next(steps)
    assert isinstance(asked, Until)
    asked.begin(steps.close)
    last = Steps(store.carry_out(unit, Register(TWO, 0, 0x3)))
    assert isinstance(first.request, Keep)
    unit.kept[first.request.name] = first.request.value
    first.go()
    assert isinstance(last.request, Keep), "APTPL is off again, which is kept, too"
    last.go()
    assert list(store.state.keys.values()) == [0x1, 0x3]


def test_ten_thousand_that_wait_cost_no_deep_stack() -> None:
    unit = a_unit(keeps=True)
    store = LocalReservations(unit)
    first = Steps(store.carry_out(unit, Register(ONE, 0, 0x1, aptpl=True)))
    rest = [Steps(store.reserve_unit(TWO)) for _ in range(10_000)]
    first.go()
    assert all(isinstance(each.result, ReservationConflict) for each in rest)


# What is kept


def after(*actions: Any) -> State:
    state = State(aptpl=True)
    for action in actions:
        state = action.apply(state).state
    return state


@pytest.mark.parametrize("code", TYPES)
def test_a_state_is_kept_and_taken_back(code: int) -> None:
    state = after(
        Register(ONE, 0, 0xFFFF_FFFF_FFFF_FFFF, aptpl=True),
        Register(TWO, 0, 0x2, aptpl=True),
        Reserve(TWO, 0x2, TYPES[code]),
    )
    taken = decode_state(json.loads(json.dumps(encode_state(state))))
    assert (taken.keys, taken.type, taken.holder, taken.aptpl) == (state.keys, state.type, state.holder, True)
    assert list(taken.keys) == list(state.keys)
    assert taken.generation == 0


GOOD_KEPT = encode_state(after(Register(ONE, 0, 0x1, aptpl=True), Reserve(ONE, 0x1, TYPES[EA])))


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [],
        {},
        {**GOOD_KEPT, "holder": 1},
        {**GOOD_KEPT, "holder": None},
        {**GOOD_KEPT, "type": None},
        {**GOOD_KEPT, "type": 2},
        {**GOOD_KEPT, "type": 7},
        {**GOOD_KEPT, "registrations": []},
        {**GOOD_KEPT, "registrations": [["a", "b", 1]]},
        {**GOOD_KEPT, "registrations": [["a", "b", 1, "key"]]},
        {**GOOD_KEPT, "registrations": 5},
    ],
)
def test_what_was_kept_and_makes_no_sense_ends_the_start(kept: Any) -> None:
    with pytest.raises(ConfigError, match="make no sense"):
        LocalReservations(a_unit(kept={"reservations": kept}))


# One unit at two targets


def two_targets() -> tuple[LocalReservations, TargetDevice, TargetDevice]:
    units = [a_unit(0), a_unit(0)]
    store = LocalReservations(units[0])
    first, second = (
        TargetDevice({0: unit}, name=name, reservations=lambda _unit: store)
        for unit, name in zip(units, (TARGET, "iqn.2026-11.test:second"), strict=True)
    )
    return store, first, second


def test_targets_of_one_unit_share_its_reservations_and_attentions() -> None:
    _, first, second = two_targets()
    a, b = Host(first, "a"), Host(second, "b")
    assert a.register(0, 0xA) == GOOD
    assert b.register(0, 0xB) == GOOD
    assert a.reserve(0xA, EA) == GOOD
    assert not b.may_read()
    assert b.preempt(0xB, 0xA, EA, abort=True) == GOOD
    assert b.store.aborted == [(0, (a.nexus,))]
    assert a.attention() == REGISTRATIONS_PREEMPTED
    assert not a.may_read()


def test_the_same_port_at_two_targets_is_two_nexuses() -> None:
    _, first, second = two_targets()
    here, there = Host(first, "a"), Host(second, "a")
    assert here.register(0, 0xA) == GOOD
    assert there.reserve(0xA, EA) == CONFLICT


def test_a_target_that_serves_a_unit_no_more_hears_no_more() -> None:
    store, first, second = two_targets()
    a, b = Host(first, "a"), Host(second, "b")
    assert a.register(0, 0xA) == GOOD
    first.remove_unit(0)
    assert store.nexus_names([ONE, *store.state.keys]) == []
    assert b.keys() == [0xA]


# PRGENERATION


def test_the_generation_wraps_at_32_bits() -> None:
    state = State(generation=0xFFFF_FFFF)
    assert Register(ONE, 0, 0x1).apply(state).state.generation == 0


def test_actions_leave_the_state_before_as_it_was() -> None:
    before = after(Register(ONE, 0, 0x1, aptpl=True), Register(TWO, 0, 0x2, aptpl=True))
    copy = dict(before.keys)
    for action in (Clear(ONE, 0x1), Preempt(ONE, 0x1, 0x2, None), Register(TWO, 0x2, 0)):
        assert action.apply(before).state is not before
    assert dict(before.keys) == copy
    told = Clear(ONE, 0x1).apply(before).attentions
    assert told == ((TWO, Asc.RESERVATIONS_PREEMPTED),)
