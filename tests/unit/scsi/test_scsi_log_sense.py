from __future__ import annotations

import pytest

from csvd.scsi.log_pages import LOG_PAGE_HEADER, LOG_PARAMETER
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
)
from tests.unit.scsi.store import Store


def log_sense(page: int, *, subpage: int = 0, control: int = 1, pointer: int = 0, length: int = 1000) -> bytes:
    start = bytes((0x4D, 0, control << 6 | page, subpage, 0))
    return start + pointer.to_bytes(2) + length.to_bytes(2) + b"\0"


@pytest.fixture
def client() -> ApplicationClient:
    return ApplicationClient.of(a_unit())


def test_every_page_that_is_listed_answers(client: ApplicationClient) -> None:
    listed = client.data(log_sense(0x00))
    assert listed == bytes.fromhex("80 00 0002 00 0D")
    pairs = client.data(log_sense(0x00, subpage=0xFF))
    assert pairs == bytes.fromhex("C0 FF 0006 0000 00FF 0D00")
    for page, subpage in zip(pairs[4::2], pairs[5::2], strict=True):
        data = client.data(log_sense(page, subpage=subpage))
        header = LOG_PAGE_HEADER.parse(data)
        assert (header.page_code & 0x3F, header.subpage_code) == (page, subpage)
        assert header.page_length == len(data) - 4


@pytest.mark.parametrize("control", range(4))
def test_there_is_no_temperature_sensor(client: ApplicationClient, control: int) -> None:
    data = client.data(log_sense(0x0D, control=control))
    parameter = LOG_PARAMETER.parse(data[4:])
    assert (parameter.parameter_code, parameter.parameter_control, parameter.value) == (0, 0x03, b"\x00\xff")


def test_a_thin_unit_tells_what_is_used_and_what_is_left() -> None:
    client = ApplicationClient.of(a_unit(thin=True))  # 100 MiB, counted in mebibytes
    store = Store()
    store.used_bytes = (30 << 20) + 1
    data = client.run(log_sense(0x0C), store=store).data_in
    available = bytes.fromhex("0001 03 08 00000045 00 000000")
    used = bytes.fromhex("0002 03 08 0000001F 00 000000")
    assert data == bytes.fromhex("8C 00 0018") + available + used
    assert client.run(log_sense(0x0C, pointer=2), store=store).data_in[4:] == used
    assert client.run(log_sense(0x0C, length=7), store=store).data_in == data[:7]
    assert code(client.refusal(log_sense(0x0C, pointer=3))) == INVALID_FIELD_IN_CDB
    store.used_bytes = None
    assert client.run(log_sense(0x0C), store=store).data_in == bytes.fromhex("8C 00 0000"), "nobody knows"
    assert client.data(log_sense(0x00)) == bytes.fromhex("80 00 0003 00 0C 0D")


def test_a_unit_that_is_not_thin_has_no_provisioning_to_tell(client: ApplicationClient) -> None:
    assert cdb_pointer(client.refusal(log_sense(0x0C))) == (2, 5)


def test_a_page_is_cut_to_the_allocation_length(client: ApplicationClient) -> None:
    whole = client.data(log_sense(0x0D))
    for length in (0, 1, 4, len(whole)):
        assert client.data(log_sense(0x0D, length=length)) == whole[:length]


@pytest.mark.parametrize(
    ("cdb", "pointer"),
    [
        (log_sense(0x2F), (2, 5)),
        (log_sense(0x0D, subpage=1), (3, None)),
        (log_sense(0x0D, pointer=1), (5, None)),
        (log_sense(0x00, pointer=1), (5, None)),
        (b"\x4d\x01" + log_sense(0x0D)[2:], (1, 0)),
    ],
)
def test_a_wrong_field_is_pointed_at(client: ApplicationClient, cdb: bytes, pointer: tuple[int, int | None]) -> None:
    sense = client.refusal(cdb)
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, pointer)


def test_log_select_is_not_there(client: ApplicationClient) -> None:
    assert code(client.refusal("4C 00 00 00 00 00 00 00 00 00")) == (0x5, 0x20, 0x00)


@pytest.mark.parametrize("lists", [0x00, 0x08, 0x10, 0x1D])
def test_the_defect_lists_are_empty(client: ApplicationClient, lists: int) -> None:
    short = client.data(bytes((0x37, 0, lists, 0, 0, 0, 0, 0, 32, 0)))
    assert short == bytes((0, lists, 0, 0))
    long = client.data(bytes((0xB7, lists, 0, 0, 0, 9, 0, 0, 0, 32, 0, 0)))
    assert long == bytes((0, lists, 0, 0, 0, 0, 0, 0))
    assert client.data(bytes((0x37, 0, lists, 0, 0, 0, 0, 0, 2, 0))) == short[:2]
