"""Who has RESERVEd a logical unit of three nodes, and leaves: another node may be asked for it at once."""

from __future__ import annotations

from dataclasses import replace

import pytest

from csvd.iscsi.codes import LogoutReason, TaskManagementFunction
from csvd.target.cluster_units import ANSWER_S
from initiator.engine.requests import Logout, Request
from tests.pair.clustered import CHECK_CONDITION, CONFLICT, GOOD, Cluster, Host, answered

RESERVE, TEST_UNIT_READY = bytes((0x16, 0, 0, 0, 0, 0)), bytes(6)


@pytest.fixture
def room() -> Cluster:
    return Cluster()


def is_answered(host: Host, request: Request) -> bool:
    return request.tag not in host.initiator.outstanding


def logs_in_again(room: Cluster, host: Host) -> Host:
    """Session reinstatement: a login of the same port, while the target still has its session."""
    room.hosts.remove(host)
    again = Host(room, host.node, "a", 1)
    room.hosts.append(again)
    room.run()
    assert again.engine.session is not None
    assert again.engine.session is not host.engine.session
    return again


@pytest.mark.parametrize("reason", [LogoutReason.CLOSE_SESSION, LogoutReason.CLOSE_CONNECTION])
def test_a_logout_is_answered_when_no_node_refuses_by_its_reservation_any_more(
    room: Cluster, reason: LogoutReason
) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    assert a.ask(RESERVE) == GOOD
    room.loopback.hold_keeps()
    logout = a.send(Logout(reason))
    assert not is_answered(a, logout)
    assert b.ask(TEST_UNIT_READY) == CONFLICT
    room.loopback.let_keeps_go()
    room.run()
    assert is_answered(a, logout)
    assert b.ask(RESERVE) == GOOD
    assert b.write(0, 1).status == GOOD


def test_a_logout_of_who_holds_nothing_for_himself_waits_for_nobody(room: Cluster) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    assert a.register(0xA).status == GOOD
    room.loopback.hold_keeps()
    assert is_answered(a, a.send(Logout()))
    room.loopback.let_keeps_go()
    room.run()
    assert b.keys() == [0xA], "registrations are not the session's"


def test_a_logout_is_answered_without_a_coordinator_and_that_hears_of_it_later(room: Cluster) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    assert a.ask(RESERVE) == GOOD
    room.loopback.end_office()
    logout = a.send(Logout())
    room.passes(ANSWER_S - 1)
    assert not is_answered(a, logout)
    room.passes(1)
    assert is_answered(a, logout)
    room.does(room.loopback.move("n3"))
    assert b.ask(RESERVE) == GOOD


def test_a_session_in_place_of_another_begins_when_that_ones_reservation_is_off(room: Cluster) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    assert a.ask(RESERVE) == GOOD
    room.loopback.hold_keeps()
    again = logs_in_again(room, a)
    first = again.begin(TEST_UNIT_READY)
    assert not answered(first)
    room.loopback.let_keeps_go()
    room.run()
    assert answered(first)
    assert first.status == CHECK_CONDITION, "of the loss of its nexus"
    assert b.ask(RESERVE) == GOOD


def test_the_end_of_an_earlier_session_does_not_end_what_the_next_one_reserves(room: Cluster) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    assert a.ask(RESERVE) == GOOD
    room.loopback.end_office()
    again = logs_in_again(room, a)
    room.passes(ANSWER_S)
    assert again.ask(TEST_UNIT_READY) == CHECK_CONDITION, "it does not wait for ever"
    reserving = again.begin(RESERVE)
    room.does(room.loopback.move("n3"))
    assert answered(reserving)
    assert reserving.status == GOOD
    room.passes(ANSWER_S)
    assert b.ask(RESERVE) == CONFLICT
    assert again.write(0, 1).status == GOOD


@pytest.mark.parametrize("leaves", ["logout", "loss", "abort and loss"])
def test_a_reservation_that_is_being_made_ends_with_its_nexus_too(room: Cluster, leaves: str) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    room.loopback.hold_keeps()
    reserving = a.begin(RESERVE)
    assert not answered(reserving)
    if leaves == "logout":
        logout = a.send(Logout())
        assert not is_answered(a, logout)
    elif leaves == "abort and loss":
        assert is_answered(a, a.manage(TaskManagementFunction.ABORT_TASK, reserving))
    if leaves != "logout":
        room.hosts.remove(a)
        a.engine.lost()
    room.loopback.let_keeps_go()
    room.run()
    assert b.ask(RESERVE) == GOOD


@pytest.mark.parametrize(
    "function",
    [
        TaskManagementFunction.LOGICAL_UNIT_RESET,
        TaskManagementFunction.TARGET_WARM_RESET,
        TaskManagementFunction.TARGET_COLD_RESET,
        TaskManagementFunction.I_T_NEXUS_RESET,
    ],
)
def test_a_reset_is_answered_when_the_reservation_is_off(room: Cluster, function: TaskManagementFunction) -> None:
    a, b = room.host("n2", "a"), room.host("n3", "b")
    assert a.engine.session is not None
    a.engine.session.parameters = replace(a.engine.session.parameters, iscsi_protocol_level=2)
    assert a.ask(RESERVE) == GOOD
    room.loopback.hold_keeps()
    reset = a.manage(function)
    assert not is_answered(a, reset)
    assert b.begin(RESERVE).status == CONFLICT
    room.loopback.let_keeps_go()
    room.run()
    assert is_answered(a, reset)
    b.ready()
    assert b.ask(RESERVE) == GOOD
