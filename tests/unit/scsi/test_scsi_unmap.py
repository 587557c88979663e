from __future__ import annotations

import errno
from collections.abc import Callable

import pytest

from csvd.scsi.commands.unmap import BLOCK_DESCRIPTOR, _unpack_descriptor
from csvd.scsi.outcome import Status
from csvd.scsi.procedure import Extent, Prefetch, Procedure, Request, Unmap, Write, WriteZeroes
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    INVALID_OPERATION_CODE,
    LBA_OUT_OF_RANGE,
    WRITE_PROTECTED,
    ApplicationClient,
    cdb_pointer,
    code,
    fixed_sense,
)
from tests.unit.scsi.block_cdbs import BLOCKS, a_unit, cdb_10, cdb_16, get_lba_status, unmap, unmap_list
from tests.unit.scsi.store import Store

INVALID_FIELD_IN_LIST = (0x5, 0x26, 0x00)
LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
SHORT_DATA_OUT = (0x5, 0x0E, 0x03)
ANCHOR, UNMAP, NDOB = 0x10, 0x08, 0x01


@pytest.fixture
def client() -> ApplicationClient:
    return ApplicationClient.of(a_unit(thin=True))


@pytest.fixture
def full() -> ApplicationClient:
    return ApplicationClient.of(a_unit())


@pytest.fixture
def store(client: ApplicationClient) -> Store:
    store = Store()
    store.disk(client.target.servers[0].unit)[: 64 * 512] = b"o" * 64 * 512
    return store


# UNMAP


def test_unmap_gives_every_range_back(client: ApplicationClient, store: Store) -> None:
    data = unmap_list((1, 2), (5, 0), (10, 1))
    assert client.target.data_out_length(0, unmap(len(data))) == len(data)
    assert client.run(unmap(len(data)), data_out=data, store=store).status == Status.GOOD
    expected = bytearray(b"o" * 64 * 512)
    expected[512 : 3 * 512] = bytes(1024)
    expected[10 * 512 : 11 * 512] = bytes(512)
    assert store.disks[0][: 64 * 512] == expected
    assert [type(request) for request in store.requests] == [Unmap, Unmap]


def test_an_anchored_range_is_zeroed_and_stays_allocated(client: ApplicationClient, store: Store) -> None:
    data = unmap_list((1, 2))
    assert client.run(unmap(len(data), flags=1), data_out=data, store=store).status == Status.GOOD
    (request,) = store.requests
    assert isinstance(request, WriteZeroes)
    assert (request.offset_bytes, request.length_bytes) == (512, 1024)


@pytest.mark.parametrize("length", [0, 8])
def test_an_empty_list_is_good(client: ApplicationClient, length: int) -> None:
    assert client.run(unmap(length), data_out=unmap_list()[:length]).status == Status.GOOD
    data = unmap_list((BLOCKS, 0))
    assert client.run(unmap(len(data)), data_out=data).status == Status.GOOD


@pytest.mark.parametrize("length", range(1, 8))
def test_a_list_shorter_than_its_header_is_a_length_error(client: ApplicationClient, length: int) -> None:
    sense = fixed_sense(client.run(unmap(length), data_out=bytes(length)).sense)
    assert code(sense) == LIST_LENGTH_ERROR


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (unmap_list((0, 1), descriptor_length=17), LIST_LENGTH_ERROR),
        (unmap_list((0, 1), descriptor_length=0xFFF0), LIST_LENGTH_ERROR),
        (unmap_list((0, 1), data_length=21), INVALID_FIELD_IN_LIST),
        (unmap_list((0, 1), data_length=0), INVALID_FIELD_IN_LIST),
        (unmap_list((0, 1), (BLOCKS, 1)), LBA_OUT_OF_RANGE),
        (unmap_list((0, 1), (BLOCKS + 1, 0)), LBA_OUT_OF_RANGE),
        (unmap_list((0, 1), ((1 << 64) - 1, 2)), LBA_OUT_OF_RANGE),
        (unmap_list(*((lba, 1) for lba in range(257))), INVALID_FIELD_IN_LIST),
        (unmap_list(*((0, BLOCKS) for _ in range(129))), INVALID_FIELD_IN_LIST),
    ],
)
def test_a_wrong_list_unmaps_nothing(
    client: ApplicationClient, store: Store, data: bytes, expected: tuple[int, int, int]
) -> None:
    reply = client.run(unmap(len(data)), data_out=data, store=store)
    assert code(fixed_sense(reply.sense)) == expected
    assert not store.requests


def test_a_descriptor_is_unpacked_as_it_is_declared() -> None:
    octets = bytes(range(16))
    declared = BLOCK_DESCRIPTOR.parse(octets)
    assert _unpack_descriptor(octets) == (declared.logical_block_address, declared.number_of_logical_blocks)


def test_an_incomplete_descriptor_at_the_end_is_ignored(client: ApplicationClient, store: Store) -> None:
    data = unmap_list((1, 1), (3, 1), descriptor_length=31)
    assert client.run(unmap(len(data)), data_out=data, store=store).status == Status.GOOD
    assert len(store.requests) == 1


def test_less_data_than_the_list_is_a_length_error(client: ApplicationClient, store: Store) -> None:
    data = unmap_list((1, 1), (3, 1))
    reply = client.run(unmap(len(data)), data_out=data[:-1], store=store)
    assert code(fixed_sense(reply.sense)) == LIST_LENGTH_ERROR
    assert not store.requests


def test_a_long_range_is_unmapped_in_steps() -> None:
    class Recorder(Store):
        def answer(self, request: Request) -> object:
            self.requests.append(request)
            return None

    client = ApplicationClient.of(a_unit(thin=True, block_count=1 << 19))
    data = unmap_list((3, 300_000))
    store = Recorder()
    assert client.run(unmap(len(data)), data_out=data, store=store).status == Status.GOOD
    steps = [(request.offset_bytes, request.length_bytes) for request in store.requests if isinstance(request, Unmap)]
    rest = 300_000 * 512 - (128 << 20)
    assert steps == [(1536, 64 << 20), (1536 + (64 << 20), 64 << 20), (1536 + (128 << 20), rest)]


def test_unmap_is_for_thin_units_that_are_not_write_protected(full: ApplicationClient) -> None:
    assert code(full.refusal(unmap(8))) == INVALID_OPERATION_CODE
    read_only = ApplicationClient.of(a_unit(thin=True, read_only=True))
    assert read_only.target.data_out_length(0, unmap(24)) == 0
    assert code(read_only.refusal(unmap(0))) == WRITE_PROTECTED


def test_unmap_shares_its_ranges_with_readers_and_writers(client: ApplicationClient) -> None:
    data = unmap_list((1, 2), (9, 1))
    outcome = client.send(unmap(len(data)), data_out=data)
    assert isinstance(outcome, Procedure)
    assert [tuple(claim[1:]) for claim in outcome.claims] == [(512, 1024, False), (9 * 512, 512, False)]


# WRITE SAME

SAME: dict[int, Callable[..., bytes]] = {
    10: lambda lba, blocks, flags=0: cdb_10(0x41, lba, blocks, flags),
    16: lambda lba, blocks, flags=0: cdb_16(0x93, lba, blocks, flags),
}
SIZES = [10, 16]


@pytest.mark.parametrize("flags", [0, UNMAP, UNMAP | ANCHOR])
@pytest.mark.parametrize("size", SIZES)
def test_write_same_writes_its_block_over_and_over(
    client: ApplicationClient, store: Store, size: int, flags: int
) -> None:
    block = bytes(range(256)) * 2
    cdb = SAME[size](3, 5000, flags)
    assert client.target.data_out_length(0, cdb) == 512
    assert client.run(cdb, data_out=block, store=store).status == Status.GOOD
    assert store.disks[0][: 3 * 512] == b"o" * 3 * 512
    assert store.disks[0][3 * 512 : 5003 * 512] == block * 5000
    assert not any(store.disks[0][5003 * 512 :])
    lengths = [len(request.data) for request in store.requests if isinstance(request, Write)]
    assert lengths == [1 << 20, 1 << 20, 5000 * 512 - (2 << 20)]


@pytest.mark.parametrize(("flags", "request_type"), [(0, WriteZeroes), (UNMAP, Unmap), (UNMAP | ANCHOR, WriteZeroes)])
@pytest.mark.parametrize("size", SIZES)
def test_zeros_are_left_to_the_store(
    client: ApplicationClient, store: Store, size: int, flags: int, request_type: type
) -> None:
    assert client.run(SAME[size](3, 4, flags), data_out=bytes(512), store=store).status == Status.GOOD
    assert [type(request) for request in store.requests] == [request_type]
    assert store.disks[0][: 64 * 512] == b"o" * 3 * 512 + bytes(4 * 512) + b"o" * 57 * 512


def test_ndob_writes_zeros_and_takes_no_data(client: ApplicationClient, store: Store) -> None:
    cdb = SAME[16](3, 4, NDOB)
    assert client.target.data_out_length(0, cdb) == 0
    assert client.run(cdb, store=store).status == Status.GOOD
    assert client.run(SAME[16](9, 1, NDOB | UNMAP), store=store).status == Status.GOOD
    assert [type(request) for request in store.requests] == [WriteZeroes, Unmap]


@pytest.mark.parametrize("size", SIZES)
def test_no_blocks_are_all_to_the_end_of_a_full_unit_and_refused_by_a_thin_one(
    full: ApplicationClient, client: ApplicationClient, size: int
) -> None:
    store = Store()
    assert full.run(SAME[size](BLOCKS - 7, 0), data_out=b"x" * 512, store=store).status == Status.GOOD
    assert store.disks[0][-7 * 512 :] == b"x" * 7 * 512
    assert not any(store.disks[0][: -7 * 512])
    long = ApplicationClient.of(a_unit(block_count=0x10000))
    assert code(long.refusal(SAME[size](0, 0))) == INVALID_FIELD_IN_CDB, "more than the maximum"
    assert code(full.refusal(SAME[size](BLOCKS, 0))) == LBA_OUT_OF_RANGE
    sense = client.refusal(SAME[size](BLOCKS - 7, 0))
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, ({10: 7, 16: 10}[size], None))


def test_more_than_the_maximum_write_same_length_is_an_invalid_field() -> None:
    client = ApplicationClient.of(a_unit(block_count=1 << 20))
    sense = client.refusal(SAME[16](0, 0x10000))
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (10, None))


@pytest.mark.parametrize("size", SIZES)
def test_flags_of_write_same_are_checked(full: ApplicationClient, client: ApplicationClient, size: int) -> None:
    for flags, bit in ((0x20, 7), (ANCHOR, 4), (0x04, 2), (0x02, 1)):
        sense = client.refusal(SAME[size](0, 1, flags))
        assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (1, bit))
        assert client.target.data_out_length(0, SAME[size](0, 1, flags)) == 0
    assert code(full.refusal(SAME[size](0, 1, UNMAP))) == INVALID_FIELD_IN_CDB
    assert code(client.refusal(SAME[size](BLOCKS, 1))) == LBA_OUT_OF_RANGE
    read_only = ApplicationClient.of(a_unit(thin=True, read_only=True))
    assert code(read_only.refusal(SAME[size](0, 1))) == WRITE_PROTECTED


@pytest.mark.parametrize("size", SIZES)
def test_write_same_wants_exactly_one_block(client: ApplicationClient, store: Store, size: int) -> None:
    reply = client.run(SAME[size](0, 1, UNMAP), data_out=bytes(511), store=store)
    assert code(fixed_sense(reply.sense)) == SHORT_DATA_OUT
    assert not store.requests
    outcome = client.send(SAME[size](0, 1), data_out=bytes(512))
    assert isinstance(outcome, Procedure)
    assert outcome.exact_data_out


def test_a_full_store_is_told_as_a_failed_allocation(client: ApplicationClient, store: Store) -> None:
    store.fault = lambda request: errno.ENOSPC
    reply = client.run(SAME[10](0, 1), data_out=b"x" * 512, store=store)
    assert code(fixed_sense(reply.sense)) == (0x7, 0x27, 0x07)


# GET LBA STATUS


def statuses(data: bytes) -> list[tuple[int, int, int]]:
    assert int.from_bytes(data[:4]) == len(data) - 4
    assert data[4:8] == bytes(4)
    return [
        (int.from_bytes(data[at : at + 8]), int.from_bytes(data[at + 8 : at + 12]), data[at + 12])
        for at in range(8, len(data), 16)
    ]


def test_lba_status_tells_what_is_allocated_from_the_address_on(client: ApplicationClient) -> None:
    store = Store()
    end = BLOCKS * 512
    store.allocated[0] = [Extent(0, 4096, True), Extent(4096, 8192, False), Extent(12288, end - 12288, True)]
    found = statuses(client.run(get_lba_status(3), store=store).data_in)
    assert found == [(3, 5, 0), (8, 16, 1), (24, BLOCKS - 24, 0)]
    assert statuses(client.run(get_lba_status(9), store=store).data_in)[0] == (9, 15, 1)
    assert statuses(client.run(get_lba_status(BLOCKS - 1), store=store).data_in) == [(BLOCKS - 1, 1, 0)]


def test_a_block_that_is_allocated_in_part_is_mapped() -> None:
    client = ApplicationClient.of(a_unit(thin=True, block_bytes=4096, block_count=16))
    store = Store()
    store.allocated[0] = [
        Extent(0, 1024, True),
        Extent(1024, 1024, False),
        Extent(2048, 1024, True),
        Extent(3072, 9216, False),
        Extent(12288, 512, True),
        Extent(12800, 65536 - 12800, False),
    ]
    assert statuses(client.run(get_lba_status(0), store=store).data_in) == [(0, 1, 0), (1, 2, 1), (3, 1, 0), (4, 12, 1)]


def test_a_run_longer_than_32_bits_is_cut_at_them() -> None:
    client = ApplicationClient.of(a_unit(thin=True, block_count=1 << 33))

    class Huge(Store):
        def _allocation(self, unit: object, offset: int, length: int) -> list[Extent]:
            return [Extent(offset, length, False)]

    found = statuses(client.run(get_lba_status(1), store=Huge()).data_in)
    assert found == [(1, 0xFFFF_FFFF, 1), (1 << 32, 0xFFFF_FFFF, 1), ((1 << 33) - 1, 1, 1)]


@pytest.mark.parametrize("length", [0, 4, 8, 24, 40])
def test_lba_status_is_cut_to_the_allocation_length(client: ApplicationClient, length: int) -> None:
    store = Store()
    store.allocated[0] = [Extent(0, 4096, True), Extent(4096, BLOCKS * 512 - 4096, False)]
    whole = client.run(get_lba_status(0), store=store).data_in
    data = client.run(get_lba_status(0, length), store=store).data_in
    assert data[4:] == whole[4:length]
    assert len(data) == min(length, len(whole))


def test_lba_status_asks_for_no_more_than_there_is_room_for(client: ApplicationClient) -> None:
    store = Store()
    store.allocated[0] = [Extent(at * 4096, 4096, at % 2 == 0) for at in range(BLOCKS // 8)]
    assert len(statuses(client.run(get_lba_status(0, 0xFFFF_FFFF), store=store).data_in)) == 1024
    assert len(statuses(client.run(get_lba_status(0, 24), store=store).data_in[:24] + bytes(16))) == 2


def test_lba_status_of_a_full_unit_asks_nobody(full: ApplicationClient) -> None:
    assert statuses(full.data(get_lba_status(7))) == [(7, BLOCKS - 7, 0)]


@pytest.mark.parametrize("lba", [BLOCKS, 1 << 63, (1 << 64) - 1])
def test_lba_status_beyond_the_end_is_out_of_range(client: ApplicationClient, lba: int) -> None:
    assert code(client.refusal(get_lba_status(lba))) == LBA_OUT_OF_RANGE


# PRE-FETCH

FETCH: dict[int, Callable[..., bytes]] = {
    10: lambda lba, blocks, flags=0: cdb_10(0x34, lba, blocks, flags),
    16: lambda lba, blocks, flags=0: cdb_16(0x90, lba, blocks, flags),
}


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("flags", [0, 0x02])
def test_prefetch_hints_the_disk_and_promises_nothing(client: ApplicationClient, size: int, flags: int) -> None:
    store = Store()
    assert client.run(FETCH[size](3, 8, flags), store=store).status == Status.GOOD
    (request,) = store.requests
    assert isinstance(request, Prefetch)
    assert (request.offset_bytes, request.length_bytes) == (1536, 4096)


@pytest.mark.parametrize("size", SIZES)
def test_prefetch_of_no_blocks_goes_to_the_end_within_its_maximum(size: int) -> None:
    client = ApplicationClient.of(a_unit(maximum_transfer_bytes=1 << 20))
    store = Store()
    client.run(FETCH[size](BLOCKS - 3, 0), store=store)
    client.run(FETCH[size](0, 0), store=store)
    assert [request.length_bytes for request in store.requests if isinstance(request, Prefetch)] == [1536, 1 << 20]
    assert code(client.refusal(FETCH[size](0, 2049))) == INVALID_FIELD_IN_CDB
    assert code(client.refusal(FETCH[size](BLOCKS, 0))) == LBA_OUT_OF_RANGE
    assert code(client.refusal(FETCH[size](BLOCKS - 1, 2))) == LBA_OUT_OF_RANGE
