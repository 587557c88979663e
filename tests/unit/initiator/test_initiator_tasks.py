from __future__ import annotations

import pytest

from csvd.iscsi.codes import Opcode, RejectReason, TaskManagementFunction
from initiator.engine.requests import Command, Ping, TaskManagement
from initiator.errors import CommandAborted, CommandRejected, ProtocolViolation
from tests.unit.initiator.target_script import Script, failure, logged_in, small_offer

FINAL = 0x80
STATUS, UNDERFLOW, OVERFLOW = 0x01, 0x02, 0x04
LAST = FINAL | STATUS


def reading(length: int, script: Script | None = None) -> tuple[Script, Command, bytearray]:
    """Give a script with a read command on its way."""
    script = script or logged_in()
    buffer = bytearray(length)
    command = script.command(data_in=buffer)
    (request,) = script.sent()
    assert request.opcode is Opcode.SCSI_COMMAND
    return script, command, buffer


# --- commands


def test_a_command_without_data_is_one_header() -> None:
    script = logged_in()
    script.command(cdb=b"\x00\x01\x02\x03\x04\x05")
    (request,) = script.sent()
    assert (request.flags, request.fields.opcode) == (0x81, 0x01)
    assert request.cdb == b"\x00\x01\x02\x03\x04\x05" + bytes(10)
    assert (request.cmd_sn, request.exp_stat_sn, request.expected_data_transfer_length) == (1, 101, 0)


def test_a_read_says_how_much_it_has_room_for() -> None:
    script = logged_in()
    script.command(data_in=bytearray(4096))
    (request,) = script.sent()
    assert (request.flags, request.expected_data_transfer_length) == (0xC1, 4096)


def test_commands_wait_for_the_window_and_keep_their_order() -> None:
    script = Script()
    script.max_cmd_sn = 2
    script.log_in()
    commands = [script.command(cdb=bytes((number,))) for number in range(4)]
    assert [(pdu.cmd_sn, pdu.cdb[0]) for pdu in script.sent()] == [(1, 0), (2, 1)]
    assert script.sent() == []
    script.exp_cmd_sn, script.max_cmd_sn = 3, 3
    script.say(script.response(commands[0]))
    assert [(pdu.cmd_sn, pdu.cdb[0]) for pdu in script.sent()] == [(3, 2)]
    script.max_cmd_sn = 10
    script.say(script.response(commands[1]))
    assert [(pdu.cmd_sn, pdu.cdb[0]) for pdu in script.sent()] == [(4, 3)]


def test_a_window_never_moves_back() -> None:
    script = logged_in()
    script.max_cmd_sn = 1
    script.say_more(Opcode.NOP_IN, status=False, initiator_task_tag=0xFFFFFFFF, target_transfer_tag=0xFFFFFFFF)
    for _ in range(3):
        script.command()
    assert len(script.sent()) == 3


def test_the_command_number_wraps() -> None:
    script = Script()
    script.engine.session.cmd_sn = script.engine.session.exp_cmd_sn = 0xFFFFFFFF
    script.engine.session.max_cmd_sn = 0xFFFFFFFE
    script.exp_cmd_sn, script.max_cmd_sn = 0xFFFFFFFF, 1
    script.log_in()
    for _ in range(4):
        script.command()
    assert [pdu.cmd_sn for pdu in script.sent()] == [0xFFFFFFFF, 0, 1]


def test_acknowledging_commands_that_were_never_sent_is_a_violation() -> None:
    script = logged_in()
    script.exp_cmd_sn = 3
    assert isinstance(failure(script.say_more(Opcode.ASYNC_MESSAGE)), ProtocolViolation)


def test_what_is_sent_acknowledges_the_last_status() -> None:
    script, command, _ = reading(512)
    script.say(script.data_in(command, 0, bytes(512), 0, flags=LAST))
    script.command()
    (request,) = script.sent()
    assert request.exp_stat_sn == script.stat_sn


def test_a_status_number_out_of_order_is_a_violation() -> None:
    script, command, _ = reading(512)
    script.stat_sn += 1
    assert isinstance(failure(script.say(script.response(command, 2))), ProtocolViolation)


# --- Data-In


def test_data_goes_to_its_place_in_the_buffer() -> None:
    script, command, buffer = reading(1024)
    first, second = bytes(range(256)) * 2, bytes(reversed(range(256))) * 2
    assert script.say(script.data_in(command, 0, first, 0, flags=FINAL)) == []
    assert script.say(script.data_in(command, 512, second, 1, flags=LAST)) == [command]
    assert buffer == first + second
    assert (command.status, command.residual, command.received, command.done) == (0, 0, 1024, True)


def test_a_status_of_its_own_ends_a_read_too() -> None:
    script, command, buffer = reading(512)
    events = script.say(script.data_in(command, 0, b"x" * 512, 0, flags=FINAL), script.response(command, exp_data_sn=1))
    assert events == [command]
    assert bytes(buffer) == b"x" * 512


@pytest.mark.parametrize("staging_bytes", [48, 64, 1000, 4096])
def test_large_data_is_received_into_the_callers_buffer_itself(staging_bytes: int) -> None:
    script, command, buffer = reading(60000, logged_in(staging_bytes=staging_bytes))
    data = bytes(i * 13 & 0xFF for i in range(60000))
    stream = memoryview(script.data_in(command, 0, data, 0, flags=LAST))
    script.engine.feed(stream[:48])
    direct = script.engine.buffers()[0]
    assert len(direct) == 60000
    direct[:100] = stream[48:148]
    assert script.engine.received(100) == []
    assert buffer[:100] == data[:100], "without a copy by the engine"
    assert script.engine.feed(stream[148:]) == [command]
    assert buffer == data


@pytest.mark.parametrize("first", [48, 49, 1000, 30048, 60047])
def test_a_long_answer_that_is_let_go_while_it_comes_touches_its_buffer_no_more(first: int) -> None:
    script, command, buffer = reading(60000)
    following = script.command(data_in=(other := bytearray(512)))
    script.sent()
    stream = script.data_in(command, 0, b"x" * 60000, 0, flags=LAST)
    assert script.engine.feed(stream[:first]) == []
    script.engine.release(command)
    buffer[:] = bytes(60000)
    stream = stream[first:] + script.data_in(following, 0, b"y" * 512, 0, flags=LAST)
    assert script.engine.feed(stream) == [command, following]
    assert buffer == bytes(60000)
    assert other == b"y" * 512, "the stream goes on in step"


def test_a_long_answer_that_was_rejected_while_it_came_is_ignored() -> None:
    script, command, _ = reading(60000)
    stream = script.data_in(command, 0, bytes(60000), 0, flags=LAST)
    assert script.engine.feed(stream[:1000]) == []
    script.engine._let_go(command)  # as by an answer on another connection of the session
    assert script.engine.feed(stream[1000:]) == []
    assert script.engine.failed is None
    assert not script.engine.outstanding


@pytest.mark.parametrize("room", [8192, 8193, 100000])
def test_one_data_in_has_no_more_than_we_said_that_we_take(room: int) -> None:
    script = logged_in(offer=small_offer(max_recv_data_segment_length=8192), staging_bytes=64 << 10)
    script, command, _ = reading(room, script)
    events = script.say(script.data_in(command, 0, bytes(room), 0, flags=LAST))
    if room > 8192:
        assert isinstance(failure(events), ProtocolViolation)
    else:
        assert events == [command]


def test_a_long_answer_may_not_acknowledge_what_was_never_sent() -> None:
    script, command, _ = reading(60000)
    stream = script.data_in(command, 0, bytes(60000), 0, flags=LAST, exp_cmd_sn=900, max_cmd_sn=932)
    script.engine.feed(stream[:1000])
    assert isinstance(failure(script.engine.feed(stream[1000:])), ProtocolViolation)
    assert not command.done


def test_what_waits_is_a_batch_when_it_is_a_good_part_of_what_the_target_has() -> None:
    script = logged_in()
    commands = [script.command(data_in=bytearray(512)) for _ in range(16)]
    script.sent()
    worth_it = []
    for answered in commands[:4]:
        script.say(script.data_in(answered, 0, bytes(512), 0, flags=LAST))
        script.command(data_in=bytearray(512))
        worth_it.append(script.engine.has_batch_to_send)
    assert worth_it == [False, False, False, True], "a fourth of the twelve that the target has, and no sooner"
    assert len(script.sent()) == 4
    assert not script.engine.has_batch_to_send, "nothing waits any more"


def test_of_one_command_each_is_a_batch() -> None:
    script, command, _ = reading(512)
    script.say(script.data_in(command, 0, bytes(512), 0, flags=LAST))
    script.command(data_in=bytearray(512))
    assert script.engine.has_batch_to_send


def test_data_of_odd_length_is_padded_on_the_wire_only() -> None:
    script, command, buffer = reading(7)
    assert script.say(script.data_in(command, 0, b"abcdefg", 0, flags=LAST)) == [command]
    assert bytes(buffer) == b"abcdefg"


def test_a_buffer_of_another_format_is_filled_bytewise() -> None:
    script = logged_in()
    buffer = memoryview(bytearray(16)).cast("I")
    command = script.command(data_in=buffer)
    script.sent()
    assert script.say(script.data_in(command, 0, bytes(range(16)), 0, flags=LAST)) == [command]
    assert buffer.tobytes() == bytes(range(16))


def test_a_short_answer_leaves_a_residual() -> None:
    script, command, buffer = reading(255)
    events = script.say(script.data_in(command, 0, b"y" * 36, 0, flags=LAST | UNDERFLOW, residual_count=219))
    assert events == [command]
    assert (command.received, command.residual) == (36, 219)
    assert bytes(buffer) == b"y" * 36 + bytes(219)


def test_an_answer_that_had_more_to_say_leaves_a_negative_residual() -> None:
    script, command, _ = reading(36)
    assert script.say(script.data_in(command, 0, bytes(36), 0, flags=LAST | OVERFLOW, residual_count=60)) == [command]
    assert command.residual == -60


@pytest.mark.parametrize(
    ("offset", "length", "data_sn"),
    [(0, 1028, 0), (4, 512, 0), (512, 512, 0), (0, 512, 1), (0xFFFFFE00, 512, 0)],
)
def test_data_out_of_place_is_a_violation(offset: int, length: int, data_sn: int) -> None:
    script, command, buffer = reading(1024)
    events = script.say(script.data_in(command, offset, b"\xff" * length, data_sn))
    assert isinstance(failure(events), ProtocolViolation)
    assert buffer == bytes(1024), "nothing was written"


def test_data_that_comes_twice_is_a_violation() -> None:
    script, command, _ = reading(1024)
    script.say(script.data_in(command, 0, bytes(512), 0))
    assert isinstance(failure(script.say(script.data_in(command, 0, bytes(512), 0))), ProtocolViolation)


def test_data_for_no_task_is_a_violation() -> None:
    script, command, _ = reading(512)
    command.tag += 1
    assert isinstance(failure(script.say(script.data_in(command, 0, bytes(512), 0))), ProtocolViolation)


def test_data_for_a_write_is_a_violation() -> None:
    script = logged_in()
    command = script.command(data_out=bytes(512))
    script.sent()
    assert isinstance(failure(script.say(script.data_in(command, 0, bytes(512), 0))), ProtocolViolation)


def test_data_for_a_ping_is_a_violation() -> None:
    script, command, _ = reading(512)
    ping = Ping()
    script.engine.send(ping)
    command.tag = ping.tag
    assert isinstance(failure(script.say(script.data_in(command, 0, bytes(512), 0))), ProtocolViolation)


@pytest.mark.parametrize(
    ("length", "fields"),
    [
        (512, {"flags": LAST}),  # 512 of 1024 bytes and no residual
        (512, {"flags": LAST | UNDERFLOW, "residual_count": 511}),
        (512, {"flags": LAST | UNDERFLOW, "residual_count": 1025}),
        (512, {"flags": LAST | OVERFLOW, "residual_count": 512}),
        (512, {"flags": LAST | OVERFLOW | UNDERFLOW, "residual_count": 512}),
        (1024, {"flags": STATUS}),  # a status, and not the last
        (0, {"flags": FINAL}),  # nothing at all
    ],
)
def test_good_with_a_residual_that_contradicts_the_data_is_a_violation(length: int, fields: dict[str, int]) -> None:
    script, command, _ = reading(1024)
    assert isinstance(failure(script.say(script.data_in(command, 0, bytes(length), 0, **fields))), ProtocolViolation)


def test_good_without_data_is_a_violation_for_a_read() -> None:
    script, command, _ = reading(1024)
    assert isinstance(failure(script.say(script.response(command))), ProtocolViolation)


def test_a_segment_longer_than_we_declared_is_a_violation() -> None:
    script, command, _ = reading(262148)
    header = script.data_in(command, 0, bytes(262148), 0)[:48]
    assert isinstance(failure(script.say(header)), ProtocolViolation)


def test_an_additional_header_segment_is_a_violation() -> None:
    script, command, _ = reading(512)
    assert isinstance(failure(script.say(script.response(command, lengths=1 << 24))), ProtocolViolation)


# --- status


def test_sense_data_comes_with_its_command() -> None:
    script, command, _ = reading(512)
    sense = bytes((0x70, 0, 5)) + bytes(15)
    assert script.say(script.response(command, 2, len(sense).to_bytes(2, "big") + sense)) == [command]
    assert (command.status, command.sense, command.response) == (2, sense, 0)


def test_sense_data_longer_than_its_segment_is_a_violation() -> None:
    script, command, _ = reading(512)
    assert isinstance(failure(script.say(script.response(command, 2, b"\0\x12abc"))), ProtocolViolation)


def test_a_command_that_did_not_reach_the_device_says_so() -> None:
    script, command, _ = reading(512)
    assert script.say(script.response(command, 0, response=1)) == [command]
    assert command.response == 1


def test_what_came_whole_before_a_violation_still_counts() -> None:
    script, first, _ = reading(512)
    second = script.command()
    script.sent()
    events = script.say(script.response(second), script.data_in(first, 4, bytes(4), 0))
    assert events[0] is second
    assert isinstance(failure(events), ProtocolViolation)
    assert len(events) == 2


def test_a_second_status_is_a_violation() -> None:
    script, command, _ = reading(512)
    script.say(script.response(command, 8))
    assert isinstance(failure(script.say(script.response(command, 8))), ProtocolViolation)


# --- aborts and task management


def test_an_aborted_read_leaves_its_buffer_alone() -> None:
    script, command, buffer = reading(8192)
    stream = script.data_in(command, 0, b"\xff" * 8192, 0)
    script.say(stream[:1000])
    script.engine.release(command)
    asked = script.engine.abort(command)
    assert isinstance(asked, TaskManagement)
    before = bytes(buffer)
    assert script.say(stream[1000:], script.data_in(command, 0, b"\xff" * 100, 9)) == []
    assert bytes(buffer) == before
    (request,) = script.sent()
    assert request.opcode is Opcode.TASK_MANAGEMENT_REQUEST
    assert (request.fields.opcode, request.function) == (0x42, 0x81)
    assert (request.referenced_task_tag, request.ref_cmd_sn, request.cmd_sn) == (command.tag, 1, 2)
    events = script.say_more(Opcode.TASK_MANAGEMENT_RESPONSE, initiator_task_tag=asked.tag)
    assert events == [command, asked]
    assert isinstance(command.error, CommandAborted)
    assert asked.response == 0


def test_a_status_that_overtakes_the_abort_ends_the_command() -> None:
    script, command, _ = reading(512)
    script.engine.release(command)
    asked = script.engine.abort(command)
    assert asked is not None
    assert script.say(script.response(command, 0)) == [command]
    assert command.error is None
    assert script.say_more(Opcode.TASK_MANAGEMENT_RESPONSE, initiator_task_tag=asked.tag, response=1) == [asked]


def test_a_command_that_was_not_sent_is_taken_back_without_a_word() -> None:
    script = logged_in()
    command = script.command()
    assert script.engine.abort(command) is None
    assert command.done
    assert isinstance(command.error, CommandAborted)
    assert script.sent() == []


def test_a_command_that_has_ended_needs_no_abort() -> None:
    script, command, _ = reading(512)
    script.say(script.response(command, 2))
    assert script.engine.abort(command) is None
    assert script.sent() == []


def test_an_abort_that_the_target_refuses_leaves_the_command_under_way() -> None:
    script, command, _ = reading(512)
    asked = script.engine.abort(command)
    assert asked is not None
    assert script.say_more(Opcode.TASK_MANAGEMENT_RESPONSE, initiator_task_tag=asked.tag, response=255) == [asked]
    assert not command.done


def test_a_unit_reset_ends_the_commands_of_that_unit_that_came_before_it() -> None:
    script = logged_in()
    mine, other = Command(0, bytes(6)), Command(1 << 48, bytes(6))
    script.engine.send(mine)
    script.engine.send(other)
    script.sent()
    reset = TaskManagement(TaskManagementFunction.LOGICAL_UNIT_RESET, 0)
    script.engine.send(reset)
    later = script.command()
    script.sent()
    assert script.say_more(Opcode.TASK_MANAGEMENT_RESPONSE, initiator_task_tag=reset.tag) == [mine, reset]
    assert not other.done
    assert not later.done


def test_a_target_reset_ends_the_commands_of_all_units() -> None:
    script = logged_in()
    commands = [Command(0, bytes(6)), Command(1 << 48, bytes(6))]
    for command in commands:
        script.engine.send(command)
    script.sent()
    reset = TaskManagement(TaskManagementFunction.TARGET_WARM_RESET)
    script.engine.send(reset)
    assert script.say_more(Opcode.TASK_MANAGEMENT_RESPONSE, initiator_task_tag=reset.tag) == [*commands, reset]


# --- Reject


def test_a_rejected_command_fails_and_what_follows_for_it_is_ignored() -> None:
    script = logged_in()
    buffer = bytearray(512)
    command = script.command(data_in=buffer)
    header = script.engine.data_to_send()[0]
    events = script.say_more(Opcode.REJECT, bytes(header), reason=RejectReason.PROTOCOL_ERROR)
    assert events == [command]
    assert isinstance(command.error, CommandRejected)
    assert command.error.reason == RejectReason.PROTOCOL_ERROR
    assert script.say(script.data_in(command, 0, b"\xff" * 512, 0), script.response(command, 2)) == []
    assert buffer == bytes(512)
    assert script.engine.failed is None


def test_a_reject_without_a_header_is_a_violation() -> None:
    assert isinstance(failure(logged_in().say_more(Opcode.REJECT, b"short")), ProtocolViolation)


def test_a_reject_of_nothing_that_we_wait_for_is_no_harm() -> None:
    script = logged_in()
    assert script.say_more(Opcode.REJECT, bytes(48)) == []
    assert script.engine.failed is None
