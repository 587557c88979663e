from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from csvd.scsi.outcome import Reply, Status
from csvd.scsi.procedure import Flush, Procedure, Read, Write
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    LBA_OUT_OF_RANGE,
    WRITE_PROTECTED,
    ApplicationClient,
    cdb_pointer,
    code,
    fixed_sense,
)
from tests.unit.scsi.block_cdbs import BLOCKS, a_unit, cdb_10, cdb_12, cdb_16
from tests.unit.scsi.store import Store

MISCOMPARE = (0xE, 0x1D, 0x00)
SHORT_DATA_OUT = (0x5, 0x0E, 0x03)
COMPARE, RESERVED, COMPARE_ONE = 0x02, 0x04, 0x06
MAKE: dict[int, Callable[..., bytes]] = {10: cdb_10, 12: cdb_12, 16: cdb_16}
VERIFY = {10: 0x2F, 12: 0xAF, 16: 0x8F}
WRITE_AND_VERIFY = {10: 0x2E, 12: 0xAE, 16: 0x8E}
SIZES = [10, 12, 16]


def verify(size: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return MAKE[size](VERIFY[size], lba, blocks, flags)


def write_and_verify(size: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    return MAKE[size](WRITE_AND_VERIFY[size], lba, blocks, flags)


@pytest.fixture
def client() -> ApplicationClient:
    return ApplicationClient.of(a_unit())


def a_store(client: ApplicationClient) -> Store:
    """A disk whose every block is its own."""
    store = Store()
    disk = store.disk(client.target.servers[0].unit)
    for lba in range(64):
        disk[lba * 512 : (lba + 1) * 512] = bytes([lba + 1]) * 512
    return store


@pytest.mark.parametrize("size", SIZES)
def test_verify_without_byte_check_reads_the_blocks_and_takes_no_data(client: ApplicationClient, size: int) -> None:
    store = a_store(client)
    cdb = verify(size, 3, 4)
    assert client.target.data_out_length(0, cdb) == 0
    assert client.run(cdb, store=store).status == Status.GOOD
    (request,) = store.requests
    assert isinstance(request, Read)
    assert (request.offset_bytes, request.length_bytes) == (3 * 512, 4 * 512)


@pytest.mark.parametrize("size", SIZES)
def test_verify_compares_each_block_with_its_own(client: ApplicationClient, size: int) -> None:
    store = a_store(client)
    cdb = verify(size, 3, 4, COMPARE)
    data = bytearray(store.disks[0][3 * 512 : 7 * 512])
    assert client.target.data_out_length(0, cdb) == 2048
    assert client.run(cdb, data_out=bytes(data), store=store).status == Status.GOOD
    data[3 * 512 + 100] ^= 1
    reply = client.run(cdb, data_out=bytes(data), store=store)
    assert code(fixed_sense(reply.sense)) == MISCOMPARE
    assert fixed_sense(reply.sense).information == 6, "the block that differs"


@pytest.mark.parametrize("size", SIZES)
def test_verify_compares_every_block_with_one(client: ApplicationClient, size: int) -> None:
    store = a_store(client)
    store.disks[0][3 * 512 : 7 * 512] = bytes([9]) * 2048
    cdb = verify(size, 3, 4, COMPARE_ONE)
    assert client.target.data_out_length(0, cdb) == 512
    assert client.run(cdb, data_out=bytes([9]) * 512, store=store).status == Status.GOOD
    store.disks[0][5 * 512 + 511] = 8
    sense = fixed_sense(client.run(cdb, data_out=bytes([9]) * 512, store=store).sense)
    assert (code(sense), sense.information) == (MISCOMPARE, 5)


@pytest.mark.parametrize("size", SIZES)
def test_the_reserved_byte_check_is_an_invalid_field(client: ApplicationClient, size: int) -> None:
    assert client.target.data_out_length(0, verify(size, 0, 1, RESERVED)) == 0
    sense = client.refusal(verify(size, 0, 1, RESERVED))
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (1, 2))
    for flags in (RESERVED, COMPARE_ONE):
        assert code(client.refusal(write_and_verify(size, 0, 1, flags))) == INVALID_FIELD_IN_CDB


@pytest.mark.parametrize("make", [verify, write_and_verify])
@pytest.mark.parametrize("size", SIZES)
def test_ranges_and_protection_are_checked(client: ApplicationClient, make: Callable[..., bytes], size: int) -> None:
    assert code(client.refusal(make(size, BLOCKS, 0))) == LBA_OUT_OF_RANGE
    assert code(client.refusal(make(size, BLOCKS - 1, 2))) == LBA_OUT_OF_RANGE
    for flags in range(0x20, 0x100, 0x20):
        assert code(client.refusal(make(size, 0, 1, flags))) == INVALID_FIELD_IN_CDB
    for flags in (0, COMPARE):
        assert client.run(make(size, BLOCKS - 1, 0, flags)).status == Status.GOOD


@pytest.mark.parametrize("make", [verify, write_and_verify])
@pytest.mark.parametrize("size", [12, 16])
def test_more_than_the_maximum_transfer_length_is_an_invalid_field(make: Callable[..., bytes], size: int) -> None:
    client = ApplicationClient.of(a_unit(maximum_transfer_bytes=1 << 20))
    assert code(client.refusal(make(size, 0, 2049))) == INVALID_FIELD_IN_CDB


def test_verify_with_less_data_than_it_takes_compares_nothing(client: ApplicationClient) -> None:
    store = a_store(client)
    reply = client.run(verify(10, 0, 2, COMPARE), data_out=bytes(store.disks[0][:1023]), store=store)
    assert code(fixed_sense(reply.sense)) == SHORT_DATA_OUT
    assert not store.requests


def test_a_long_verify_goes_by_steps_of_a_mebibyte_and_finds_the_last_byte() -> None:
    client = ApplicationClient.of(a_unit())
    store = Store()
    length = (3 << 20) - 512
    data = bytearray(length)
    data[-1] = 1
    reply = client.run(verify(16, 8, length // 512, COMPARE), data_out=bytes(data), store=store)
    sense = fixed_sense(reply.sense)
    assert (code(sense), sense.information) == (MISCOMPARE, 8 + length // 512 - 1)
    assert [request.length_bytes for request in store.requests if isinstance(request, Read)] == [
        1 << 20,
        1 << 20,
        (1 << 20) - 512,
    ]


def test_verify_serves_a_read_only_unit() -> None:
    client = ApplicationClient.of(a_unit(read_only=True))
    assert client.run(verify(10, 0, 1)).status == Status.GOOD
    assert code(client.refusal(write_and_verify(10, 0, 1))) == WRITE_PROTECTED


def test_verify_reports_the_block_that_cannot_be_read(client: ApplicationClient) -> None:
    store = a_store(client)
    store.fault = lambda request: errno.EIO if isinstance(request, Read) else None
    sense = fixed_sense(client.run(verify(10, 7, 1), store=store).sense)
    assert (code(sense), sense.information) == ((0x3, 0x11, 0x00), 7)


@pytest.mark.parametrize("flags", [0, COMPARE])
@pytest.mark.parametrize("size", SIZES)
def test_write_and_verify_writes_makes_durable_and_reads_back(client: ApplicationClient, size: int, flags: int) -> None:
    store = a_store(client)
    cdb = write_and_verify(size, 3, 2, flags)
    assert client.target.data_out_length(0, cdb) == 1024
    assert client.run(cdb, data_out=b"x" * 1024, store=store).status == Status.GOOD
    assert store.disks[0][3 * 512 : 5 * 512] == b"x" * 1024
    assert [type(request) for request in store.requests] == [Write, Flush, Read]


def test_write_and_verify_tells_what_the_medium_did_not_take(client: ApplicationClient) -> None:
    class Forgetful(Store):
        def answer(self, request: object) -> object:
            answer = super().answer(request)  # type: ignore[arg-type]
            if isinstance(request, Flush):
                self.disks[0][3 * 512 + 600] = 0
            return answer

    reply = client.run(write_and_verify(16, 3, 2, COMPARE), data_out=b"x" * 1024, store=Forgetful())
    sense = fixed_sense(reply.sense)
    assert (code(sense), sense.information) == (MISCOMPARE, 4)


def test_write_and_verify_of_less_data_writes_the_whole_blocks_of_it(client: ApplicationClient) -> None:
    store = a_store(client)
    before = bytes(store.disks[0])
    assert client.run(write_and_verify(10, 3, 3), data_out=b"x" * 700, store=store).status == Status.GOOD
    assert store.disks[0] == before[: 3 * 512] + b"x" * 512 + before[4 * 512 :]
    assert client.run(write_and_verify(10, 3, 3), data_out=b"y" * 511, store=store).status == Status.GOOD
    assert store.disks[0][3 * 512] == ord("x")


def test_write_and_verify_has_its_range_for_itself_and_verify_shares_it(client: ApplicationClient) -> None:
    outcome = client.send(write_and_verify(10, 3, 2), data_out=bytes(1024))
    assert isinstance(outcome, Procedure)
    (claim,) = outcome.claims
    assert (claim.offset_bytes, claim.length_bytes, claim.exclusive) == (1536, 1024, True)
    outcome = client.send(verify(10, 3, 2))
    assert isinstance(outcome, Procedure)
    assert [claim.exclusive for claim in outcome.claims] == [False]
    assert isinstance(client.send(verify(10, 3, 0)), Reply)
