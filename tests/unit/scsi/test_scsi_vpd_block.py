from __future__ import annotations

from csvd.scsi.vpd_block import BLOCK_LIMITS
from tests.unit.scsi.application_client import ApplicationClient, a_unit

BLOCK_LIMITS_PAGE = "12 01 B0 00FF 00"
PROVISIONING_PAGE = "12 01 B2 00FF 00"


def test_block_limits_of_a_thin_unit() -> None:
    client = ApplicationClient.of(a_unit(thin=True, maximum_transfer_bytes=4 << 20, physical_block_bytes=4096))
    data = client.data(BLOCK_LIMITS_PAGE)
    assert len(data) == 64
    assert data[:4] == b"\x00\xb0\x00\x3c"
    limits = BLOCK_LIMITS.parse(data[4:])
    assert limits.wsnz == 1
    assert limits.maximum_compare_and_write_length == 128
    assert limits.optimal_transfer_length_granularity == 8, "a physical block"
    assert limits.maximum_transfer_length == limits.maximum_prefetch_length == 8192
    assert limits.maximum_unmap_lba_count == 1 << 20
    assert limits.maximum_unmap_block_descriptor_count == 256
    assert limits.optimal_unmap_granularity == 8
    assert limits.unmap_granularity_alignment == 1 << 31, "valid, and zero"
    assert limits.maximum_write_same_length == 0xFFFF
    assert limits.maximum_atomic_transfer_length == 2048
    assert data[48:] == bytes(16), "an atomic write may begin anywhere, has any length and no boundaries"


def test_block_limits_of_a_full_unit_have_no_unmap_and_take_a_write_same_to_the_end() -> None:
    limits = BLOCK_LIMITS.parse(ApplicationClient.of(a_unit()).data(BLOCK_LIMITS_PAGE)[4:])
    assert limits.wsnz == 0
    assert limits.optimal_transfer_length_granularity == 0
    assert limits.maximum_unmap_lba_count == limits.maximum_unmap_block_descriptor_count == 0
    assert limits.optimal_unmap_granularity == limits.unmap_granularity_alignment == 0
    assert limits.maximum_write_same_length == 0xFFFF


def test_a_granularity_of_one_block_is_not_reported_for_qemu_aborts_on_it() -> None:
    client = ApplicationClient.of(a_unit(thin=True, block_bytes=4096, block_count=25_600, physical_block_bytes=4096))
    limits = BLOCK_LIMITS.parse(client.data(BLOCK_LIMITS_PAGE)[4:])
    assert limits.maximum_unmap_lba_count > 0
    assert limits.optimal_unmap_granularity == limits.unmap_granularity_alignment == 0


def test_no_limit_is_beyond_the_maximum_transfer_length() -> None:
    client = ApplicationClient.of(a_unit(maximum_transfer_bytes=16 << 10))
    limits = BLOCK_LIMITS.parse(client.data(BLOCK_LIMITS_PAGE)[4:])
    assert limits.maximum_compare_and_write_length == limits.maximum_atomic_transfer_length == 32


def test_logical_block_provisioning_of_a_thin_unit() -> None:
    data = ApplicationClient.of(a_unit(thin=True)).data(PROVISIONING_PAGE)
    # Threshold sets of 2**11 blocks; LBPU, LBPWS, LBPWS10, LBPRZ and ANC_SUP; thin.
    assert data == bytes.fromhex("00 B2 0004 0B E6 02 00")


def test_logical_block_provisioning_of_a_full_unit() -> None:
    data = ApplicationClient.of(a_unit()).data(PROVISIONING_PAGE)
    assert data == bytes.fromhex("00 B2 0004 00 00 00 00")
