from __future__ import annotations

import errno
from typing import Any

import pytest

from csvd.scsi.commands import COMMANDS
from csvd.scsi.logical_unit import Peripheral
from csvd.scsi.medium_state import WITHOUT_MEDIUM
from csvd.scsi.outcome import Status
from csvd.scsi.procedure import Flush, Procedure
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
    fixed_sense,
)
from tests.unit.scsi.store import Store

NO_MEDIUM = (0x2, 0x3A, 0x00)
STOPPED = (0x2, 0x04, 0x02)
PREVENTED = (0x5, 0x53, 0x02)
MEDIUM_CHANGED = (0x6, 0x28, 0x00)
EJECT, LOAD, STOP, START = "1B 00 00 00 02", "1B 01 00 00 03", "1B 00 00 00 00", "1B 00 00 00 01"
PREVENT, ALLOW = "1E 00 00 00 01", "1E 00 00 00 00"
TEST_UNIT_READY = "00"
WITH_MEDIUM = [
    command
    for command in COMMANDS
    if Peripheral.DISK in command.peripherals and command.operation_code not in WITHOUT_MEDIUM
]


def a_client(**overrides: Any) -> ApplicationClient:
    return ApplicationClient.of(a_unit(block_count=64, **overrides))


def another(client: ApplicationClient) -> ApplicationClient:
    return ApplicationClient(client.target, "iqn.2026-11.test:other,i,0x2").ready()


def good(client: ApplicationClient, cdb: str) -> Store:
    store = Store()
    reply = client.run(cdb, store=store)
    assert reply.status == Status.GOOD, reply
    return store


def refused(client: ApplicationClient, cdb: str) -> tuple[int, int, int]:
    return code(fixed_sense(client.run(cdb).sense))


def test_an_ejected_medium_is_flushed_and_gone_until_it_is_loaded() -> None:
    client = a_client(removable=True)
    store = good(client, EJECT)
    assert [type(request) for request in store.requests] == [Flush]
    assert refused(client, TEST_UNIT_READY) == NO_MEDIUM
    assert refused(client, START) == NO_MEDIUM, "there is nothing to start"
    assert code(fixed_sense(client.data("03 00 00 00 12"))) == NO_MEDIUM
    good(client, EJECT)
    good(client, LOAD)
    good(client, TEST_UNIT_READY)


@pytest.mark.parametrize("command", WITH_MEDIUM, ids=lambda command: command.name)
def test_without_a_medium_what_needs_it_is_refused(command: Any) -> None:
    client = a_client(removable=True, thin=True)
    good(client, EJECT)
    cdb = bytes((command.operation_code, command.service_action or 0)).ljust(16, b"\0")
    assert code(client.refusal(cdb)) == NO_MEDIUM


@pytest.mark.parametrize(
    "cdb",
    [
        "12 00 00 00 FF",
        "03 00 00 00 12",
        "A0 00 00 00 00 00 00 00 01 00",
        "1A 00 3F 00 FF",
        "A3 0C 00 00 0000 00001000",
    ],
)
def test_without_a_medium_what_does_not_need_it_runs(cdb: str) -> None:
    client = a_client(removable=True)
    good(client, EJECT)
    good(client, cdb)


def test_the_other_nexuses_learn_that_a_medium_was_loaded() -> None:
    client = a_client(removable=True)
    other = another(client)
    good(client, EJECT)
    assert refused(other, TEST_UNIT_READY) == NO_MEDIUM
    good(client, LOAD)
    good(client, TEST_UNIT_READY)
    assert refused(other, TEST_UNIT_READY) == MEDIUM_CHANGED
    good(client, LOAD)
    good(other, TEST_UNIT_READY)


def test_a_prevented_removal_is_refused_to_all_and_so_is_a_load() -> None:
    client = a_client(removable=True)
    other = another(client)
    good(client, PREVENT)
    for each in (client, other):
        assert refused(each, EJECT) == PREVENTED
        good(each, TEST_UNIT_READY)
    good(other, ALLOW)
    assert refused(other, EJECT) == PREVENTED, "only who prevents it can allow it"
    good(client, ALLOW)
    good(other, EJECT)
    good(client, PREVENT)
    assert refused(other, LOAD) == PREVENTED


def test_prevention_ends_with_its_nexus_and_with_a_reset() -> None:
    client = a_client(removable=True)
    other = another(client)
    good(other, PREVENT)
    client.target.nexus_lost(other.nexus)
    good(client, EJECT)
    good(client, LOAD)
    good(client, PREVENT)
    client.target.logical_unit_reset(0, client.nexus)
    client.ready()
    good(client, EJECT)
    good(client, LOAD)
    good(client, PREVENT)
    client.target.target_reset(client.nexus)
    client.ready()
    good(client, EJECT)


@pytest.mark.parametrize("prevent", [2, 3])
def test_prevention_of_a_changer_is_an_invalid_field(prevent: int) -> None:
    sense = a_client(removable=True).refusal(f"1E 00 00 00 0{prevent}")
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (4, 1))


def test_a_fixed_medium_is_not_ejected() -> None:
    client = a_client()
    for cdb in (EJECT, LOAD):
        sense = client.refusal(cdb)
        assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (4, 1))
    good(client, TEST_UNIT_READY)


def test_a_fixed_medium_can_be_stopped_and_started() -> None:
    client = a_client()
    assert [type(request) for request in good(client, STOP).requests] == [Flush]
    assert refused(client, TEST_UNIT_READY) == STOPPED
    assert refused(client, "28 00 00000000 00 0001 00") == STOPPED
    good(client, START)
    good(client, TEST_UNIT_READY)
    assert good(client, "1B 00 00 00 04").requests == [], "NO_FLUSH"
    client.target.logical_unit_reset(0, client.nexus)
    client.ready()
    good(client, TEST_UNIT_READY)


def test_a_fixed_medium_that_others_use_is_flushed_and_goes_on() -> None:
    client = a_client()
    other = another(client)
    assert [type(request) for request in good(client, STOP).requests] == [Flush]
    for each in (client, other):
        good(each, TEST_UNIT_READY)
    client.target.nexus_lost(other.nexus)
    good(client, STOP)
    late = another(client)
    assert refused(late, TEST_UNIT_READY) == STOPPED
    good(late, START)
    good(client, TEST_UNIT_READY)


def test_a_removable_medium_that_is_only_stopped_stays_at_hand() -> None:
    client = a_client(removable=True)
    for cdb in (STOP, START, "1B 01 00 00 00", "1B 00 00 00 04"):
        good(client, cdb)
        good(client, TEST_UNIT_READY)


@pytest.mark.parametrize("power_condition", range(1, 16))
def test_with_a_power_condition_start_and_loej_are_ignored(power_condition: int) -> None:
    client = a_client(removable=True)
    good(client, f"1B 01 00 00 {power_condition:X}2")
    good(client, TEST_UNIT_READY)


def test_a_medium_that_can_not_be_flushed_is_not_ejected() -> None:
    client = a_client(removable=True)
    store = Store()
    store.fault = lambda request: errno.EIO
    reply = client.run(EJECT, store=store)
    assert code(fixed_sense(reply.sense)) == (0x3, 0x0C, 0x00)
    good(client, TEST_UNIT_READY)


def test_a_removal_that_is_prevented_while_the_eject_waits_is_refused() -> None:
    client = a_client(removable=True)
    procedure = client.send(EJECT)
    assert isinstance(procedure, Procedure)
    good(client, PREVENT)
    assert code(fixed_sense(Store().run(procedure).sense)) == PREVENTED


def test_a_nexus_that_comes_without_a_medium_is_refused_too() -> None:
    client = a_client(removable=True)
    good(client, EJECT)
    assert refused(another(client), TEST_UNIT_READY) == NO_MEDIUM


@pytest.mark.parametrize(
    ("cdb", "status"),
    [
        (ALLOW, Status.GOOD),
        (PREVENT, Status.RESERVATION_CONFLICT),
        (START, Status.GOOD),
        (STOP, Status.RESERVATION_CONFLICT),
        (LOAD, Status.RESERVATION_CONFLICT),
        (EJECT, Status.RESERVATION_CONFLICT),
        ("1B 00 00 00 11", Status.RESERVATION_CONFLICT),
    ],
)
def test_beside_a_reservation_of_another_only_what_disturbs_nobody_runs(cdb: str, status: Status) -> None:
    client = a_client(removable=True)
    other = another(client)
    client.target.nexus_opened(other.nexus, "iqn.2026-11.test:other")
    other.ready()
    register = bytes(8) + bytes.fromhex("00000000000000AA") + bytes(8)
    assert client.run("5F 06 00 0000 00000018 00", data_out=register).status == Status.GOOD
    reserve = bytes.fromhex("00000000000000AA") + bytes(16)
    assert client.run("5F 01 01 0000 00000018 00", data_out=reserve).status == Status.GOOD
    assert other.run(cdb).status == status
