from __future__ import annotations

import pytest
from twisted.internet.defer import CancelledError

from csvd.iscsi.codes import AsyncEvent, Opcode, TaskManagementFunction
from initiator.errors import (
    CommandAborted,
    LoginRefused,
    ProtocolViolation,
    SessionClosed,
    SessionLost,
    TaskManagementFailed,
    TimedOut,
)
from tests.unit.initiator.session_script import Outcome, SessionScript, ready
from tests.unit.initiator.target_script import TARGET, pdu


def test_a_command_comes_back_with_its_status() -> None:
    script = ready()
    command, outcome = script.submit()
    assert [sent.opcode for sent in script.sent()] == [Opcode.SCSI_COMMAND]
    assert outcome.waiting
    script.say(script.script.response(command, 0x18))
    assert outcome.result is command
    assert command.status == 0x18
    assert script.link.wakes


def test_more_calls_than_the_queue_depth_wait_their_turn_in_order() -> None:
    script = ready(queue_depth=2)
    calls = [script.submit(cdb=bytes((number,))) for number in range(5)]
    assert [sent.cdb[0] for sent in script.sent()] == [0, 1]
    script.good(calls[1][0])
    assert [sent.cdb[0] for sent in script.sent()] == [2]
    script.good(calls[0][0], calls[2][0])
    assert [sent.cdb[0] for sent in script.sent()] == [3, 4]
    script.good(calls[3][0], calls[4][0])
    assert not any(outcome.waiting for _, outcome in calls)


def test_a_call_made_when_another_ends_does_not_overtake_those_that_wait() -> None:
    script = ready(queue_depth=1)
    first, outcome = script.submit(cdb=b"\0")
    script.submit(cdb=b"\1")
    outcome.deferred.addCallback(lambda _: script.submit(cdb=b"\2"))
    script.sent()
    script.good(first)
    assert [sent.cdb[0] for sent in script.sent()] == [1]


def test_a_command_past_its_deadline_times_out_and_is_aborted() -> None:
    script = ready(timeout_s=30)
    buffer = bytearray(512)
    command, outcome = script.submit(data_in=buffer)
    script.sent()
    script.clock.advance(29)
    assert outcome.waiting
    script.clock.advance(1.5)
    assert isinstance(outcome.result, TimedOut)
    assert "TEST UNIT READY" in str(outcome.result)
    (abort,) = script.sent()
    assert (abort.opcode, abort.referenced_task_tag) == (Opcode.TASK_MANAGEMENT_REQUEST, command.tag)
    script.say(script.script.data_in(command, 0, b"\xff" * 512, 0))
    assert buffer == bytes(512), "the buffer is the caller's again"
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, abort)
    assert script.session.alive


def test_the_place_of_an_aborted_command_is_free_when_the_target_has_let_it_go() -> None:
    script = ready(queue_depth=1, timeout_s=10)
    script.submit()
    script.sent()
    script.clock.advance(9)
    waiting, outcome = script.submit()
    script.clock.advance(1.5)
    (abort,) = script.sent()
    assert abort.opcode is Opcode.TASK_MANAGEMENT_REQUEST
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, abort)
    assert [sent.opcode for sent in script.sent()] == [Opcode.SCSI_COMMAND]
    script.good(waiting)
    assert outcome.result is waiting


def test_a_call_that_still_waits_for_its_turn_times_out_without_a_word() -> None:
    script = ready(queue_depth=1)
    script.submit(timeout_s=60)
    _, outcome = script.submit(timeout_s=5)
    script.sent()
    script.clock.advance(6)
    assert isinstance(outcome.result, TimedOut)
    assert script.sent() == []


def test_a_call_that_waits_for_the_window_times_out_without_a_word() -> None:
    script = SessionScript(queue_depth=2, nop_interval_s=0)
    script.script.max_cmd_sn = 1
    script.log_in()
    script.submit(timeout_s=60)
    _, outcome = script.submit(timeout_s=5)
    assert len(script.sent()) == 1
    third, third_outcome = script.submit(timeout_s=60)
    script.clock.advance(6)
    assert isinstance(outcome.result, TimedOut)
    script.script.max_cmd_sn = 10
    script.say(
        pdu(
            Opcode.NOP_IN,
            **script.script.numbers(status=False),
            initiator_task_tag=0xFFFFFFFF,
            target_transfer_tag=0xFFFFFFFF,
        )
    )
    assert [sent.cmd_sn for sent in script.sent()] == [2]
    script.good(third)
    assert third_outcome.result is third


def test_deadlines_of_different_length_are_all_kept() -> None:
    script = ready(timeout_s=30, nop_interval_s=0)
    outcomes = {limit: script.submit(timeout_s=limit)[1] for limit in (20.0, 5.0, 10.0)}
    script.sent()
    for limit in (5.0, 10.0, 20.0):
        script.clock.advance(limit - script.clock.seconds() - 0.5)
        assert outcomes[limit].waiting
        script.clock.advance(0.5)
        assert isinstance(outcomes[limit].result, TimedOut)
        for sent in script.sent():
            script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, sent)


def test_a_cancelled_call_is_aborted() -> None:
    script = ready()
    command, outcome = script.submit()
    script.sent()
    outcome.deferred.cancel()
    assert isinstance(outcome.result, CancelledError)
    (abort,) = script.sent()
    assert abort.referenced_task_tag == command.tag
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, abort)
    assert script.session.alive


def test_a_broken_connection_fails_what_is_under_way_and_what_waits() -> None:
    script = ready(queue_depth=1)
    outcomes = [script.submit()[1] for _ in range(3)]
    script.sent()
    script.session.link_lost("Connection reset by peer")
    for outcome in outcomes:
        assert isinstance(outcome.result, SessionLost)
        assert "Connection reset by peer" in str(outcome.result)
        assert TARGET in str(outcome.result)
    _, late = script.submit()
    assert isinstance(late.result, SessionClosed)
    assert not script.clock.getDelayedCalls()


def test_a_violation_of_the_target_is_the_cause_of_the_loss() -> None:
    script = ready()
    _, outcome = script.submit()
    script.sent()
    script.say(bytes((0x3E,)) + bytes(47))
    assert isinstance(outcome.result, SessionLost)
    assert isinstance(outcome.result.__cause__, ProtocolViolation)
    assert script.link.closed


def test_a_call_made_between_an_answer_and_a_violation_in_one_piece_fails_as_the_others_do() -> None:
    script = ready(queue_depth=1)
    first, outcome = script.submit()
    _, waiting = script.submit()
    late: list[Outcome] = []
    outcome.deferred.addCallback(lambda _: late.append(script.submit()[1]))
    script.sent()
    script.say(script.script.response(first), bytes((0x3E,)) + bytes(47))
    assert outcome.result is first
    assert isinstance(waiting.result, SessionLost)
    assert isinstance(late[0].result, SessionClosed)
    assert "0x3e" in str(late[0].result)
    assert script.link.closed


def test_a_refused_login_is_the_error_of_the_attachment() -> None:
    script = SessionScript()
    (request,) = script.sent()
    script.say(script.script.login_response(request, {}, 4, status=0x0203))
    assert isinstance(script.attaching.result, LoginRefused)
    assert script.attaching.result.status == 0x0203
    assert TARGET in str(script.attaching.result)
    assert script.link.closed
    assert not script.clock.getDelayedCalls()


def test_a_login_that_is_not_answered_times_out() -> None:
    script = SessionScript(timeout_s=7)
    script.clock.advance(8)
    assert isinstance(script.attaching.result, TimedOut)
    assert script.link.closed


def test_a_login_that_is_cancelled_closes_the_connection() -> None:
    script = SessionScript()
    script.attaching.deferred.cancel()
    assert isinstance(script.attaching.result, CancelledError)
    assert script.link.closed
    assert not script.clock.getDelayedCalls()


# --- keepalive


def test_a_silent_target_is_pinged_and_the_session_lives_on_when_it_answers() -> None:
    script = ready(nop_interval_s=5, nop_timeout_s=10)
    script.clock.advance(5)
    assert script.sent() == []  # the login's bytes came in this interval
    script.clock.advance(5)
    (ping,) = script.sent()
    assert ping.opcode is Opcode.NOP_OUT
    script.answer(Opcode.NOP_IN, ping)
    script.clock.advance(5)
    (ping,) = script.sent()
    script.answer(Opcode.NOP_IN, ping)
    assert script.session.alive


def test_a_target_that_talks_is_not_pinged() -> None:
    script = ready(nop_interval_s=5)
    for _ in range(5):
        command, _ = script.submit()
        script.sent()
        script.good(command)
        script.clock.advance(5)
        assert script.sent() == []


def test_a_deaf_target_loses_the_session() -> None:
    script = ready(nop_interval_s=5, nop_timeout_s=10)
    _, outcome = script.submit(timeout_s=100)
    script.clock.advance(5)
    script.clock.advance(5)
    script.clock.advance(9)
    assert outcome.waiting
    script.clock.advance(2)
    assert isinstance(outcome.result, SessionLost)
    assert "ping" in str(outcome.result)


def test_a_ping_of_the_caller_gives_its_time() -> None:
    script = ready()
    outcome = Outcome(script.session.nop(b"x"))
    (ping,) = script.sent()
    script.clock.advance(0.25)
    script.answer(Opcode.NOP_IN, ping)
    assert outcome.result == 0.25


def test_a_ping_of_the_caller_that_times_out_leaves_the_session() -> None:
    script = ready(nop_interval_s=0)
    outcome = Outcome(script.session.nop(timeout_s=1))
    (ping,) = script.sent()
    script.clock.advance(2)
    assert isinstance(outcome.result, TimedOut)
    script.answer(Opcode.NOP_IN, ping)
    assert script.session.alive


# --- other requests


def test_a_text_gives_its_answer() -> None:
    script = ready()
    outcome = Outcome(script.session.text(b"SendTargets=All\0"))
    (sent,) = script.sent()
    fields = script.script.numbers() | {
        "initiator_task_tag": sent.initiator_task_tag,
        "target_transfer_tag": 0xFFFFFFFF,
    }
    script.say(pdu(Opcode.TEXT_RESPONSE, b"TargetName=iqn.a\0", **fields))
    assert outcome.result == b"TargetName=iqn.a\0"


def test_a_unit_reset_fails_the_commands_that_it_ends() -> None:
    script = ready()
    _, command = script.submit()
    script.sent()
    outcome = Outcome(script.session.task_management(TaskManagementFunction.LOGICAL_UNIT_RESET, lun=0))
    (reset,) = script.sent()
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, reset)
    assert outcome.result is None
    assert isinstance(command.result, CommandAborted)


def test_a_task_management_function_that_the_target_does_not_do_fails() -> None:
    script = ready()
    outcome = Outcome(script.session.task_management(TaskManagementFunction.TARGET_COLD_RESET))
    (reset,) = script.sent()
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, reset, response=5)
    assert isinstance(outcome.result, TaskManagementFailed)
    assert outcome.result.response == 5


# --- the end


def test_closing_lets_calls_end_then_logs_out() -> None:
    script = ready()
    command, outcome = script.submit()
    script.sent()
    closing = Outcome(script.session.close())
    assert closing.waiting
    assert script.sent() == []
    _, late = script.submit()
    assert isinstance(late.result, SessionClosed)
    script.good(command)
    assert outcome.result is command
    (logout,) = script.sent()
    assert logout.opcode is Opcode.LOGOUT_REQUEST
    script.answer(Opcode.LOGOUT_RESPONSE, logout)
    assert closing.result is None
    assert script.link.closed
    assert not script.clock.getDelayedCalls()


def test_closing_twice_is_one_logout() -> None:
    script = ready()
    first, second = Outcome(script.session.close()), Outcome(script.session.close())
    (logout,) = script.sent()
    script.answer(Opcode.LOGOUT_RESPONSE, logout)
    assert (first.result, second.result) == (None, None)
    assert Outcome(script.session.close()).result is None


def test_closing_does_not_wait_for_ever() -> None:
    script = ready(nop_interval_s=0)
    closing = Outcome(script.session.close())
    script.clock.advance(6)
    assert closing.result is None
    assert script.link.closed


def test_closing_ends_when_the_connection_breaks_under_it() -> None:
    script = ready()
    _, outcome = script.submit()
    script.sent()
    closing = Outcome(script.session.close())
    script.session.link_lost("gone")
    assert closing.result is None
    assert isinstance(outcome.result, SessionLost)


def test_a_closing_that_is_cancelled_closes_at_once() -> None:
    script = ready()
    _, outcome = script.submit()
    closing, other = Outcome(script.session.close()), Outcome(script.session.close())
    closing.deferred.cancel()
    assert isinstance(closing.result, CancelledError)
    assert other.result is None
    assert isinstance(outcome.result, SessionLost)
    assert script.link.closed


def test_aborting_fails_what_is_under_way_at_once() -> None:
    script = ready()
    _, outcome = script.submit()
    script.session.abort()
    assert isinstance(outcome.result, SessionLost)
    assert script.link.closed
    assert not script.clock.getDelayedCalls()


def test_a_target_that_asks_for_a_logout_gets_it_after_the_calls_under_way() -> None:
    script = ready()
    command, outcome = script.submit()
    script.sent()
    script.say(
        pdu(Opcode.ASYNC_MESSAGE, **script.script.numbers(), async_event=AsyncEvent.LOGOUT_REQUEST, parameter3=5)
    )
    assert not script.session.alive
    script.good(command)
    assert outcome.result is command
    (logout,) = script.sent()
    script.answer(Opcode.LOGOUT_RESPONSE, logout)
    assert script.link.closed


@pytest.mark.parametrize("event", [AsyncEvent.CONNECTION_DROP, AsyncEvent.SESSION_DROP])
def test_a_target_that_drops_the_session_is_believed(event: AsyncEvent) -> None:
    script = ready()
    _, outcome = script.submit()
    script.sent()
    script.say(pdu(Opcode.ASYNC_MESSAGE, **script.script.numbers(), async_event=event))
    assert isinstance(outcome.result, SessionLost)
    assert "drop" in str(outcome.result)


def test_an_event_of_the_device_is_only_told() -> None:
    script = ready()
    script.say(pdu(Opcode.ASYNC_MESSAGE, b"\0\x08\x72\x06\x3f\x0e\0\0\0\0", **script.script.numbers(), async_event=0))
    assert script.session.alive


def test_a_session_says_what_it_is() -> None:
    script = ready()
    session = script.session
    assert (session.tsih, session.target_alias, session.portal_group_tag) == (7, "", None)
    assert session.parameters.max_recv_data_segment_length == 8192
    assert "alive" in repr(session)
