"""RESERVE(6) and RELEASE(6), and what they and persistent reservations are to one another (SPC-2 5.5, SPC-4 5.13.3)."""

from __future__ import annotations

import pytest

from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.reserving_host import (
    ALL_TYPES,
    CONFLICT,
    EA_AR,
    EA_RO,
    GOOD,
    INVALID_FIELD_IN_CDB,
    WE_AR,
    WE_RO,
    Host,
    a_target,
    parameter_list,
    registered,
)

RESERVE = "16 00 00 00 00 00"
RELEASE = "17 00 00 00 00 00"


@pytest.fixture
def target() -> TargetDevice:
    return a_target()


@pytest.fixture
def a(target: TargetDevice) -> Host:
    return Host(target, "a")


@pytest.fixture
def b(target: TargetDevice) -> Host:
    return Host(target, "b")


def test_one_nexus_reserves_until_it_releases(a: Host, b: Host) -> None:
    assert a.ask(RESERVE) == GOOD
    assert a.ask(RESERVE) == GOOD
    assert b.ask(RESERVE) == CONFLICT
    assert b.ask(RELEASE) == GOOD, "and does nothing"
    assert not b.may_read()
    assert a.may_write()
    assert not a.is_interrupted
    assert a.ask(RELEASE) == GOOD
    assert b.may_write()
    assert not b.is_interrupted
    assert b.ask(RESERVE) == GOOD
    assert not a.may_read()


@pytest.mark.parametrize(
    ("cdb", "answer"),
    [
        ("00 00 00 00 00 00", CONFLICT),
        ("03 00 00 00 12 00", GOOD),
        ("12 00 00 00 24 00", GOOD),
        ("a0 00 00 00 00 00 00 00 00 10 00 00", GOOD),
        ("25 00 00 00 00 00 00 00 00 00", GOOD),
        ("1a 00 3f 00 ff 00", CONFLICT),
        ("a3 0c 00 00 00 00 00 00 10 00 00 00", CONFLICT),
        ("35 00 00 00 00 00 00 00 00 00", CONFLICT),
        ("5e 00 00 00 00 00 00 00 08 00", CONFLICT),
        ("1e 00 00 00 00 00", GOOD),
        ("1b 00 00 00 01 00", GOOD),
    ],
)
def test_what_another_nexus_may_do_meanwhile(a: Host, b: Host, cdb: str, answer: int) -> None:
    assert a.ask(RESERVE) == GOOD
    assert b.ask(cdb) == answer


def test_each_nexus_is_one_of_its_own(target: TargetDevice, a: Host) -> None:
    second_port = Host(target, "a", isid=2)
    assert a.ask(RESERVE) == GOOD
    assert second_port.ask(RESERVE) == CONFLICT


def test_it_ends_with_its_nexus(target: TargetDevice, a: Host, b: Host) -> None:
    assert a.ask(RESERVE) == GOOD
    b.lose()
    b.log_in(target)
    assert not b.may_read()
    a.lose()
    assert b.may_write()
    a.log_in(target)
    assert a.may_write()


def test_it_ends_when_its_session_is_reinstated(target: TargetDevice, a: Host, b: Host) -> None:
    assert a.ask(RESERVE) == GOOD
    a.log_in(target)
    assert b.may_write()


def test_it_ends_when_its_nexus_is_reset(target: TargetDevice, a: Host, b: Host) -> None:
    assert a.ask(RESERVE) == GOOD
    target.i_t_nexus_reset(b.nexus)
    b.client.ready()
    assert not b.may_read()
    target.i_t_nexus_reset(a.nexus)
    assert b.may_write()


def test_it_ends_with_a_reset(target: TargetDevice, a: Host, b: Host) -> None:
    assert a.ask(RESERVE) == GOOD
    b.reset()
    assert b.may_write()
    assert b.ask(RESERVE) == GOOD
    b.reset_target()
    a.client.ready()
    assert a.may_write()


def test_it_ends_when_its_lun_is_hidden_from_the_holder(target: TargetDevice, a: Host, b: Host) -> None:
    assert a.ask(RESERVE) == GOOD
    target.set_mask(lambda identity, _number: identity.initiator_name != a.initiator_name)
    assert b.may_write()


@pytest.mark.parametrize("options", [0x01, 0x02, 0x10, 0x1E])
def test_extents_and_third_parties_are_refused(a: Host, options: int) -> None:
    for code in (0x16, 0x17):
        assert a.ask(bytes((code, options, 0, 0, 0, 0))) == INVALID_FIELD_IN_CDB


@pytest.mark.parametrize("action", range(8))
def test_nobody_registers_or_looks_while_it_is_reserved(a: Host, b: Host, action: int) -> None:
    assert a.ask(RESERVE) == GOOD
    for host in (a, b):
        if action < 4:
            assert host.ask(bytes((0x5E, action, 0, 0, 0, 0, 0, 0, 8, 0))) == CONFLICT
        if action != 7:
            assert host.out(action, parameter_list(0, 0x1), WE_RO) == CONFLICT
        else:
            assert host.move(0, 0x1, b.transport_id) == CONFLICT
    assert a.ask(RELEASE) == GOOD
    assert a.keys() == []


def test_with_registrations_reserve_and_release_conflict(a: Host, b: Host) -> None:
    registered(a)
    for host in (a, b):
        assert host.ask(RESERVE) == CONFLICT
        assert host.ask(RELEASE) == CONFLICT
    assert a.register(0xA1, 0) == GOOD
    assert b.ask(RESERVE) == GOOD


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_of_holders_and_registrants_they_are_good_and_do_nothing(a: Host, b: Host, kind: int) -> None:
    registered(a, b)
    assert a.reserve(0xA1, kind) == GOOD
    everyone = kind in (WE_RO, EA_RO, WE_AR, EA_AR)
    for command in (RESERVE, RELEASE):
        assert a.ask(command) == GOOD
        assert b.ask(command) == (GOOD if everyone else CONFLICT)
        assert a.reservation() == (0 if kind in (WE_AR, EA_AR) else 0xA1, kind)
        assert b.may_write() is everyone
