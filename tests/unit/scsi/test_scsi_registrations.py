"""Registrations: who is registered where, and lists of TransportIDs (SPC-4 5.13.7, 6.16.3)."""

from __future__ import annotations

import pytest

from csvd.scsi import reservations
from csvd.scsi.reservations import MAXIMUM_REGISTRATIONS
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.transport_id import encode_transport_id
from tests.unit.scsi.reserving_host import (
    CONFLICT,
    EA,
    EA_RO,
    GOOD,
    INSUFFICIENT_REGISTRATION_RESOURCES,
    INVALID_FIELD_IN_CDB,
    INVALID_FIELD_IN_PARAMETER_LIST,
    PARAMETER_LIST_LENGTH_ERROR,
    WE,
    Host,
    a_target,
    device_transport_id,
    parameter_list,
    registered,
)


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


# REGISTER


def test_a_host_registers_changes_its_key_and_unregisters(a: Host) -> None:
    assert a.register(0, 0x1) == GOOD
    assert (a.keys(), a.generation()) == ([0x1], 1)
    assert a.register(0x1, 0x2) == GOOD
    assert (a.keys(), a.generation()) == ([0x2], 2)
    assert a.register(0x2, 0) == GOOD
    assert (a.keys(), a.generation()) == ([], 3)


def test_registering_needs_the_present_key(a: Host) -> None:
    assert a.register(0x9, 0x1) == CONFLICT
    assert a.register(0, 0x1) == GOOD
    assert a.register(0, 0x2) == CONFLICT
    assert a.register(0x2, 0) == CONFLICT
    assert (a.keys(), a.generation()) == ([0x1], 1)


def test_registering_and_ignoring_needs_none(a: Host) -> None:
    assert a.register_anyway(0x1, key=0x77) == GOOD
    assert a.register_anyway(0x2) == GOOD
    assert (a.keys(), a.generation()) == ([0x2], 2)
    assert a.register_anyway(0) == GOOD
    assert a.keys() == []


@pytest.mark.parametrize("action", [0x00, 0x06])
def test_to_unregister_who_is_not_registered_does_nothing(a: Host, action: int) -> None:
    assert a.register(0, 0, action=action) == GOOD
    assert (a.keys(), a.generation()) == ([], 0)


def test_hosts_may_share_a_key_and_each_registration_is_listed(a: Host, b: Host) -> None:
    assert a.register(0, 0x1) == GOOD
    assert b.register(0, 0x1) == GOOD
    assert b.keys() == [0x1, 0x1]
    assert b.register(0x1, 0x2) == GOOD
    assert b.keys() == [0x1, 0x2]


def test_scope_and_type_do_not_matter_to_a_registration(a: Host) -> None:
    assert a.out(0x00, parameter_list(0, 0x1), 0x0F, scope=0x0F) == GOOD
    assert a.keys() == [0x1]


def test_registrations_are_bounded(a: Host, b: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reservations, "MAXIMUM_REGISTRATIONS", 2)
    ports = [encode_transport_id(f"iqn.2026-11.test:x,i,0x{isid:012x}") for isid in range(2)]
    assert a.register(0, 0x1, ports=ports) == INSUFFICIENT_REGISTRATION_RESOURCES
    assert a.keys() == []
    assert a.register(0, 0x1, ports=ports[:1]) == GOOD
    assert b.register(0, 0x2) == INSUFFICIENT_REGISTRATION_RESOURCES
    assert a.register(0x1, 0x3) == GOOD, "which takes no more room"
    assert a.generation() == 2


# ALL_TG_PT and SPEC_I_PT


def test_all_tg_pt_registers_at_every_target_port() -> None:
    target = a_target(tags=(1, 2, 7))
    one, two = Host(target, "a", tag=1), Host(target, "a", tag=2)
    assert one.register(0, 0x1, all_ports=True) == GOOD
    assert [(key, port, name) for key, _, _, port, name in one.full_status()] == [
        (0x1, 1, one.port),
        (0x1, 2, one.port),
        (0x1, 7, one.port),
    ]
    assert two.register(0, 0x2) == CONFLICT
    assert two.register(0x1, 0x2) == GOOD
    assert one.generation() == 2


def test_all_tg_pt_changes_and_ends_the_registrations_at_every_port() -> None:
    target = a_target(tags=(1, 2))
    one, two = Host(target, "a", tag=1), Host(target, "a", tag=2)
    assert one.register(0, 0x1) == GOOD
    assert one.register(0x1, 0x2, all_ports=True) == GOOD
    assert one.keys() == [0x2, 0x2]
    assert two.register(0x2, 0x3) == GOOD
    assert one.register(0x2, 0, all_ports=True) == CONFLICT, "as the other port would have said"
    assert one.register_anyway(0, all_ports=True) == GOOD
    assert one.keys() == []


def test_without_all_tg_pt_a_registration_is_of_one_target_port() -> None:
    target = a_target(tags=(1, 2))
    one, two = Host(target, "a", tag=1), Host(target, "a", tag=2)
    assert one.register(0, 0x1) == GOOD
    assert one.reserve(0x1, EA_RO) == GOOD
    assert one.may_write()
    assert not two.may_read()


def test_spec_i_pt_registers_the_sender_and_the_ports_that_it_names(a: Host, b: Host, c: Host) -> None:
    assert a.register(0, 0x1, ports=[b.transport_id, c.transport_id, a.transport_id, b.transport_id]) == GOOD
    assert [(key, name) for key, _, _, _, name in a.full_status()] == [(0x1, a.port), (0x1, b.port), (0x1, c.port)]
    assert a.generation() == 1
    assert b.reserve(0x1, WE) == GOOD


def test_spec_i_pt_may_name_a_port_that_logs_in_later(target: TargetDevice, a: Host) -> None:
    later = f"{a.initiator_name}-later,i,0x00000000000f"
    assert a.register(0, 0x1, ports=[encode_transport_id(later)]) == GOOD
    assert Host(target, "a-later", isid=15).reserve(0x1, EA) == GOOD


def test_spec_i_pt_with_all_tg_pt_is_every_pair() -> None:
    target = a_target(tags=(1, 2))
    host, other = Host(target, "a"), Host(target, "b")
    assert host.register(0, 0x1, ports=[other.transport_id], all_ports=True) == GOOD
    assert {(port, name) for _, _, _, port, name in host.full_status()} == {
        (1, host.port),
        (2, host.port),
        (1, other.port),
        (2, other.port),
    }


def test_a_transportid_without_isid_is_all_ports_of_the_initiator_that_are_known(target: TargetDevice, a: Host) -> None:
    ports = [Host(target, "b", isid=isid) for isid in (2, 3)]
    name = ports[0].initiator_name.upper().encode().replace(b"IQN", b"iqn")
    assert a.register(0, 0x1, ports=[device_transport_id(name)]) == GOOD
    assert [name for _, _, _, _, name in a.full_status()] == [a.port, *(each.port for each in ports)]


def test_more_transportids_than_may_be_registered_are_not_even_read(a: Host) -> None:
    ports = [encode_transport_id(f"iqn.x,i,0x{number:012x}") for number in range(MAXIMUM_REGISTRATIONS + 1)]
    assert a.register(0, 0x1, ports=ports) == (0x5, 0x55, 0x04)
    assert a.keys() == []


def test_a_name_that_is_listed_a_thousand_times_is_looked_up_once(target: TargetDevice, a: Host) -> None:
    host = Host(target, "b")
    ports = [device_transport_id(host.initiator_name.encode())] * MAXIMUM_REGISTRATIONS
    assert a.register(0, 0x1, ports=ports) == GOOD
    assert [name for _, _, _, _, name in a.full_status()] == [a.port, host.port]


def test_a_transportid_that_names_nobody_known_registers_nobody(a: Host, b: Host) -> None:
    ports = [b.transport_id, device_transport_id(b"iqn.2026-11.test:nobody")]
    assert a.register(0, 0x1, ports=ports) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.keys() == []


def test_spec_i_pt_fails_whole_when_one_is_registered(a: Host, b: Host, c: Host) -> None:
    assert b.register(0, 0xB) == GOOD
    assert a.register(0, 0x1, ports=[c.transport_id, b.transport_id]) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.keys() == [0xB]


def test_spec_i_pt_is_for_who_is_not_registered(a: Host, b: Host) -> None:
    registered(a)
    assert a.register(0xA1, 0x2, ports=[b.transport_id]) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.register(0xA1, 0, ports=[b.transport_id]) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.register(0x9, 0x2, ports=[b.transport_id]) == CONFLICT
    assert a.keys() == [0xA1]


@pytest.mark.parametrize("action", [0x01, 0x02, 0x03, 0x04, 0x05, 0x06])
def test_spec_i_pt_is_for_register_alone(a: Host, b: Host, action: int) -> None:
    data = parameter_list(0, 0x1, 0x08, [b.transport_id])
    assert a.out(action, data, WE) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.keys() == []


# Malformed parameter lists


@pytest.mark.parametrize("length", [0, 1, 8, 23])
@pytest.mark.parametrize("action", range(8))
def test_a_list_that_is_too_short_is_a_length_error(a: Host, action: int, length: int) -> None:
    assert a.out(action, bytes(length), WE) == PARAMETER_LIST_LENGTH_ERROR


@pytest.mark.parametrize("action", range(7))
def test_a_list_of_24_bytes_is_24_bytes(a: Host, action: int) -> None:
    assert a.out(action, parameter_list(0, 0x1) + bytes(4), WE) == PARAMETER_LIST_LENGTH_ERROR


@pytest.mark.parametrize("action", range(8))
def test_less_data_than_the_cdb_says_is_a_length_error(a: Host, action: int) -> None:
    assert a.out(action, parameter_list(0, 0x1), WE, length=28) == PARAMETER_LIST_LENGTH_ERROR
    assert a.out(action, parameter_list(0, 0x1), WE, length=0xFFFFFFFF) == PARAMETER_LIST_LENGTH_ERROR
    assert a.keys() == []


def whole(port: bytes) -> bytes:
    return len(port).to_bytes(4) + port


GOOD_PORT = encode_transport_id("iqn.2026-11.test:x,i,0x000000000001")


@pytest.mark.parametrize(
    "additional",
    [
        b"",
        b"\0\0\0",
        (1).to_bytes(4),
        (0xFFFFFFFF).to_bytes(4),
        whole(GOOD_PORT)[:-1],
        (len(GOOD_PORT) - 4).to_bytes(4) + GOOD_PORT,
        whole(GOOD_PORT[:3]),
        whole(b"\x46" + GOOD_PORT[1:]),
        whole(b"\x85" + GOOD_PORT[1:]),
        whole(b"\x45\0\0\0"),
        whole(b"\x45\0\xff\xff" + GOOD_PORT[4:]),
        whole(b"\x45\0\0\x15" + b"x" * 20 + b"\0"),
        whole(b"\x45\0\0\x14" + b"x" * 20),
        whole(b"\x45\0\0\x14" + bytes(20)),
        whole(b"\x45\0\0\x14" + b"iqn.x,i,0x".ljust(20, b"\0")),
        whole(b"\x45\0\0\x14" + b"iqn.x,i,0xg".ljust(20, b"\0")),
        whole(b"\x45\0\0\x18" + b"iqn.x,i,0x1234567890123".ljust(24, b"\0")),
        whole(b"\x45\0\0\x14" + b",i,0x1".ljust(20, b"\0")),
        whole(b"\x45\0\0\x14" + b"\xff\xfe,i,0x1".ljust(20, b"\0")),
        whole(b"\x45\0\0\x14" + b"a b,i,0x1".ljust(20, b"\0")),
        whole(b"\x45\0\x01\x00" + (b"x" * 224 + b",i,0x1").ljust(256, b"\0")),
        whole(b"\x05\0\0\x14" + bytes(20)),
    ],
)
def test_a_malformed_list_of_transportids_registers_nobody(a: Host, additional: bytes) -> None:
    answer = a.out(0x00, parameter_list(0, 0x1, 0x08) + additional)
    assert answer == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.keys() == []


def test_an_empty_list_of_transportids_is_the_sender_alone(a: Host) -> None:
    assert a.register(0, 0x1, ports=[]) == GOOD
    assert a.keys() == [0x1]


@pytest.mark.parametrize("action", [*range(0x08, 0x20)])
def test_other_service_actions_are_not_there(a: Host, action: int) -> None:
    assert a.out(action, parameter_list(0, 1)) == INVALID_FIELD_IN_CDB
    if action > 3:
        assert a.ask(bytes((0x5E, action, 0, 0, 0, 0, 0, 0, 8, 0))) == INVALID_FIELD_IN_CDB


@pytest.mark.parametrize("action", [0x01, 0x02, 0x03, 0x04, 0x05, 0x07])
def test_who_is_not_registered_can_only_register(a: Host, b: Host, action: int) -> None:
    registered(b)
    data = parameter_list(0, 0x1)
    if action == 0x07:
        data = bytes(8) + (1).to_bytes(8) + b"\0\0\0\1" + whole(b.transport_id)
    assert a.out(action, data, WE) == CONFLICT
    assert (a.keys(), a.generation()) == ([0xA1], 1)
