from __future__ import annotations

import pytest

from csvd.scsi.outcome import Status
from csvd.scsi.target_device import TargetDevice
from csvd.scsi.target_ports import AccessState, TargetPorts
from tests.unit.scsi.application_client import (
    INVALID_FIELD_IN_CDB,
    ApplicationClient,
    a_unit,
    cdb_pointer,
    code,
    fixed_sense,
)

CHANGED = (0x6, 0x2A, 0x06)
NOT_ACCESSIBLE = {
    AccessState.STANDBY: (0x2, 0x04, 0x0B),
    AccessState.UNAVAILABLE: (0x2, 0x04, 0x0C),
    AccessState.TRANSITIONING: (0x2, 0x04, 0x0A),
}
TEST_UNIT_READY = "00"
READ_10 = "28 00 00000000 00 0001 00"
RTPG = "A3 0A 00000000 00001000 00 00"


def a_device(*tags: int) -> TargetDevice:
    return TargetDevice({0: a_unit(), 1: a_unit(1)}, ports=TargetPorts(tags))


def a_host(device: TargetDevice, tag: int, name: str = "host") -> ApplicationClient:
    client = ApplicationClient(device, f"iqn.2026-11.test:{name},{tag}")
    device.nexus_opened(client.nexus, portal_group_tag=tag)
    return client.ready()


def set_states(client: ApplicationClient, *states: tuple[int, int], header: bytes = bytes(4)) -> tuple[int, int, int]:
    """Send SET TARGET PORT GROUPS; give the code of its sense data, zeros for GOOD."""
    data_out = header + b"".join(bytes((state, 0)) + tag.to_bytes(2) for tag, state in states)
    reply = client.run(b"\xa4\x0a" + bytes(4) + len(data_out).to_bytes(4) + bytes(2), data_out=data_out)
    return (0, 0, 0) if reply.status == Status.GOOD else code(fixed_sense(reply.sense))


def test_every_group_is_reported_with_its_state_and_port() -> None:
    client = a_host(a_device(1, 0x102), 1)
    groups = bytes.fromhex("00 8F 0001 00 00 00 01 0000 0001 00 8F 0102 00 00 00 01 0000 0102")
    assert client.data(RTPG) == len(groups).to_bytes(4) + groups
    extended = bytes.fromhex("10 00 0000") + groups
    assert client.data("A3 2A 00000000 00001000 00 00") == len(extended).to_bytes(4) + extended
    assert client.data("A3 0A 00000000 00000006 00 00") == client.data(RTPG)[:6]
    sense = client.refusal("A3 4A 00000000 00001000 00 00")
    assert (code(sense), cdb_pointer(sense)) == (INVALID_FIELD_IN_CDB, (1, 7))


def test_an_explicit_change_is_obeyed_reported_and_told_to_the_others() -> None:
    device = a_device(1, 2)
    one, two = a_host(device, 1), a_host(device, 2)
    assert set_states(one, (1, 1), (2, 2)) == (0, 0, 0)
    assert one.data(RTPG)[4:8] == bytes.fromhex("01 8F 0001")
    assert one.data(RTPG)[9] == 0x01, "by SET TARGET PORT GROUPS"
    assert one.data(RTPG)[16] == 0x02
    one.good(TEST_UNIT_READY)
    assert one.transfer(READ_10)
    for lun in (0, 1):
        assert code(two.refusal(TEST_UNIT_READY, lun=lun)) == CHANGED
        assert code(two.refusal(TEST_UNIT_READY, lun=lun)) == NOT_ACCESSIBLE[AccessState.STANDBY]
    assert set_states(two, (2, 0)) == (0, 0, 0)
    two.good(TEST_UNIT_READY)
    assert two.transfer(READ_10)


def test_an_implicit_change_is_told_to_all() -> None:
    device = a_device(1, 2)
    one, two = a_host(device, 1), a_host(device, 2)
    device.ports.groups[2].preferred = True
    device.set_access_states({1: AccessState.ACTIVE_NON_OPTIMIZED})
    for each in (one, two):
        assert code(each.refusal(TEST_UNIT_READY)) == CHANGED
        each.good(TEST_UNIT_READY)
    assert one.data(RTPG)[9] == 0x02
    assert one.data(RTPG)[16] == 0x80, "preferred"
    device.set_access_states({1: AccessState.ACTIVE_NON_OPTIMIZED})
    one.good(TEST_UNIT_READY)


@pytest.mark.parametrize("state", NOT_ACCESSIBLE)
def test_a_state_refuses_what_it_must_and_lets_the_rest_through(state: AccessState) -> None:
    device = a_device(1)
    client = a_host(device, 1)
    device.set_access_states({1: state})
    client.refusal(TEST_UNIT_READY)
    for cdb in (TEST_UNIT_READY, READ_10, "2A 00 00000000 00 0001 00", "35", "1B 00 00 00 01"):
        assert code(client.refusal(cdb)) == NOT_ACCESSIBLE[state]
    assert code(fixed_sense(client.data("03 00 00 00 12"))) == NOT_ACCESSIBLE[state]
    for cdb in ("12 00 00 00 FF", "03 00 00 00 12", "A0" + " 00" * 7 + "01 00 00 00", RTPG):
        assert client.data(cdb)
    standby_only = ("1A 00 3F 00 FF", "9E 10 0000000000000000 00000020 00 00", "A3 0C 00 00 0000 00001000 00 00")
    for cdb in standby_only:
        if state is AccessState.STANDBY:
            assert client.data(cdb)
        else:
            assert code(client.refusal(cdb)) == NOT_ACCESSIBLE[state]
    if state is not AccessState.TRANSITIONING:
        assert set_states(client, (1, 0)) == (0, 0, 0)
        client.good(TEST_UNIT_READY)


def test_a_nexus_that_opens_at_a_port_in_standby_is_refused() -> None:
    device = a_device(1, 2)
    device.set_access_states({2: AccessState.STANDBY})
    late = a_host(device, 2)
    assert code(late.refusal(TEST_UNIT_READY)) == NOT_ACCESSIBLE[AccessState.STANDBY]


def test_a_group_in_transition_is_not_set() -> None:
    device = a_device(1, 2)
    client = a_host(device, 2)
    device.set_access_states({1: AccessState.TRANSITIONING})
    client.refusal(TEST_UNIT_READY)
    assert set_states(client, (2, 1), (1, 0)) == (0x4, 0x67, 0x0A)
    assert client.data(RTPG)[16] == 0x00, "nothing is changed"


@pytest.mark.parametrize(
    ("states", "pointer"),
    [
        ([(1, 0x0F)], 4),
        ([(1, 0x0E)], 4),
        ([(1, 1), (9, 0)], 10),
        ([(1, 1), (1, 0)], 10),
    ],
)
def test_a_wrong_field_is_pointed_at_and_nothing_is_changed(states: list[tuple[int, int]], pointer: int) -> None:
    client = a_host(a_device(1, 2), 1)
    data_out = bytes(4) + b"".join(bytes((state, 0)) + tag.to_bytes(2) for tag, state in states)
    cdb = b"\xa4\x0a" + bytes(4) + len(data_out).to_bytes(4) + bytes(2)
    sense = fixed_sense(client.run(cdb, data_out=data_out).sense)
    assert code(sense) == (0x5, 0x26, 0x00)
    assert sense.specific[0] & 0x40 == 0
    assert int.from_bytes(sense.specific[1:]) == pointer
    assert client.data(RTPG)[4] == 0x00


@pytest.mark.parametrize("length", [1, 3, 5, 7, 4 + 3 * 4, 0xFFFF_FFFF])
def test_a_list_of_a_wrong_length_is_refused(length: int) -> None:
    client = a_host(a_device(1, 2), 1)
    cdb = b"\xa4\x0a" + bytes(4) + length.to_bytes(4) + bytes(2)
    assert code(fixed_sense(client.run(cdb, data_out=bytes(min(length, 64))).sense)) == (0x5, 0x1A, 0x00)


def test_a_list_that_came_short_is_refused_and_none_is_good() -> None:
    client = a_host(a_device(1), 1)
    cdb = b"\xa4\x0a" + bytes(4) + (8).to_bytes(4) + bytes(2)
    assert code(fixed_sense(client.run(cdb, data_out=bytes(7)).sense)) == (0x5, 0x1A, 0x00)
    assert client.run(b"\xa4\x0a" + bytes(10)).status == Status.GOOD


def test_the_data_out_that_is_taken_is_bounded() -> None:
    device = a_device(1)
    assert device.data_out_length(0, b"\xa4\x0a" + bytes(4) + (8).to_bytes(4) + bytes(2)) == 8
    assert device.data_out_length(0, b"\xa4\x0a" + bytes(4) + b"\xff" * 4 + bytes(2)) == 0


def test_a_port_that_was_not_told_of_is_a_group_of_its_own() -> None:
    client = a_host(a_device(2), 1)
    client.good(TEST_UNIT_READY)
    assert [client.data(RTPG)[offset + 3] for offset in (4, 16)] == [1, 2]


def test_ports_may_come_and_go_and_the_nexuses_are_told() -> None:
    device = a_device(1, 2)
    client = a_host(device, 2)
    device.set_access_states({2: AccessState.ACTIVE_NON_OPTIMIZED})
    client.refusal(TEST_UNIT_READY)
    device.set_ports([3, 2])
    assert code(client.refusal(TEST_UNIT_READY)) == (0x6, 0x3F, 0x03)
    assert client.data(RTPG)[4:8] == bytes.fromhex("01 8F 0002"), "it keeps its state"
    assert client.data(RTPG)[16:20] == bytes.fromhex("00 8F 0003")
    device.set_ports([2, 3])
    client.good(TEST_UNIT_READY)


@pytest.mark.parametrize("state", [AccessState.STANDBY, AccessState.UNAVAILABLE])
def test_an_initiator_can_not_take_the_last_active_group(state: AccessState) -> None:
    client = a_host(a_device(1, 2), 1)
    assert set_states(client, (1, state), (2, state)) == (0x4, 0x67, 0x0A)
    assert set_states(client, (2, state)) == (0, 0, 0)
    assert set_states(client, (1, state)) == (0x4, 0x67, 0x0A)
    assert set_states(client, (1, state), (2, 1)) == (0, 0, 0), "another one takes over"


def a_cluster_host(device: TargetDevice) -> ApplicationClient:
    device.set_ports([0x11])
    device.set_ports_elsewhere({0x21: AccessState.ACTIVE_OPTIMIZED})
    return a_host(device, 0x11)


def test_ports_of_other_nodes_are_reported_in_the_state_of_their_nodes() -> None:
    device = TargetDevice({0: a_unit(is_clustered=True)}, ports=TargetPorts())
    client = a_cluster_host(device)
    groups = "00 8F 0011 00 00 00 01 0000 0011 {} 8F 0021 00 {} 00 01 0000 0021"
    assert client.data(RTPG)[4:] == bytes.fromhex(groups.format("00", "00"))
    device.set_ports_elsewhere({0x21: AccessState.UNAVAILABLE})
    assert code(client.refusal(TEST_UNIT_READY)) == CHANGED
    assert client.data(RTPG)[4:] == bytes.fromhex(groups.format("03", "02")), "by the target itself"
    client.good(TEST_UNIT_READY)
    assert client.transfer(READ_10), "its own port is as it was"
    device.set_ports_elsewhere({0x21: AccessState.UNAVAILABLE})
    client.good(TEST_UNIT_READY)


def test_nexuses_are_told_when_a_node_comes_or_is_evicted() -> None:
    device = TargetDevice({0: a_unit(is_clustered=True)}, ports=TargetPorts())
    client = a_cluster_host(device)
    for there in ({0x21: AccessState.ACTIVE_OPTIMIZED, 0x31: AccessState.STANDBY}, {}):
        device.set_ports_elsewhere(there)
        assert code(client.refusal(TEST_UNIT_READY)) == (0x6, 0x3F, 0x03)
        client.good(TEST_UNIT_READY)
        assert list(device.ports.groups) == [0x11, *there]


def test_a_port_that_is_here_is_not_elsewhere() -> None:
    ports = TargetPorts([0x11])
    assert ports.serve_elsewhere({0x11: AccessState.UNAVAILABLE}) == (False, False)
    assert ports.groups[0x11].state is AccessState.ACTIVE_OPTIMIZED
    assert ports.serve_elsewhere({0x21: AccessState.STANDBY}) == (True, False)
    assert ports.serve([0x21]), "the port has moved here"
    assert list(ports.groups) == [0x21]


def test_the_states_of_a_unit_of_several_nodes_are_not_for_initiators_to_set() -> None:
    alone = a_host(a_device(1), 1)
    assert alone.data("12 00 00 00 FF")[5] & 0x30 == 0x30
    client = a_host(TargetDevice({0: a_unit(is_clustered=True)}, ports=TargetPorts([1])), 1)
    assert client.data("12 00 00 00 FF")[5] & 0x30 == 0x10
    assert set_states(client, (1, 1)) == (0x5, 0x20, 0x00)
