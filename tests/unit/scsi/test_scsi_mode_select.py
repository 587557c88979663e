from __future__ import annotations

import errno
from typing import Any

import pytest

from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.outcome import GOOD, Status
from csvd.scsi.procedure import DiskFault, Flush, Keep, Steps, Unmap, Until, Write
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.write_through import written_through
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
    fixed_sense,
)
from tests.unit.scsi.store import Store

INVALID_PARAMETER = (0x5, 0x26, 0x00)
LIST_LENGTH_ERROR = (0x5, 0x1A, 0x00)
HEADER_6 = bytes(4)
WRITE_10 = "2A 00 00000000 00 0001 00"


def control(*, swp: bool = False, tas: bool = False, d_sense: bool = False) -> bytes:
    return bytes((0x0A, 0x0A, 0x06 if d_sense else 0x02, 0x10, swp << 3, tas << 6)) + bytes(6)


def caching(*, wce: bool) -> bytes:
    return bytes((0x08, 0x12, wce << 2)) + bytes(17)


def select_6(length: int, *, flags: int = 0x10) -> bytes:
    return bytes((0x15, flags, 0, 0, length, 0))


def select_10(length: int, *, flags: int = 0x10) -> bytes:
    return bytes((0x55, flags, 0, 0, 0, 0, 0)) + length.to_bytes(2) + b"\0"


class Host(ApplicationClient):
    """An application client that sets mode parameters."""

    def select(self, pages: bytes, *, flags: int = 0x10, store: Store | None = None) -> None:
        data_out = HEADER_6 + pages
        reply = self.run(select_6(len(data_out), flags=flags), data_out=data_out, store=store)
        assert reply.status == Status.GOOD, reply

    def refused(self, cdb: bytes, data_out: bytes) -> tuple[tuple[int, int, int], tuple[int, int | None] | None]:
        """Code of the sense data, and byte and bit of the parameter list that it points at."""
        sense = fixed_sense(self.run(cdb, data_out=data_out).sense)
        first, high, low = sense.specific
        if not first & 0x80:
            return code(sense), None
        assert not first & 0x40, "the parameter list"
        return code(sense), (high << 8 | low, first & 7 if first & 8 else None)

    def page(self, code: int, *, subpage: int = 0, control: int = 0) -> bytes:
        return self.data(bytes((0x1A, 0x08, control << 6 | code, subpage, 255, 0)))[4:]


def a_host(**overrides: Any) -> Host:
    host = Host(TargetDevice({0: a_unit(**overrides)}))
    host.ready()
    return host


def another(host: Host) -> Host:
    other = Host(host.target, "iqn.2026-11.test:other,i,0x2")
    other.ready()
    return other


def test_swp_refuses_writes_and_says_so() -> None:
    host = a_host()
    store = Store()
    host.select(control(swp=True), store=store)
    assert any(isinstance(request, Flush) for request in store.requests), "what is written is made durable first"
    assert code(host.refusal(WRITE_10)) == (0x7, 0x27, 0x02)
    assert host.data("1A 08 0A 00 FF 00")[2] == 0x90, "WP"
    assert host.page(0x0A) == control(swp=True)
    assert host.transfer("28 00 00000000 00 0001 00")
    host.select(control())
    assert host.transfer(WRITE_10)


def test_d_sense_is_obeyed_at_once() -> None:
    host = a_host()
    host.select(control(d_sense=True))
    reply = host.run("FF")
    assert reply.sense[0] == 0x72
    host.select(control())
    assert host.run("FF").sense[0] == 0x70


def test_tas_is_there_for_the_iscsi_layer() -> None:
    host = a_host()
    assert not host.target.aborted_status(0)
    host.select(control(tas=True))
    assert host.target.aborted_status(0)
    assert not host.target.aborted_status(1 << 48), "no such LUN"


def test_without_wce_every_write_is_durable() -> None:
    host = a_host()
    assert not host.transfer(WRITE_10).fua
    store = Store()
    host.select(caching(wce=False), store=store)
    assert [type(request) for request in store.requests] == [Until, Flush]
    assert host.transfer(WRITE_10).fua
    assert host.transfer("0A 00 0000 01 00").fua
    assert not host.transfer("28 00 00000000 00 0001 00").fua
    host.select(caching(wce=True))
    assert not host.transfer(WRITE_10).fua


def test_a_unit_without_a_write_cache_writes_through_from_the_start() -> None:
    assert a_host(write_cache=False).transfer(WRITE_10).fua


def test_the_other_nexuses_are_told_once_and_only_of_a_change() -> None:
    host = a_host()
    other = another(host)
    host.select(control(tas=True))
    host.good("00")
    assert code(other.refusal("00")) == (0x6, 0x2A, 0x01)
    other.good("00")
    host.select(control(tas=True))
    other.good("00")


def test_what_mode_sense_returned_may_be_sent_back() -> None:
    host = a_host(keeps=True)
    whole = host.data(bytes((0x5A, 0x10, 0x3F, 0xFF, 0, 0, 0, 4, 0, 0)))
    assert host.run(select_10(len(whole)), data_out=whole).status == Status.GOOD
    short = host.data("1A 00 3F 00 FF 00")
    assert host.run(select_6(len(short)), data_out=short).status == Status.GOOD


def test_no_parameter_list_changes_nothing() -> None:
    host = a_host()
    assert host.run(select_6(0)).status == Status.GOOD
    assert host.run(select_10(0, flags=0)).status == Status.GOOD


def test_saved_values_are_kept_and_restored_after_a_restart() -> None:
    unit = a_unit(keeps=True)
    host = Host(TargetDevice({0: unit}))
    host.ready()
    store = Store()
    host.select(control(tas=True), flags=0x11, store=store)
    assert isinstance(store.requests[1], Keep), "before anything is changed"
    saveable = b"\x8a" + control(tas=True)[1:]
    assert host.page(0x0A, control=3) == saveable
    host.select(control(swp=True))
    assert host.page(0x0A, control=3) == saveable, "not saved"
    assert host.page(0x0A, control=2)[1:] == control()[1:]
    again = Host(TargetDevice({0: a_unit(keeps=True, kept=dict(unit.kept))}))
    again.ready()
    assert again.page(0x0A) == again.page(0x0A, control=3) == saveable
    assert again.target.aborted_status(0)


def test_a_reset_brings_the_saved_values_back() -> None:
    host = a_host(keeps=True)
    host.select(control(tas=True), flags=0x11)
    host.select(control(swp=True, d_sense=True))
    host.target.logical_unit_reset(0, host.nexus)
    host.ready()
    assert host.page(0x0A)[1:] == control(tas=True)[1:]
    assert host.transfer(WRITE_10)
    host.select(control(swp=True))
    host.target.target_reset(host.nexus)
    host.ready()
    assert host.transfer(WRITE_10)


@pytest.mark.parametrize(
    "kept",
    [
        None,
        [],
        {"mode parameters": "nonsense"},
        {"mode parameters": {"0A-00": "zz"}},
        {"mode parameters": {"0A-00": 7}},
        {"mode parameters": {"0A-00": "00"}},
        {"mode parameters": {"77-00": "00"}},
    ],
)
def test_kept_values_that_do_not_fit_are_not_taken(kept: Any) -> None:
    assert a_host(keeps=True, kept=kept or {}).page(0x0A)[1:] == control()[1:]


def test_of_kept_values_only_what_can_be_changed_is_taken() -> None:
    host = a_host(keeps=True, kept={"mode parameters": {"0A-00": "FF" * 10}})
    assert host.page(0x0A) == b"\x8a" + control(swp=True, tas=True, d_sense=True)[1:]


def test_a_value_that_can_not_be_kept_is_not_set() -> None:
    host = a_host(keeps=True)
    store = Store()
    store.fault = lambda request: errno.EIO if isinstance(request, Keep) else None
    data_out = HEADER_6 + control(tas=True)
    reply = host.run(select_6(len(data_out), flags=0x11), data_out=data_out, store=store)
    assert reply.status == Status.CHECK_CONDITION
    assert not host.target.aborted_status(0)


def test_saving_where_nothing_is_kept_is_an_invalid_field() -> None:
    sense = a_host().refusal(select_6(0, flags=0x11))
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (1, 0))


def test_pages_of_a_vendors_format_are_an_invalid_field() -> None:
    sense = a_host().refusal(select_6(4, flags=0))
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (1, 4))


def test_rtd_goes_back_to_the_default_values() -> None:
    host = a_host()
    host.select(control(swp=True, tas=True))
    assert host.run(select_6(0, flags=0x12)).status == Status.GOOD
    assert host.page(0x0A) == control()
    host.select(control(swp=True))
    host.select(control(tas=True), flags=0x12)
    assert host.page(0x0A) == control(tas=True)


@pytest.mark.parametrize("length", [*range(1, 12), *range(13, 24)])
def test_a_list_that_ends_within_a_part_has_a_wrong_length(length: int) -> None:
    host = a_host()
    whole = bytes((0, 0, 0, 8)) + bytes.fromhex("00032000 00 000200") + control(swp=True)
    assert host.refused(select_6(length), whole[:length]) == (LIST_LENGTH_ERROR, None)
    assert host.page(0x0A) == control()


def test_a_list_that_came_short_has_a_wrong_length() -> None:
    host = a_host()
    whole = HEADER_6 + control(swp=True)
    assert host.refused(select_6(16), whole[:-1]) == (LIST_LENGTH_ERROR, None)


@pytest.mark.parametrize(
    ("data_out", "pointer"),
    [
        (bytes.fromhex("00 01 00 00"), (1, None)),
        (bytes.fromhex("00 00 00 07") + bytes(7), (3, None)),
        (bytes.fromhex("00 00 00 10") + bytes(16), (3, None)),
        (bytes.fromhex("00 00 00 08 00032000 00 001000"), (9, None)),
        (bytes.fromhex("00 00 00 08 00032001 00 000200"), (4, None)),
        (HEADER_6 + bytes.fromhex("2A 0A") + bytes(10), (4, 5)),
        (HEADER_6 + bytes.fromhex("4A 07 00 00"), (5, None)),
        (HEADER_6 + bytes.fromhex("0A 0B") + bytes(11), (5, None)),
        (HEADER_6 + bytes.fromhex("4A 01 00 1B") + bytes(27), (6, None)),
        (HEADER_6 + control()[:2] + b"\x22" + control()[3:], (6, 5)),
        (HEADER_6 + caching(wce=True)[:2] + b"\x05" + bytes(17), (6, 0)),
        (HEADER_6 + control(swp=True) + bytes.fromhex("3F 00"), (16, 5)),
    ],
)
def test_a_wrong_field_is_pointed_at_and_nothing_is_changed(data_out: bytes, pointer: tuple[int, int | None]) -> None:
    host = a_host()
    assert host.refused(select_6(len(data_out)), data_out) == (INVALID_PARAMETER, pointer)
    assert host.page(0x0A) == control()


def test_the_long_header_and_descriptor_are_checked_too() -> None:
    host = a_host(block_count=1 << 33)
    good = bytes.fromhex("0000 00 00 01 00 0010 0000000200000000 00000000 00000200")
    assert host.run(select_10(len(good)), data_out=good).status == Status.GOOD
    for wrong, pointer in (
        (good[:-2] + b"\x10\x00", (20, None)),
        (good[:8] + b"\x01" + good[9:], (8, None)),
        (good[:7] + b"\x08" + good[8:], (6, None)),
    ):
        assert host.refused(select_10(len(wrong)), wrong) == (INVALID_PARAMETER, pointer)


def test_the_threshold_is_read_by_name() -> None:
    host = a_host(thin=True)
    mode = host.target.servers[0].mode
    assert mode.soft_threshold == (False, False, 0)
    threshold = bytes.fromhex("5C 02 00 14 01") + bytes(11) + bytes.fromhex("81 02 0000 00001234")
    host.select(threshold)
    assert mode.soft_threshold == (False, True, 0x1234), "LBPERE is zero"
    host.select(bytes.fromhex("01 0A 00 00 000000 80 00 00 0000"))
    assert mode.soft_threshold == (True, True, 0x1234)


def test_data_out_length_is_that_of_the_list() -> None:
    target = TargetDevice({0: a_unit()})
    assert target.data_out_length(0, select_6(16)) == 16
    assert target.data_out_length(0, select_10(100)) == 100


def test_a_procedure_that_writes_is_made_durable_without_wce() -> None:
    unit, other = a_unit(0), a_unit(1)

    def steps() -> Steps:
        yield Write(unit, 0, b"x" * 512)
        yield Write(other, 0, b"x" * 512, fua=True)
        try:
            yield Unmap(other, 512, 512)
        except DiskFault:
            yield Write(other, 512, bytes(512), fua=True)
        return GOOD

    def run(needed: set[LogicalUnit]) -> list[LogicalUnit]:
        store = Store()
        store.fault = lambda request: errno.EOPNOTSUPP if isinstance(request, Unmap) else None
        assert store.run_steps(written_through(steps(), lambda each: each in needed)) is GOOD
        return [request.unit for request in store.requests if isinstance(request, Flush)]

    assert run({unit, other}) == [unit, other]
    assert run({unit}) == [unit]
    assert run(set()) == []


def test_a_list_longer_than_all_pages_is_a_length_error_and_need_not_come() -> None:
    client = Host(TargetDevice({0: a_unit()}))
    client.ready()
    data_out = bytes(8) + caching(wce=True) * 3000
    assert client.target.data_out_length(0, select_10(len(data_out))) == 0
    assert client.refused(select_10(len(data_out)), data_out) == (LIST_LENGTH_ERROR, None)
    everything = client.data("5A 18 3F FF 00 00 00 FFFF 00")
    reply = client.run(select_10(len(everything)), data_out=bytes(2) + everything[2:])
    assert reply.status == Status.GOOD
