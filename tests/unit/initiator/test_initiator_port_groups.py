from __future__ import annotations

import pytest

from csvd.scsi.commands.target_port_groups import (
    REPORT_TARGET_PORT_GROUPS,
    SET_DESCRIPTOR,
    SET_TARGET_PORT_GROUPS,
    _group_descriptor,
)
from csvd.scsi.target_ports import AccessState as TargetAccessState
from csvd.scsi.target_ports import TargetPortGroup as Group
from initiator.errors import MalformedAnswer
from initiator.scsi import port_groups
from initiator.scsi.port_groups import AccessState


def answer(*groups: Group) -> bytes:
    data = b"".join(map(_group_descriptor, groups))
    return len(data).to_bytes(4, "big") + data


def test_groups_come_back_as_csvd_says_them() -> None:
    data = answer(
        Group(1, (1, 7), TargetAccessState.ACTIVE_NON_OPTIMIZED, preferred=True),
        Group(0x102, (), TargetAccessState.TRANSITIONING),
    )
    groups, whole = port_groups.parse_groups(data)
    assert [(g.tag, g.state, g.preferred, g.ports) for g in groups] == [
        (1, AccessState.ACTIVE_NON_OPTIMIZED, True, (1, 7)),
        (0x102, AccessState.TRANSITIONING, False, ()),
    ]
    assert whole == len(data)


def test_what_is_cut_off_is_left_out_and_the_whole_length_is_told() -> None:
    data = answer(Group(1, (1,)), Group(2, (2, 3)))
    groups, whole = port_groups.parse_groups(data[:-1])
    assert [group.tag for group in groups] == [1]
    assert whole == len(data)


@pytest.mark.parametrize("data", [b"", b"\0\0\0", answer(Group(1, (1,)))[:4] + b"\x07" + bytes(11)])
def test_what_is_no_list_of_groups_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedAnswer):
        port_groups.parse_groups(data)


def test_the_cdbs_are_those_of_csvds_layouts() -> None:
    report = port_groups.report_target_port_groups(0x1234)
    assert len(report) == 12
    assert REPORT_TARGET_PORT_GROUPS.unpacker("service_action", "allocation_length").unpack_from(report) == (10, 0x1234)
    set_groups = port_groups.set_target_port_groups(12)
    assert SET_TARGET_PORT_GROUPS.unpacker("parameter_list_length").unpack_from(set_groups) == (12,)


def test_the_list_of_states_names_each_group_once() -> None:
    data = port_groups.states_list({3: AccessState.STANDBY, 9: AccessState.ACTIVE_OPTIMIZED})
    found = [SET_DESCRIPTOR.parse(data[at : at + 4]) for at in range(4, len(data), 4)]
    assert [(f.target_port_group, f.state) for f in found] == [(3, 2), (9, 0)]


def test_states_have_the_names_that_people_write() -> None:
    assert AccessState.ACTIVE_OPTIMIZED.words == "active/optimized"
    assert AccessState.STANDBY.words == "standby"
