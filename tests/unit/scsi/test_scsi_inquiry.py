from __future__ import annotations

import pytest

from csvd.scsi.designators import DESIGNATOR
from csvd.scsi.logical_unit import Identity
from csvd.scsi.lun import REPORT_LUNS_WELL_KNOWN
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.target_ports import TargetPorts
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
)

NAA = bytes.fromhex("6024353000112233445566778899aabb")


@pytest.fixture
def client() -> ApplicationClient:
    identity = Identity(vendor="ACME", product="SHARED DISK", revision="2.1", serial="0123456789", naa=NAA)
    return ApplicationClient.of(a_unit(identity=identity))


def inquiry(page: int | None = None, allocation_length: int = 255) -> bytes:
    return bytes((0x12, page is not None, page or 0, allocation_length >> 8, allocation_length & 0xFF, 0))


def test_standard_data_has_the_fields_of_spc_4(client: ApplicationClient) -> None:
    data = client.data(inquiry(allocation_length=512))
    assert len(data) == 96
    assert data[0] == 0x00, "connected, direct access block device"
    assert data[1] == 0x00, "not removable"
    assert data[2] == 0x06, "SPC-4"
    assert data[3] == 0x12, "HISUP, response data format 2, no NORMACA"
    assert data[4] == 96 - 5
    assert data[5] & 0xF7 == 0x30, "TPGS implicit and explicit, no SCCS, no PROTECT"
    assert data[6] == 0x00, "one port"
    assert data[7] == 0x02, "CMDQUE"
    assert data[8:16] == b"ACME    "
    assert data[16:32] == b"SHARED DISK     "
    assert data[32:36] == b"2.1 "
    assert data[36:58] == bytes(22)
    assert data[58:66] == bytes.fromhex("00A0 0960 0460 04C0"), "SAM-5, iSCSI, SPC-4, SBC-3"
    assert data[66:] == bytes(30)


def test_a_removable_unit_says_so() -> None:
    assert ApplicationClient.of(a_unit(removable=True)).data(inquiry())[1] == 0x80


@pytest.mark.parametrize("allocation_length", [0, 4, 5, 36, 95, 96, 255, 256, 511, 65535])
def test_data_is_cut_to_the_allocation_length_and_not_padded(client: ApplicationClient, allocation_length: int) -> None:
    whole = client.data(inquiry(allocation_length=1000))
    assert client.data(inquiry(allocation_length=allocation_length)) == whole[:allocation_length]


def test_a_page_code_without_evpd_is_an_invalid_field(client: ApplicationClient) -> None:
    sense = client.refusal("12 00 80 00 FF 00")
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == (2, None)


def test_the_obsolete_command_support_data_is_an_invalid_field(client: ApplicationClient) -> None:
    sense = client.refusal("12 02 00 00 FF 00")
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == (1, 1)


def test_an_unknown_page_is_an_invalid_field(client: ApplicationClient) -> None:
    sense = client.refusal(inquiry(0xC7))
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == (2, None)


def test_supported_pages_are_ascending_and_every_one_answers(client: ApplicationClient) -> None:
    data = client.data(inquiry(0x00))
    assert data[:4] == bytes((0, 0, 0, len(data) - 4))
    assert list(data[4:]) == sorted(set(data[4:]))
    assert {0x00, 0x80, 0x83, 0x85, 0x86, 0x87, 0x88, 0xB0, 0xB1, 0xB2, 0xB3} <= set(data[4:])
    for page in data[4:]:
        answer = client.data(inquiry(page, 1024))
        assert answer[:2] == bytes((0x00, page))
        assert int.from_bytes(answer[2:4]) == len(answer) - 4


def test_unit_serial_number(client: ApplicationClient) -> None:
    assert client.data(inquiry(0x80)) == b"\x00\x80\x00\x0a0123456789"


def designators(data: bytes) -> list[tuple[int, int, bytes]]:
    """(protocol and code set, association and type, designator) of each designation descriptor."""
    found = []
    while data:
        parsed = DESIGNATOR.parse(data)
        found.append((parsed.protocol_and_code_set, parsed.association_and_type, parsed.designator))
        data = data[4 + parsed.designator_length :]
    return found


def named_client(*tags: int) -> ApplicationClient:
    identity = Identity(vendor="ACME", product="SHARED DISK", serial="0123456789", naa=NAA)
    device = TargetDevice({0: a_unit(identity=identity)}, name="iqn.2026-11.test:t", ports=TargetPorts(tags))
    client = ApplicationClient(device)
    device.nexus_opened(client.nexus, portal_group_tag=tags[-1])
    return client.ready()


def test_device_identification_names_unit_port_and_device() -> None:
    found = designators(named_client(1, 0x102).data(inquiry(0x83))[4:])
    assert found[:2] == [(0x01, 0x03, NAA), (0x02, 0x01, b"ACME    SHARED DISK     0123456789")]
    code_set, kind, eui_64 = found[2]
    assert (code_set, kind, len(eui_64), eui_64[:3]) == (0x01, 0x02, 8, bytes.fromhex("024353"))
    assert found[3:] == [
        (0x51, 0x94, bytes.fromhex("0000 0102")),
        (0x51, 0x95, bytes.fromhex("0000 0102")),
        (0x53, 0x98, b"iqn.2026-11.test:t,t,0x0102\0"),
        (0x53, 0xA8, b"iqn.2026-11.test:t\0\0"),
    ]


def test_names_are_the_same_after_any_restart_and_differ_between_units() -> None:
    def names(serial: str) -> bytes:
        return ApplicationClient.of(a_unit(identity=Identity(serial=serial))).data(inquiry(0x83))

    assert names("a") == names("a")
    assert (
        len({designator for serial in "ab" for _, kind, designator in designators(names(serial)[4:]) if kind < 4}) == 6
    )


def test_the_well_known_unit_has_the_names_of_port_and_device_only() -> None:
    data = named_client(1).data(inquiry(0x83), raw_lun=REPORT_LUNS_WELL_KNOWN)
    assert [kind for _, kind, _ in designators(data[4:])] == [0x94, 0x95, 0x98, 0xA8]


def test_scsi_ports_are_all_ports_of_the_device() -> None:
    client = named_client(1, 2)
    data = client.data(inquiry(0x88))
    name_1, name_2 = (bytes.fromhex("53 98 00 1C") + f"iqn.2026-11.test:t,t,0x000{tag}\0".encode() for tag in (1, 2))
    assert data[4:] == (
        bytes.fromhex("0000 0001 0000 0000 0000 0020")
        + name_1
        + bytes.fromhex("0000 0002 0000 0000 0000 0020")
        + name_2
    )
    assert client.data(inquiry())[6] == 0x10, "MULTIP"


def test_extended_inquiry_data_tells_of_attributes_cache_and_defaults(client: ApplicationClient) -> None:
    assert client.data(inquiry(0x86)) == bytes.fromhex("00 86 00 3C 00 07 01 01 08") + bytes(55)
    through = ApplicationClient.of(a_unit(write_cache=False))
    assert through.data(inquiry(0x86))[6] == 0x00, "no V_SUP"


def test_mode_pages_are_shared_and_there_is_no_management_address(client: ApplicationClient) -> None:
    assert client.data(inquiry(0x87)) == bytes.fromhex("00 87 00 04 3F FF 00 00")
    assert client.data(inquiry(0x85)) == bytes.fromhex("00 85 00 00")


def test_there_are_no_referrals(client: ApplicationClient) -> None:
    assert client.data(inquiry(0xB3)) == bytes.fromhex("00 B3 00 0C") + bytes(12)


def test_block_device_characteristics_have_the_rotation_rate() -> None:
    data = ApplicationClient.of(a_unit(medium_rotation_rate=1)).data(inquiry(0xB1))
    assert data == bytes.fromhex("00 B1 00 3C 00 01") + bytes(58)


def test_an_unknown_lun_answers_with_qualifier_3_and_type_1f(client: ApplicationClient) -> None:
    data = client.data(inquiry(), lun=9)
    assert data[0] == 0x7F
    assert len(data) == 96
    assert client.data(inquiry(0x00), lun=9) == bytes.fromhex("7F 00 00 01 00")
    assert code(client.refusal(inquiry(0x83), lun=9)) == INVALID_FIELD_IN_CDB


def test_the_well_known_unit_says_that_it_is_one(client: ApplicationClient) -> None:
    assert client.data(inquiry(), raw_lun=REPORT_LUNS_WELL_KNOWN)[0] == 0x1E


def test_derived_naa_is_the_same_for_the_same_serial_and_differs_for_another() -> None:
    first, again, other = Identity(serial="a"), Identity(serial="a"), Identity(serial="b")
    assert first.naa == again.naa
    assert first.naa != other.naa
    assert len(first.naa) == 16
    assert first.naa[0] >> 4 == 6
