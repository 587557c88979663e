from __future__ import annotations

import pytest

from csvd.scsi.command import Command, CommandTable
from csvd.scsi.commands import COMMANDS
from csvd.scsi.commands.media import COMMANDS as MEDIA
from csvd.scsi.logical_unit import Peripheral
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.task_management import TaskManagementFunction
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
)

TIMEOUTS_BYTES = 12


@pytest.fixture
def client() -> ApplicationClient:
    return ApplicationClient.of(a_unit())


def rsoc(option: int, operation_code: int = 0, action: int = 0, *, rctd: bool = False, length: int = 65535) -> bytes:
    flags = option | (0x80 if rctd else 0)
    return bytes((0xA3, 0x0C, flags, operation_code)) + action.to_bytes(2) + length.to_bytes(4) + bytes(2)


def of_disks() -> list[Command]:
    rows = [command for command in COMMANDS if Peripheral.DISK in command.peripherals and command.offered(a_unit())]
    return sorted(rows, key=lambda row: (row.operation_code, row.service_action or 0))


@pytest.mark.parametrize("rctd", [False, True])
def test_all_commands_are_the_rows_of_the_table(client: ApplicationClient, rctd: bool) -> None:
    data = client.data(rsoc(0, rctd=rctd))
    size = 8 + (TIMEOUTS_BYTES if rctd else 0)
    rows = of_disks()
    assert int.from_bytes(data[:4]) == len(data) - 4 == size * len(rows)
    for index, row in enumerate(rows):
        entry = data[4 + index * size :][:size]
        assert entry[0] == row.operation_code
        assert int.from_bytes(entry[2:4]) == (row.service_action or 0)
        assert entry[5] == (0x02 if rctd else 0) | (0x01 if row.service_action is not None else 0)
        assert int.from_bytes(entry[6:8]) == row.layout.length
        if rctd:
            assert entry[8:10] == b"\x00\x0a"
            assert int.from_bytes(entry[16:20]) == row.recommended_timeout_s


@pytest.mark.parametrize("row", of_disks(), ids=lambda row: row.name)
@pytest.mark.parametrize("rctd", [False, True])
def test_one_command_by_the_option_that_fits_it(client: ApplicationClient, row: Command, rctd: bool) -> None:
    right, wrong = (1, 2) if row.service_action is None else (2, 1)
    action = row.service_action or 0
    for option in (right, 3):
        data = client.data(rsoc(option, row.operation_code, action, rctd=rctd))
        size = int.from_bytes(data[2:4])
        assert data[1] == (0x83 if rctd else 0x03)
        assert size == row.layout.length
        assert data[4] == row.operation_code
        assert data[4 : 4 + size] == row.usage_data()
        assert len(data) == 4 + size + (TIMEOUTS_BYTES if rctd else 0)
    sense = client.refusal(rsoc(wrong, row.operation_code, action))
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == (2, 2)


def test_usage_data_of_read_10_has_protect_dpo_fua_address_length_and_naca(client: ApplicationClient) -> None:
    data = client.data(rsoc(1, 0x28))
    assert data[4:] == bytes.fromhex("28 F8 FFFFFFFF 00 FFFF 04")


def test_usage_data_of_a_service_action_holds_the_action(client: ApplicationClient) -> None:
    data = client.data(rsoc(2, 0x9E, 0x10))
    assert data[4:6] == b"\x9e\x10"


@pytest.mark.parametrize(
    ("option", "operation_code", "action"),
    [(1, 0x42, 0), (2, 0x7F, 0), (3, 0x92, 0), (2, 0x9E, 0x1F), (3, 0xA3, 0x02), (3, 0x28, 1)],
)
@pytest.mark.parametrize("rctd", [False, True])
def test_a_command_that_is_not_there_is_not_supported(
    client: ApplicationClient, option: int, operation_code: int, action: int, rctd: bool
) -> None:
    assert client.data(rsoc(option, operation_code, action, rctd=rctd)) == b"\x00\x01\x00\x00"


def test_a_command_is_supported_where_the_unit_offers_it() -> None:
    thin, full = ApplicationClient.of(a_unit(thin=True)), ApplicationClient.of(a_unit())
    assert thin.data(rsoc(1, 0x42)) == bytes.fromhex("00 03 00 0A 42 01 00000000 00 FFFF 04")
    assert full.data(rsoc(1, 0x42)) == b"\x00\x01\x00\x00"
    assert b"\x42\0\0\0\0\0\0\x0a" in thin.data(rsoc(0))
    assert b"\x42\0\0\0\0\0\0\x0a" not in full.data(rsoc(0))


@pytest.mark.parametrize("option", [4, 5, 6, 7])
def test_a_reserved_reporting_option_is_an_invalid_field(client: ApplicationClient, option: int) -> None:
    assert code(client.refusal(rsoc(option))) == INVALID_FIELD_IN_CDB


def test_the_report_is_cut_to_the_allocation_length(client: ApplicationClient) -> None:
    whole = client.data(rsoc(0))
    for length in (0, 3, 4, 12, len(whole)):
        assert client.data(rsoc(0, length=length)) == whole[:length]


def test_task_management_functions_are_those_of_the_target() -> None:
    functions = (TaskManagementFunction.ABORT_TASK, TaskManagementFunction.QUERY_TASK_SET)
    client = ApplicationClient(TargetDevice({0: a_unit()}, functions=functions)).ready()
    assert client.data("A3 0D 00 00 0000 00000100 00 00") == bytes.fromhex("80 02 00 00")


def test_task_management_functions_by_default_and_extended(client: ApplicationClient) -> None:
    basic = bytes.fromhex("DA 00 00 00")
    assert client.data("A3 0D 00 00 0000 00000100 00 00") == basic
    extended = bytes.fromhex("DA 00 00 0C") + bytes(12)
    assert client.data("A3 0D 80 00 0000 00000100 00 00") == extended
    assert client.data("A3 0D 80 00 0000 00000006 00 00") == extended[:6]


def test_task_management_functions_want_an_allocation_of_four_bytes(client: ApplicationClient) -> None:
    sense = client.refusal("A3 0D 00 00 0000 00000003 00 00")
    assert code(sense) == INVALID_FIELD_IN_CDB
    assert cdb_pointer(sense) == (6, None)


def test_two_rows_with_one_code_are_refused() -> None:
    with pytest.raises(AssertionError, match=r"READ\(6\) has the code of another row"):
        CommandTable([MEDIA[0], MEDIA[0]])
