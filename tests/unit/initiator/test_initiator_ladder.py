"""A command without an answer: ABORT TASK, LOGICAL UNIT RESET, the end of the session; and whose the buffers are."""

from __future__ import annotations

from typing import Any

import pytest

from csvd.iscsi.codes import AsyncEvent, Opcode, TaskManagementFunction
from initiator.engine.requests import Command
from initiator.errors import AttemptAborted, CommandAborted, SessionLost, TimedOut
from initiator.session import Session
from tests.unit.initiator.session_script import Outcome, SessionScript, ready
from tests.unit.initiator.target_script import Pdu, pdu

QUIET: dict[str, Any] = {"nop_interval_s": 0, "abort_timeout_s": 3}


def functions(sent: list[Pdu]) -> list[int]:
    return [each.function & 0x7F for each in sent if each.opcode is Opcode.TASK_MANAGEMENT_REQUEST]


class Attempt:
    """A command with the time of an attempt before its deadline."""

    def __init__(self, script: SessionScript, attempt_s: float = 10, deadline_s: float = 60, **fields: Any) -> None:
        self.command = Command(0, fields.pop("cdb", bytes(6)), **fields)
        self.ended: list[Command] = []
        script.session.start(self.command, deadline_s, self.ended.append, attempt_s)

    @property
    def error(self) -> Any:
        assert self.ended == [self.command]
        return self.command.error


def test_an_abort_without_an_answer_is_followed_by_a_reset_of_the_unit_and_that_by_the_end_of_the_session() -> None:
    script = ready(timeout_s=10, **QUIET)
    _, first = script.submit()
    _, second = script.submit(timeout_s=100)
    script.sent()
    script.clock.advance(10)
    assert isinstance(first.result, TimedOut), "the call ends at once, and the ladder goes on behind it"
    assert functions(script.sent()) == [TaskManagementFunction.ABORT_TASK]
    script.clock.advance(3)
    assert functions(script.sent()) == [TaskManagementFunction.LOGICAL_UNIT_RESET]
    script.clock.advance(2)
    assert second.waiting
    script.clock.advance(2)
    assert isinstance(second.result, SessionLost)
    assert not script.session.alive
    assert script.link.closed
    assert not script.clock.getDelayedCalls()


def test_an_abort_that_is_refused_is_followed_by_a_reset_of_the_unit() -> None:
    script = ready(**QUIET)
    attempt = Attempt(script)
    other = Attempt(script, deadline_s=30, attempt_s=30)
    script.sent()
    script.clock.advance(10)
    (abort,) = script.sent()
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, abort, response=5)
    (reset,) = script.sent()
    assert functions([reset]) == [TaskManagementFunction.LOGICAL_UNIT_RESET]
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, reset)
    assert isinstance(attempt.error, AttemptAborted)
    assert isinstance(other.error, AttemptAborted), "it was ended by our reset, too"
    assert script.session.alive


def test_a_reset_that_is_refused_ends_the_session() -> None:
    script = ready(**QUIET)
    attempt = Attempt(script)
    script.sent()
    script.clock.advance(10)
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, script.sent()[0], response=255)
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, script.sent()[0], response=255)
    assert isinstance(attempt.error, SessionLost)
    assert attempt.error.outcome_unknown
    assert not script.session.alive


def test_several_commands_of_a_unit_need_one_reset() -> None:
    script = ready(**QUIET)
    attempts = [Attempt(script) for _ in range(3)]
    script.sent()
    script.clock.advance(10)
    aborts = script.sent()
    assert functions(aborts) == [TaskManagementFunction.ABORT_TASK] * 3
    script.clock.advance(3)
    (reset,) = script.sent()
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, reset)
    assert all(isinstance(each.error, AttemptAborted) for each in attempts)
    for abort in aborts:
        script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, abort, response=1)
    assert script.session.alive


def test_an_abort_that_comes_too_late_changes_nothing() -> None:
    script = ready(**QUIET)
    attempt = Attempt(script)
    script.sent()
    script.clock.advance(10)
    (abort,) = script.sent()
    script.good(attempt.command)
    assert attempt.error is None
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, abort, response=255)
    assert script.sent() == []
    assert script.session.alive


def test_a_target_that_answers_a_command_and_never_its_abort_loses_the_session_not_the_unit() -> None:
    script = ready(**QUIET)
    attempt = Attempt(script)
    script.sent()
    script.clock.advance(10)
    script.sent()
    script.good(attempt.command)
    script.clock.advance(3)
    assert script.sent() == []
    assert not script.session.alive


def test_an_answer_to_a_read_in_the_middle_of_its_abort_is_taken() -> None:
    script = ready(**QUIET)
    buffer = bytearray(512)
    attempt = Attempt(script, data_in=buffer)
    script.sent()
    script.clock.advance(10)
    script.say(script.script.data_in(attempt.command, 0, b"\xab" * 512, 0, flags=0x81))
    assert attempt.error is None
    assert buffer == b"\xab" * 512


def test_a_call_ends_at_its_deadline_in_the_middle_of_the_ladder() -> None:
    script = ready(**QUIET)
    buffer = bytearray(512)
    attempt = Attempt(script, attempt_s=10, deadline_s=12, data_in=buffer)
    script.sent()
    script.clock.advance(10)
    script.clock.advance(2)
    assert isinstance(attempt.error, TimedOut)
    assert attempt.error.outcome_unknown
    script.say(script.script.data_in(attempt.command, 0, b"\xff" * 512, 0))
    assert buffer == bytes(512), "the buffer is the caller's again"
    assert functions(script.sent()) == [TaskManagementFunction.ABORT_TASK], "one is enough"
    script.clock.advance(1)
    assert functions(script.sent()) == [TaskManagementFunction.LOGICAL_UNIT_RESET]


def test_an_attempt_that_was_never_sent_waits_on() -> None:
    script = ready(queue_depth=1, **QUIET)
    first = Attempt(script, attempt_s=50)
    second = Attempt(script, attempt_s=10, deadline_s=20)
    script.sent()
    script.clock.advance(10)
    assert script.sent() == []
    script.clock.advance(10)
    assert isinstance(second.error, TimedOut)
    assert not second.error.outcome_unknown
    script.good(first.command)
    assert first.error is None


def test_a_command_sent_after_a_reset_began_is_not_ended_by_it() -> None:
    script = ready(**QUIET)
    first = Attempt(script)
    script.sent()
    script.clock.advance(10)
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, script.sent()[0], response=255)
    (reset,) = script.sent()
    later = Attempt(script, attempt_s=12, deadline_s=60)
    script.sent()
    script.clock.advance(2)
    assert functions(script.sent()) == [TaskManagementFunction.ABORT_TASK], "it has a ladder of its own"
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, reset)
    assert isinstance(first.error, AttemptAborted)
    assert later.ended == []


def test_a_reset_that_a_caller_asked_for_is_no_attempt_that_failed() -> None:
    script = ready(**QUIET)
    attempt = Attempt(script)
    script.sent()
    asking = Outcome(script.session.task_management(TaskManagementFunction.LOGICAL_UNIT_RESET))
    script.answer(Opcode.TASK_MANAGEMENT_RESPONSE, script.sent()[0])
    assert asking.result is None
    assert type(attempt.error) is CommandAborted


# --- the data of a write whose call has ended


def test_no_more_data_of_a_write_is_sent_after_its_call_has_ended() -> None:
    script = ready(timeout_s=5, **QUIET)
    data = bytearray(b"\x11" * 16384)
    command, outcome = script.submit(cdb=b"\x2a" + bytes(9), data_out=data)
    script.sent()
    fields = {"initiator_task_tag": command.tag, "target_transfer_tag": 9, "lengths": 0}
    script.clock.advance(5)
    assert isinstance(outcome.result, TimedOut)
    data[:] = b"\xee" * len(data)
    numbers = script.script.numbers(status=False)
    script.say(pdu(Opcode.R2T, **numbers, **fields, buffer_offset=8192, desired_data_transfer_length=8192))
    (abort,) = script.sent()
    assert abort.opcode is Opcode.TASK_MANAGEMENT_REQUEST
    assert script.session.alive


def test_data_that_was_asked_for_and_not_sent_yet_is_not_sent_after_its_call_has_ended() -> None:
    script = ready(timeout_s=5, **QUIET)
    command, outcome = script.submit(cdb=b"\x2a" + bytes(9), data_out=bytearray(b"\x11" * 16384))
    script.sent()
    fields = {"initiator_task_tag": command.tag, "target_transfer_tag": 9, "lengths": 0}
    numbers = script.script.numbers(status=False)
    script.say(pdu(Opcode.R2T, **numbers, **fields, buffer_offset=8192, desired_data_transfer_length=8192))
    outcome.deferred.cancel()
    assert [sent.opcode for sent in script.sent()] == [Opcode.TASK_MANAGEMENT_REQUEST]


def test_what_the_link_holds_of_a_write_is_copied_when_its_call_ends() -> None:
    script = ready(timeout_s=5, **QUIET)
    script.submit(cdb=b"\x2a" + bytes(9), data_out=bytearray(b"\x11" * 512))
    script.sent()
    script.clock.advance(5)
    assert script.link.kept == 1


# --- what the session tells


def test_a_session_that_ends_tells_it_before_its_calls_fail() -> None:
    script = ready()
    told: list[str] = []
    script.session.on_end = lambda session: told.append(f"ended {session.ended is not None}")
    command = Command(0, bytes(6))
    script.session.start(command, 60, lambda _: told.append("failed"))
    script.session.link_lost("gone")
    assert told == ["ended True", "failed"]


def times(event: AsyncEvent) -> Session:
    script = ready()
    fields = {"async_event": event, "parameter1": 0, "parameter2": 7, "parameter3": 20}
    script.say(pdu(Opcode.ASYNC_MESSAGE, **script.script.numbers(), **fields))
    return script.session


@pytest.mark.parametrize("event", [AsyncEvent.CONNECTION_DROP, AsyncEvent.SESSION_DROP])
def test_the_time_to_wait_is_the_one_that_the_target_says(event: AsyncEvent) -> None:
    assert times(event).time2wait_s == 7


def test_the_time_to_wait_is_the_negotiated_one_when_the_connection_breaks() -> None:
    script = ready()
    script.session.link_lost("gone")
    assert script.session.time2wait_s == script.session.parameters.default_time2wait


def test_a_logout_that_the_target_demands_waits_no_longer_than_it_says_and_keeps_its_time_to_wait() -> None:
    script = ready(**QUIET)
    _, outcome = script.submit()
    script.sent()
    message = {"async_event": AsyncEvent.LOGOUT_REQUEST, "parameter3": 4}
    script.say(pdu(Opcode.ASYNC_MESSAGE, **script.script.numbers(), **message))
    assert script.sent() == []
    script.clock.advance(4)
    (logout,) = script.sent()
    script.answer(Opcode.LOGOUT_RESPONSE, logout, time2wait=9)
    assert isinstance(outcome.result, SessionLost)
    assert script.session.time2wait_s == 9


def test_a_deadline_that_is_set_again_when_one_passes_does_not_put_off_the_others() -> None:
    script = ready(**QUIET)
    Attempt(script, attempt_s=10, deadline_s=60)
    other = Attempt(script, attempt_s=11, deadline_s=11, cdb=b"\x12")
    script.clock.advance(10)
    script.clock.advance(1)
    assert isinstance(other.error, TimedOut)
