from __future__ import annotations

from typing import Any

import pytest

from initiator.errors import InitiatorError, MalformedAnswer
from initiator.scsi import inquiry, log, mode, target_ports
from initiator.scsi.inquiry import Referrals
from initiator.scsi.mode import Caching, Control, ModePage, PageControl
from initiator.scsi.target_ports import AccessState
from initiator.scsi.vpd_device import ModePagePolicy
from tests.unit.initiator.stub_road import Rig, good, refused

# --- mode pages

CACHING = bytes.fromhex("8812") + b"\x04" + bytes(17)
EXTENSION = bytes.fromhex("4a01001c") + b"\x01" + bytes(27)
UNKNOWN = bytes.fromhex("2002abcd")


def mode_data(*pages: bytes, parameter: int = 0x10, descriptors: bytes = b"") -> bytes:
    body = bytes((0, parameter, 0, 0)) + len(descriptors).to_bytes(2, "big") + descriptors + b"".join(pages)
    return len(body).to_bytes(2, "big") + body


def test_mode_pages_are_told_typed_where_known() -> None:
    found = mode.parse(mode_data(CACHING, EXTENSION, UNKNOWN, parameter=0x90, descriptors=bytes(8)))
    assert found.write_protected
    assert found.dpo_and_fua
    assert found.block_descriptors == bytes(8)
    caching, extension, unknown = found.pages
    assert isinstance(caching, Caching)
    assert caching.saveable
    assert caching.write_cache_enabled
    assert not caching.read_cache_disabled
    assert isinstance(extension, mode.ControlExtension)
    assert extension.implicit_alua_enabled
    assert unknown == ModePage(0x20, 0, False, b"\xab\xcd")
    assert found.page(0x0A, 1) is extension
    assert found.page(0x0A) is None


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        mode_data(CACHING)[:-1],
        mode_data(CACHING[:-1]),
        mode_data(b"\x08"),
        mode_data(EXTENSION[:3]),
        mode_data(b"", descriptors=b"")[:6] + b"\xff\xff",
    ],
)
def test_mode_data_that_contradicts_itself_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        mode.parse(data)


def test_a_page_with_another_value_goes_to_the_wire() -> None:
    rig = Rig(lambda command: mode_data(CACHING) if command.cdb[0] == 0x5A else good(command))
    page = rig.settle(rig.disk.mode_page(Caching))
    changed = page.replaced(write_cache_enabled=False, maximum_prefetch=0x1234)
    assert (changed.write_cache_enabled, changed.maximum_prefetch) == (False, 0x1234)
    assert rig.settle(rig.disk.mode_select(changed, save=True)) is None
    assert [cdb.hex() for cdb in rig.road.cdbs] == ["5a080800000000020000", "55110000000000001c00"]
    assert rig.road.data_out[1].hex() == (bytes(8) + b"\x08\x12" + bytes(6) + b"\x12\x34" + bytes(10)).hex()


@pytest.mark.parametrize("fields", [{"nonsense": 1}, {"body": 1}, {"maximum_prefetch": 1 << 16}, {"busy_timeout": 0}])
def test_a_value_that_a_page_can_not_have_is_refused(fields: dict[str, int]) -> None:
    with pytest.raises(InitiatorError):
        Caching(8, 0, True, bytes(18)).replaced(**fields)


def test_a_field_that_a_short_page_lacks_is_0_and_can_not_be_set() -> None:
    page = Control(0x0A, 0, False, b"\x04")
    assert page.descriptor_sense
    assert page.busy_timeout_period == 0
    assert page.fields()["descriptor_sense"] is True
    with pytest.raises(InitiatorError):
        page.replaced(busy_timeout_period=1)


def test_a_page_that_is_not_in_the_answer_is_malformed() -> None:
    rig = Rig(lambda _: mode_data(UNKNOWN))
    assert isinstance(rig.settle(rig.disk.mode_page(Control)), MalformedAnswer)


def test_the_kind_of_values_is_asked_for() -> None:
    rig = Rig(lambda _: mode_data())
    rig.settle(rig.disk.mode_sense(control=PageControl.SAVED, subpage=0xFF))
    assert rig.road.cdbs[0].hex() == "5a08ffff000000020000"


# --- log pages


def log_data(code: int, subpage: int, body: bytes) -> bytes:
    return bytes((code | (0x40 if subpage else 0), subpage)) + len(body).to_bytes(2, "big") + body


def test_log_pages_are_told_by_their_parameters() -> None:
    provisioning = bytes.fromhex("00010308 00000010 00000000 00020308 00000003 00000000")
    rig = Rig(lambda command: log_data(0x0C, 0, provisioning))
    page = rig.settle(rig.disk.log_sense(0x0C))
    assert (page.available_resources, page.used_resources, page.temperature_celsius) == (16, 3, None)
    assert rig.road.cdbs[0].hex() == "4d004c00000000020000"


@pytest.mark.parametrize(("value", "want"), [("0000030200ff", None), ("00000302002a", 42), ("", None)])
def test_the_temperature_is_told_where_there_is_a_sensor(value: str, want: int | None) -> None:
    assert log.parse(0x0D, 0, log_data(0x0D, 0, bytes.fromhex(value))).temperature_celsius == want


def test_the_log_pages_that_there_are() -> None:
    rig = Rig(lambda _: log_data(0, 0, b"\x00\x0c\x0d"))
    assert rig.settle(rig.disk.supported_log_pages()) == [(0, 0), (0x0C, 0), (0x0D, 0)]
    every = log.parse(0, 0xFF, log_data(0, 0xFF, bytes.fromhex("0000 00ff 0c00")))
    assert log.parse_supported(every) == [(0, 0), (0, 0xFF), (0x0C, 0)]


@pytest.mark.parametrize(
    "data", [b"", log_data(0x0D, 0, b""), log_data(0x0C, 1, b""), log_data(0x0C, 0, bytes(5))[:-1]]
)
def test_another_log_page_or_half_of_one_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        log.parse(0x0C, 0, data)


@pytest.mark.parametrize("body", [bytes(3), bytes.fromhex("00010304000000")])
def test_a_log_parameter_that_runs_past_the_end_is_malformed(body: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        log.parse(0x0C, 0, log_data(0x0C, 0, body))


# --- target port groups

GROUPS = bytes.fromhex("80 8f 0001 00 02 00 02 0000 0001 0000 0002  0f ff 0002 00 00 00 01 0000 0007")


def groups_data(body: bytes) -> bytes:
    return len(body).to_bytes(4, "big") + body


@pytest.mark.parametrize(("head", "time_s"), [(b"", None), (bytes.fromhex("10 3c 0000"), 60)])
def test_target_port_groups_are_told_with_either_header(head: bytes, time_s: int | None) -> None:
    found = target_ports.parse(groups_data(head + GROUPS))
    assert found.implicit_transition_time_s == time_s
    first, second = found.groups
    assert (first.tag, first.state, first.preferred, first.status_code) == (1, AccessState.ACTIVE_OPTIMIZED, True, 2)
    assert first.ports == (1, 2)
    assert first.state.active
    assert second.state is AccessState.TRANSITIONING
    assert found.group_of(7) is second
    assert found.group_of(9) is None


def test_a_state_that_nobody_knows_is_unavailable() -> None:
    found = target_ports.parse(groups_data(bytes.fromhex("08 00 0001 00 00 00 00")))
    assert found.groups[0].state is AccessState.UNAVAILABLE


@pytest.mark.parametrize("data", [b"", groups_data(GROUPS)[:-1], groups_data(GROUPS[:-1]), groups_data(GROUPS[:3])])
def test_target_port_groups_that_run_past_their_end_are_malformed(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        target_ports.parse(data)


def test_states_are_asked_for_and_set() -> None:
    rig = Rig(lambda command: groups_data(GROUPS) if command.cdb[0] == 0xA3 else good(command))
    rig.settle(rig.disk.target_port_groups(extended=True))
    rig.settle(rig.disk.set_target_port_groups({1: AccessState.STANDBY, 2: AccessState.ACTIVE_OPTIMIZED}))
    assert [cdb.hex() for cdb in rig.road.cdbs] == ["a32a00000000000004000000", "a40a000000000000000c0000"]
    assert rig.road.data_out[1].hex() == "00000000" + "02000001" + "00000002"


# --- the rest


def test_sense_can_be_asked_for() -> None:
    rig = Rig(lambda _: refused(2, 4, 1)[1])
    found = rig.settle(rig.disk.request_sense(descriptor=True))
    assert (found.key, found.asc, found.ascq) == (2, 4, 1)
    assert rig.road.cdbs[0].hex() == "03010000fc00"


def test_a_unit_is_started_and_stopped() -> None:
    rig = Rig(good)
    rig.settle(rig.disk.start_stop(True))
    rig.settle(rig.disk.start_stop(False, load_or_eject=True, immediate=True, power_condition=3))
    assert [cdb.hex() for cdb in rig.road.cdbs] == ["1b0000000100", "1b0100003200"]


# --- VPD pages


def page(code: int, body: bytes) -> Any:
    return inquiry.parse_vpd(code, bytes((0, code)) + len(body).to_bytes(2, "big") + body)


def test_the_pages_of_the_device_are_typed() -> None:
    addresses = page(0x85, bytes.fromhex("21 00 0008") + b"http://a")
    assert [(a.association, a.service_type, a.address) for a in addresses.addresses] == [(1, 1, "http://a")]
    extended = page(0x86, bytes.fromhex("00 07 01 01 10"))
    assert extended.simple_supported
    assert extended.volatile_cache
    assert extended.unit_attentions_cleared_by_loss
    assert extended.referrals_supported
    assert page(0x87, bytes.fromhex("3fff8000")).policies == (ModePagePolicy(0x3F, 0xFF, True, 0),)
    assert page(0xB3, bytes.fromhex("00000000 00000010 00000002")) == Referrals(16, 2)


def test_ports_are_named() -> None:
    name = b"iqn.a,t,0x0001\0\0"
    designator = bytes((0x53, 0x98, 0, len(name))) + name
    body = bytes.fromhex("0000 0001 0000 0000 0000") + len(designator).to_bytes(2, "big") + designator
    found = page(0x88, body + bytes.fromhex("0000 0002 0000 0000 0000 0000"))
    assert [(port.relative_port, port.name, port.initiator) for port in found.ports] == [
        (1, "iqn.a,t,0x0001", None),
        (2, "", None),
    ]


def test_what_a_unit_can_copy_is_told() -> None:
    commands = bytes((8, 0x83, 2, 0, 0x10, 0x84, 2, 3, 4, 0, 0, 0))
    body = b"".join(
        kind.to_bytes(2, "big") + len(data).to_bytes(2, "big") + data
        for kind, data in ((1, commands), (4, bytes.fromhex("00000000 0010 0040 00000a00")), (8, b"\x03\x02\x0a\xe4"))
    )
    found = page(0x8F, body)
    assert found.commands == {(0x83, 0), (0x83, 0x10), (0x84, 3), (0x84, 4)}
    assert found.descriptor_types == {0x02, 0x0A, 0xE4}
    assert (found.maximum_cscd_descriptors, found.maximum_segment_descriptors) == (16, 64)
    assert (found.maximum_descriptor_list_bytes, found.maximum_segment_bytes) == (2560, 0)


@pytest.mark.parametrize(
    ("code", "body"),
    [
        (0x85, "2100ffff"),
        (0x85, "21"),
        (0x88, "0000"),
        (0x88, "000000010000000000000009"),
        (0x8F, "00010005"),
        (0xB3, ""),
    ],
)
def test_a_page_whose_parts_run_past_its_end_is_malformed(code: int, body: str) -> None:
    with pytest.raises(MalformedAnswer):
        page(code, bytes.fromhex(body))
