"""FORMAT UNIT: parameter lists, patterns, what others see of it, and a format that is cut short."""

from __future__ import annotations

import errno
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csvd.scsi.outcome import Reply, Status
from csvd.scsi.procedure import Unmap, Write, WriteZeroes
from csvd.scsi.target_device import TargetDevice
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    WRITE_PROTECTED,
    ApplicationClient,
    Sense,
    a_unit,
    code,
    fixed_sense,
)
from tests.unit.scsi.store import Store

BLOCKS = 4100
FORMAT_IN_PROGRESS = (0x2, 0x04, 0x04)
FORMAT_FAILED = (0x3, 0x31, 0x01)
FORMAT_CORRUPTED = (0x3, 0x31, 0x00)
INVALID_FIELD_IN_LIST = (0x5, 0x26, 0x00)
LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
FMTPINFO, LONGLIST, FMTDATA, CMPLST = 0x40, 0x20, 0x10, 0x08
FOV, IP, IMMED = 0x80, 0x08, 0x02
TEST_UNIT_READY, READ_10, REQUEST_SENSE = "00", "28 00 00000000 00 0001 00", "03 00 00 00 FF 00"


def cdb(flags: int = 0) -> bytes:
    return bytes((0x04, flags, 0, 0, 0, 0))


def repeat(pattern: bytes) -> bytes:
    return bytes((0, 1)) + len(pattern).to_bytes(2) + pattern


def a_client(**overrides: Any) -> ApplicationClient:
    return ApplicationClient.of(a_unit(block_count=BLOCKS, **overrides))


def full_store(client: ApplicationClient) -> Store:
    store = Store()
    disk = store.disk(client.target.servers[0].unit)
    disk[:] = b"x" * len(disk)
    return store


def disk_of(client: ApplicationClient, store: Store) -> bytes:
    return bytes(store.disk(client.target.servers[0].unit))


def sense_of(reply: Reply) -> Sense:
    assert reply.status == Status.CHECK_CONDITION
    return fixed_sense(reply.sense)


@pytest.mark.parametrize(("thin", "way"), [(True, Unmap), (False, WriteZeroes)])
def test_without_data_the_medium_reads_as_zeros(thin: bool, way: type) -> None:
    client = a_client(thin=thin)
    store = full_store(client)
    assert client.run(cdb(), store=store).status == Status.GOOD
    assert not any(disk_of(client, store))
    assert any(isinstance(request, way) for request in store.requests)
    client.good(TEST_UNIT_READY)


@pytest.mark.parametrize(
    ("flags", "header"), [(FMTDATA, bytes((0, FOV | IP, 0, 0))), (FMTDATA | LONGLIST, bytes((0, FOV | IP)) + bytes(6))]
)
def test_an_initialization_pattern_is_in_every_block(flags: int, header: bytes) -> None:
    client = a_client()
    store = full_store(client)
    assert client.run(cdb(flags), data_out=header + repeat(b"ab"), store=store).status == Status.GOOD
    assert disk_of(client, store) == b"ab" * 256 * BLOCKS


@pytest.mark.parametrize("pattern", [bytes((0, 0, 0, 0)), repeat(b"\0\0")])
def test_the_default_pattern_and_one_of_zeros_cost_no_writes(pattern: bytes) -> None:
    client = a_client()
    store = full_store(client)
    assert client.run(cdb(FMTDATA), data_out=bytes((0, FOV | IP, 0, 0)) + pattern, store=store).status == Status.GOOD
    assert not any(disk_of(client, store))
    assert not any(isinstance(request, Write) for request in store.requests)


@pytest.mark.parametrize("flags", [FMTPINFO, 0x80, CMPLST, LONGLIST, 0x01])
def test_protection_and_lists_without_data_are_faults_of_the_cdb(flags: int) -> None:
    client = a_client()
    assert code(sense_of(client.run(cdb(flags)))) == INVALID_FIELD_IN_CDB


@pytest.mark.parametrize(
    ("parameters", "expected"),
    [
        (b"", LIST_LENGTH_ERROR),
        (bytes(3), LIST_LENGTH_ERROR),
        (bytes((1, 0, 0, 0)), INVALID_FIELD_IN_LIST),
        (bytes((0, IP, 0, 0)) + repeat(b"a"), INVALID_FIELD_IN_LIST),
        (bytes((0, 0x20, 0, 0)), INVALID_FIELD_IN_LIST),
        (bytes((0, 0, 0, 4)) + bytes(4), INVALID_FIELD_IN_LIST),
        (bytes((0, FOV | IP, 0, 0)), LIST_LENGTH_ERROR),
        (bytes((0, FOV | IP, 0, 0)) + bytes((0, 1, 0, 2)) + b"a", LIST_LENGTH_ERROR),
        (bytes((0, FOV | IP, 0, 0)) + repeat(b""), INVALID_FIELD_IN_LIST),
        (bytes((0, FOV | IP, 0, 0)) + repeat(bytes(513)), INVALID_FIELD_IN_LIST),
        (bytes((0, FOV | IP, 0, 0)) + bytes((0, 2, 0, 1, 5)), INVALID_FIELD_IN_LIST),
        (bytes((0, FOV | IP, 0, 0)) + bytes((0, 0, 0, 1, 5)), INVALID_FIELD_IN_LIST),
    ],
)
def test_a_wrong_list_changes_nothing(parameters: bytes, expected: tuple[int, int, int]) -> None:
    client = a_client()
    store = Store()
    assert code(sense_of(client.run(cdb(FMTDATA), data_out=parameters, store=store))) == expected
    assert store.requests == []
    client.good(TEST_UNIT_READY)


@given(st.binary(max_size=40), st.integers(0, 255))
def test_any_bytes_end_in_good_or_a_sense_code(parameters: bytes, flags: int) -> None:
    client = ApplicationClient.of(a_unit(block_count=8))
    reply = client.run(cdb(flags), data_out=parameters)
    assert reply.status in (Status.GOOD, Status.CHECK_CONDITION)


def test_how_much_data_it_takes_only_the_initiator_knows_up_to_a_limit() -> None:
    client = a_client()
    assert client.target.data_out_length(0, cdb(FMTDATA)) == -(8 + 4 + 512)
    assert client.target.data_out_length(0, cdb()) == 0
    assert client.target.data_out_length(0, cdb(FMTDATA | FMTPINFO)) == 0


def test_a_write_protected_unit_is_not_formatted() -> None:
    client = ApplicationClient.of(a_unit(read_only=True))
    assert code(sense_of(client.run(cdb()))) == WRITE_PROTECTED


def test_with_immed_others_see_its_progress_until_it_ends() -> None:
    client = a_client()
    store = full_store(client)
    parameters = bytes((0, FOV | IP | IMMED, 0, 0)) + repeat(b"q")
    assert client.run(cdb(FMTDATA), data_out=parameters, store=store).status == Status.GOOD
    for refused in (TEST_UNIT_READY, READ_10, cdb()):
        assert code(client.refusal(refused)) == FORMAT_IN_PROGRESS
    assert code(fixed_sense(client.data(REQUEST_SENSE))) == FORMAT_IN_PROGRESS
    store.run_background()
    client.good(TEST_UNIT_READY)
    assert disk_of(client, store) == b"q" * 512 * BLOCKS


def test_a_failed_format_leaves_a_corrupt_one_that_another_puts_right() -> None:
    client = a_client()
    store = full_store(client)
    store.fault = lambda request: errno.EIO if isinstance(request, WriteZeroes) else None
    assert code(sense_of(client.run(cdb(), store=store))) == FORMAT_FAILED
    assert code(client.refusal(READ_10)) == FORMAT_CORRUPTED
    client.data("25 00 00000000 0000 00 00")
    client.good(TEST_UNIT_READY)
    store.fault = lambda request: None
    assert client.run(cdb(), store=store).status == Status.GOOD
    client.transfer(READ_10)


def test_a_format_that_a_restart_cut_short_is_corrupt() -> None:
    unit = a_unit(block_count=BLOCKS, keeps=True)
    client = ApplicationClient.of(unit)
    store = Store()
    assert client.run(cdb(FMTDATA), data_out=bytes((0, IMMED, 0, 0)), store=store).status == Status.GOOD
    target = TargetDevice({0: a_unit(block_count=BLOCKS, keeps=True, kept=dict(unit.kept))})
    client = ApplicationClient(target).ready()
    assert target.resumptions() == []
    assert code(client.refusal(READ_10)) == FORMAT_CORRUPTED
    assert client.run(cdb(), store=store).status == Status.GOOD
    client.transfer(READ_10)
    assert target.servers[0].unit.kept == {}
