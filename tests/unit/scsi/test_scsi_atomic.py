from __future__ import annotations

import errno

import pytest

from csvd.scsi.outcome import Status
from csvd.scsi.procedure import DiskFault, Procedure, Read, Request, Write
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    LBA_OUT_OF_RANGE,
    WRITE_PROTECTED,
    ApplicationClient,
    cdb_pointer,
    code,
    fixed_sense,
)
from tests.unit.scsi.block_cdbs import BLOCKS, a_unit, cdb_16, compare_and_write, write_atomic
from tests.unit.scsi.store import Store

MISCOMPARE = (0xE, 0x1D, 0x00)
SHORT_DATA_OUT = (0x5, 0x0E, 0x03)
SPACE_ALLOCATION_FAILED = (0x7, 0x27, 0x07)
FUA = 0x08


def orwrite(lba: int, blocks: int, flags: int = 0) -> bytes:
    return cdb_16(0x8B, lba, blocks, flags)


@pytest.fixture
def client() -> ApplicationClient:
    return ApplicationClient.of(a_unit())


@pytest.fixture
def store(client: ApplicationClient) -> Store:
    store = Store()
    store.disk(client.target.servers[0].unit)[: 64 * 512] = b"o" * 64 * 512
    return store


class HalfWritten(Store):
    """A disk that is full after so many bytes of its first write."""

    def __init__(self, taken_bytes: int) -> None:
        super().__init__()
        self.taken_bytes = taken_bytes
        self.failed = 0

    def answer(self, request: Request) -> object:
        if isinstance(request, Write) and not self.failed:
            self.failed += 1
            end = request.offset_bytes + self.taken_bytes
            self.disk(request.unit)[request.offset_bytes : end] = request.data[: self.taken_bytes]
            return DiskFault(request.unit, "write", errno.ENOSPC, end)
        return super().answer(request)


# COMPARE AND WRITE


@pytest.mark.parametrize("blocks", [1, 2, 128])
@pytest.mark.parametrize("flags", [0, FUA])
def test_compare_and_write_writes_where_all_is_as_expected(
    client: ApplicationClient, store: Store, blocks: int, flags: int
) -> None:
    store.disk(client.target.servers[0].unit)[: 200 * 512] = b"o" * 200 * 512
    cdb = compare_and_write(3, blocks, flags)
    assert client.target.data_out_length(0, cdb) == blocks * 1024
    data = b"o" * blocks * 512 + b"n" * blocks * 512
    assert client.run(cdb, data_out=data, store=store).status == Status.GOOD
    assert store.disks[0][: 3 * 512] == b"o" * 3 * 512
    assert store.disks[0][3 * 512 : (3 + blocks) * 512] == b"n" * blocks * 512
    assert store.disks[0][(3 + blocks) * 512 : 200 * 512] == b"o" * (197 - blocks) * 512
    assert [request.fua for request in store.requests if isinstance(request, Write)] == [flags == FUA]


@pytest.mark.parametrize("offset", [0, 1, 511, 512, 1023])
def test_a_miscompare_says_at_which_byte_and_writes_nothing(
    client: ApplicationClient, store: Store, offset: int
) -> None:
    expected = bytearray(b"o" * 1024)
    expected[offset] = 0
    before = bytes(store.disks[0])
    sense = fixed_sense(client.run(compare_and_write(3, 2), data_out=bytes(expected) + b"n" * 1024, store=store).sense)
    assert (code(sense), sense.information) == (MISCOMPARE, offset)
    assert store.disks[0] == before


def test_compare_and_write_of_no_blocks_is_good(client: ApplicationClient, store: Store) -> None:
    assert client.target.data_out_length(0, compare_and_write(3, 0)) == 0
    assert client.run(compare_and_write(3, 0), store=store).status == Status.GOOD
    assert not store.requests


def test_compare_and_write_beyond_its_maximum_is_an_invalid_field(client: ApplicationClient) -> None:
    assert client.target.data_out_length(0, compare_and_write(0, 129)) == 0
    sense = client.refusal(compare_and_write(0, 129))
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (13, None))


@pytest.mark.parametrize("make", [compare_and_write, orwrite, write_atomic])
def test_ranges_protection_and_write_protection_are_checked(client: ApplicationClient, make: object) -> None:
    assert callable(make)
    assert code(client.refusal(make(BLOCKS, 0))) == LBA_OUT_OF_RANGE
    assert code(client.refusal(make(BLOCKS - 1, 2))) == LBA_OUT_OF_RANGE
    assert code(client.refusal(make((1 << 64) - 1, 1))) == LBA_OUT_OF_RANGE
    for flags in range(0x20, 0x100, 0x20):
        assert code(client.refusal(make(0, 1, flags))) == INVALID_FIELD_IN_CDB
    read_only = ApplicationClient.of(a_unit(read_only=True))
    assert read_only.target.data_out_length(0, make(0, 1)) == 0
    assert code(read_only.refusal(make(0, 1))) == WRITE_PROTECTED


@pytest.mark.parametrize("make", [compare_and_write, orwrite, write_atomic])
def test_less_data_than_the_cdb_asks_for_changes_nothing(client: ApplicationClient, store: Store, make: object) -> None:
    assert callable(make)
    short = client.target.data_out_length(0, make(0, 2)) - 1
    sense = fixed_sense(client.run(make(0, 2), data_out=b"o" * short, store=store).sense)
    assert code(sense) == SHORT_DATA_OUT
    assert not store.requests


@pytest.mark.parametrize("make", [compare_and_write, orwrite, write_atomic])
def test_each_has_its_range_for_itself(client: ApplicationClient, make: object) -> None:
    assert callable(make)
    outcome = client.send(make(3, 2), data_out=bytes(2048))
    assert isinstance(outcome, Procedure)
    (claim,) = outcome.claims
    assert claim.locks is client.target.servers[0].unit.locks
    assert (claim.offset_bytes, claim.length_bytes, claim.exclusive) == (1536, 1024, True)


def test_compare_and_write_wants_no_more_data_than_it_takes(client: ApplicationClient) -> None:
    for blocks in (0, 2):
        outcome = client.send(compare_and_write(3, blocks), data_out=bytes(2048))
        assert isinstance(outcome, Procedure)
        assert outcome.exact_data_out


# ORWRITE


@pytest.mark.parametrize("flags", [0, FUA])
def test_orwrite_sets_bits_and_clears_none(client: ApplicationClient, store: Store, flags: int) -> None:
    store.disks[0][512:1024] = bytes(range(256)) * 2
    assert client.target.data_out_length(0, orwrite(1, 1)) == 512
    assert client.run(orwrite(1, 1, flags), data_out=b"\xa5" * 512, store=store).status == Status.GOOD
    assert store.disks[0][512:1024] == bytes(value | 0xA5 for value in range(256)) * 2
    assert [request.fua for request in store.requests if isinstance(request, Write)] == [flags == FUA]


def test_a_long_orwrite_goes_by_steps_of_a_mebibyte(client: ApplicationClient) -> None:
    store = Store()
    data = bytes([1, 2, 4, 8]) * (640 << 10)
    assert client.run(orwrite(0, len(data) // 512), data_out=data, store=store).status == Status.GOOD
    assert store.disks[0][: len(data)] == data
    assert [request.length_bytes for request in store.requests if isinstance(request, Read)] == [
        1 << 20,
        1 << 20,
        1 << 19,
    ]


# WRITE ATOMIC


@pytest.mark.parametrize("flags", [0, FUA])
def test_write_atomic_is_one_write(client: ApplicationClient, store: Store, flags: int) -> None:
    assert client.target.data_out_length(0, write_atomic(1, 2048)) == 1 << 20
    assert client.run(write_atomic(1, 2048, flags), data_out=b"n" * (1 << 20), store=store).status == Status.GOOD
    assert store.disks[0][512 : 512 + (1 << 20)] == b"n" * (1 << 20)
    writes = [request for request in store.requests if isinstance(request, Write)]
    assert [(len(request.data), request.fua) for request in writes] == [(1 << 20, flags == FUA)]


def test_write_atomic_beyond_its_maximum_or_with_boundaries_is_an_invalid_field(client: ApplicationClient) -> None:
    sense = client.refusal(write_atomic(0, 2049))
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (12, None))
    sense = client.refusal(write_atomic(0, 8, boundary=4))
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (10, None))


@pytest.mark.parametrize("taken_bytes", [0, 512, 700, 1024])
def test_a_write_that_fails_half_way_is_taken_back(client: ApplicationClient, taken_bytes: int) -> None:
    for cdb, data in (
        (write_atomic(3, 2), b"n" * 1024),
        (compare_and_write(3, 2), b"o" * 1024 + b"n" * 1024),
    ):
        store = HalfWritten(taken_bytes)
        store.disk(client.target.servers[0].unit)[: 8 * 512] = b"o" * 8 * 512
        sense = fixed_sense(client.run(cdb, data_out=data, store=store).sense)
        assert code(sense) == SPACE_ALLOCATION_FAILED
        assert store.disks[0][: 8 * 512] == b"o" * 8 * 512


def test_the_first_fault_is_told_when_the_old_data_cannot_be_put_back_either(client: ApplicationClient) -> None:
    class Broken(HalfWritten):
        def answer(self, request: Request) -> object:
            if isinstance(request, Write) and self.failed:
                return DiskFault(request.unit, "write", errno.EIO, request.offset_bytes)
            return super().answer(request)

    reply = client.run(write_atomic(3, 2), data_out=b"n" * 1024, store=Broken(512))
    assert code(fixed_sense(reply.sense)) == SPACE_ALLOCATION_FAILED
