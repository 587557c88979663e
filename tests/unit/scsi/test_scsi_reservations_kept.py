"""What reservations survive, what is said of them, and what each command is to them (SPC-4 5.13.1, 5.13.5, 6.15)."""

from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from csvd.scsi.command import Reservation
from csvd.scsi.commands import COMMANDS
from csvd.scsi.commands.persistent_reserve_in import FULL_STATUS_DESCRIPTOR, _pack_full_status
from csvd.scsi.procedure import Keep
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
    INSUFFICIENT_REGISTRATION_RESOURCES,
    INVALID_FIELD_IN_PARAMETER_LIST,
    TARGET,
    WE,
    WE_AR,
    WE_RO,
    Host,
    a_target,
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


# Nexus loss, resets, restarts


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_nexus_loss_and_resets_change_nothing(target: TargetDevice, a: Host, b: Host, kind: int) -> None:
    registered(a)
    assert a.reserve(0xA1, kind) == GOOD
    a.lose()
    assert not b.may_write()
    b.reset()
    b.reset_target()
    assert b.keys() == [0xA1]
    assert not b.may_write()
    a.log_in(target)
    assert a.may_write()
    assert a.release(0xA1, kind) == GOOD


def restarted(target: TargetDevice) -> TargetDevice:
    """A target with the same logical unit after a loss of power."""
    unit = target.servers[0].unit
    return a_target(a_unit(keeps=unit.keeps, kept=dict(unit.kept)))


@pytest.mark.parametrize("kind", ALL_TYPES)
def test_with_aptpl_all_is_there_after_a_restart(kind: int) -> None:
    target = a_target(a_unit(keeps=True))
    a, b, c = Host(target, "a"), Host(target, "b"), Host(target, "c")
    assert a.register(0, 0xA1, aptpl=True) == GOOD
    assert b.register(0, 0xA2, aptpl=True) == GOOD
    assert a.reserve(0xA1, kind) == GOOD
    before = a.full_status()
    again = restarted(target)
    for host in (a, b, c):
        host.log_in(again)
    assert a.full_status() == before
    assert (a.reservation(), a.generation()) == ((0 if kind in ALL_REGISTRANTS else 0xA1, kind), 0)
    assert a.read(2)[3] & 1, "PTPL_A"
    assert (a.may_write(), c.may_write()) == (True, False)
    assert b.may_write() is (kind in REGISTRANTS)


def test_the_last_aptpl_counts_for_all() -> None:
    target = a_target(a_unit(keeps=True))
    a, b = Host(target, "a"), Host(target, "b")
    assert a.register(0, 0xA1, aptpl=True) == GOOD
    assert a.reserve(0xA1, WE) == GOOD
    assert b.register(0, 0xA2) == GOOD
    assert target.servers[0].unit.kept == {}
    again = restarted(target)
    a.log_in(again)
    assert (a.keys(), a.reservation()) == ([], None)


def test_every_change_under_aptpl_is_kept() -> None:
    target = a_target(a_unit(keeps=True))
    a, b = Host(target, "a"), Host(target, "b")
    changes: list[Callable[[], object]] = [
        lambda: a.register(0, 0xA1, aptpl=True),
        lambda: b.register_anyway(0xA2, aptpl=True),
        lambda: a.reserve(0xA1, EA),
        lambda: a.move(0xA1, 0xB, b.transport_id, aptpl=True),
        lambda: a.preempt(0xA1, 0xB, WE_RO),
        lambda: a.release(0xA1, WE_RO),
        lambda: a.clear(0xA1),
    ]
    for change in changes:
        assert change() == GOOD
        before = (a.full_status(), a.reservation())
        again = restarted(target)
        mirror = Host(again, "mirror")
        assert (mirror.full_status(), mirror.reservation()) == before


def test_without_a_place_to_keep_aptpl_is_refused_and_said_so(a: Host, b: Host) -> None:
    assert a.register(0, 0x1, aptpl=True) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.register_anyway(0x1, aptpl=True) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.keys() == []
    registered(a)
    assert a.reserve(0xA1, WE) == GOOD
    assert a.move(0xA1, 0xB, b.transport_id, aptpl=True) == INVALID_FIELD_IN_PARAMETER_LIST
    assert a.read(2)[2] & 1 == 0, "PTPL_C"


@pytest.mark.parametrize(
    ("number", "sense"),
    [(errno.ENOSPC, INSUFFICIENT_REGISTRATION_RESOURCES), (errno.EIO, (0x4, 0x44, 0x00))],
)
def test_what_can_not_be_kept_does_not_happen(number: int, sense: tuple[int, int, int]) -> None:
    target = a_target(a_unit(keeps=True))
    a = Host(target, "a")
    a.store.fault = lambda request: number if isinstance(request, Keep) else None
    assert a.register(0, 0x1, aptpl=True) == sense
    assert (a.keys(), a.generation()) == ([], 0)
    a.store.fault = lambda request: None
    assert a.register(0, 0x1, aptpl=True) == GOOD


# REPORT CAPABILITIES and lengths


@pytest.mark.parametrize("keeps", [False, True])
def test_capabilities_are_what_there_is(keeps: bool) -> None:
    a = Host(a_target(a_unit(keeps=keeps)), "a")
    assert a.read(2) == bytes((0, 8, 0x1C | keeps, 0x80 | 0b100 << 4, 0xEA, 0x01, 0, 0))
    assert a.register(0, 0x1, aptpl=keeps) == GOOD
    assert a.read(2)[3] == 0x80 | 0b100 << 4 | keeps


@pytest.mark.parametrize("action", range(4))
def test_data_in_is_cut_to_the_allocation_length(a: Host, b: Host, action: int) -> None:
    registered(a, b)
    assert a.reserve(0xA1, WE) == GOOD
    whole_data = a.read(action)
    for length in range(len(whole_data) + 2):
        assert a.read(action, length) == whole_data[:length]


def test_the_packed_full_status_descriptor_is_the_declared_one() -> None:
    values = {
        "reservation_key": 0x0102030405060708,
        "all_tg_pt_and_r_holder": 1,
        "scope_and_type": 7,
        "relative_target_port_identifier": 0x0A0B,
        "additional_descriptor_length": 0x0C0D0E0F,
    }
    assert _pack_full_status(*values.values()) == FULL_STATUS_DESCRIPTOR.build(values)


def test_a_transportid_is_null_padded_to_four_bytes_and_at_least_24() -> None:
    assert encode_transport_id("iqn.a,i,0x000000000001") == b"\x45\0\0\x18iqn.a,i,0x000000000001\0\0"
    assert encode_transport_id("x") == b"\x45\0\0\x14x".ljust(24, b"\0")
    assert encode_transport_id("x" * 20) == b"\x45\0\0\x18" + b"x" * 20 + bytes(4)


# Every command


ALLOWED = {
    "REQUEST SENSE",
    "INQUIRY",
    "LOG SENSE",
    "REPORT LUNS",
    "READ CAPACITY(10)",
    "READ CAPACITY(16)",
    "REPORT TARGET PORT GROUPS",
    "REPORT IDENTIFYING INFORMATION",
    "RELEASE(6)",
}
READS = {
    "READ(6)",
    "READ(10)",
    "READ(12)",
    "READ(16)",
    "MODE SENSE(6)",
    "MODE SENSE(10)",
    "REPORT SUPPORTED OPERATION CODES",
    "REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
    "POPULATE TOKEN",
    "READ BUFFER",
    "READ DEFECT DATA(10)",
    "READ DEFECT DATA(12)",
    "GET LBA STATUS",
}
WRITES = {
    "WRITE(6)",
    "WRITE(10)",
    "WRITE(12)",
    "WRITE(16)",
    "SYNCHRONIZE CACHE(10)",
    "SYNCHRONIZE CACHE(16)",
    "MODE SELECT(6)",
    "MODE SELECT(10)",
    "FORMAT UNIT",
    "EXTENDED COPY(LID1)",
    "EXTENDED COPY(LID4)",
    "COPY OPERATION ABORT",
    "WRITE USING TOKEN",
    "WRITE BUFFER",
    "SET TARGET PORT GROUPS",
    "SET IDENTIFYING INFORMATION",
}


def test_the_rows_have_the_classes_of_the_standards_tables() -> None:
    rows = {command.name: command.reservation for command in COMMANDS}
    for names, kind in (
        (ALLOWED, Reservation.ALLOWED),
        (READS, Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS),
        (WRITES, Reservation.CONFLICTS),
    ):
        assert {name: rows[name] for name in names} == dict.fromkeys(names, kind)
    assert all(
        row.reservation is Reservation.CONFLICTS_WITH_LEGACY
        for row in COMMANDS
        if row.operation_code in (0x00, 0x16, 0x5E, 0x5F, 0x84)
    )
    by_code = {command.operation_code: command.reservation for command in COMMANDS}
    for operation_code in (0x2F, 0xAF, 0x8F, 0x34, 0x90):
        assert by_code.get(operation_code, Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS) is (
            Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS
        ), "VERIFY and PRE-FETCH read"
    for operation_code in (0x2E, 0xAE, 0x8E, 0x41, 0x93, 0x42, 0x89, 0x8B, 0x9C):
        assert by_code.get(operation_code, Reservation.CONFLICTS) is Reservation.CONFLICTS


@pytest.mark.parametrize(
    ("cdb", "answers"),
    [
        ("1b 00 00 00 01 00", GOOD),
        ("1b 00 00 00 00 00", CONFLICT),
        ("1b 00 00 00 31 00", CONFLICT),
        ("1e 00 00 00 00 00", GOOD),
        ("1e 00 00 00 01 00", CONFLICT),
    ],
)
def test_start_and_allow_pass_and_stop_and_prevent_do_not(a: Host, b: Host, cdb: str, answers: int) -> None:
    registered(a)
    assert a.reserve(0xA1, EA) == GOOD
    assert b.ask(cdb) == answers


def test_the_names_of_target_ports_are_those_of_the_target(a: Host) -> None:
    registered(a)
    (nexus,) = a.client.target.servers[0].reservations.state.keys
    assert nexus.target_port == f"{TARGET},t,0x0001"
