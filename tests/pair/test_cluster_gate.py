"""While a node has no lease its commands wait: none fails, none reaches a disk, and all can be aborted."""

from __future__ import annotations

import pytest

from csvd.iscsi.codes import TaskManagementFunction
from csvd.storage.disk import StorageError
from tests.pair.clustered import CHECK_CONDITION, CONFLICT, GOOD, Cluster, answered, block, data_of, fired

WE_RO = 5
TASK_ABORTED = 0x40
RESET_OCCURRED = (0x6, 0x29, 0x03)


@pytest.fixture
def room() -> Cluster:
    return Cluster()


def test_commands_wait_while_the_lease_is_out_and_go_on_in_their_order(room: Cluster) -> None:
    a = room.host("n2", "a")
    room.does(room.loopback.lapse("n2"))
    one, other, third = a.write(3, 1), a.write(3, 2), a.begin(bytes(6))
    read = a.read(3)
    assert not any(answered(command) for command in (one, other, third, read))
    assert room.bytes_of_all._memory[3 * 512 : 4 * 512] == bytes(512)
    room.does(room.loopback.come_back("n2"))
    assert [command.status for command in (one, other, third, read) if answered(command)] == [GOOD] * 4
    assert data_of(read) == block(2)


def test_a_task_at_the_head_of_the_queue_waits_too(room: Cluster) -> None:
    a = room.host("n2", "a")
    node = a.node
    room.does(room.loopback.lapse("n2"))
    waiting: list[str] = []
    node.device.servers[0].task_set.enter(3, lambda: waiting.append("begun"))
    assert not waiting
    room.does(room.loopback.come_back("n2"))
    assert waiting


def test_the_disks_are_left_when_the_last_write_has_ended_and_joined_before_the_first(room: Cluster) -> None:
    a = room.host("n2", "a")
    disk = a.node.disk
    disk.is_slow = True
    written = a.write(0, 1)
    lapsing = room.begins(room.loopback.lapse("n2"))
    assert not fired(lapsing), "a write may still land"
    assert disk.history[-1] == "join"
    disk.let_go()
    room.run()
    assert fired(lapsing)
    assert disk.history[-1] == "leave"
    assert answered(written)
    room.does(room.loopback.come_back("n2"))
    assert disk.history == ["join", "leave", "join"]


def test_a_write_that_was_too_late_in_its_thread_waits_and_is_written_later(room: Cluster) -> None:
    a = room.host("n2", "a")
    disk = a.node.disk
    disk.is_slow = True
    written = a.write(5, 9)
    lapsing = room.begins(room.loopback.lapse("n2"))
    disk.refuse_held()
    room.run()
    assert fired(lapsing)
    assert not answered(written)
    room.does(room.loopback.come_back("n2"))
    assert answered(written)
    assert written.status == GOOD
    assert room.bytes_of_all._memory[5 * 512 : 6 * 512] == block(9)


def test_a_disk_that_refuses_a_node_whose_lease_is_good_is_tried_again(room: Cluster) -> None:
    a = room.host("n2", "a")
    disk = a.node.disk
    disk.is_slow = True
    written = a.write(5, 9)
    disk.refuse_held()
    room.run()
    assert not answered(written)
    room.passes(1.1)
    assert answered(written)
    assert written.status == GOOD


def test_a_lease_that_runs_out_unnoticed_is_seen_at_the_next_command(room: Cluster) -> None:
    """The loop was held up, and what is to close the gate has not run: each command looks at the time itself."""
    a = room.host("n2", "a")
    session = room.loopback.sessions["n2"]
    session.state = "lapsed"  # nobody is told
    written = a.write(0, 1)
    assert not answered(written)
    assert room.bytes_of_all._memory[:512] == bytes(512)
    session.state = "live"
    room.passes(0.6)
    assert answered(written)
    assert written.status == GOOD


def test_task_management_works_on_commands_that_wait_at_the_gate(room: Cluster) -> None:
    a = room.host("n2", "a")
    room.does(room.loopback.lapse("n2"))
    one, other = a.write(0, 1), a.write(1, 2)
    abort = a.manage(TaskManagementFunction.ABORT_TASK, one)
    assert abort.tag not in a.initiator.outstanding, "it is answered"
    clear = a.manage(TaskManagementFunction.ABORT_TASK_SET)
    assert clear.tag not in a.initiator.outstanding
    room.does(room.loopback.come_back("n2"))
    assert not answered(one) or one.error
    assert not answered(other) or other.error
    assert room.bytes_of_all._memory[:1024] == bytes(1024)


def test_a_reset_by_another_host_answers_what_waits_at_the_gate(room: Cluster) -> None:
    """Hosts of several paths reset a unit to be sure of their own stale writes; others must not wait for a time-out."""
    a, b, c = room.host("n2", "a"), room.host("n2", "b"), room.host("n1", "c")
    room.does(room.loopback.lapse("n2"))
    own, others = a.write(0, 1), b.write(1, 2)
    reset = a.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    assert reset.tag in a.initiator.outstanding, "the other nodes have not heard of it"
    assert answered(others)
    assert others.status == TASK_ABORTED
    room.does(room.loopback.come_back("n2"))
    assert reset.tag not in a.initiator.outstanding
    assert own.error is not None
    assert [host.ready() for host in (a, b, c)] == [[RESET_OCCURRED]] * 3
    assert room.bytes_of_all._memory[:1024] == bytes(1024)


def test_what_waits_at_the_gate_of_a_node_is_answered_when_it_hears_of_a_reset(room: Cluster) -> None:
    a, b = room.host("n1", "a"), room.host("n2", "b")
    room.does(room.loopback.lapse("n2"))
    waiting = b.write(1, 2)
    reset = a.manage(TaskManagementFunction.LOGICAL_UNIT_RESET)
    assert reset.tag in a.initiator.outstanding
    room.does(room.loopback.declare_gone("n2"))
    assert reset.tag not in a.initiator.outstanding, "what is gone writes nothing"
    room.does(room.loopback.come_back("n2"))
    assert answered(waiting)
    assert waiting.status == TASK_ABORTED
    assert b.ready() == [RESET_OCCURRED]
    assert room.bytes_of_all._memory[512:1024] == bytes(512)


def test_what_waited_at_the_gate_meets_the_reservations_of_afterwards(room: Cluster) -> None:
    a, b = room.host("n2", "a"), room.host("n1", "b")
    a.register(0xA)
    b.register(0xB)
    room.does(room.loopback.lapse("n2"))
    written = a.write(0, 1)
    room.does(room.loopback.declare_gone("n2"))
    assert b.preempt(0xB, 0xA, WE_RO).status == GOOD
    assert b.out(1, 0xB, kind=WE_RO).status == GOOD
    room.does(room.loopback.come_back("n2"))
    assert answered(written)
    assert written.status == CHECK_CONDITION, "it reports the unit attention condition first"
    assert a.write(0, 1).status == CONFLICT
    assert room.bytes_of_all._memory[:512] == bytes(512)


def test_commands_go_on_while_there_is_no_coordinator_as_long_as_the_lease_is_good(room: Cluster) -> None:
    a = room.host("n2", "a")
    room.loopback.end_office()
    assert a.write(0, 1).status == GOOD
    reading = a.begin(bytes((0x5E, 0)) + bytes(6) + b"\xff\0", data_in=255)
    assert not answered(reading), "only the coordinator knows"
    room.does(room.loopback.move("n3"))
    assert answered(reading)
    assert reading.status == GOOD


def test_a_dead_node_is_fenced_from_the_disks_of_logical_units(room: Cluster) -> None:
    room.does(room.loopback.kill("n3"))
    assert room.nodes["n1"].disk.gone == [("n3", 3)]


def test_a_gated_disk_refuses_all_while_it_is_closed(room: Cluster) -> None:
    a = room.host("n2", "a")
    disk = a.node.unit.device
    room.does(room.loopback.lapse("n2"))
    buffer = memoryview(bytearray(512))
    assert not disk.read_nowait(buffer, 0)
    assert not disk.write_nowait((bytes(512),), 0)
    for work in (
        disk.read_into(buffer, 0),
        disk.write_from((bytes(512),), 0),
        disk.flush(),
        disk.unmap(0, 512),
        disk.write_zeroes(0, 512),
        disk.allocation(0, 512),
    ):
        failures: list[object] = []
        work.addErrback(lambda failure, failures=failures: failures.append(failure.value))
        assert isinstance(failures[0], StorageError)
