"""Reservations of a logical unit that three nodes export: as those of one, whatever becomes of the nodes."""

from __future__ import annotations

from typing import Any

import pytest
from twisted.internet.defer import Deferred

from csvd.iscsi.codes import TaskManagementFunction
from tests.pair.clustered import CHECK_CONDITION, CONFLICT, GOOD, Cluster, answered, block, statuses
from tests.unit.scsi.reserving_host import device_transport_id

WE, WE_RO, EA_RO = 1, 5, 6
TASK_ABORTED = 0x40
REGISTRATIONS_PREEMPTED = (0x6, 0x2A, 0x05)
RESERVATIONS_PREEMPTED = (0x6, 0x2A, 0x03)
RESERVATIONS_RELEASED = (0x6, 0x2A, 0x04)
MODE_PARAMETERS_CHANGED = (0x6, 0x2A, 0x01)
RESET_OCCURRED = (0x6, 0x29, 0x03)
APTPL = 0x01
ALL_TG_PT = 0x04


@pytest.fixture
def room() -> Cluster:
    return Cluster()


def test_a_registration_and_a_reservation_are_seen_on_all_nodes(room: Cluster) -> None:
    a, b, c = room.host("n1", "a"), room.host("n2", "b"), room.host("n3", "c")
    assert statuses([a.register(0xA), b.register(0xB), b.out(1, 0xB, kind=WE)]) == [GOOD] * 3
    for host in (a, b, c):
        assert host.keys() == [0xA, 0xB]
        assert host.persistent_reserve_in(1)[8:16] == (0xB).to_bytes(8)
    assert statuses([a.write(0, 1), b.write(0, 2), c.write(0, 3)]) == [CONFLICT, GOOD, CONFLICT]
    assert {host.persistent_reserve_in(0)[:4] for host in (a, b, c)} == {(2).to_bytes(4)}


def test_full_status_tells_the_ports_of_all_nodes(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "a", 2)
    a.register(0xA)
    b.register(0xA)
    data = a.persistent_reserve_in(3)
    assert data == b.persistent_reserve_in(3)
    assert a.node.tag.to_bytes(2) == data[8 + 18 : 8 + 20]
    assert a.node.tag != b.node.tag
    assert b.node.tag.to_bytes(2) in data


def test_a_preempt_waits_for_the_write_of_another_node_that_is_under_way(room: Cluster) -> None:
    """The point of it all: when PREEMPT is answered, the writer of node 2 can write no more."""
    a, b = room.host("n1", "a"), room.host("n2", "b")
    a.register(0xA)
    b.register(0xB)
    assert b.out(1, 0xB, kind=WE_RO).status == GOOD
    b.node.disk.is_slow = True
    written = b.write(7, 0xBB)
    preempting = a.preempt(0xA, 0xB, WE_RO)
    assert not answered(written)
    assert not answered(preempting), "a write of the preempted nexus may still land"
    assert b.ready() == [REGISTRATIONS_PREEMPTED]
    assert b.write(8, 0xBB).status == CONFLICT, "but it begins no new one"
    b.node.disk.let_go()
    room.run()
    assert answered(written)
    assert answered(preempting)
    assert preempting.status == GOOD
    assert b.write(9, 0xBB).status == CONFLICT


def test_other_writes_go_on_while_a_preempt_waits(room: Cluster) -> None:
    """It waits for what was under way when the node heard of it, or a busy disk would hold it up for ever."""
    a, b, c = room.host("n1", "a"), room.host("n2", "b"), room.host("n2", "c", 3)
    for host, key in ((a, 0xA), (b, 0xB), (c, 0xC)):
        host.register(key)
    b.out(1, 0xB, kind=WE_RO)
    b.node.disk.is_slow = True
    b.write(7, 0xBB)
    preempting = a.preempt(0xA, 0xB, WE_RO)
    later = c.write(8, 0xCC)
    do, done = b.node.disk.held.pop(0)
    do().chainDeferred(done)
    room.run()
    assert not answered(later)
    assert answered(preempting)
    b.node.disk.let_go()


def test_a_long_command_of_a_preempted_nexus_writes_no_further(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    a.register(0xA)
    b.register(0xB)
    b.out(1, 0xB, kind=WE_RO)
    b.node.disk.is_slow = True
    write_same = bytes((0x93, 0)) + (0).to_bytes(8) + (2048).to_bytes(4) + bytes(2)
    filling = b.begin(write_same, data_out=block(0xBB))
    assert len(b.node.disk.held) == 1
    preempting = a.preempt(0xA, 0xB, WE_RO)
    b.node.disk.let_go()
    room.run()
    assert answered(preempting)
    assert answered(filling)


def test_preempt_and_abort_ends_the_tasks_of_the_preempted_on_all_nodes(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n3", "b")
    a.register(0xA)
    b.register(0xB)
    b.out(1, 0xB, kind=WE_RO)
    b.node.disk.is_slow = True
    written = b.write(7, 0xBB)
    preempting = a.preempt(0xA, 0xB, WE_RO, abort=True)
    assert not answered(preempting)
    b.node.disk.let_go()
    room.run()
    assert preempting.status == GOOD
    assert answered(preempting)
    assert statuses([written]) == [TASK_ABORTED], "TAS is set where several nodes export a logical unit"


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_one_that_preempts_and_aborts_its_own_key_gets_its_answer(room: Cluster, node: str) -> None:
    a, b = room.host(node, "a"), room.host("n3", "b")
    a.register(0xA)
    b.register(0xA)
    preempting = a.preempt(0xA, 0xA, WE_RO, abort=True)
    assert answered(preempting)
    assert preempting.status == GOOD


def test_two_that_preempt_and_abort_each_other_at_once_do_not_wait_for_each_other(room: Cluster) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    a.register(0xA)
    b.register(0xB)
    room.loopback.hold_keeps()
    one = a.preempt(0xA, 0xB, WE_RO, abort=True)
    other = b.preempt(0xB, 0xA, WE_RO, abort=True)
    room.loopback.let_keeps_go()
    room.run()
    assert answered(one)
    assert one.status == GOOD or not answered(other)
    assert a.keys() in ([0xA], [0xB])


def test_unit_attentions_come_to_nexuses_of_other_nodes(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    a.register(0xA)
    b.register(0xB)
    a.out(1, 0xA, kind=WE_RO)
    a.out(2, 0xA, kind=WE_RO)
    assert b.ready() == [RESERVATIONS_RELEASED]
    assert a.ready() == []
    a.out(3, 0xA)
    assert b.ready() == [RESERVATIONS_PREEMPTED]


def test_all_target_ports_are_those_of_all_nodes(room: Cluster) -> None:
    a, elsewhere = room.host("n1", "a"), room.host("n3", "a")
    b = room.host("n2", "b")
    assert a.register(0xA, ALL_TG_PT).status == GOOD
    assert b.keys() == [0xA] * 3
    b.register(0xB)
    b.out(1, 0xB, kind=WE_RO)
    assert elsewhere.write(0, 1).status == GOOD


def test_an_initiator_without_isid_is_all_its_ports_at_all_nodes(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b", 2)
    others = [room.host("n2", "c", 3), room.host("n3", "c", 4), room.host("n3", "c", 5)]
    listed = device_transport_id(b"iqn.2026-11.test:C")
    assert b.register_others(0xA, listed).status == GOOD
    assert a.keys() == [0xA] * 4
    status = a.persistent_reserve_in(3)
    for host in (b, *others):
        assert host.port.encode() in status
    assert a.port.encode() not in status
    nobody = b.register_others(0xB, device_transport_id(b"iqn.2026-11.test:d"), key=0xA)
    assert nobody.status == CHECK_CONDITION
    assert a.keys() == [0xA] * 4


def test_registrations_survive_the_death_of_any_node_also_of_the_coordinator(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    a.register(0xA)
    b.register(0xB)
    a.out(1, 0xA, kind=WE_RO)
    generation = b.persistent_reserve_in(0)[:4]
    room.hosts.remove(a)
    room.does(room.loopback.kill("n1"))
    assert b.ready() == []
    assert b.keys() == [0xA, 0xB]
    assert b.persistent_reserve_in(0)[:4] == generation
    c = room.host("n3", "c")
    assert c.write(0, 1).status == CONFLICT
    room.replace("n1")
    d = room.host("n1", "d")
    assert d.keys() == [0xA, 0xB]
    assert d.write(0, 1).status == CONFLICT


@pytest.mark.parametrize("aptpl", [False, True])
def test_what_aptpl_keeps_is_what_outlives_all_nodes(room: Cluster, aptpl: bool) -> None:
    a = room.host("n1", "a")
    a.register(0xA, APTPL if aptpl else 0)
    a.out(1, 0xA, kind=WE)
    room.hosts.clear()
    for name in ("n3", "n2"):
        room.does(room.loopback.kill(name))
    room.loopback.end_office()
    room.loopback.sessions["n1"]._become("closed")
    room.loopback.sessions["n1"].is_known = False
    room.replace("n2")
    room.does(room.loopback._take("n2"))
    room.replace("n3")
    b = room.host("n3", "b")
    assert b.keys() == ([0xA] if aptpl else [])
    assert b.write(0, 1).status == (CONFLICT if aptpl else GOOD)
    assert b.persistent_reserve_in(0)[:4] == bytes(4)


def test_a_change_that_is_cut_off_by_the_death_of_the_coordinator_is_made_once(room: Cluster) -> None:
    b = room.host("n2", "b")
    b.register(0xB)
    room.loopback.hold_keeps()
    registering = b.register(0xB2)
    assert not answered(registering)
    room.loopback.end_office()
    room.loopback.let_keeps_go()
    assert not answered(registering), "there is nobody to say whether it was kept"
    room.does(room.loopback.move("n3"))
    assert answered(registering)
    assert registering.status == GOOD
    assert b.keys() == [0xB2]
    assert int.from_bytes(b.persistent_reserve_in(0)[:4]) == 2


def test_effects_that_not_all_nodes_have_heard_of_come_with_the_next_coordinator(room: Cluster) -> None:
    """Kept, and told to nobody else: the coordinator dies right behind the write."""
    a, b = room.host("n3", "a"), room.host("n2", "b")
    a.register(0xA)
    b.register(0xB)
    session = room.loopback.sessions["n2"]
    heard, lost = session._pushed, Deferred[Any]()

    async def deaf(service: str, method: str, params: Any) -> Any:
        return await lost

    session._pushed = deaf  # type: ignore[method-assign]
    preempting = a.preempt(0xA, 0xB, WE_RO)
    assert not answered(preempting)
    session._pushed = heard  # type: ignore[method-assign]
    room.loopback.end_office()
    lost.callback({})
    room.does(room.loopback.move("n3"))
    assert answered(preempting)
    assert preempting.status == GOOD
    assert b.ready() == [REGISTRATIONS_PREEMPTED]
    assert b.keys() == [0xA]


def test_a_node_that_comes_back_hears_of_what_it_has_missed(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    a.register(0xA)
    b.register(0xB)
    room.does(room.loopback.lapse("n2"))
    preempting = a.preempt(0xA, 0xB, WE_RO)
    assert not answered(preempting), "nobody knows yet what n2 does"
    room.does(room.loopback.declare_gone("n2"))
    assert answered(preempting)
    room.does(room.loopback.come_back("n2"))
    assert b.ready() == [REGISTRATIONS_PREEMPTED]
    assert b.keys() == [0xA]


def test_reserve_6_holds_on_all_nodes_and_ends_with_its_node(room: Cluster) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    assert a.ask(bytes((0x16, 0, 0, 0, 0, 0))) == GOOD
    assert b.ask(bytes((0x16, 0, 0, 0, 0, 0))) == CONFLICT
    assert b.write(0, 1).status == CONFLICT
    room.hosts.remove(a)
    room.does(room.loopback.kill("n2"))
    assert b.write(0, 1).status == GOOD
    assert b.ask(bytes((0x16, 0, 0, 0, 0, 0))) == GOOD


def test_a_nexus_whose_node_was_away_is_told_that_its_reserve_6_is_gone(room: Cluster) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    a.ask(bytes((0x16, 0, 0, 0, 0, 0)))
    room.does(room.loopback.declare_gone("n2"))
    assert b.write(0, 1).status == GOOD
    room.does(room.loopback.come_back("n2"))
    assert a.ready() == [RESERVATIONS_RELEASED]


def test_mode_parameters_change_on_all_nodes_and_the_others_are_told(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    sense = a.begin(bytes((0x1A, 0x08, 0x0A, 0, 0xFF, 0)), data_in=255)
    assert sense.data_in is not None
    page = bytearray(sense.data_in[4 : sense.received])
    page[0] &= 0x3F
    page[4] |= 0x08  # SWP
    assert a.ask(bytes((0x15, 0x11, 0, 0, 4 + len(page), 0)), data_out=bytes(4) + bytes(page)) == GOOD
    assert b.ready() == [MODE_PARAMETERS_CHANGED]
    assert a.ready() == []
    assert b.write(0, 1).status == CHECK_CONDITION
    room.hosts.clear()
    room.does(room.loopback.kill("n1"))
    room.replace("n1")
    assert room.host("n1", "c").write(0, 1).status == CHECK_CONDITION, "it was saved"


def test_a_reset_through_one_node_ends_the_tasks_of_all(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    b.node.disk.is_slow = True
    written = b.write(0, 1)
    reset = a.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    assert reset.tag in a.initiator.outstanding, "a write may still land"
    b.node.disk.let_go()
    room.run()
    assert reset.tag not in a.initiator.outstanding
    assert statuses([written]) == [TASK_ABORTED]
    assert a.ready() == b.ready() == [RESET_OCCURRED]


@pytest.mark.parametrize("node", ["n1", "n2"])
def test_clearing_the_task_set_answers_the_tasks_of_others_and_not_its_own(room: Cluster, node: str) -> None:
    a, b, c = room.host(node, "a"), room.host("n2", "b"), room.host("n3", "c")
    own = None
    for host in (b, c):
        host.node.disk.is_slow = True
    one, other = b.write(0, 1), c.write(1, 2)
    if node == "n2":
        own = a.write(2, 3)
    clear = a.manage(TaskManagementFunction.CLEAR_TASK_SET)
    assert clear.tag in a.initiator.outstanding
    for host in (b, c):
        host.node.disk.let_go()
    room.run()
    assert clear.tag not in a.initiator.outstanding
    assert statuses([one, other]) == [TASK_ABORTED] * 2
    if own is not None:
        assert own.error is not None, "it has cleared that itself: it gets no status"
    assert [host.ready() for host in (a, b, c)] == [[], [], []], "they were told by the status"


@pytest.mark.parametrize("code", [0x04, 0x48])
def test_what_has_the_whole_medium_for_long_is_not_offered_and_not_reported(room: Cluster, code: int) -> None:
    a = room.host("n2", "a")
    assert a.ask(bytes((code, 0x01 if code == 0x48 else 0))) == CHECK_CONDITION
    report = a.begin(bytes((0xA3, 0x0C)) + bytes(4) + (0x4000).to_bytes(4) + bytes(2), data_in=0x4000)
    assert report.data_in is not None
    data = bytes(report.data_in[4 : report.received])
    offered = {data[at] for at in range(0, len(data), 8)}
    assert 0x89 in offered
    assert code not in offered
