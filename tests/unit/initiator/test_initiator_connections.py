"""The engines of a session's connections: what they share, what is each one's own, and what a target may not mix."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from csvd.iscsi.codes import Opcode, TaskManagementFunction
from initiator.engine.requests import Command, ConnectionFailed, Ping, TaskManagement
from initiator.errors import CommandAborted, ProtocolViolation
from tests.unit.initiator.target_script import TARGET, Script, failure, logged_in, pdu, settings, small_offer

WRITES = {
    "InitialR2T": "Yes",
    "ImmediateData": "No",
    "MaxBurstLength": "65536",
    "MaxConnections": "4",
    "TargetPortalGroupTag": "1",
}


def joining(first: Script, number: int = 1) -> Script:
    """Give a connection that is about to join the session of another."""
    return Script(settings(connection_id=number, offer=small_offer(max_connections=4)), session=first.engine.session)


def two() -> tuple[Script, Script]:
    """Give two connections of one session; a target that has seen no command of either."""
    first = logged_in(WRITES, offer=small_offer(max_connections=4))
    second = joining(first)
    second.log_in({"MaxRecvDataSegmentLength": "4096"})
    return first, second


def sent_by(script: Script, command: Command) -> Command:
    """Send a command by one connection."""
    script.engine.send(command)
    assert [sent.opcode for sent in script.sent()] == [Opcode.SCSI_COMMAND]
    return command


def test_a_connection_that_joins_negotiates_only_what_is_its_own() -> None:
    first = logged_in(WRITES, offer=small_offer(max_connections=4))
    second = joining(first)
    (request,) = second.sent()
    assert (request.isid, request.tsih, request.cid) == (first.engine.session.isid, 7, 1)
    assert request.keys == {
        "InitiatorName": "iqn.2026-11.test:initiator",
        "TargetName": TARGET,
        "HeaderDigest": "None",
        "DataDigest": "None",
        "MaxRecvDataSegmentLength": "262144",
    }
    second.say(second.login_response(request, {"MaxRecvDataSegmentLength": "4096"}))
    assert second.engine.parameters.max_recv_data_segment_length == 4096
    assert first.engine.parameters.max_recv_data_segment_length == 8192
    assert second.engine.parameters.max_burst_length == first.engine.parameters.max_burst_length == 65536
    assert first.engine.session.parameters.max_recv_data_segment_length == 8192


@pytest.mark.parametrize(
    ("keys", "tsih"),
    [({}, 8), ({}, 0), ({"TargetPortalGroupTag": "2"}, 7), ({"MaxBurstLength": "512"}, 7), ({"InitialR2T": "No"}, 7)],
)
def test_a_target_can_not_take_it_into_another_session_or_change_this_one(keys: dict[str, str], tsih: int) -> None:
    first = logged_in(WRITES, offer=small_offer(max_connections=4))
    second = joining(first)
    (request,) = second.sent()
    second.say(second.login_response(request, keys, tsih=tsih))
    assert isinstance(second.engine.failed, ProtocolViolation)
    session = first.engine.session
    assert session.connections == [first.engine]
    assert (session.tsih, session.parameters) == (7, first.engine.parameters)


SAYINGS: list[Callable[[Script, Command], bytes]] = [
    lambda script, command: script.data_in(command, 0, bytes(512), 0),
    lambda script, command: script.data_in(command, 0, bytes(512), 0, flags=0x81),
    lambda script, command: script.response(command),
    lambda script, command: script.r2t(command, 0, 0, 512),
]


@pytest.mark.parametrize("say", SAYINGS)
@pytest.mark.parametrize("writes", [False, True])
def test_what_is_said_of_a_command_comes_by_its_own_connection(
    say: Callable[[Script, Command], bytes], writes: bool
) -> None:
    first, second = two()
    buffer = bytearray(512)
    command = sent_by(first, Command(0, bytes(6), data_out=buffer) if writes else Command(0, bytes(6), data_in=buffer))
    second.exp_cmd_sn = 2
    assert isinstance(failure(second.say(say(second, command))), ProtocolViolation)
    assert not command.done
    assert first.engine.failed is None


def test_a_ping_is_answered_by_its_own_connection() -> None:
    first, second = two()
    ping = Ping()
    first.engine.send(ping)
    first.sent()
    events = second.say_more(Opcode.NOP_IN, initiator_task_tag=ping.tag, target_transfer_tag=0xFFFFFFFF)
    assert isinstance(failure(events), ProtocolViolation)


def reset_by(script: Script) -> TaskManagement:
    """Have the unit reset by one connection."""
    reset = TaskManagement(TaskManagementFunction.LOGICAL_UNIT_RESET)
    script.engine.send(reset)
    assert [sent.opcode for sent in script.sent()] == [Opcode.TASK_MANAGEMENT_REQUEST]
    return reset


def test_a_read_that_a_reset_on_another_connection_ended_takes_no_more_data() -> None:
    first, second = two()
    buffer = bytearray(1024)
    read = sent_by(second, Command(0, bytes(6), data_in=buffer))
    first.exp_cmd_sn = second.exp_cmd_sn = 2
    reset = reset_by(first)
    data = second.data_in(read, 0, b"\xaa" * 1024, 0)
    second.engine.feed(data[: 48 + 100])
    assert buffer == b"\xaa" * 100 + bytes(924)
    events = first.say_more(Opcode.TASK_MANAGEMENT_RESPONSE, initiator_task_tag=reset.tag)
    assert events == [read, reset]
    assert isinstance(read.error, CommandAborted)
    assert second.engine.load == 0
    events = second.say(data[48 + 100 :], second.response(read))
    assert events == []
    assert buffer == b"\xaa" * 100 + bytes(924), "the buffer is the caller's again"
    assert second.engine.failed is None


def test_a_write_that_a_reset_on_another_connection_ended_sends_no_more_data() -> None:
    first, second = two()
    write = sent_by(second, Command(0, bytes(6), data_out=bytes(65536)))
    first.exp_cmd_sn = second.exp_cmd_sn = 2
    reset = reset_by(first)
    second.say(second.r2t(write, 0, 0, 32768))
    assert len(second.engine.data_to_send()) > 2
    first.say_more(Opcode.TASK_MANAGEMENT_RESPONSE, initiator_task_tag=reset.tag)
    assert write.done
    assert second.say(second.r2t(write, 1, 32768, 32768)) == []
    assert second.sent() == []


@pytest.mark.parametrize("answer", [0, 255, None])
def test_no_command_goes_out_before_a_reset_has_its_answer(answer: int | None) -> None:
    first, second = two()
    reset = reset_by(first)
    command = Command(0, bytes(6))
    second.engine.send(command)
    assert second.sent() == []
    if answer is None:
        header = bytes(16) + reset.tag.to_bytes(4) + bytes(28)
        first.say(pdu(Opcode.REJECT, header, **first.numbers()))
    else:
        first.say_more(Opcode.TASK_MANAGEMENT_RESPONSE, response=answer, initiator_task_tag=reset.tag)
    assert second.engine.has_data_to_send
    assert [sent.opcode for sent in second.sent()] == [Opcode.SCSI_COMMAND]


def test_an_abort_of_one_command_holds_nothing_up() -> None:
    first, second = two()
    command = sent_by(first, Command(0, bytes(6)))
    assert first.engine.abort(command) is not None
    sent_by(second, Command(0, bytes(6)))


def test_a_connection_that_failed_gives_its_commands_no_answer_and_leaves_the_session() -> None:
    first, second = two()
    sent_by(second, Command(0, bytes(6)))
    (failed,) = second.say(bytes((0x3A,)) + bytes(47))
    assert isinstance(failed, ConnectionFailed)
    assert second.engine.load == 0
    assert first.engine.session.connections == [first.engine]
