from __future__ import annotations

import errno

import pytest

from csvd.scsi.lun import REPORT_LUNS_WELL_KNOWN, encode_lun
from csvd.scsi.outcome import GOOD, Reply, Status, Transfer
from csvd.scsi.sense import Asc
from csvd.scsi.target_device import TargetDevice, UnknownNexusError
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    INVALID_OPERATION_CODE,
    LUN_NOT_SUPPORTED,
    NEXUS_LOSS,
    NO_DATA,
    POWER_ON,
    RESET,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
    fixed_sense,
)

TEST_UNIT_READY = "00 00 00 00 00 00"
READ_10 = "28 00 00000000 00 0001 00"
WRITE_10 = "2A 00 00000000 00 0001 00"
REQUEST_SENSE = "03 00 00 00 12 00"
INQUIRY = "12 00 00 00 60 00"
REPORT_LUNS = "A0 00 00 000000 00001000 00 00"
LUNS_CHANGED = (0x6, 0x3F, 0x0E)
HOST_B = "iqn.2026-11.test:other,i,0x1"


@pytest.fixture
def client() -> ApplicationClient:
    return ApplicationClient.of(a_unit())


def test_test_unit_ready_is_good(client: ApplicationClient) -> None:
    assert client.send(TEST_UNIT_READY) is GOOD


# Unit attentions


def test_a_new_nexus_gets_power_on_once_for_each_lun() -> None:
    client = ApplicationClient(TargetDevice({0: a_unit(0), 1: a_unit(1)}))
    assert code(client.refusal(TEST_UNIT_READY, lun=0)) == POWER_ON
    assert code(client.refusal(READ_10, lun=1)) == POWER_ON
    client.good(TEST_UNIT_READY, lun=0)
    client.transfer(READ_10, lun=1)


def test_both_spellings_of_a_lun_share_one_unit_attention() -> None:
    client = ApplicationClient(TargetDevice({3: a_unit(3)}))
    flat = 0x4003 << 48
    reply = client.send(TEST_UNIT_READY, raw_lun=flat)
    assert isinstance(reply, Reply)
    assert code(fixed_sense(reply.sense)) == POWER_ON
    client.good(TEST_UNIT_READY, lun=3)
    assert isinstance(client.send(READ_10, raw_lun=flat), Transfer)


def test_inquiry_and_report_luns_run_and_leave_the_attention_pending() -> None:
    client = ApplicationClient(TargetDevice({0: a_unit()}))
    assert client.data(INQUIRY)[0] == 0
    assert client.data(REPORT_LUNS)[:4] == b"\0\0\0\x08"
    assert code(client.refusal(TEST_UNIT_READY)) == POWER_ON


def test_report_luns_has_told_that_the_luns_changed_at_every_unit() -> None:
    client = ApplicationClient.of(a_unit(0), a_unit(1))
    other = ApplicationClient(client.target, HOST_B).ready()
    client.target.add_unit(a_unit(2))
    client.target.servers[1].establish(Asc.MODE_PARAMETERS_CHANGED)
    assert client.data(REPORT_LUNS, lun=9)[:4] == b"\0\0\0\x18", "one that does not exist tells, and clears nothing"
    assert code(client.refusal(TEST_UNIT_READY)) == LUNS_CHANGED
    client.target.remove_unit(2)
    client.data(REPORT_LUNS)
    client.good(TEST_UNIT_READY)
    assert code(client.refusal(TEST_UNIT_READY, lun=1)) == (0x6, 0x2A, 0x01)
    client.good(TEST_UNIT_READY, lun=1)
    assert code(other.refusal(TEST_UNIT_READY)) == LUNS_CHANGED, "another nexus was told nothing"


def test_request_sense_returns_the_attention_and_clears_it() -> None:
    client = ApplicationClient(TargetDevice({0: a_unit()}))
    assert code(fixed_sense(client.data(REQUEST_SENSE))) == POWER_ON
    assert code(fixed_sense(client.data(REQUEST_SENSE))) == (0, 0, 0)
    client.good(TEST_UNIT_READY)


def test_an_attention_goes_before_an_invalid_command_and_an_invalid_field() -> None:
    client = ApplicationClient(TargetDevice({0: a_unit()}))
    assert code(client.refusal("EE")) == POWER_ON
    assert code(client.refusal("EE")) == INVALID_OPERATION_CODE


def test_a_nexus_that_is_lost_and_opened_again_is_told_of_the_loss_alone(client: ApplicationClient) -> None:
    client.target.nexus_lost(client.nexus)
    client.target.nexus_opened(client.nexus)
    assert code(client.refusal(TEST_UNIT_READY)) == NEXUS_LOSS
    client.good(TEST_UNIT_READY)


def test_opening_an_open_nexus_begins_it_anew(client: ApplicationClient) -> None:
    client.target.nexus_opened(client.nexus)
    assert code(client.refusal(TEST_UNIT_READY)) == NEXUS_LOSS


def test_ports_that_were_never_here_are_told_of_power_on(client: ApplicationClient) -> None:
    client.target.nexus_lost(client.nexus)
    client.target.nexus_opened(client.nexus, "iqn.2026-11.org.example:another")
    assert code(client.refusal(TEST_UNIT_READY)) == POWER_ON


def test_who_was_away_when_others_were_told_something_is_told_all(client: ApplicationClient) -> None:
    client.target.nexus_lost(client.nexus)
    client.target.logical_unit_reset(0, HOST_B)
    client.target.nexus_opened(client.nexus)
    assert code(client.refusal(TEST_UNIT_READY)) == POWER_ON


def test_who_left_before_hearing_what_there_was_is_told_all(client: ApplicationClient) -> None:
    client.target.logical_unit_reset(0, HOST_B)
    client.target.nexus_lost(client.nexus)
    client.target.nexus_opened(client.nexus)
    assert code(client.refusal(TEST_UNIT_READY)) == POWER_ON


def test_of_those_that_are_away_the_last_thousand_are_remembered(client: ApplicationClient) -> None:
    for number in range(2000):
        other = ApplicationClient(client.target, f"host {number}")
        client.target.nexus_opened(other.nexus, f"iqn.2026-11.org.example:{number}")
        other.refusal(TEST_UNIT_READY)
        client.target.nexus_lost(other.nexus)
    told = {}
    for number in (0, 1999):
        client.target.nexus_opened("host", f"iqn.2026-11.org.example:{number}")
        told[number] = code(ApplicationClient(client.target, "host").refusal(TEST_UNIT_READY))
    assert told == {0: POWER_ON, 1999: NEXUS_LOSS}


def test_a_logical_unit_reset_tells_every_nexus_of_that_unit() -> None:
    client = ApplicationClient.of(a_unit(0), a_unit(1))
    other = ApplicationClient(client.target, HOST_B).ready()
    assert client.target.logical_unit_reset(encode_lun(0), client.nexus)
    assert code(client.refusal(TEST_UNIT_READY)) == RESET, "also who asked for it"
    other.good(TEST_UNIT_READY, lun=1)
    assert code(other.refusal(TEST_UNIT_READY, lun=0)) == RESET
    other.good(TEST_UNIT_READY, lun=0)


def test_a_target_reset_tells_every_nexus_of_every_unit() -> None:
    client = ApplicationClient.of(a_unit(0), a_unit(1))
    other = ApplicationClient(client.target, HOST_B).ready()
    client.target.target_reset(client.nexus)
    assert code(client.refusal(TEST_UNIT_READY, lun=1)) == RESET
    assert code(other.refusal(TEST_UNIT_READY, lun=0)) == RESET
    assert code(other.refusal(TEST_UNIT_READY, lun=1)) == RESET


def test_a_reset_of_an_unknown_lun_says_so(client: ApplicationClient) -> None:
    assert not client.target.logical_unit_reset(encode_lun(5), client.nexus)
    assert not client.target.commands_cleared(encode_lun(5), [client.nexus])


def test_cleared_commands_are_told_to_their_nexus_alone(client: ApplicationClient) -> None:
    other = ApplicationClient(client.target, HOST_B).ready()
    assert client.target.commands_cleared(0, [HOST_B, "a nexus that never came"])
    client.good(TEST_UNIT_READY)
    assert code(other.refusal(TEST_UNIT_READY)) == (0x6, 0x2F, 0x00)
    other.good(TEST_UNIT_READY)


def test_a_reset_replaces_what_was_queued_and_power_on_outranks_it(client: ApplicationClient) -> None:
    target = client.target
    other = ApplicationClient(target, HOST_B).ready()
    target.commands_cleared(0, [HOST_B])
    target.logical_unit_reset(0, client.nexus)
    target.commands_cleared(0, [HOST_B])
    assert code(other.refusal(TEST_UNIT_READY)) == RESET
    assert code(other.refusal(TEST_UNIT_READY)) == (0x6, 0x2F, 0x00)
    other.good(TEST_UNIT_READY)
    target.nexus_opened(HOST_B, "iqn.2026-11.org.example:another")
    other.data(INQUIRY)
    target.logical_unit_reset(0, client.nexus)
    assert code(other.refusal(TEST_UNIT_READY)) == POWER_ON
    other.good(TEST_UNIT_READY)


def test_an_attention_repeated_ten_thousand_times_is_queued_once(client: ApplicationClient) -> None:
    for _ in range(10_000):
        client.target.commands_cleared(0, [client.nexus])
    assert code(client.refusal(TEST_UNIT_READY)) == (0x6, 0x2F, 0x00)
    client.good(TEST_UNIT_READY)


# Errors


@pytest.mark.parametrize("operation_code", [0x42, 0x7F, 0x92, 0xC0, 0xFF])
def test_a_command_without_a_row_is_an_invalid_operation_code(client: ApplicationClient, operation_code: int) -> None:
    sense = client.refusal(bytes((operation_code, 0x10)))
    assert code(sense) == INVALID_OPERATION_CODE
    assert cdb_pointer(sense) == (0, None)


@pytest.mark.parametrize("cdb", ["9E 1F", "A3 1F"])
def test_an_unknown_service_action_is_an_invalid_field(client: ApplicationClient, cdb: str) -> None:
    sense = client.refusal(cdb)
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == (1, 4)


@pytest.mark.parametrize(
    ("cdb", "byte"),
    [
        ("00 00 00 00 00 04", 5),
        ("28 00 00000000 00 0001 04", 9),
        ("A8 00 00000000 00000001 00 04", 11),
        ("88 00 0000000000000000 00000001 00 04", 15),
        ("9E 10 0000000000000000 00000020 00 04", 15),
        ("12 00 00 00 60 04", 5),
    ],
)
def test_naca_is_an_invalid_field(client: ApplicationClient, cdb: str, byte: int) -> None:
    sense = client.refusal(cdb)
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == (byte, 2)


@pytest.mark.parametrize("cdb", [TEST_UNIT_READY, READ_10, WRITE_10, "EE", "A3 0C"])
def test_an_unknown_lun_is_not_supported(client: ApplicationClient, cdb: str) -> None:
    sense = client.refusal(cdb, lun=9)
    assert code(sense) == LUN_NOT_SUPPORTED
    assert sense.specific == bytes(3)


@pytest.mark.parametrize(
    "raw_lun", [0x0100_0000_0000_0000, 0x8000_0000_0000_0000, 0x0000_0001_0000_0000, 0xFFFF_FFFF_FFFF_FFFF]
)
def test_other_addressing_methods_reach_no_unit(client: ApplicationClient, raw_lun: int) -> None:
    assert code(client.refusal(TEST_UNIT_READY, raw_lun=raw_lun)) == LUN_NOT_SUPPORTED
    assert client.target.data_out_length(raw_lun, bytes.fromhex(WRITE_10)) == 0
    assert not client.target.has_lun(raw_lun)


def test_request_sense_of_an_unknown_lun_says_so_with_good_status(client: ApplicationClient) -> None:
    assert code(fixed_sense(client.data(REQUEST_SENSE, lun=9))) == LUN_NOT_SUPPORTED


def test_request_sense_in_descriptor_format_and_cut(client: ApplicationClient) -> None:
    assert client.data("03 01 00 00 FF 00") == bytes.fromhex("72 00 00 00 00 00 00 00")
    assert client.data("03 00 00 00 08 00") == bytes.fromhex("70 00 00 00 00 00 00 0A")
    assert client.data("03 00 00 00 00 00") == b""


def test_d_sense_gives_descriptor_format_with_the_field_pointer(client: ApplicationClient) -> None:
    # MODE SELECT sets it later; the device server has it already.
    for server in client.target._routes.values():
        server.descriptor_sense = True
    reply = client.send("28 20 00000000 00 0001 00")
    assert isinstance(reply, Reply)
    assert reply.sense == bytes.fromhex("72 05 24 00 00 00 00 08  02 06 00 00 CF 00 01 00")


def test_a_short_cdb_is_taken_as_padded(client: ApplicationClient) -> None:
    assert client.target.start(client.nexus, 0, b"", NO_DATA) is GOOD
    outcome = client.target.start(client.nexus, 0, bytes.fromhex(READ_10), NO_DATA)
    assert isinstance(outcome, Transfer)
    assert client.target.data_out_length(0, bytes.fromhex(WRITE_10)) == 512
    assert client.target.data_out_length(0, b"") == 0


def test_a_nexus_that_is_not_open_is_a_fault_of_the_caller(client: ApplicationClient) -> None:
    client.target.nexus_lost(client.nexus)
    client.target.nexus_lost("never opened")
    with pytest.raises(UnknownNexusError, match="not open"):
        client.send(TEST_UNIT_READY)


# REPORT LUNS


def report_luns(select: int, allocation_length: int = 4096) -> str:
    return f"A0 00 {select:02x} 000000 {allocation_length:08x} 00 00"


@pytest.fixture
def many() -> ApplicationClient:
    return ApplicationClient.of(a_unit(300), a_unit(1), a_unit(255), a_unit(16383))


FIELDS = [0x0001 << 48, 0x00FF << 48, 0x412C << 48, 0x7FFF << 48]


@pytest.mark.parametrize(
    ("select", "expected"),
    [
        (0x00, FIELDS),
        (0x01, [REPORT_LUNS_WELL_KNOWN]),
        (0x02, [*FIELDS, REPORT_LUNS_WELL_KNOWN]),
        (0x10, []),
        (0x11, FIELDS),
        (0x12, []),
    ],
)
@pytest.mark.parametrize("raw_lun", [0, 0x0001 << 48, REPORT_LUNS_WELL_KNOWN], ids=["absent 0", "1", "well known"])
def test_report_luns_by_select_report(many: ApplicationClient, select: int, expected: list[int], raw_lun: int) -> None:
    data = many.data(report_luns(select), raw_lun=raw_lun)
    assert int.from_bytes(data[:4]) == 8 * len(expected)
    assert data[4:8] == bytes(4)
    assert [int.from_bytes(data[at : at + 8]) for at in range(8, len(data), 8)] == expected


@pytest.mark.parametrize("select", [0x03, 0x0F, 0x13, 0xF8, 0xFF])
def test_report_luns_with_a_reserved_select_report(many: ApplicationClient, select: int) -> None:
    sense = many.refusal(report_luns(select), lun=1)
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == (2, None)


def test_report_luns_is_cut_to_the_allocation_length(many: ApplicationClient) -> None:
    whole = (32).to_bytes(4) + bytes(4) + b"".join(field.to_bytes(8) for field in FIELDS)
    assert many.data(report_luns(0)) == whole
    assert many.data(report_luns(0, 20)) == whole[:20]
    assert many.data(report_luns(0, 0)) == b""


def test_every_reported_lun_answers(many: ApplicationClient) -> None:
    data = many.data(report_luns(0x02), lun=1)
    for at in range(8, len(data), 8):
        assert many.data(INQUIRY, raw_lun=int.from_bytes(data[at : at + 8]))[0] in (0x00, 0x1E)


def test_a_target_without_units_reports_an_empty_list() -> None:
    client = ApplicationClient(TargetDevice({}))
    assert client.data(report_luns(0)) == bytes(8)
    assert client.data(INQUIRY)[0] == 0x7F


def test_the_well_known_unit_serves_nothing_of_a_disk(client: ApplicationClient) -> None:
    assert code(client.refusal(TEST_UNIT_READY, raw_lun=REPORT_LUNS_WELL_KNOWN)) == POWER_ON
    assert client.data(TEST_UNIT_READY, raw_lun=REPORT_LUNS_WELL_KNOWN) == b""
    assert code(client.refusal(READ_10, raw_lun=REPORT_LUNS_WELL_KNOWN)) == INVALID_OPERATION_CODE


# Failures of the disk


@pytest.mark.parametrize(
    ("cdb", "error_number", "expected", "information"),
    [
        ("28 00 00000064 00 0008 00", errno.EIO, (0x3, 0x11, 0x00), 100),
        ("2A 00 00000064 00 0008 00", errno.EIO, (0x3, 0x0C, 0x00), 100),
        ("28 00 00000064 00 0008 00", errno.ENODATA, (0x3, 0x11, 0x00), 100),
        ("35 00 00000000 00 0000 00", errno.EIO, (0x3, 0x0C, 0x00), None),
        ("2A 00 00000064 00 0008 00", errno.ENOSPC, (0x7, 0x27, 0x07), None),
        ("2A 00 00000064 00 0008 00", errno.EBADE, (0x7, 0x27, 0x00), None),
        ("2A 00 00000064 00 0008 00", errno.ETIMEDOUT, (0xB, 0x08, 0x01), None),
        ("28 00 00000064 00 0008 00", errno.ETIMEDOUT, (0xB, 0x08, 0x01), None),
        ("28 00 00000064 00 0008 00", errno.ECONNRESET, (0xB, 0x08, 0x00), None),
        ("2A 00 00000064 00 0008 00", errno.EAGAIN, (0xB, 0x08, 0x00), None),
        ("35 00 00000000 00 0000 00", errno.EDQUOT, (0x7, 0x27, 0x07), None),
        ("2A 00 00000064 00 0008 00", errno.EROFS, (0x7, 0x27, 0x00), None),
        ("28 00 00000064 00 0008 00", errno.EPERM, (0x4, 0x44, 0x00), None),
        ("2A 00 00000064 00 0008 00", errno.EREMOTEIO, (0x4, 0x44, 0x00), None),
        ("28 00 00000064 00 0008 00", 0, (0x4, 0x44, 0x00), None),
    ],
)
def test_a_failure_of_the_disk_becomes_sense_data(
    client: ApplicationClient, cdb: str, error_number: int, expected: tuple[int, int, int], information: int | None
) -> None:
    reply = client.target.storage_failed(client.transfer(cdb), error_number)
    assert reply.status == Status.CHECK_CONDITION
    sense = fixed_sense(reply.sense)
    assert code(sense) == expected
    assert sense.information == information


@pytest.mark.parametrize("lun", [0, encode_lun(9)])
def test_a_data_phase_that_failed_aborts_the_command(client: ApplicationClient, lun: int) -> None:
    assert code(fixed_sense(client.target.task_failed(lun, 0xB, 0x4B, 0x00).sense)) == (0xB, 0x4B, 0x00)


def test_the_block_that_failed_is_named_where_it_is_known(client: ApplicationClient) -> None:
    transfer = client.transfer("28 00 00000064 00 0008 00")
    reply = client.target.storage_failed(transfer, errno.EIO, failed_offset_bytes=103 * 512 + 5)
    assert fixed_sense(reply.sense).information == 103


def test_an_address_over_32_bits_does_not_fit_fixed_format_and_fits_descriptor_format() -> None:
    client = ApplicationClient.of(a_unit(block_count=1 << 34))
    transfer = client.transfer("88 00 0000000200000000 00000001 00 00")
    assert fixed_sense(client.target.storage_failed(transfer, errno.EIO).sense).information is None
    for server in client.target._routes.values():
        server.descriptor_sense = True
    sense = client.target.storage_failed(transfer, errno.EIO).sense
    assert sense == bytes.fromhex("72 03 11 00 00 00 00 0C  00 0A 80 00 0000000200000000")
