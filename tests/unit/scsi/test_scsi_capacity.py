from __future__ import annotations

import pytest

from tests.unit.scsi.application_client import INVALID_FIELD_IN_CDB, ApplicationClient, a_unit, cdb_pointer, code

READ_CAPACITY_10 = "25 00 00000000 0000 00 00"
READ_CAPACITY_16 = "9E 10 0000000000000000 00000020 00 00"


def test_read_capacity_10_returns_the_last_block_and_its_length() -> None:
    client = ApplicationClient.of(a_unit(block_count=0x1000, block_bytes=4096))
    assert client.data(READ_CAPACITY_10) == bytes.fromhex("00000FFF 00001000")


@pytest.mark.parametrize(
    ("block_count", "returned"), [(0xFFFF_FFFF, 0xFFFF_FFFE), (1 << 32, 0xFFFF_FFFF), (1 << 33, 0xFFFF_FFFF)]
)
def test_read_capacity_10_of_a_disk_too_large_for_it(block_count: int, returned: int) -> None:
    data = ApplicationClient.of(a_unit(block_count=block_count)).data(READ_CAPACITY_10)
    assert int.from_bytes(data[:4]) == returned


def test_read_capacity_16_returns_all_of_64_bits() -> None:
    client = ApplicationClient.of(a_unit(block_count=1 << 40, physical_block_bytes=4096))
    data = client.data(READ_CAPACITY_16)
    assert len(data) == 32
    assert int.from_bytes(data[:8]) == (1 << 40) - 1
    assert int.from_bytes(data[8:12]) == 512
    assert data[12] == 0, "no protection"
    assert data[13] == 3, "8 logical blocks a physical one"
    assert data[14:] == bytes(18), "not managed (LBPME), aligned at 0"


def test_only_a_thin_unit_is_managed_and_reads_zeros_where_it_is_unmapped() -> None:
    assert ApplicationClient.of(a_unit(thin=True)).data(READ_CAPACITY_16)[14] == 0xC0
    assert ApplicationClient.of(a_unit(thin=False)).data(READ_CAPACITY_16)[14] == 0


@pytest.mark.parametrize("allocation_length", range(33))
def test_read_capacity_16_is_cut_to_the_allocation_length(allocation_length: int) -> None:
    client = ApplicationClient.of(a_unit())
    whole = client.data(READ_CAPACITY_16)
    assert client.data(f"9E 10 0000000000000000 {allocation_length:08x} 00 00") == whole[:allocation_length]


@pytest.mark.parametrize("cdb", ["25 00 00000001 0000 00 00", "9E 10 0000000000000001 00000020 00 00"])
def test_an_address_without_pmi_is_an_invalid_field(cdb: str) -> None:
    sense = ApplicationClient.of(a_unit()).refusal(cdb)
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == (2, None)


def test_an_address_with_pmi_gives_the_same_answer() -> None:
    client = ApplicationClient.of(a_unit())
    assert client.data("25 00 00000001 0000 01 00") == client.data(READ_CAPACITY_10)
