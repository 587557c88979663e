from __future__ import annotations

from typing import Any

import pytest

from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.outcome import Status
from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    INVALID_OPERATION_CODE,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
    fixed_sense,
)


def report(kind: int, length: int = 1000) -> bytes:
    return b"\xa3\x05" + bytes(4) + length.to_bytes(4) + bytes((kind << 1, 0))


def set_cdb(kind: int, length: int) -> bytes:
    return b"\xa4\x06" + bytes(4) + length.to_bytes(4) + bytes((kind << 1, 0))


def set_information(client: ApplicationClient, kind: int, information: bytes) -> tuple[int, int, int]:
    reply = client.run(set_cdb(kind, len(information)), data_out=information)
    return (0, 0, 0) if reply.status == Status.GOOD else code(fixed_sense(reply.sense))


@pytest.fixture
def unit() -> LogicalUnit:
    return a_unit(keeps=True)


@pytest.fixture
def client(unit: LogicalUnit) -> ApplicationClient:
    return ApplicationClient.of(unit)


def test_there_is_none_at_first_and_the_types_are_told(client: ApplicationClient) -> None:
    assert client.data(report(0)) == client.data(report(2)) == bytes(4)
    assert client.data(report(0x7F)) == bytes.fromhex("0000 0008 00 00 0040 04 00 0100")


def test_what_is_set_is_reported_to_all_told_to_the_others_and_outlives_a_restart(
    unit: LogicalUnit, client: ApplicationClient
) -> None:
    other = ApplicationClient(client.target, "iqn.2026-11.test:other,i,0x2").ready()
    assert set_information(client, 0, b"\xffshelf 4") == (0, 0, 0)
    assert code(other.refusal("00")) == (0x6, 0x3F, 0x05)
    client.good("00")
    assert set_information(client, 2, "Plattensatz für Büro\0".encode()) == (0, 0, 0)
    other.refusal("00")
    expected = b"\0\0\0\x08\xffshelf 4"
    assert other.data(report(0)) == expected
    assert other.data(report(0, 5)) == expected[:5]
    again = ApplicationClient(TargetDevice({0: a_unit(keeps=True, kept=dict(unit.kept))})).ready()
    assert again.data(report(0)) == expected
    assert again.data(report(2))[4:].decode() == "Plattensatz für Büro\0"


def test_nothing_removes_it(client: ApplicationClient) -> None:
    set_information(client, 0, b"one")
    set_information(client, 2, b"two\0")
    assert set_information(client, 0, b"") == (0, 0, 0)
    assert client.data(report(0)) == bytes(4)
    assert client.data(report(2))[4:] == b"two\0"


@pytest.mark.parametrize("text", [b"no null", b"\xff\0", b"in\0between\0"])
def test_text_is_null_terminated_utf_8(client: ApplicationClient, text: bytes) -> None:
    assert set_information(client, 2, text) == (0x5, 0x26, 0x00)
    assert client.data(report(2)) == bytes(4)


@pytest.mark.parametrize(("kind", "most"), [(0, 64), (2, 256)])
def test_more_than_the_maximum_is_refused_and_not_taken(client: ApplicationClient, kind: int, most: int) -> None:
    assert set_information(client, kind, b"x" * (most - 1) + b"\0") == (0, 0, 0)
    sense = client.refusal(set_cdb(kind, most + 1))
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (6, None))
    assert client.target.data_out_length(0, set_cdb(kind, most + 1)) == 0
    assert client.target.data_out_length(0, set_cdb(kind, most)) == most


@pytest.mark.parametrize("cdb", [report(1), report(3), set_cdb(4, 0), set_cdb(0x7F, 0)])
def test_an_unknown_type_is_an_invalid_field(client: ApplicationClient, cdb: bytes) -> None:
    sense = client.refusal(cdb)
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (10, 7))


def test_a_list_that_came_short_is_refused(client: ApplicationClient) -> None:
    assert code(fixed_sense(client.run(set_cdb(0, 9), data_out=b"x" * 8).sense)) == (0x5, 0x1A, 0x00)


def test_where_nothing_is_kept_nothing_can_be_set() -> None:
    client = ApplicationClient.of(a_unit())
    assert client.data(report(0)) == bytes(4)
    assert code(client.refusal(set_cdb(0, 4))) in (INVALID_OPERATION_CODE, INVALID_FIELD_IN_CDB)


def test_kept_values_that_are_not_ours_are_none() -> None:
    nonsense: list[Any] = [[], {"0": 4}]
    for each in nonsense:
        kept = {"identifying information": each}
        assert ApplicationClient.of(a_unit(keeps=True, kept=kept)).data(report(0)) == bytes(4)
