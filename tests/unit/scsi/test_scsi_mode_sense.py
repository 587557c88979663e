from __future__ import annotations

import pytest

from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
)

ERROR_RECOVERY = bytes.fromhex("01 0A") + bytes(10)
DISCONNECT = bytes.fromhex("02 0E") + bytes(14)
CACHING_WITH_WCE = bytes.fromhex("08 12 04") + bytes(17)
CONTROL = bytes.fromhex("0A 0A 02 10") + bytes(8)
CONTROL_EXTENSION = bytes.fromhex("4A 01 00 1C 01") + bytes(27)
LOGICAL_UNIT = bytes.fromhex("18 06 05") + bytes(5)
PORT = bytes.fromhex("19 06 05") + bytes(5)
POWER_CONDITION = bytes.fromhex("1A 26") + bytes(38)
INFORMATIONAL = bytes.fromhex("1C 0A 08") + bytes(9)
PROVISIONING = bytes.fromhex("5C 02 00 14") + bytes(12) + bytes.fromhex("01 02 0000 00000000")
BEFORE_SUBPAGE = ERROR_RECOVERY + DISCONNECT + CACHING_WITH_WCE + CONTROL
BEHIND_SUBPAGE = LOGICAL_UNIT + PORT + POWER_CONDITION + INFORMATIONAL
ALL = BEFORE_SUBPAGE + BEHIND_SUBPAGE
ALL_SUBPAGES = BEFORE_SUBPAGE + CONTROL_EXTENSION + BEHIND_SUBPAGE
DESCRIPTOR = bytes.fromhex("00032000 00 000200")


@pytest.fixture
def client() -> ApplicationClient:
    return ApplicationClient.of(a_unit())


def mode_sense_6(page: int, *, control: int = 0, subpage: int = 0, dbd: bool = False, length: int = 255) -> bytes:
    return bytes((0x1A, 0x08 if dbd else 0, control << 6 | page, subpage, length, 0))


def mode_sense_10(page: int, *, flags: int = 0, subpage: int = 0, length: int = 1024) -> bytes:
    return bytes((0x5A, flags, page, subpage, 0, 0, 0)) + length.to_bytes(2) + b"\0"


def test_all_pages_follow_header_and_block_descriptor(client: ApplicationClient) -> None:
    data = client.data(mode_sense_6(0x3F))
    assert data == bytes((3 + 8 + len(ALL), 0x00, 0x10, 8)) + DESCRIPTOR + ALL


def test_mode_sense_10_has_the_same_pages_under_its_own_header(client: ApplicationClient) -> None:
    data = client.data(mode_sense_10(0x3F))
    assert data == (6 + 8 + len(ALL)).to_bytes(2) + bytes((0x00, 0x10, 0, 0, 0, 8)) + DESCRIPTOR + ALL


def test_dbd_leaves_out_the_block_descriptor(client: ApplicationClient) -> None:
    assert client.data(mode_sense_6(0x0A, dbd=True)) == bytes((15, 0x00, 0x10, 0)) + CONTROL
    # With LLBAA as well, LONGLBA stays zero: there is no descriptor that it could speak of.
    data = client.data(mode_sense_10(0x0A, flags=0x18))
    assert data == (18).to_bytes(2) + bytes((0x00, 0x10, 0, 0, 0, 0)) + CONTROL


def test_llbaa_gives_the_long_block_descriptor() -> None:
    client = ApplicationClient.of(a_unit(block_count=1 << 40))
    data = client.data(mode_sense_10(0x0A, flags=0x10))
    assert data[4] == 0x01, "LONGLBA"
    assert data[6:8] == b"\x00\x10"
    assert data[8:24] == bytes.fromhex("0000010000000000 00000000 00000200")


def test_a_disk_too_large_for_the_short_descriptor_shows_all_ones() -> None:
    data = ApplicationClient.of(a_unit(block_count=1 << 40)).data(mode_sense_6(0x08))
    assert data[4:12] == bytes.fromhex("FFFFFFFF 00 000200")


@pytest.mark.parametrize(
    ("page", "expected"),
    [
        (0x01, ERROR_RECOVERY),
        (0x02, DISCONNECT),
        (0x08, CACHING_WITH_WCE),
        (0x0A, CONTROL),
        (0x18, LOGICAL_UNIT),
        (0x19, PORT),
        (0x1A, POWER_CONDITION),
        (0x1C, INFORMATIONAL),
    ],
)
@pytest.mark.parametrize("control", [0, 2], ids=["current", "default"])
def test_each_page_by_itself(client: ApplicationClient, page: int, expected: bytes, control: int) -> None:
    data = client.data(mode_sense_6(page, control=control))
    assert data[12:] == expected
    assert data[0] == len(data) - 1


@pytest.mark.parametrize(
    ("page", "mask"),
    [
        (0x01, bytes(10)),
        (0x02, bytes(14)),
        (0x08, bytes.fromhex("04") + bytes(17)),
        (0x0A, bytes.fromhex("04 00 08 40") + bytes(6)),
        (0x18, bytes(6)),
        (0x1A, bytes(38)),
        (0x1C, bytes(10)),
    ],
)
def test_changeable_are_wce_d_sense_swp_and_tas(client: ApplicationClient, page: int, mask: bytes) -> None:
    data = client.data(mode_sense_6(page, control=1))
    assert data[12:14] == bytes((page, len(mask)))
    assert data[14:] == mask


def test_a_thin_unit_has_a_threshold_that_can_be_set_and_reported() -> None:
    client = ApplicationClient.of(a_unit(thin=True))
    assert client.data(mode_sense_6(0x1C, subpage=2))[12:] == PROVISIONING
    mask = bytes.fromhex("5C 02 00 14 01") + bytes(11) + bytes.fromhex("80 00 0000 FFFFFFFF")
    assert client.data(mode_sense_6(0x1C, subpage=2, control=1))[12:] == mask
    assert client.data(mode_sense_6(0x01, control=1))[14:] == bytes(5) + b"\x80" + bytes(4), "LBPERE"


def test_a_disk_without_a_volatile_cache_has_none_to_enable() -> None:
    client = ApplicationClient.of(a_unit(write_cache=False))
    assert client.data(mode_sense_6(0x08, control=1))[14] == 0x00


@pytest.mark.parametrize("page", [0x08, 0x3F])
def test_saved_values_are_not_supported(client: ApplicationClient, page: int) -> None:
    sense = client.refusal(mode_sense_6(page, control=3))
    assert code(sense) == (0x5, 0x39, 0x00)
    assert cdb_pointer(sense) == (2, 7)


def test_subpages_come_where_they_are_asked_for(client: ApplicationClient) -> None:
    assert client.data(mode_sense_6(0x3F, subpage=0x00))[12:] == ALL
    assert client.data(mode_sense_6(0x3F, subpage=0xFF))[12:] == ALL_SUBPAGES
    assert client.data(mode_sense_6(0x0A, subpage=0x00))[12:] == CONTROL
    assert client.data(mode_sense_6(0x0A, subpage=0x01))[12:] == CONTROL_EXTENSION
    assert client.data(mode_sense_6(0x0A, subpage=0xFF))[12:] == CONTROL + CONTROL_EXTENSION


def test_an_unknown_page_or_subpage_is_an_invalid_field(client: ApplicationClient) -> None:
    page = client.refusal(mode_sense_6(0x2A))
    assert (code(page), cdb_pointer(page)) == (INVALID_FIELD_IN_CDB, (2, 5))
    subpage = client.refusal(mode_sense_6(0x0A, subpage=0x05))
    assert (code(subpage), cdb_pointer(subpage)) == (INVALID_FIELD_IN_CDB, (3, None))
    of_all = client.refusal(mode_sense_10(0x3F, subpage=0x05))
    assert (code(of_all), cdb_pointer(of_all)) == (INVALID_FIELD_IN_CDB, (3, None))


@pytest.mark.parametrize("length", [0, 1, 4, 12, 150, 151, 152, 255])
def test_data_is_cut_to_the_allocation_length_while_the_length_field_tells_all(
    client: ApplicationClient, length: int
) -> None:
    whole = client.data(mode_sense_6(0x3F))
    data = client.data(mode_sense_6(0x3F, length=length))
    assert data == whole[:length]
    if data:
        assert data[0] == len(whole) - 1


def test_wce_follows_the_write_cache() -> None:
    client = ApplicationClient.of(a_unit(write_cache=False))
    assert client.data(mode_sense_6(0x08))[14] == 0x00


def test_a_read_only_unit_sets_wp_and_not_swp() -> None:
    client = ApplicationClient.of(a_unit(read_only=True))
    data = client.data(mode_sense_6(0x0A))
    assert data[2] == 0x90, "WP and DPOFUA"
    assert data[12 + 4] == 0x00
