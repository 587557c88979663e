"""Persistent reservations as several hosts see them: reserve, release, clear, preempt, move (SPC-4 5.13)."""

from __future__ import annotations

import pytest

from csvd.scsi.procedure import AbortTasks
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.transport_id import encode_transport_id
from tests.unit.scsi.application_client import a_unit
from tests.unit.scsi.reserving_host import (
    ALL_TYPES,
    CONFLICT,
    EA,
    EA_AR,
    EA_RO,
    GOOD,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    INVALID_RELEASE,
    REGISTRATIONS_PREEMPTED,
    RESERVATIONS_PREEMPTED,
    RESERVATIONS_RELEASED,
    WE,
    WE_AR,
    WE_RO,
    Host,
    a_target,
    device_transport_id,
    parameter_list,
    registered,
)

ALL_REGISTRANTS = (WE_AR, EA_AR)
REGISTRANTS = (WE_RO, EA_RO, WE_AR, EA_AR)
OF_ONE = (WE, EA)
EXCLUSIVE = (EA, EA_RO, EA_AR)


@pytest.fixture
def target() -> TargetDevice:
    return a_target()


@pytest.fixture
def a(target: TargetDevice) -> Host:
    return Host(target, "a")


@pytest.fixture
def b(target: TargetDevice) -> Host:
    return Host(target, "b")


@pytest.fixture
def c(target: TargetDevice) -> Host:
    return Host(target, "c")


GOOD_PORT = encode_transport_id("iqn.2026-11.test:x,i,0x000000000001")


# RESERVE


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_a_reservation_is_reported_with_its_holder(a: Host, b: Host, kind: int) -> None:
    registered(a, b)
    assert a.reservation() is None
    assert a.reserve(0xA1, kind) == GOOD
    every = kind in ALL_REGISTRANTS
    assert b.reservation() == (0 if every else 0xA1, kind)
    assert b.full_status() == [
        (0xA1, True, kind, 1, a.port),
        (0xA2, every, kind if every else 0, 1, b.port),
    ]
    assert a.generation() == 2, "neither RESERVE nor RELEASE counts"


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_access_of_holder_registrant_and_stranger(a: Host, b: Host, c: Host, kind: int) -> None:
    registered(a, b)
    assert a.reserve(0xA1, kind) == GOOD
    assert (a.may_read(), a.may_write()) == (True, True)
    assert (b.may_read(), b.may_write()) == ((True, True) if kind in REGISTRANTS else (kind not in EXCLUSIVE, False))
    assert (c.may_read(), c.may_write()) == (kind not in EXCLUSIVE, False)
    assert a.release(0xA1, kind) == GOOD
    b.attention()
    for host in (a, b, c):
        assert (host.may_read(), host.may_write()) == (True, True)


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_commands_of_those_who_may_do_all_go_straight_to_their_handlers(a: Host, b: Host, c: Host, kind: int) -> None:
    registered(a, b)
    assert a.reserve(0xA1, kind) == GOOD
    assert [host.is_interrupted for host in (a, b, c)] == [False, kind not in REGISTRANTS, True]
    assert a.clear(0xA1) == GOOD
    b.attention()
    assert not any(host.is_interrupted for host in (a, b, c))


def test_a_nexus_that_begins_under_a_reservation_is_kept_out(target: TargetDevice, a: Host) -> None:
    registered(a)
    assert a.reserve(0xA1, EA) == GOOD
    late = Host(target, "late")
    assert not late.may_read()


def test_only_a_holder_may_reserve_again_and_only_the_same(a: Host, b: Host) -> None:
    registered(a, b)
    assert a.reserve(0xA1, WE) == GOOD
    assert a.reserve(0xA1, WE) == GOOD
    assert a.reserve(0xA1, EA) == CONFLICT
    assert b.reserve(0xA2, WE) == CONFLICT
    assert a.reservation() == (0xA1, WE)


@pytest.mark.parametrize("kind", ALL_REGISTRANTS)
def test_every_registrant_holds_an_all_registrants_reservation(a: Host, b: Host, c: Host, kind: int) -> None:
    registered(a, b)
    assert a.reserve(0xA1, kind) == GOOD
    assert b.reserve(0xA2, kind) == GOOD
    assert c.reserve(0, kind) == CONFLICT
    assert b.release(0xA2, kind) == GOOD
    assert a.attention() == RESERVATIONS_RELEASED
    assert a.reservation() is None


def test_reserving_needs_the_key(a: Host) -> None:
    registered(a)
    assert a.reserve(0x9, WE) == CONFLICT
    assert a.reservation() is None


@pytest.mark.parametrize(("kind", "scope"), [(0, 0), (2, 0), (4, 0), (9, 0), (15, 0), (WE, 1), (WE, 2), (WE, 15)])
def test_types_and_scopes_that_are_none_are_refused(a: Host, kind: int, scope: int) -> None:
    registered(a)
    assert a.out(0x01, parameter_list(0xA1), kind, scope=scope) == INVALID_FIELD_IN_CDB
    assert a.out(0x04, parameter_list(0xA1, 0xA1), kind, scope=scope) == GOOD, "no reservation is made by that"
    registered(a)
    assert a.reserve(0xA1, WE) == GOOD
    assert a.out(0x04, parameter_list(0xA1, 0xA1), kind, scope=scope) == INVALID_FIELD_IN_CDB
    assert a.out(0x02, parameter_list(0xA1), kind, scope=scope) == INVALID_RELEASE
    assert a.reservation() == (0xA1, WE)


# RELEASE


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_a_release_is_told_to_registrants_whose_access_came_from_it(a: Host, b: Host, c: Host, kind: int) -> None:
    registered(a, b)
    assert a.reserve(0xA1, kind) == GOOD
    assert a.release(0xA1, kind) == GOOD
    assert b.attention() == (RESERVATIONS_RELEASED if kind in REGISTRANTS else None)
    assert a.attention() is None
    assert c.attention() is None
    assert (a.reservation(), a.keys()) == (None, [0xA1, 0xA2])


def test_a_release_of_another_type_is_invalid(a: Host) -> None:
    registered(a)
    assert a.reserve(0xA1, WE) == GOOD
    assert a.release(0xA1, EA) == INVALID_RELEASE
    assert a.release(0x9, WE) == CONFLICT
    assert a.reservation() == (0xA1, WE)


def test_who_holds_nothing_releases_nothing(a: Host, b: Host) -> None:
    registered(a, b)
    assert a.release(0xA1, WE) == GOOD
    assert a.reserve(0xA1, WE) == GOOD
    assert b.release(0xA2, WE) == GOOD
    assert b.release(0xA2, EA) == GOOD
    assert a.reservation() == (0xA1, WE)


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_a_reservation_goes_with_the_registration_of_its_last_holder(a: Host, b: Host, kind: int) -> None:
    registered(a, b)
    assert a.reserve(0xA1, kind) == GOOD
    assert a.register(0xA1, 0) == GOOD
    if kind in ALL_REGISTRANTS:
        assert b.attention() is None
        assert b.reservation() == (0, kind)
        assert b.register(0xA2, 0) == GOOD
    else:
        assert b.attention() == (RESERVATIONS_RELEASED if kind in REGISTRANTS else None)
    assert b.reservation() is None


def test_a_changed_key_changes_no_reservation(a: Host) -> None:
    registered(a)
    assert a.reserve(0xA1, EA) == GOOD
    assert a.register(0xA1, 0x77) == GOOD
    assert a.reservation() == (0x77, EA)
    assert a.release(0x77, EA) == GOOD


# CLEAR


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_clear_removes_all_and_tells_the_others(a: Host, b: Host, c: Host, kind: int) -> None:
    registered(a, b)
    assert a.reserve(0xA1, kind) == GOOD
    assert b.clear(0x9) == CONFLICT
    assert b.clear(0xA2) == GOOD
    assert (b.keys(), b.reservation(), b.generation()) == ([], None, 3)
    assert a.attention() == RESERVATIONS_PREEMPTED
    assert a.attention() is None
    assert b.attention() is None
    assert c.attention() is None


# PREEMPT


@pytest.mark.parametrize("kind", [WE, EA, WE_RO, EA_RO])
@pytest.mark.parametrize("new", ALL_TYPES)
def test_preempting_the_holder_takes_the_reservation(a: Host, b: Host, c: Host, kind: int, new: int) -> None:
    registered(a, b, c)
    assert a.reserve(0xA1, kind) == GOOD
    assert b.preempt(0xA2, 0xA1, new) == GOOD
    assert b.reservation() == (0 if new in ALL_REGISTRANTS else 0xA2, new)
    assert (b.keys(), b.generation()) == ([0xA2, 0xA3], 4)
    assert a.attention() == REGISTRATIONS_PREEMPTED
    assert b.attention() is None
    assert c.attention() == (RESERVATIONS_RELEASED if new != kind else None)
    assert not a.may_write()


def test_a_key_of_several_is_preempted_as_one(a: Host, b: Host, c: Host) -> None:
    assert a.register(0, 0x1) == GOOD
    assert c.register(0, 0x1) == GOOD
    assert b.register(0, 0x2) == GOOD
    assert a.reserve(0x1, WE) == GOOD
    assert b.preempt(0x2, 0x1, WE) == GOOD
    assert b.keys() == [0x2]
    assert [a.attention(), c.attention()] == [REGISTRATIONS_PREEMPTED] * 2


def test_preempting_who_holds_nothing_removes_registrations_only(a: Host, b: Host, c: Host) -> None:
    registered(a, b, c)
    assert a.reserve(0xA1, EA) == GOOD
    assert b.preempt(0xA2, 0xA3, WE) == GOOD
    assert (b.keys(), b.reservation()) == ([0xA1, 0xA2], (0xA1, EA))
    assert c.attention() == REGISTRATIONS_PREEMPTED
    assert a.attention() is None


def test_without_a_reservation_preempt_removes_registrations_and_makes_none(a: Host, b: Host) -> None:
    registered(a, b)
    assert b.preempt(0xA2, 0xA1, EA) == GOOD
    assert (b.keys(), b.reservation()) == ([0xA2], None)
    assert a.attention() == REGISTRATIONS_PREEMPTED


def test_preempting_the_own_key_removes_the_own_registration_untold(a: Host) -> None:
    registered(a)
    assert a.preempt(0xA1, 0xA1) == GOOD
    assert a.keys() == []
    assert a.attention() is None


def test_a_holder_that_preempts_itself_changes_the_type_and_stays(a: Host, b: Host) -> None:
    registered(a, b)
    assert a.reserve(0xA1, WE) == GOOD
    assert a.preempt(0xA1, 0xA1, EA_RO) == GOOD
    assert (a.keys(), a.reservation()) == ([0xA1, 0xA2], (0xA1, EA_RO))
    assert a.attention() is None
    assert b.attention() == RESERVATIONS_RELEASED


@pytest.mark.parametrize("kind", ALL_REGISTRANTS)
def test_preempting_all_registrants_by_key_zero_leaves_the_sender(a: Host, b: Host, c: Host, kind: int) -> None:
    registered(a, b, c)
    assert a.reserve(0xA1, kind) == GOOD
    assert b.preempt(0xA2, 0, EA) == GOOD
    assert (b.keys(), b.reservation()) == ([0xA2], (0xA2, EA))
    assert [a.attention(), b.attention(), c.attention()] == [REGISTRATIONS_PREEMPTED, None, REGISTRATIONS_PREEMPTED]


@pytest.mark.parametrize("kind", ALL_REGISTRANTS)
def test_preempting_a_key_under_all_registrants_removes_registrations(a: Host, b: Host, kind: int) -> None:
    registered(a, b)
    assert a.reserve(0xA1, kind) == GOOD
    assert b.preempt(0xA2, 0xA1, WE) == GOOD
    assert (b.keys(), b.reservation()) == ([0xA2], (0, kind))
    assert b.preempt(0xA2, 0xA2, WE) == GOOD
    assert (b.keys(), b.reservation()) == ([], None)


@pytest.mark.parametrize("kind", [None, WE, EA, WE_RO, EA_RO])
def test_key_zero_preempts_all_registrants_only(a: Host, kind: int | None) -> None:
    registered(a)
    if kind is not None:
        assert a.reserve(0xA1, kind) == GOOD
    assert a.preempt(0xA1, 0, WE) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.keys() == [0xA1]


@pytest.mark.parametrize("kind", [None, *ALL_TYPES])
def test_a_key_that_nobody_has_is_a_conflict(a: Host, kind: int | None) -> None:
    registered(a)
    if kind is not None:
        assert a.reserve(0xA1, kind) == GOOD
    assert a.preempt(0xA1, 0x77, WE) == CONFLICT
    assert a.preempt(0x77, 0xA1, WE) == CONFLICT
    assert a.generation() == 1


def test_preempt_aborts_nothing_and_preempt_and_abort_the_tasks_of_those_preempted(
    target: TargetDevice, a: Host, b: Host, c: Host
) -> None:
    registered(a, b, c)
    assert a.reserve(0xA1, WE) == GOOD
    assert b.preempt(0xA2, 0xA1) == GOOD
    assert b.store.aborted == []
    assert c.preempt(0xA3, 0xA2, abort=True) == GOOD
    assert c.store.aborted == [(0, (b.nexus,))]
    assert c.keys() == [0xA3]


def test_preempt_and_abort_of_all_registrants_spares_the_sender(a: Host, b: Host, c: Host) -> None:
    registered(a, b, c)
    assert a.reserve(0xA1, WE_AR) == GOOD
    assert b.preempt(0xA2, 0, abort=True) == GOOD
    assert b.store.aborted == [(0, (a.nexus, c.nexus))]


def test_preempt_and_abort_by_the_own_key_does_not_wait_for_itself(a: Host) -> None:
    registered(a)
    assert a.preempt(0xA1, 0xA1, abort=True) == GOOD
    assert a.store.aborted == [(0, ())]


def test_tasks_are_aborted_only_when_the_preempted_are_kept_out(a: Host, b: Host) -> None:
    registered(a, b)
    assert a.reserve(0xA1, EA) == GOOD
    seen: list[bool] = []

    def look(request: object) -> None:
        if isinstance(request, AbortTasks):
            a.attention()
            seen.append(a.may_read())

    b.store.fault = look
    assert b.preempt(0xA2, 0xA1, EA, abort=True) == GOOD
    assert seen == [False]


def test_preempt_and_abort_lets_the_medium_of_the_preempted_go() -> None:
    target = a_target(a_unit(removable=True))
    a, b = Host(target, "a"), Host(target, "b")
    registered(a, b)
    assert a.ask("1e 00 00 00 01 00") == GOOD
    assert b.ask("1b 00 00 00 02 00") == (0x5, 0x53, 0x02)
    assert b.preempt(0xA2, 0xA1, abort=True) == GOOD
    assert b.ask("1b 00 00 00 02 00") == GOOD


# REGISTER AND MOVE


@pytest.mark.parametrize("unregister", [False, True])
@pytest.mark.parametrize("kind", [WE, EA, WE_RO, EA_RO])
def test_a_reservation_moves_to_another_port(a: Host, b: Host, kind: int, unregister: bool) -> None:
    registered(a)
    assert a.reserve(0xA1, kind) == GOOD
    assert a.move(0xA1, 0xB, b.transport_id, unregister=unregister) == GOOD
    assert b.reservation() == (0xB, kind)
    assert b.keys() == ([0xB] if unregister else [0xA1, 0xB])
    assert (b.generation(), b.attention()) == (2, None)
    assert b.may_write()
    assert a.may_write() is (kind in REGISTRANTS and not unregister)


def test_a_reservation_moves_to_a_registered_port_and_changes_its_key(a: Host, b: Host) -> None:
    registered(a, b)
    assert a.reserve(0xA1, WE) == GOOD
    assert a.move(0xA1, 0x77, b.transport_id) == GOOD
    assert (b.keys(), b.reservation()) == ([0xA1, 0x77], (0x77, WE))


def test_a_reservation_moves_to_another_target_port() -> None:
    target = a_target(tags=(1, 2))
    one, two = Host(target, "a"), Host(target, "b", tag=2)
    assert one.register(0, 0x1) == GOOD
    assert one.reserve(0x1, EA) == GOOD
    assert one.move(0x1, 0x2, two.transport_id, port=3) == INVALID_FIELD_IN_PARAMETER_LIST
    assert one.move(0x1, 0x2, two.transport_id, port=2) == GOOD
    assert [(holds, port) for _, holds, _, port, _ in two.full_status()] == [(False, 1), (True, 2)]
    assert two.may_write()


def test_only_the_one_holder_moves_a_reservation(a: Host, b: Host) -> None:
    registered(a, b)
    assert a.move(0xA1, 0xB, b.transport_id) == INVALID_FIELD_IN_CDB, "there is nothing to move"
    assert a.reserve(0xA1, WE) == GOOD
    assert b.move(0xA2, 0xB, a.transport_id) == CONFLICT
    assert a.move(0x9, 0xB, b.transport_id) == CONFLICT
    assert a.move(0xA1, 0, b.transport_id) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.move(0xA1, 0xB, a.transport_id) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.reservation() == (0xA1, WE)


@pytest.mark.parametrize("kind", ALL_REGISTRANTS)
def test_an_all_registrants_reservation_does_not_move(a: Host, b: Host, kind: int) -> None:
    registered(a)
    assert a.reserve(0xA1, kind) == GOOD
    assert a.move(0xA1, 0xB, b.transport_id) == CONFLICT


@pytest.mark.parametrize(
    ("transport_id", "length"),
    [
        (b"", None),
        (GOOD_PORT, 20),
        (GOOD_PORT, len(GOOD_PORT) + 4),
        (GOOD_PORT, 0xFFFFFFFF),
        (GOOD_PORT * 2, None),
        (device_transport_id(b"iqn.2026-11.test:b"), None),
        (b"\x46" + GOOD_PORT[1:], None),
    ],
)
def test_a_move_names_one_port_whole(a: Host, b: Host, transport_id: bytes, length: int | None) -> None:
    registered(a)
    assert a.reserve(0xA1, WE) == GOOD
    assert a.move(0xA1, 0xB, transport_id, length=length) == INVALID_FIELD_IN_PARAMETER_LIST
    assert (a.keys(), a.reservation()) == ([0xA1], (0xA1, WE))
