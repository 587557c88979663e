from __future__ import annotations

from dataclasses import replace

import pytest
from twisted.internet.defer import CancelledError

from initiator.engine.paths import PathSettings, PathState, Policy
from initiator.engine.requests import CHECK_CONDITION, Command
from initiator.errors import DifferentDisk, InitiatorError, NoPath, SessionClosed, SessionLost, TimedOut
from initiator.multipath_options import StalePolicy
from initiator.road import submit
from initiator.scsi.target_ports import AccessState
from tests.unit.initiator.path_world import (
    BLOCK_BYTES,
    P1,
    P2,
    P3,
    Node,
    World,
    disk_of,
    one_group,
    two_groups,
    two_nodes,
)
from tests.unit.initiator.session_script import Outcome

COMPARE_AND_WRITE = b"\x89\0" + bytes(8) + b"\0\0\0\1\0\0"


def words(world: World) -> list[str]:
    return [path.words for path in world.road.paths]


# --- the opening


def test_the_opening_brings_all_paths_up_and_tells_of_each() -> None:
    world = World(one_group()).open()
    assert words(world) == ["active/optimized"] * 2
    assert {event.url.split("/")[2].split(":")[0] for event in world.events} == {P1.host, P2.host}
    assert len({isid for _, isid in world.logins}) == 2, "two sessions of one port must not reinstate one another"


def test_the_opening_does_not_wait_for_ever_for_a_path_that_does_not_come() -> None:
    node = one_group()
    node.unreachable.add(P2)
    world = World(node).open()
    assert words(world)[0] == "active/optimized"
    assert "refused" in world.road.paths[1].why


def test_where_no_path_comes_up_the_error_names_each_and_why() -> None:
    node = one_group()
    node.unreachable |= {P1, P2}
    world = World(node)
    outcome = world.opening()
    world.settle()
    assert isinstance(outcome.result, NoPath)
    assert str(outcome.result).count("refused") == 2
    world.pass_time(20)
    assert len(world.logins) == 2, "an opening that failed tries no longer"


def test_a_path_to_another_disk_is_an_error_of_the_opening() -> None:
    one, other = two_nodes()
    other.identity = b"\x60" + bytes(15)
    world = World(one, other)
    outcome = world.opening()
    world.settle()
    assert isinstance(outcome.result, DifferentDisk)
    assert "naa.6001" in str(outcome.result)
    assert not world.clock.getDelayedCalls()


def test_a_disk_without_a_designator_has_one_path_at_most() -> None:
    node = one_group()
    node.identity = b""
    world = World(node)
    outcome = world.opening()
    world.settle()
    assert isinstance(outcome.result, DifferentDisk)


def test_a_disk_of_another_size_is_another_disk() -> None:
    world = World(Node({P1: 1}, disk_of(64)), Node({P2: 1}, disk_of(65)))
    outcome = world.opening()
    world.settle()
    assert isinstance(outcome.result, DifferentDisk)
    assert "size" in str(outcome.result)


def test_a_path_that_leads_to_another_disk_later_is_not_used() -> None:
    one, other = two_nodes()
    world = World(one, other).open()
    other.cut(P2)
    other.identity = b"\x60" + bytes(15)
    other.unreachable.clear()
    world.pass_time(6)
    assert words(world)[0] == "active/optimized"
    assert world.road.paths[1].state is not PathState.UP
    assert "another disk" in world.road.paths[1].why
    for _ in range(4):
        world.read(0)
    assert {task.session.portal for task in world.tasks} == {P1}


def test_paths_may_have_different_numbers_for_the_disk() -> None:
    world = World(one_group())
    world.places[1] = replace(world.places[1], lun=5)
    world.open()
    for _ in range(2):
        world.read(3)
    assert {(task.session.portal, task.command.lun >> 48) for task in world.tasks} == {(P1, 0), (P2, 5)}


def test_a_command_for_another_lun_is_refused() -> None:
    world = World(one_group()).open()
    with pytest.raises(InitiatorError, match="another"):
        world.road.start(Command(1 << 48, bytes(6)), 1.0, lambda _: None)


# --- the choice


def test_commands_take_turns_on_the_paths_of_the_best_group() -> None:
    world = World(one_group()).open()
    for lba in range(6):
        world.read(lba)
    assert sorted(task.session.portal.host for task in world.tasks) == [P1.host] * 3 + [P2.host] * 3
    assert [path.in_flight for path in world.road.paths] == [3, 3]


def test_an_access_state_that_changes_is_followed_at_once() -> None:
    node = two_groups()
    world = World(node).open()
    node.set_state(1, AccessState.ACTIVE_NON_OPTIMIZED)
    reads = [world.read(lba) for lba in range(4)]
    node.execute_all()
    world.settle()
    node.execute_all()
    world.settle()
    assert not any(outcome.waiting or isinstance(outcome.result, Exception) for _, outcome in reads)
    assert words(world) == ["active/non-optimized", "active/optimized"]
    for _ in range(3):
        world.read(0)
    assert {task.session.portal for task in world.tasks} == {P2}


def test_a_path_in_standby_is_left_and_its_command_goes_to_the_other() -> None:
    node = two_groups()
    world = World(node).open()
    _, outcome = world.read(0)
    (task,) = world.tasks
    node.set_state(node.portals[task.session.portal], AccessState.STANDBY, say_so=False)
    node.execute_all()
    world.settle()
    assert sorted(words(world)) == ["active/optimized", "standby"]
    node.execute_all()
    assert not isinstance(outcome.result, Exception)
    assert not outcome.waiting


def test_a_transition_is_waited_for() -> None:
    node = one_group()
    world = World(node).open()
    node.set_state(1, AccessState.TRANSITIONING, say_so=False)
    _, outcome = world.write(0, 1)
    for _ in range(3):
        node.execute_all()
        world.settle()
    world.pass_time(2)
    assert outcome.waiting
    assert words(world) == ["transitioning"] * 2
    node.set_state(1, AccessState.ACTIVE_OPTIMIZED, say_so=False)
    world.pass_time(1)
    node.execute_all()
    assert outcome.result.status == 0


def test_a_state_that_is_only_reported_is_seen_by_the_check() -> None:
    node = two_groups()
    world = World(node).open()
    node.set_state(2, AccessState.UNAVAILABLE, say_so=False)
    world.pass_time(5.5)
    assert words(world) == ["active/optimized", "unavailable"]
    node.set_state(2, AccessState.ACTIVE_OPTIMIZED, say_so=False)
    world.pass_time(5.5)
    assert words(world) == ["active/optimized"] * 2


def test_a_group_in_standby_is_made_active_where_that_is_wanted() -> None:
    node = two_groups()
    node.states = {1: AccessState.STANDBY, 2: AccessState.STANDBY}
    world = World(node, explicit_alua=True).open()
    assert "active/optimized" in words(world)
    passive = two_groups()
    passive.states = {1: AccessState.STANDBY, 2: AccessState.STANDBY}
    assert words(World(passive).open()) == ["standby", "standby"]


def test_a_target_that_says_active_and_refuses_does_not_keep_a_command_going_round() -> None:
    node = one_group()
    node.tpgs = 0
    node.not_ready = True
    world = World(node).open()
    node.not_ready = False
    world.pass_time(6)
    assert words(world) == ["active/optimized"] * 2
    node.not_ready = True
    _, outcome = world.read(0)
    for _ in range(5):
        node.execute_all()
        world.settle()
    assert outcome.result.status == CHECK_CONDITION, "all paths say so: it is the answer"


# --- a path that fails


def test_the_reads_of_a_path_that_is_cut_go_to_the_other_at_once() -> None:
    node = one_group()
    world = World(node).open()
    reads = [world.read(lba) for lba in range(4)]
    node.cut(P1)
    assert len([task for task in node.tasks if task.session.portal == P2]) == 4, "within no time at all"
    assert world.road.paths[0].why
    node.execute_all()
    assert not any(outcome.waiting or isinstance(outcome.result, Exception) for _, outcome in reads)


def test_a_path_comes_back_by_itself() -> None:
    node = one_group()
    world = World(node).open()
    node.cut(P1)
    world.pass_time(6)
    assert words(world)[0] != "active/optimized"
    node.unreachable.clear()
    world.pass_time(6)
    assert words(world) == ["active/optimized"] * 2
    for _ in range(4):
        world.read(0)
    assert {task.session.portal for task in node.tasks if task.session.listens} == {P1, P2}


def test_a_command_that_was_never_sent_is_sent_elsewhere_even_if_it_must_not_be_sent_twice() -> None:
    node = one_group()
    world = World(node, queue_depth=1, paths=PathSettings(policy=Policy.FAILOVER)).open()
    world.read(0)
    _, outcome = world.run(COMPARE_AND_WRITE, bytes(2 * BLOCK_BYTES))
    node.cut(P1)
    world.settle()
    node.execute_all()
    world.settle()
    node.execute_all()
    assert outcome.result.status == 0


def test_a_command_that_must_not_be_sent_twice_is_reported_as_unknown() -> None:
    node = one_group()
    world = World(node, paths=PathSettings(policy=Policy.FAILOVER)).open()
    _, outcome = world.run(COMPARE_AND_WRITE, bytes(2 * BLOCK_BYTES))
    node.cut(P1)
    assert isinstance(outcome.result, SessionLost)
    assert outcome.result.outcome_unknown


def test_a_path_that_answers_no_check_is_left() -> None:
    one, other = two_nodes()
    world = World(one, other).open()
    one.frozen = True
    reads = [world.read(lba) for lba in range(4)]
    world.pass_time(10.5)
    assert "check failed" in world.road.paths[0].why or "refused" in world.road.paths[0].why
    other.execute_all()
    assert not any(outcome.waiting or isinstance(outcome.result, Exception) for _, outcome in reads)


def test_without_a_path_commands_wait_and_then_say_what_each_path_lacks() -> None:
    node = one_group()
    world = World(node).open()
    node.cut(P1)
    node.cut(P2)
    _, early = world.read(0, timeout_s=3.0)
    _, late = world.read(0, timeout_s=60.0)
    world.pass_time(3.2)
    assert isinstance(early.result, NoPath)
    assert isinstance(early.result, TimedOut)
    assert not early.result.outcome_unknown
    assert str(early.result).count("refused") == 2
    assert late.waiting
    node.unreachable.clear()
    world.pass_time(6)
    node.execute_all()
    assert not isinstance(late.result, Exception)


def test_without_a_path_commands_fail_at_once_where_that_is_wanted() -> None:
    node = one_group()
    world = World(node, queue_if_no_path=False).open()
    node.cut(P1)
    node.cut(P2)
    world.pass_time(0.1)
    seen = []
    for _ in range(30):
        _, outcome = world.read(0)
        assert outcome.waiting, "never from inside start"
        world.settle(0.05)
        seen.append(outcome.result)
    assert any(isinstance(result, NoPath) for result in seen)


# --- writes that are left behind


def test_a_write_left_behind_is_proven_over_through_another_portal_of_its_group_before_it_is_sent_again() -> None:
    node = one_group()
    world = World(node, paths=PathSettings(policy=Policy.FAILOVER)).open()
    _, outcome = world.write(0, 7)
    (ghost,) = node.tasks
    node.cut(P1)
    assert world.road.stale_write_count == 1
    world.settle()
    assert ghost not in node.tasks, "the nexus was reinstated at the other portal"
    assert world.road.stale_write_count == 0
    assert (P2, world.logins[0][1]) in world.logins
    node.execute_all()
    assert outcome.result.status == 0
    assert node.disk[0] == 7


def test_writes_to_the_same_blocks_wait_for_the_proof_and_others_go_on() -> None:
    one, other = two_nodes()
    world = World(one, other, paths=PathSettings(policy=Policy.FAILOVER)).open()
    _, first = world.write(0, 1)
    one.frozen = True
    one.cut(P1, and_keep_it_so=False)
    world.pass_time(1)
    _, same = world.write(0, 2)
    _, elsewhere = world.write(1, 3)
    room, read = world.read(0)
    other.execute_all()
    assert elsewhere.result.status == 0
    assert read.result.status == 0
    assert first.waiting
    assert same.waiting
    one.frozen = False
    one.execute_all()
    world.pass_time(6)
    assert world.road.stale_write_count == 0
    one.execute_all()
    other.execute_all()
    assert first.result.status == 0
    assert same.result.status == 0
    assert bytes(room) == bytes(BLOCK_BYTES)


def test_two_nodes_of_the_same_names_are_no_proof_for_one_another() -> None:
    one, other = two_nodes()
    world = World(one, other, paths=PathSettings(policy=Policy.FAILOVER)).open()
    isid = world.logins[0][1]
    world.write(0, 1)
    one.cut(P1)
    world.pass_time(10)
    assert world.road.stale_write_count == 1
    assert (P2, isid) not in world.logins
    assert other.resets == 0


def test_a_held_write_says_at_its_deadline_what_it_waited_for() -> None:
    one, other = two_nodes()
    world = World(one, other, paths=PathSettings(policy=Policy.FAILOVER)).open()
    _, replayed = world.write(0, 1, timeout_s=4.0)
    one.cut(P1)
    _, newer = world.write(0, 2, timeout_s=4.0)
    world.pass_time(4.2)
    assert isinstance(replayed.result, NoPath)
    assert replayed.result.outcome_unknown
    assert "left behind at 192.0.2.1:3260" in str(replayed.result)
    assert isinstance(newer.result, NoPath)
    assert not newer.result.outcome_unknown


def test_a_single_writer_may_have_its_writes_sent_again_at_once() -> None:
    one, other = two_nodes()
    how = PathSettings(policy=Policy.FAILOVER)
    world = World(one, other, paths=how, stale_writes=StalePolicy.HOLD_OVERLAPPING).open()
    _, first = world.write(0, 1)
    one.cut(P1)
    other.execute_all()
    assert first.result.status == 0
    _, newer = world.write(0, 2)
    world.settle()
    other.execute_all()
    assert newer.waiting
    one.execute_all()
    one.unreachable.clear()
    world.pass_time(6)
    one.execute_all()
    other.execute_all()
    assert newer.result.status == 0
    assert one.disk[0] == 2


def test_what_is_held_is_let_go_after_the_time_that_was_set_for_it() -> None:
    one, other = two_nodes()
    how = PathSettings(policy=Policy.FAILOVER)
    world = World(one, other, paths=how, forget_stale_after_s=5.0).open()
    _, outcome = world.write(0, 1)
    one.cut(P1)
    world.pass_time(4.5)
    assert outcome.waiting
    world.pass_time(1)
    other.execute_all()
    assert outcome.result.status == 0


def test_another_port_of_the_device_proves_it_by_a_reset_when_the_portal_does_not_come_back() -> None:
    node = two_groups()
    world = World(node, paths=PathSettings(policy=Policy.FAILOVER)).open()
    _, outcome = world.write(0, 1)
    (ghost,) = node.tasks
    node.cut(P1)
    world.settle()
    assert node.resets == 0
    world.pass_time(1)
    assert node.resets == 1
    assert ghost not in node.tasks
    node.execute_all()
    assert outcome.result.status == 0


def test_a_reset_waits_until_nothing_of_ours_is_under_way() -> None:
    node = two_groups()
    world = World(node, paths=PathSettings(policy=Policy.FAILOVER)).open()
    world.write(0, 1)
    node.cut(P1)
    _, unsafe = world.run(
        COMPARE_AND_WRITE[:2] + b"\0\0\0\0\0\0\0\x20" + COMPARE_AND_WRITE[10:], bytes(2 * BLOCK_BYTES)
    )
    world.pass_time(1)
    assert node.resets == 0
    for task in [task for task in node.tasks if task.session.portal == P2]:
        node.execute(task)
    assert unsafe.result.status == 0
    world.pass_time(4)
    assert node.resets == 1


def test_no_reset_is_asked_for_where_that_is_not_wanted() -> None:
    node = two_groups()
    world = World(node, paths=PathSettings(policy=Policy.FAILOVER), unit_reset=False).open()
    _, outcome = world.write(0, 1)
    node.cut(P1)
    world.pass_time(5)
    assert node.resets == 0
    assert outcome.waiting
    node.unreachable.clear()
    world.pass_time(6)
    node.execute_all()
    assert outcome.result.status == 0


def test_a_write_that_timed_out_counts_as_left_behind_until_its_abort_is_answered() -> None:
    node = two_groups()
    world = World(node, paths=PathSettings(policy=Policy.FAILOVER)).open()
    command, outcome = world.write(0, 1, timeout_s=2.0)
    world.settle(2.0)
    assert isinstance(outcome.result, TimedOut)
    assert world.road.stale_write_count == 1
    _, newer = world.write(0, 2)
    assert world.where(command) == [P1], "the newer one is held"
    world.pass_time(0.3)
    node.execute_all()
    assert newer.result.status == 0


def test_a_cancelled_write_counts_as_left_behind_until_its_abort_is_answered() -> None:
    node = one_group()
    world = World(node, paths=PathSettings(policy=Policy.FAILOVER)).open()
    _, outcome = world.write(0, 1)
    outcome.deferred.cancel()
    assert isinstance(outcome.result, CancelledError)
    assert world.road.stale_write_count == 1
    assert [path.in_flight for path in world.road.paths] == [0, 0]
    world.pass_time(0.3)
    assert world.road.stale_write_count == 0


def test_a_command_that_waits_can_be_cancelled() -> None:
    node = one_group()
    world = World(node).open()
    node.cut(P1)
    node.cut(P2)
    _, outcome = world.read(0)
    outcome.deferred.cancel()
    node.unreachable.clear()
    world.pass_time(6)
    assert not node.tasks
    Outcome(world.road.close())
    world.settle()
    assert not world.road.alive


# --- the end


def test_closing_lets_the_calls_under_way_end_and_logs_out_of_all_paths() -> None:
    node = one_group()
    world = World(node).open()
    _, outcome = world.read(0)
    closing = Outcome(world.road.close())
    world.settle()
    assert closing.waiting
    node.execute_all()
    world.settle()
    assert closing.result is None
    assert outcome.result.status == 0
    assert not node.sessions
    command = Command(0, bytes(6))
    refused = Outcome(submit(world.road, command))
    assert isinstance(refused.result, SessionClosed)
    world.pass_time(20)
    assert len(world.logins) == 2


def test_aborting_ends_all_calls_with_session_lost() -> None:
    node = one_group()
    world = World(node).open()
    sent, (command, write) = world.read(0), world.write(0, 1)
    node.cut(P1)
    node.cut(P2)
    _, waiting = world.read(1)
    world.road.abort()
    for outcome in (sent[1], write, waiting):
        assert isinstance(outcome.result, SessionLost)
    assert not waiting.result.outcome_unknown
    assert write.result.outcome_unknown
    assert not world.clock.getDelayedCalls()
    assert command.error is write.result


def test_a_session_that_logs_out_lets_its_commands_end_before_it_is_logged_in_anew() -> None:
    node = one_group()
    world = World(node, paths=PathSettings(policy=Policy.FAILOVER)).open()
    _, outcome = world.read(0)
    (task,) = node.tasks
    task.session.closing = True  # as after the target's request to log out
    _, other = world.read(1)
    assert world.where(task.command)[0] == P1
    node.execute_all()
    assert outcome.result.status == 0
    assert other.result.status == 0
    assert world.road.stale_write_count == 0


def test_a_third_path_takes_over_when_two_fail_one_after_the_other() -> None:
    node = Node({P1: 1, P2: 1, P3: 1}, disk_of())
    world = World(node, paths=PathSettings(policy=Policy.FAILOVER)).open()
    _, outcome = world.write(5, 9)
    node.cut(P1)
    world.settle()
    node.cut(P2)
    world.settle()
    node.execute_all()
    assert outcome.result.status == 0
    assert node.disk[5 * BLOCK_BYTES] == 9
    assert world.road.stale_write_count == 0
