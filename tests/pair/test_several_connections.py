"""A session of several connections, our initiator with our target: RFC 7143 sections 4.2.2, 4.2.5.1 and 6.3.1."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csvd.iscsi.access import Access
from csvd.iscsi.chap import Credentials
from csvd.iscsi.codes import LoginStatus, LogoutReason, TaskManagementFunction
from csvd.iscsi.keys import OFFER
from csvd.iscsi.node import TARGET_OFFER
from initiator.engine.requests import Command, ConnectionFailed, LoggedIn, Logout, Ping, TaskManagement
from initiator.errors import CommandAborted, LoginRefused
from tests.pair.joined import BLOCK_BYTES, DISK_BYTES
from tests.pair.several import Room

BLOCKS = DISK_BYTES // BLOCK_BYTES
MANY = replace(OFFER, max_connections=8)
JOE = Credentials("joe", b"sixteen bytes or more")
PROOF = Credentials("the target", b"what the target knows")


def logged_in(room: Room, count: int) -> Room:
    events = room.connect(count)
    assert [type(event) for event in events] == [LoggedIn] * count
    told = Command(0, bytes(16))  # power on: the first command of a nexus gets a unit attention
    room.send(told)
    assert room.run() == [told]
    assert told.status == 2
    return room


@given(st.integers(0, 2**32), st.integers(2, 5), st.sampled_from([512, 8192, 262144]), st.booleans())
@settings(max_examples=60, deadline=None)
def test_what_is_written_by_any_connection_is_read_by_any_other(
    seed: int, count: int, segment: int, eager: bool
) -> None:
    small = replace(MANY, max_recv_data_segment_length=segment, max_burst_length=65536, first_burst_length=16384)
    theirs = replace(TARGET_OFFER, max_recv_data_segment_length=segment, initial_r2t=not eager)
    room = logged_in(Room(seed, initiator_offer=small, target_offer=theirs), count)
    datas = [room.chance.randbytes(room.chance.randrange(1, 60) * BLOCK_BYTES) for _ in range(20)]
    writes = [room.write(number * 64, data) for number, data in enumerate(datas)]
    for write in writes:
        room.send(write)
    ended = room.run()
    assert sorted(map(id, ended)) == sorted(map(id, writes))
    assert all((write.status, write.residual) == (0, 0) for write in writes)
    reads = [room.read(number * 64, len(data) // BLOCK_BYTES) for number, data in enumerate(datas)]
    for command, _ in reads:
        room.send(command)
    assert len(room.run()) == len(reads)
    assert [bytes(buffer) for _, buffer in reads] == datas
    (session,) = room.node.sessions.values()
    assert len(session.connections) == count
    assert not session.tasks
    assert room.session.cmd_sn == session.exp_cmd_sn == 42


def test_many_more_commands_than_the_window_all_end() -> None:
    room = logged_in(Room(3, initiator_offer=MANY), 4)
    reads = [room.read(number, 1)[0] for number in range(400)]
    for read in reads:
        room.send(read)
    assert len(room.run()) == 400


def test_a_connection_that_sends_nothing_leaves_no_hole_that_the_others_wait_behind() -> None:
    room = logged_in(Room(4, initiator_offer=MANY), 2)
    slow, quick = room.legs
    room.held.add(0)
    kept = [room.write(number, bytes(BLOCK_BYTES)) for number in range(5)]
    for write in kept:
        slow.initiator.send(write)
    others = [room.read(number, 1)[0] for number in range(200)]
    for read in others:
        quick.initiator.send(read)
    assert len(room.run()) == 200
    assert not any(write.done for write in kept)
    room.held.clear()
    assert len(room.run()) == 5


def test_the_load_of_a_connection_is_what_it_has_to_bring_to_an_end() -> None:
    room = logged_in(Room(5, initiator_offer=MANY), 2)
    first, second = (leg.initiator for leg in room.legs)
    for number in range(3):
        first.send(room.read(number, 1)[0])
    assert (first.load, second.load) == (3, 0)
    first.data_to_send()
    assert (first.load, second.load) == (3, 0)


def test_a_window_that_opens_on_one_connection_is_open_for_the_others() -> None:
    room = logged_in(Room(6, initiator_offer=MANY), 2)
    first, second = (leg.initiator for leg in room.legs)
    room.session.max_cmd_sn = room.session.cmd_sn - 1
    second.send(room.read(0, 1)[0])
    assert not second.has_data_to_send
    first.send(Ping())
    room.run()
    assert second.load == 0, "the ping's answer moved the window, and the read was sent"


def test_a_target_with_one_connection_refuses_the_second_and_the_session_goes_on() -> None:
    room = logged_in(Room(7, target_offer=OFFER, initiator_offer=MANY), 1)
    assert room.session.parameters.max_connections == 1
    (failed,) = room.connect()
    assert isinstance(failed, ConnectionFailed)
    assert isinstance(failed.error, LoginRefused)
    assert failed.error.status == LoginStatus.TOO_MANY_CONNECTIONS
    assert room.session.connections == [room.legs[0].initiator]
    read, _ = room.read(0, 1)
    assert room.send(read) is room.legs[0]
    assert room.run() == [read]


def test_every_connection_proves_itself_and_is_proved_to_by_a_challenge_of_its_own() -> None:
    access = Access(credentials={"joe": JOE}, proof=PROOF)
    logged_in(Room(8, initiator_offer=MANY, access=access, credentials=JOE, target_credentials=PROOF), 3)


@pytest.mark.parametrize("digests", [("CRC32C", "None"), ("CRC32C", "CRC32C")])
def test_digests_are_each_connections_own(digests: tuple[str, str]) -> None:
    offer = replace(MANY, header_digest=digests[0], data_digest=digests[1])
    room = logged_in(Room(9, initiator_offer=offer), 2)
    for leg in room.legs:
        assert (leg.initiator.parameters.header_digest, leg.initiator.parameters.data_digest) == digests
    data = bytes(range(256)) * 200
    write = room.write(0, data)
    room.legs[0].initiator.send(write)
    room.run()
    read, buffer = room.read(0, 100)
    room.legs[1].initiator.send(read)
    room.run()
    assert bytes(buffer) == data


@given(st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_a_reset_of_the_unit_ends_what_every_connection_has_under_way(seed: int) -> None:
    room = logged_in(Room(seed, initiator_offer=MANY), 3)
    commands = [room.write(number * 64, bytes(32768)) for number in range(6)]
    commands += [room.read(number * 64, 64)[0] for number in range(6)]
    room.chance.shuffle(commands)
    for command in commands:
        room.send(command)
    for leg in room.legs:
        leg.to_target += b"".join(leg.initiator.data_to_send())
    reset = TaskManagement(TaskManagementFunction.LOGICAL_UNIT_RESET)
    room.chance.choice(room.legs).initiator.send(reset)
    later = room.write(1, bytes(BLOCK_BYTES))
    room.send(later)
    events = room.run()
    assert reset in events
    assert reset.response == 0
    assert sorted(map(id, events)) == sorted(map(id, [*commands, reset, later])), "each ends once"
    for command in commands:
        assert command.done
        assert isinstance(command.error, CommandAborted | None)
    assert [leg.initiator.load for leg in room.legs] == [0, 0, 0]
    assert all(leg.initiator.failed is None for leg in room.legs)
    told = Command(0, bytes(16))
    room.send(told)
    assert room.run() == [told]


@pytest.mark.parametrize(
    ("function", "status"),
    [
        (TaskManagementFunction.ABORT_TASK_SET, 0),
        (TaskManagementFunction.CLEAR_TASK_SET, 0),
        (TaskManagementFunction.LOGICAL_UNIT_RESET, 2),  # it is told of the reset
    ],
)
def test_a_command_behind_a_function_is_not_ended_by_it_though_it_comes_first(
    function: TaskManagementFunction, status: int
) -> None:
    asks_first = replace(MANY, initial_r2t=True, immediate_data=False)
    room = logged_in(Room(13, initiator_offer=asks_first), 2)
    before, later = room.write(0, bytes(4 * BLOCK_BYTES)), room.write(8, b"\x5a" * 4 * BLOCK_BYTES)
    slow, quick = room.legs
    quick.initiator.send(before)
    room.feed_target(quick, b"".join(quick.initiator.data_to_send()))
    asked = TaskManagement(function)
    slow.initiator.send(asked)
    room.session.functions = 0  # an initiator that does not wait for the answer
    quick.initiator.send(later)
    room.feed_target(quick, b"".join(quick.initiator.data_to_send()))
    room.feed_target(slow, b"".join(slow.initiator.data_to_send()))
    assert sorted(map(id, room.run())) == sorted(map(id, [before, later, asked]))
    assert asked.response == 0
    assert isinstance(before.error, CommandAborted)
    assert (later.error, later.status) == (None, status)


@given(st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_an_aborted_command_ends_on_its_own_connection(seed: int) -> None:
    room = logged_in(Room(seed, initiator_offer=MANY), 3)
    commands = [room.write(number * 64, bytes(32768)) for number in range(6)]
    for command in commands:
        room.send(command)
    for leg in room.legs:
        leg.to_target += b"".join(leg.initiator.data_to_send())
    victim = random.Random(seed).choice(commands)
    assert victim.connection is not None
    abort = victim.connection.abort(victim)
    assert abort is not None
    events = room.run()
    assert sorted(map(id, events)) == sorted(map(id, [*commands, abort]))
    assert all(command.error is None and command.status == 0 for command in commands if command is not victim)
    assert all(leg.initiator.failed is None for leg in room.legs)


def test_a_connection_that_is_logged_out_of_leaves_the_session_to_the_others() -> None:
    room = logged_in(Room(10, initiator_offer=MANY), 3)
    going = room.legs[1]
    logout = Logout(LogoutReason.CLOSE_CONNECTION)
    going.initiator.send(logout)
    assert room.run() == [logout]
    assert logout.response == 0
    going.initiator.close(LoginRefused(0, "it is over"))
    assert going.engine.closing
    (session,) = room.node.sessions.values()
    assert sorted(session.connections) == [0, 2]
    commands = [room.write(number, bytes(BLOCK_BYTES)) for number in range(9)]
    for command in commands:
        assert room.send(command) is not going
    assert len(room.run()) == 9


def test_a_logout_of_the_session_by_any_connection_ends_all() -> None:
    room = logged_in(Room(11, initiator_offer=MANY), 3)
    logout = Logout()
    room.legs[2].initiator.send(logout)
    assert logout in room.run()
    assert logout.response == 0
    assert not room.node.sessions
    assert all(leg.engine.closing for leg in room.legs)


def test_task_tags_that_come_round_again_miss_those_of_every_connection() -> None:
    room = logged_in(Room(12, initiator_offer=MANY), 2)
    first, second = (leg.initiator for leg in room.legs)
    room.session._next_tag = 0xFFFFFFFE
    reads = [room.read(number, 1)[0] for number in range(4)]
    first.send(reads[0])
    first.send(reads[1])
    first.data_to_send()
    room.session._next_tag = 0xFFFFFFFE
    second.send(reads[2])
    second.send(reads[3])
    second.data_to_send()
    assert [read.tag for read in reads] == [0xFFFFFFFE, 0, 1, 2]
