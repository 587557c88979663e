from __future__ import annotations

import pytest

from initiator.errors import CommandFailed, InitiatorError, MalformedAnswer
from initiator.scsi import answers, cdb, inquiry, lun, sense
from initiator.scsi.answers import Capacity
from initiator.scsi.inquiry import (
    BlockDeviceCharacteristics,
    BlockLimits,
    DeviceIdentification,
    LogicalBlockProvisioning,
    RawPage,
    SupportedPages,
    UnitSerialNumber,
)
from initiator.scsi.sense import Sense, SenseKey

# --- CDBs


@pytest.mark.parametrize(
    ("built", "want"),
    [
        (cdb.TEST_UNIT_READY, "000000000000"),
        (cdb.inquiry(255), "12000000ff00"),
        (cdb.inquiry(0x1234, page=0x83), "120183123400"),
        (cdb.inquiry(255, page=0), "12010000ff00"),
        (cdb.read_capacity_10(), "25000000000000000000"),
        (cdb.read_capacity_16(), "9e100000000000000000000000200000"),
        (cdb.report_luns(4096), "a00000000000000010000000"),
        (cdb.mode_sense_6(8), "1a080800ff00"),
        (cdb.read(0x01020304, 0x0506), "28000102030400050600"),
        (cdb.read(0xFFFFFFFF, 0xFFFF), "2800ffffffff00ffff00"),
        (cdb.read(0x100000000, 1), "88000000000100000000000000010000"),
        (cdb.read(1, 0x10000), "88000000000000000001000100000000"),
        (cdb.write(7, 1), "2a000000000700000100"),
        (cdb.write(7, 1, fua=True), "2a080000000700000100"),
        (cdb.write(1 << 40, 2, fua=True), "8a080000010000000000000000020000"),
        (cdb.synchronize_cache(), "35000000000000000000"),
        (cdb.synchronize_cache(1 << 33, 9), "91000000000200000000000000090000"),
    ],
)
def test_a_cdb_has_the_bytes_of_its_standard(built: bytes, want: str) -> None:
    assert built.hex() == want


def test_commands_have_names() -> None:
    assert cdb.name_of(cdb.read(1, 1)) == "READ(10)"
    assert cdb.name_of(cdb.read_capacity_16()) == "READ CAPACITY(16)"
    assert cdb.name_of(b"\xf1") == "SCSI command 0xf1"
    assert cdb.name_of(b"") == "SCSI command"


# --- LUNs


@pytest.mark.parametrize(
    ("number", "field"),
    [(0, 0), (1, 1 << 48), (255, 255 << 48), (256, 0x4100 << 48), (16383, 0x7FFF << 48), (0xC100 << 48, 0xC100 << 48)],
)
def test_a_lun_goes_to_the_wire_and_back(number: int, field: int) -> None:
    assert lun.encode(number) == field
    assert lun.decode(field) == number


def test_a_flat_lun_below_256_is_the_same_lun() -> None:
    assert lun.decode(0x4005 << 48) == 5


@pytest.mark.parametrize("number", [-1, 16384, 1 << 64])
def test_there_is_no_such_lun(number: int) -> None:
    with pytest.raises(InitiatorError):
        lun.encode(number)


# --- sense

FIXED = bytes.fromhex("f00003 00000010 0a 00000000 1100 00000000")
DESCRIPTOR = bytes.fromhex("7205 2100 000000 0c 000a 8000 0000000000001000")


def test_fixed_sense() -> None:
    assert sense.parse(FIXED) == Sense(SenseKey.MEDIUM_ERROR, 0x11, 0x00, 16, False, FIXED)


def test_descriptor_sense() -> None:
    assert sense.parse(DESCRIPTOR) == Sense(SenseKey.ILLEGAL_REQUEST, 0x21, 0x00, 0x1000, False, DESCRIPTOR)


def test_deferred_sense_says_so() -> None:
    found = sense.parse(b"\x71" + FIXED[1:])
    assert found is not None
    assert found.deferred
    assert found.information is None, "not valid"
    assert str(found) == "deferred MEDIUM ERROR, unrecovered read error (11h/00h)"


def test_descriptors_before_the_information_are_passed_over() -> None:
    data = bytes.fromhex("72052400000000 14 0206 00000000 0000 000a 8000 0000000000000007".replace(" ", ""))
    found = sense.parse(data)
    assert found is not None
    assert found.information == 7


@pytest.mark.parametrize("data", [b"", b"\x70", b"\x7f\x00\x05" + bytes(20), b"\x72\x05\x24", bytes(18)])
def test_what_is_no_sense_is_none(data: bytes) -> None:
    assert sense.parse(data) is None


def test_short_fixed_sense_still_has_its_key() -> None:
    found = sense.parse(b"\x70\x00\x05")
    assert found is not None
    assert (found.key, found.asc) == (SenseKey.ILLEGAL_REQUEST, 0)


def test_a_descriptor_that_runs_past_the_end_is_ignored() -> None:
    found = sense.parse(bytes.fromhex("72052400000000ff000a8000"))
    assert found is not None
    assert found.information is None


def test_a_reset_is_known() -> None:
    found = sense.parse(b"\x72\x06\x29\x02" + bytes(4))
    assert found is not None
    assert found.is_reset


def test_a_failed_command_says_what_and_why() -> None:
    failed = CommandFailed("READ(10)", 2, sense.parse(FIXED))
    assert str(failed) == "READ(10) failed: MEDIUM ERROR, unrecovered read error (11h/00h) at 16"
    assert (failed.sense_key, failed.asc, failed.ascq) == (3, 0x11, 0)
    busy = CommandFailed("WRITE(10)", 8)
    assert str(busy) == "WRITE(10) failed: BUSY (0x08)"
    assert (busy.sense_key, busy.asc, busy.ascq) == (None, None, None)
    assert "response 0x01" in str(CommandFailed("WRITE(10)", 0, response=1))


# --- INQUIRY


def test_standard_inquiry_data() -> None:
    data = bytes.fromhex("0080060245080002") + b"CSVD    VOLUME          1   "
    found = inquiry.parse_standard(data)
    assert (found.vendor, found.product, found.revision) == ("CSVD", "VOLUME", "1")
    assert (found.device_type, found.device_type_name, found.removable, found.version) == (0, "disk", True, 6)
    assert found.connected
    assert (found.tpgs, found.third_party_copy) == (0, True)


def test_a_lun_that_is_not_there_says_so() -> None:
    found = inquiry.parse_standard(b"\x7f" + bytes(35))
    assert not found.connected
    assert found.device_type_name == "none"


def test_text_of_a_target_can_not_command_a_terminal() -> None:
    data = bytes(8) + b"\x1b[31mE\xff\xfe" + bytes(20)
    assert inquiry.parse_standard(data).vendor == "?[31mE\ufffd\ufffd"


def test_short_inquiry_data_is_refused() -> None:
    with pytest.raises(MalformedAnswer):
        inquiry.parse_standard(bytes(35))


def page(code: int, body: bytes) -> bytes:
    return bytes((0, code)) + len(body).to_bytes(2, "big") + body


def test_vpd_pages_have_fields() -> None:
    assert inquiry.parse_vpd(0x00, page(0x00, b"\x00\x80\x83")) == SupportedPages((0x00, 0x80, 0x83))
    assert inquiry.parse_vpd(0x80, page(0x80, b"  abc123 ")) == UnitSerialNumber("abc123")
    assert inquiry.parse_vpd(0xC7, page(0xC7, b"own")) == RawPage(0xC7, b"own")
    assert inquiry.parse_vpd(0xB1, page(0xB1, b"\x1c\x20\x00\x03" + bytes(56))) == BlockDeviceCharacteristics(7200, 3)
    found = inquiry.parse_vpd(0xB1, page(0xB1, b"\x00\x01\x00\x00"))
    assert isinstance(found, BlockDeviceCharacteristics)
    assert found.solid_state
    assert inquiry.parse_vpd(0xB2, page(0xB2, b"\x05\xe4\x02\x00")) == LogicalBlockProvisioning(
        5, True, True, True, True, 2
    )


def test_block_limits() -> None:
    body = bytes.fromhex("0040 0008 00004000 00000800 00000000 00100000 00000020 00000008 80000001 0000000000010000")
    assert inquiry.parse_vpd(0xB0, page(0xB0, body + bytes(20))) == BlockLimits(
        64, 8, 16384, 2048, 1 << 20, 32, 8, 1, 65536
    )


def test_short_block_limits_report_no_limit_for_what_they_lack() -> None:
    found = inquiry.parse_vpd(0xB0, page(0xB0, bytes.fromhex("0040 0008 00004000 00000800")))
    assert found == BlockLimits(64, 8, 16384, 2048)


def test_designators() -> None:
    naa = bytes.fromhex("01030008") + bytes.fromhex("3000000100000001")
    t10 = bytes.fromhex("02010008") + b"IET 0001"
    port = bytes.fromhex("01140004") + bytes.fromhex("00000007")
    eui = bytes.fromhex("01020008") + bytes.fromhex("0123456789abcdef")
    found = inquiry.parse_vpd(0x83, page(0x83, t10 + port + naa + eui))
    assert isinstance(found, DeviceIdentification)
    assert [d.text for d in found.designators] == ["IET 0001", "7", "naa.3000000100000001", "eui.0123456789abcdef"]
    assert found.unit_identity == "naa.3000000100000001"
    assert DeviceIdentification(()).unit_identity == ""


@pytest.mark.parametrize(
    ("code", "data"),
    [
        (0x80, b""),
        (0x80, page(0x83, b"x")),
        (0x80, b"\x00\x80\x00\x10short"),
        (0x83, page(0x83, b"\x01\x03\x00\x08abc")),
        (0x83, page(0x83, b"\x01\x03")),
        (0xB1, page(0xB1, b"\x00")),
        (0xB2, page(0xB2, b"\x00")),
    ],
)
def test_a_page_that_contradicts_itself_is_refused(code: int, data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        inquiry.parse_vpd(code, data)


# --- capacity, LUNs, mode pages


def test_capacity() -> None:
    assert answers.parse_capacity_10(bytes.fromhex("000007ff00000200")) == Capacity(2048, 512, 512)
    assert answers.parse_capacity_10(bytes.fromhex("ffffffff00000200")) is None
    found = answers.parse_capacity_16(bytes.fromhex("00000001000000ff00000200 0003 c001") + bytes(16))
    assert found == Capacity(0x100000100, 512, 4096, 1, True, True)
    assert found.size_bytes == 0x100000100 * 512


@pytest.mark.parametrize("data", [b"", bytes(11), bytes(32), bytes(8) + b"\xff" * 4])
def test_an_impossible_capacity_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        answers.parse_capacity_16(data)


@pytest.mark.parametrize("data", [b"", bytes(7), bytes(8)])
def test_an_impossible_small_capacity_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        answers.parse_capacity_10(data)


def test_luns() -> None:
    data = bytes.fromhex("0000001800000000 0000000000000000 0001000000000000 4101000000000000")
    assert answers.parse_luns(data) == ([0, 1, 257], 32)
    assert answers.parse_luns(data[:20]) == ([0], 32), "the list goes on"


@pytest.mark.parametrize("data", [b"", bytes(7), b"\x00\x00\x00\x07" + bytes(12)])
def test_a_list_of_luns_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        answers.parse_luns(data)


def test_the_write_cache_bit() -> None:
    assert answers.parse_write_cache(bytes.fromhex("17000000 081204") + bytes(17))
    assert not answers.parse_write_cache(bytes.fromhex("1f000008") + bytes(8) + bytes.fromhex("881200") + bytes(17))


@pytest.mark.parametrize("data", [b"", bytes(4), bytes.fromhex("17000000 0a12") + bytes(18), b"\x00\x00\x00\xff"])
def test_mode_data_without_the_page_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        answers.parse_write_cache(data)
