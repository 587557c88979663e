from __future__ import annotations

import struct

import pytest

from csvd.scsi.lun import encode_lun
from csvd.scsi.outcome import FLUSH, GOOD, READ, WRITE
from tests.unit.scsi.application_client import (
    BLOCKS,
    INVALID_FIELD_IN_CDB,
    LBA_OUT_OF_RANGE,
    WRITE_PROTECTED,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
)

READS = {6: 0x08, 10: 0x28, 12: 0xA8, 16: 0x88}
WRITES = {6: 0x0A, 10: 0x2A, 12: 0xAA, 16: 0x8A}
SIZES = [6, 10, 12, 16]
SIZES_WITH_FLAGS = [10, 12, 16]


def a_cdb(size: int, operation_code: int, lba: int, blocks: int, flags: int = 0) -> bytes:
    match size:
        case 6:
            return struct.pack(">IBB", operation_code << 24 | lba, blocks, 0)
        case 10:
            return struct.pack(">BBIBHB", operation_code, flags, lba, 0, blocks, 0)
        case 12:
            return struct.pack(">BBIIBB", operation_code, flags, lba, blocks, 0, 0)
        case _:
            return struct.pack(">BBQIBB", operation_code, flags, lba, blocks, 0, 0)


@pytest.fixture
def client() -> ApplicationClient:
    return ApplicationClient.of(a_unit())


@pytest.mark.parametrize("size", SIZES)
def test_a_read_becomes_one_transfer_of_its_range(client: ApplicationClient, size: int) -> None:
    transfer = client.transfer(a_cdb(size, READS[size], 1000, 8))
    assert transfer.operation == READ
    assert (transfer.offset_bytes, transfer.length_bytes, transfer.fua) == (512_000, 4096, False)
    assert transfer.logical_unit.device == "disk 0"


@pytest.mark.parametrize("size", SIZES)
def test_a_write_becomes_one_transfer_of_its_range(client: ApplicationClient, size: int) -> None:
    transfer = client.transfer(a_cdb(size, WRITES[size], 3, 1))
    assert transfer.operation == WRITE
    assert (transfer.offset_bytes, transfer.length_bytes, transfer.fua) == (1536, 512, False)


@pytest.mark.parametrize("size", SIZES)
def test_data_out_length_is_that_of_a_write_and_none_of_a_read(client: ApplicationClient, size: int) -> None:
    assert client.target.data_out_length(0, a_cdb(size, WRITES[size], 3, 5)) == 2560
    assert client.target.data_out_length(0, a_cdb(size, READS[size], 3, 5)) == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_write_that_will_be_refused_takes_no_data_out(client: ApplicationClient, size: int) -> None:
    beyond = a_cdb(size, WRITES[size], BLOCKS - 1, 2)
    assert client.target.data_out_length(0, beyond) == 0
    assert client.target.data_out_length(encode_lun(7), a_cdb(size, WRITES[size], 0, 1)) == 0
    with_naca = a_cdb(size, WRITES[size], 0, 1)[:-1] + b"\x04"
    assert client.target.data_out_length(0, with_naca) == 0
    read_only = ApplicationClient.of(a_unit(read_only=True))
    assert read_only.target.data_out_length(0, a_cdb(size, WRITES[size], 0, 1)) == 0


def test_large_blocks_scale_the_range() -> None:
    client = ApplicationClient.of(a_unit(block_bytes=4096))
    transfer = client.transfer(a_cdb(10, READS[10], 10, 2))
    assert (transfer.offset_bytes, transfer.length_bytes) == (40_960, 8192)
    assert client.target.data_out_length(0, a_cdb(16, WRITES[16], 10, 2)) == 8192


def test_no_blocks_is_256_blocks_in_the_six_byte_commands(client: ApplicationClient) -> None:
    assert client.transfer(a_cdb(6, READS[6], 0, 0)).length_bytes == 256 * 512
    assert client.transfer(a_cdb(6, WRITES[6], 0, 0)).length_bytes == 256 * 512
    assert client.target.data_out_length(0, a_cdb(6, WRITES[6], 0, 0)) == 256 * 512


def test_the_six_byte_address_has_21_bits() -> None:
    client = ApplicationClient.of(a_unit(block_count=1 << 21))
    assert client.transfer(a_cdb(6, READS[6], 0x1FFFFF, 1)).offset_bytes == 0x1FFFFF * 512
    # Bits 7 to 5 of byte 1 were the LUN in SCSI-2 and some hosts still set them.
    assert client.transfer("08 E0 00 01 01 00").offset_bytes == 512


@pytest.mark.parametrize("size", SIZES_WITH_FLAGS)
@pytest.mark.parametrize("codes", [READS, WRITES], ids=["read", "write"])
def test_no_blocks_are_good_inside_and_out_of_range_outside(
    client: ApplicationClient, size: int, codes: dict[int, int]
) -> None:
    assert client.send(a_cdb(size, codes[size], 0, 0)) is GOOD
    assert client.send(a_cdb(size, codes[size], BLOCKS - 1, 0)) is GOOD
    for lba in (BLOCKS, BLOCKS + 1, 0x8000_0000, 0xFFFF_FFFF):
        assert code(client.refusal(a_cdb(size, codes[size], lba, 0))) == LBA_OUT_OF_RANGE


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("codes", [READS, WRITES], ids=["read", "write"])
def test_a_range_past_the_end_is_out_of_range(client: ApplicationClient, size: int, codes: dict[int, int]) -> None:
    client.transfer(a_cdb(size, codes[size], BLOCKS - 1, 1))
    for lba, blocks in ((BLOCKS, 1), (BLOCKS - 1, 2), (BLOCKS - 254, 255), (0x1F_FFFF, 1)):
        sense = client.refusal(a_cdb(size, codes[size], lba, blocks))
        assert code(sense) == LBA_OUT_OF_RANGE
        assert cdb_pointer(sense) == (2, None)


def test_the_last_64_bit_address_does_not_wrap_around(client: ApplicationClient) -> None:
    for lba in (0xFFFF_FFFF_FFFF_FFFF, 1 << 63, 1 << 55):
        assert code(client.refusal(a_cdb(16, READS[16], lba, 2))) == LBA_OUT_OF_RANGE


@pytest.mark.parametrize("size", SIZES_WITH_FLAGS)
@pytest.mark.parametrize("codes", [READS, WRITES], ids=["rdprotect", "wrprotect"])
@pytest.mark.parametrize("protect", range(1, 8))
def test_protection_information_is_refused(
    client: ApplicationClient, size: int, codes: dict[int, int], protect: int
) -> None:
    sense = client.refusal(a_cdb(size, codes[size], 0, 1, flags=protect << 5))
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == (1, 7)
    assert client.target.data_out_length(0, a_cdb(size, codes[size], 0, 1, flags=protect << 5)) == 0


@pytest.mark.parametrize("size", SIZES_WITH_FLAGS)
@pytest.mark.parametrize("codes", [READS, WRITES], ids=["read", "write"])
def test_fua_is_carried_to_the_disk_and_dpo_changes_nothing(
    client: ApplicationClient, size: int, codes: dict[int, int]
) -> None:
    assert client.transfer(a_cdb(size, codes[size], 0, 1, flags=0x08)).fua is True
    assert client.transfer(a_cdb(size, codes[size], 0, 1, flags=0x18)).fua is True
    assert client.transfer(a_cdb(size, codes[size], 0, 1, flags=0x10)).fua is False


@pytest.mark.parametrize("codes", [READS, WRITES], ids=["read", "write"])
@pytest.mark.parametrize("size", [12, 16])
def test_more_than_the_maximum_transfer_length_is_an_invalid_field(codes: dict[int, int], size: int) -> None:
    client = ApplicationClient.of(a_unit(maximum_transfer_bytes=1 << 20))
    assert client.transfer(a_cdb(size, codes[size], 0, 2048)).length_bytes == 1 << 20
    sense = client.refusal(a_cdb(size, codes[size], 0, 2049))
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == ({12: 6, 16: 10}[size], None)
    assert client.target.data_out_length(0, a_cdb(size, codes[size], 0, 2049)) == 0


@pytest.mark.parametrize("size", SIZES)
def test_a_read_only_unit_refuses_writes_and_serves_reads(size: int) -> None:
    client = ApplicationClient.of(a_unit(read_only=True))
    assert code(client.refusal(a_cdb(size, WRITES[size], 0, 1))) == WRITE_PROTECTED
    client.transfer(a_cdb(size, READS[size], 0, 1))


@pytest.mark.parametrize(("operation_code", "size"), [(0x35, 10), (0x91, 16)])
def test_synchronize_cache_flushes_its_range(client: ApplicationClient, operation_code: int, size: int) -> None:
    if size == 10:
        transfer = client.transfer(a_cdb(10, operation_code, 10, 4))
    else:
        transfer = client.transfer(a_cdb(16, operation_code, 10, 4))
    assert (transfer.operation, transfer.offset_bytes, transfer.length_bytes) == (FLUSH, 5120, 2048)


@pytest.mark.parametrize(("operation_code", "size"), [(0x35, 10), (0x91, 16)])
def test_synchronize_cache_of_no_blocks_goes_to_the_end(
    client: ApplicationClient, operation_code: int, size: int
) -> None:
    transfer = client.transfer(a_cdb(size, operation_code, 100, 0))
    assert (transfer.offset_bytes, transfer.length_bytes) == (51_200, (BLOCKS - 100) * 512)


@pytest.mark.parametrize(("operation_code", "size"), [(0x35, 10), (0x91, 16)])
def test_synchronize_cache_past_the_end_is_out_of_range(
    client: ApplicationClient, operation_code: int, size: int
) -> None:
    assert code(client.refusal(a_cdb(size, operation_code, BLOCKS, 0))) == LBA_OUT_OF_RANGE
    assert code(client.refusal(a_cdb(size, operation_code, BLOCKS - 1, 2))) == LBA_OUT_OF_RANGE


def test_synchronize_cache_serves_a_read_only_unit() -> None:
    client = ApplicationClient.of(a_unit(read_only=True))
    assert client.transfer(a_cdb(10, 0x35, 0, 0)).operation == FLUSH
