"""COMPARE AND WRITE and its like are atomic against every READ and WRITE of every node."""

from __future__ import annotations

import random
from collections.abc import Awaitable

import pytest

from csvd.iscsi.codes import TaskManagementFunction
from initiator.engine.requests import Command
from tests.pair.clustered import CHECK_CONDITION, GOOD, Cluster, Host, answered, block, data_of, fired
from tests.pair.joined import BLOCK_BYTES


@pytest.fixture
def room() -> Cluster:
    return Cluster()


def test_a_compare_and_write_waits_for_a_write_of_another_node(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    b.node.disk.is_slow = True
    written = b.write(4, 7)
    swap = a.compare_and_write(4, block(7), block(8))
    assert not answered(swap)
    assert a.compare_and_write(5, block(0), block(1)).status == GOOD, "what meets nobody goes on"
    b.node.disk.let_go()
    room.run()
    assert answered(written)
    assert answered(swap)
    assert swap.status == GOOD
    assert data_of(b.read(4)) == block(8)


def test_reads_and_writes_of_other_nodes_wait_for_a_compare_and_write_under_way(room: Cluster) -> None:
    a, b, c = room.host("n1", "a"), room.host("n2", "b"), room.host("n3", "c")
    a.node.disk.is_slow = True
    swap = a.compare_and_write(4, block(0), block(1))
    assert not answered(swap)
    written, read = b.write(4, 2), c.read(3, 3)
    assert not answered(written)
    assert not answered(read)
    assert c.read(5).done, "its range only"
    a.node.disk.let_go()
    room.run()
    assert [swap.status, written.status, read.status] == [GOOD] * 3
    assert answered(swap)
    assert answered(written)
    assert answered(read)
    assert data_of(b.read(4)) == block(2)


def test_a_write_that_waited_for_a_hold_meets_the_reservation_of_afterwards(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    a.register(0xA)
    a.node.disk.is_slow = True
    swap = a.compare_and_write(4, block(0), block(1))
    written = b.write(4, 2)
    assert not answered(written)
    reserving = a.out(1, 0xA, kind=5)
    a.node.disk.let_go()
    room.run()
    assert answered(reserving)
    assert answered(swap)
    assert answered(written)
    assert written.status == 0x18
    assert data_of(a.read(4)) == block(1)


def test_an_aborted_command_gives_its_hold_back(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    b.node.disk.is_slow = True
    b.write(4, 7)
    swap = a.compare_and_write(4, block(0), block(1))
    assert not answered(swap)
    a.manage(TaskManagementFunction.ABORT_TASK, swap)
    b.node.disk.let_go()
    room.run()
    assert a.write(4, 3).status == b.write(4, 4).status == GOOD
    assert not room.nodes["n1"].service._holds
    assert all(not node.unit.locks.held and not node.unit.locks.waiting for node in room.nodes.values())


@pytest.mark.parametrize("victim", ["n1", "n2"])
def test_the_hold_of_a_dead_node_is_released(room: Cluster, victim: str) -> None:
    """Also where it was the coordinator."""
    a, b = room.host(victim, "a"), room.host("n3", "b")
    a.node.disk.is_slow = True
    a.compare_and_write(4, block(0), block(1))
    written = b.write(4, 2)
    assert not answered(written)
    room.hosts.remove(a)
    room.does(room.loopback.kill(victim))
    assert answered(written)
    assert written.status == GOOD
    assert b.compare_and_write(4, block(2), block(3)).status == GOOD


def test_holds_outlive_the_coordinator(room: Cluster) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    a.node.disk.is_slow = True
    swap = a.compare_and_write(4, block(0), block(1))
    room.does(room.loopback.move("n3"))
    written, other = b.write(4, 2), b.compare_and_write(4, block(2), block(3))
    assert not answered(written)
    assert not answered(other)
    a.node.disk.let_go()
    room.run()
    assert swap.status == GOOD
    assert answered(swap)
    assert answered(written)
    assert answered(other)
    assert data_of(a.read(4)) == block(3)


def test_a_command_that_waits_for_its_hold_while_the_coordinator_changes_gets_it(room: Cluster) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    b.node.disk.is_slow = True
    written = b.write(4, 7)
    swap = a.compare_and_write(4, block(7), block(8))
    room.loopback.end_office()
    b.node.disk.let_go()
    room.run()
    assert answered(written)
    assert not answered(swap)
    room.does(room.loopback.move("n2"))
    room.passes(1.0)
    assert answered(swap)
    assert swap.status == GOOD


def test_a_node_that_lapses_in_the_middle_of_a_compare_and_write_does_not_write(room: Cluster) -> None:
    """It has compared; before it writes its lease is out, and another node changes the block. It begins anew later."""
    a, b = room.host("n2", "a"), room.host("n3", "b")
    a.node.disk.is_slow = True
    swap = a.compare_and_write(4, block(0), block(1))
    (compared,) = a.node.disk.held
    lapsing = room.begins(room.loopback.lapse("n2"))
    a.node.disk.held.clear()
    a.node.disk.is_slow = False
    do, done = compared
    do().chainDeferred(done)
    room.run()
    assert fired(lapsing)
    assert not answered(swap)
    room.does(room.loopback.declare_gone("n2"))
    assert b.write(4, 9).status == GOOD
    room.does(room.loopback.come_back("n2"))
    room.passes(1.0)
    assert answered(swap)
    assert swap.status == CHECK_CONDITION, "it miscompares"
    assert data_of(b.read(4)) == block(9)


def test_a_hold_that_was_being_granted_when_the_lease_ran_out_stands_in_nobodys_way(room: Cluster) -> None:
    """On coming back a node has to acknowledge the holds of others before it has its session, by which alone it would
    learn that its own is void: it was killed by its watchdog for waiting."""
    a, b, c = room.host("n2", "a"), room.host("n3", "b"), room.host("n1", "c")
    b.node.disk.is_slow = True
    written = b.write(4, 7)
    swap = a.compare_and_write(4, block(7), block(8))
    assert a.node.unit.locks.held, "it is granted here, and not at n3 yet"
    room.does(room.loopback.lapse("n2"))
    naa = a.node.unit.identity.naa.hex()
    push = {"hold": "n1/1-1", "node": "n1", "ranges": [[naa, 4 * BLOCK_BYTES, BLOCK_BYTES]]}
    acknowledged = room.begins(a.node.units._pushed("hold", push))
    assert fired(acknowledged)
    room.does(nothing_of(a.node.units._pushed("unhold", push)))
    b.node.disk.let_go()
    room.run()
    room.does(room.loopback.declare_gone("n2"))
    other = c.compare_and_write(4, block(7), block(9))
    assert answered(written)
    assert other.status == GOOD
    room.does(room.loopback.come_back("n2"))
    room.passes(1.0)
    assert swap.status == CHECK_CONDITION, "it miscompares"


def test_a_hold_is_not_acknowledged_while_a_write_of_before_the_lapse_is_under_way(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    b.node.disk.is_slow = True
    b.write(4, 7)
    swap = a.compare_and_write(4, block(0), block(1))
    lapsing = room.begins(room.loopback.lapse("n2"))
    assert not answered(swap), "the write may land yet"
    b.node.disk.let_go()
    room.run()
    assert fired(lapsing)
    assert swap.status == CHECK_CONDITION, "it miscompares"


async def nothing_of(work: Awaitable[object]) -> None:
    await work


@pytest.mark.parametrize("seed", range(20))
def test_counters_lose_no_increment_whatever_nodes_do(seed: int) -> None:
    """Three hosts increment one counter by COMPARE AND WRITE, while nodes are slow and the office moves; reads over the
    counter and writes beside it go on."""
    room = Cluster(seed)
    chance = random.Random(seed)
    hosts = [room.host(name, f"h{number}", number + 1) for number, name in enumerate(("n1", "n2", "n3"))]
    counts = dict.fromkeys(hosts, 0)
    under_way: dict[Host, tuple[Command, int]] = {}
    beside: list[Command] = []
    for _ in range(150):
        host = chance.choice(hosts)
        match chance.randrange(12):
            case 0:
                host.node.disk.is_slow = True
            case 1 | 2 | 3:
                host.node.disk.let_go()
                room.run()
            case 4:
                room.does(room.loopback.move(chance.choice([each.node.name for each in hosts])))
            case 5:
                beside.append(host.read(0, 16))
            case 6:
                beside.append(host.write(chance.choice((7, 9)), chance.randrange(256)))
            case _:
                if host not in under_way:
                    value = value_of(room)
                    swap = host.compare_and_write(8, counted(value), counted(value + 1))
                    under_way[host] = swap, value
        room.passes(0.6)
        for each, (swap, _value) in list(under_way.items()):
            if answered(swap):
                counts[each] += swap.status == GOOD
                del under_way[each]
    for host in hosts:
        host.node.disk.let_go()
    room.passes(1.0)
    room.passes(1.0)
    for each, (swap, _value) in under_way.items():
        assert answered(swap), "it waits for ever"
        counts[each] += swap.status == GOOD
    assert all(answered(command) and command.status == GOOD for command in beside)
    assert sum(counts.values()) == value_of(room) > 0
    assert not any(node.unit.locks.held or node.unit.locks.waiting for node in room.nodes.values())


def value_of(room: Cluster) -> int:
    return int.from_bytes(room.bytes_of_all._memory[8 * BLOCK_BYTES : 8 * BLOCK_BYTES + 8])


def counted(value: int) -> bytes:
    return value.to_bytes(8) + bytes(BLOCK_BYTES - 8)
