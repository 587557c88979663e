"""A road that logs in again: what is sent again, what is unknown, and that no call outlives its deadline."""

from __future__ import annotations

import pytest
from twisted.internet.defer import Deferred

from csvd.iscsi.codes import AsyncEvent, Opcode, TaskManagementFunction
from initiator.engine.relogin import State
from initiator.errors import (
    AuthenticationFailed,
    CommandFailed,
    ConnectFailed,
    DiskChanged,
    LoginRefused,
    SessionClosed,
    SessionLost,
    TimedOut,
)
from initiator.events import LoggedInAgain, LoginFailed, RoadEnded, SessionGone, TargetSays, UnitAttention
from initiator.identity import Identity
from initiator.scsi import cdb
from initiator.session import Session
from tests.unit.initiator.recovery_script import ATTENTION, Outage
from tests.unit.initiator.session_script import Outcome
from tests.unit.initiator.target_script import pdu

READ, WRITE, FLUSH = cdb.read(0, 1), cdb.write(0, 1), cdb.synchronize_cache()
COMPARE_AND_WRITE = b"\x89" + bytes(9) + b"\0\0\0\x01\0\0"
NONE = ConnectFailed("no connection")
POWER_ON, RESET_OR_MORE, NEXUS_LOSS = (ATTENTION + b"\x29" + bytes((ascq,)) + bytes(4) for ascq in (1, 0, 7))


def test_while_the_session_lasts_it_is_a_road_like_any_other() -> None:
    outage = Outage()
    call = outage.start()
    assert outage.sent() == [b""]
    outage.good()
    assert call.done
    assert outage.road.connected


def test_what_was_sent_and_is_safe_is_sent_again_on_the_next_session() -> None:
    outage = Outage()
    buffer = bytearray(512)
    read, write = outage.start(READ, data_in=buffer), outage.start(WRITE, data_out=b"\x77" * 512)
    assert outage.sent() == [READ.rstrip(b"\0"), WRITE.rstrip(b"\0")]
    outage.cut()
    assert read.waits
    assert not outage.road.connected
    script = outage.answer()
    assert [each.data for each in script.sent()] == [b"", b"\x77" * 512]
    (again, _) = outage.under_way
    script.say(script.script.data_in(again, 0, b"\xab" * 512, 0, flags=0x81))
    outage.good()
    assert read.done
    assert buffer == b"\xab" * 512
    assert read.command.received == 512
    assert write.done


def test_what_was_sent_and_is_not_safe_is_unknown_at_once() -> None:
    outage = Outage()
    call = outage.start(COMPARE_AND_WRITE, data_out=bytes(1024))
    outage.sent()
    outage.cut()
    assert isinstance(call.error, SessionLost)
    assert call.error.outcome_unknown
    assert "COMPARE AND WRITE" in str(call.error)


def test_what_was_never_sent_is_sent_later_whatever_it_is() -> None:
    outage = Outage(queue_depth=1)
    first, second = outage.start(COMPARE_AND_WRITE, data_out=bytes(1024)), outage.start(b"\x5f\x01", data_out=bytes(24))
    outage.sent()
    outage.cut()
    third = outage.start(b"\xc0")
    assert isinstance(first.error, SessionLost)
    outage.answer()
    assert outage.sent() == [b"\x5f\x01"]
    outage.good()
    assert outage.sent() == [b"\xc0"]
    outage.good()
    assert second.done
    assert third.done


def test_the_order_is_that_in_which_they_were_started() -> None:
    outage = Outage(queue_depth=2)
    for number in range(1, 5):
        outage.start(cdb.write(number, 1, fua=True), data_out=bytes(512))
    outage.sent()
    outage.good(of=1)
    outage.sent()
    outage.cut()
    outage.start(cdb.write(5, 1), data_out=bytes(512))
    outage.answer()
    seen = []
    while sent := outage.sent():
        seen += [each.ljust(10, b"\0")[5] for each in sent]
        outage.good()
    assert seen == [2, 3, 4, 5]


def test_a_session_that_is_lost_again_and_again_loses_nothing() -> None:
    outage = Outage()
    call = outage.start(WRITE, data_out=bytes(512), timeout_s=1000)
    for _ in range(5):
        assert len(outage.sent()) == 1
        outage.cut()
        outage.answer()
    outage.sent()
    outage.good()
    assert call.done
    assert call.times == 1


def test_logins_go_on_with_growing_waits_and_all_is_told() -> None:
    outage = Outage()
    call = outage.start()
    outage.sent()
    outage.cut()
    for wait_s in (1, 2, 4, 8, 8):
        outage.refuse(NONE)
        assert len(outage.logins) == 1
        outage.clock.advance(wait_s - 0.5)
        assert len(outage.logins) == 1
        outage.logins.clear()
        outage.clock.advance(0.5)
        assert len(outage.logins) == 1
    outage.answer()
    outage.sent()
    outage.good()
    assert call.done
    kinds = [type(event) for event in outage.events]
    assert kinds == [SessionGone, *[LoginFailed] * 5, LoggedInAgain]
    assert "at try 6" in str(outage.events[-1])
    assert "again in 1.0 s" in str(outage.events[1])


def test_a_call_that_finds_no_session_ends_at_its_deadline() -> None:
    outage = Outage()
    sent = outage.start(WRITE, data_out=bytes(512), timeout_s=5)
    outage.sent()
    outage.cut()
    outage.refuse(NONE)
    unsent = outage.start(WRITE, data_out=bytes(512), timeout_s=5)
    outage.clock.advance(4.9)
    assert sent.waits
    outage.clock.advance(0.2)
    assert isinstance(sent.error, TimedOut)
    assert isinstance(unsent.error, TimedOut)
    assert sent.error.outcome_unknown, "the first session may have done it"
    assert not unsent.error.outcome_unknown
    assert "no connection" in str(unsent.error)


def test_a_call_past_its_deadline_still_ends_from_outside_of_start() -> None:
    outage = Outage()
    outage.cut()
    call = outage.start(timeout_s=-1)
    outage.clock.advance(0)
    assert isinstance(call.error, TimedOut)


def test_a_cancelled_call_is_sent_no_more() -> None:
    outage = Outage()
    first, second = outage.start(WRITE, data_out=bytes(512)), outage.start(READ, data_in=bytearray(512))
    outage.sent()
    outage.cut()
    outage.road.cancel(first.command)
    outage.answer()
    assert outage.sent() == [READ.rstrip(b"\0")]
    outage.road.cancel(second.command)
    assert [sent.opcode for sent in outage.now.sent()] == [Opcode.TASK_MANAGEMENT_REQUEST]
    assert first.waits
    assert second.waits
    outage.road.cancel(second.command)


def test_the_buffer_of_a_call_that_timed_out_is_left_alone_by_the_next_session_too() -> None:
    outage = Outage()
    buffer = bytearray(512)
    call = outage.start(READ, data_in=buffer, timeout_s=5)
    outage.sent()
    outage.cut()
    script = outage.answer()
    script.sent()
    (again,) = outage.under_way
    outage.clock.advance(6)
    assert isinstance(call.error, TimedOut)
    assert call.error.outcome_unknown
    script.say(script.script.data_in(again, 0, b"\xff" * 512, 0))
    assert buffer == bytes(512)


def test_with_another_portal_group_what_was_sent_is_unknown() -> None:
    outage = Outage()
    sent = outage.start(WRITE, data_out=bytes(512))
    outage.sent()
    outage.cut()
    unsent = outage.start(READ, data_in=bytearray(512))
    moved = outage.session_script()
    moved.script.engine.session.portal_group_tag = 9
    outage.now = moved
    outage.logins[-1].callback(moved.session)
    assert isinstance(sent.error, SessionLost)
    assert sent.error.outcome_unknown
    assert "portal group" in str(sent.error)
    assert outage.sent() == [READ.rstrip(b"\0")]
    assert unsent.waits


def test_a_refusal_that_nothing_changes_ends_the_road() -> None:
    outage = Outage()
    call = outage.start(WRITE, data_out=bytes(512))
    outage.sent()
    outage.cut()
    outage.refuse(AuthenticationFailed())
    assert isinstance(call.error, SessionLost)
    assert isinstance(call.error.__cause__, AuthenticationFailed)
    assert call.error.outcome_unknown
    assert not outage.road.alive
    with pytest.raises(SessionClosed, match="CHAP"):
        outage.start()
    assert isinstance(outage.events[-1], RoadEnded)
    assert not outage.clock.getDelayedCalls()


def test_a_target_that_is_only_not_there_yet_is_asked_again() -> None:
    outage = Outage()
    outage.cut()
    outage.refuse(LoginRefused(0x0203))
    outage.clock.advance(1)
    assert len(outage.logins) == 2


def test_the_time_that_the_target_demands_is_waited_before_the_first_login() -> None:
    outage = Outage()
    outage.cut(wait_s=3)
    outage.clock.advance(2.5)
    assert outage.logins == []
    outage.clock.advance(1)
    assert len(outage.logins) == 1


def test_a_logout_that_the_target_asks_for_is_an_outage_like_another() -> None:
    outage = Outage()
    message = {"async_event": AsyncEvent.LOGOUT_REQUEST, "parameter3": 5}
    outage.now.say(pdu(Opcode.ASYNC_MESSAGE, **outage.now.script.numbers(), **message))
    (logout,) = outage.now.sent()
    call = outage.start(READ, data_in=bytearray(512))
    outage.now.answer(Opcode.LOGOUT_RESPONSE, logout, time2wait=2)
    outage.clock.advance(1.5)
    assert outage.logins == []
    outage.clock.advance(1)
    outage.answer()
    assert outage.sent() == [READ.rstrip(b"\0")]
    assert call.waits
    assert TargetSays(outage.road.where, "logout request") in outage.events


def test_a_login_that_fails_in_the_middle_of_what_is_asked_first_is_another_failure() -> None:
    outage = Outage()
    knowing = Outcome(outage.road.know(0))
    answer_identity(outage, b"\0" * 7 + b"\x01")
    assert knowing.result.designator == "naa.0000000000000001"
    call = outage.start(WRITE, data_out=bytes(512))
    outage.sent()
    outage.cut()
    outage.answer()
    assert outage.sent() == [b""], "TEST UNIT READY"
    outage.now.session.link_lost("cut again")
    assert isinstance(outage.events[-1], LoginFailed)
    outage.clock.advance(1)
    outage.answer()
    assert outage.sent() == [b""]
    outage.good()
    answer_identity(outage, b"\0" * 7 + b"\x01")
    assert outage.sent() == [WRITE.rstrip(b"\0")]
    assert call.waits


def answer_identity(outage: Outage, naa: bytes, *, blocks: int = 100) -> None:
    """Answer what is asked of a logical unit: its capacity and its name."""
    page = b"\x01\x03\0\x08" + naa
    for data in (
        (blocks - 1).to_bytes(8, "big") + (512).to_bytes(4, "big") + bytes(20),
        b"\0\x83" + len(page).to_bytes(2, "big") + page,
    ):
        script = outage.now
        script.sent()
        (command,) = outage.under_way
        left = command.length - len(data)
        flags = {"flags": 0x83 if left else 0x81, "residual_count": left}
        script.say(script.script.data_in(command, 0, data, 0, **flags))


def test_another_disk_behind_the_lun_is_never_written_to() -> None:
    outage = Outage()
    Outcome(outage.road.know(0))
    answer_identity(outage, b"\0" * 7 + b"\x01")
    call = outage.start(WRITE, data_out=bytes(512))
    outage.sent()
    outage.cut()
    outage.answer()
    outage.sent()
    outage.good()
    answer_identity(outage, b"\0" * 7 + b"\x02")
    assert isinstance(call.error, DiskChanged)
    assert "naa.0000000000000002" in str(call.error)
    assert outage.now.link.closed
    assert outage.sent() == []
    assert not outage.road.alive


def test_a_disk_with_a_name_may_have_grown() -> None:
    outage = Outage()
    Outcome(outage.road.know(0))
    answer_identity(outage, b"\0" * 7 + b"\x01")
    outage.cut()
    outage.answer()
    outage.sent()
    outage.good()
    answer_identity(outage, b"\0" * 7 + b"\x01", blocks=200)
    assert outage.road.connected


def test_what_callers_do_on_a_new_session_is_done_before_any_call_is_sent() -> None:
    outage = Outage()
    steps: list[Deferred[None]] = []

    async def register(session: Session) -> None:
        assert session is outage.now.session
        steps.append(Deferred())
        await steps[-1]

    outage.road.on_new_session(register)
    call = outage.start(WRITE, data_out=bytes(512))
    outage.sent()
    outage.cut()
    outage.answer()
    assert outage.sent() == []
    steps[0].callback(None)
    assert outage.sent() == [WRITE.rstrip(b"\0")]
    assert call.waits


def test_a_step_that_is_refused_for_good_ends_the_road() -> None:
    outage = Outage()

    async def register(session: Session) -> None:
        raise SessionClosed("x") if len(outage.logins) == 1 else CommandFailed("PERSISTENT RESERVE OUT", 0x18)

    outage.road.on_new_session(register)
    call = outage.start(WRITE, data_out=bytes(512))
    outage.sent()
    outage.cut()
    outage.answer()
    assert call.waits
    outage.clock.advance(1)
    outage.answer()
    assert isinstance(call.error.__cause__, CommandFailed)
    assert not outage.road.alive


def test_a_step_without_an_end_is_a_login_that_failed() -> None:
    outage = Outage(login_timeout_s=3)

    async def register(session: Session) -> None:
        await Deferred()

    outage.road.on_new_session(register)
    outage.cut()
    outage.answer()
    outage.clock.advance(3)
    assert outage.now.link.closed
    assert isinstance(outage.events[-1], LoginFailed)


# --- attempts


def test_an_attempt_without_an_answer_is_aborted_and_sent_again() -> None:
    outage = Outage(command_timeout_s=4)
    buffer = bytearray(512)
    call = outage.start(READ, data_in=buffer, timeout_s=12)
    outage.sent()
    outage.clock.advance(8)  # two thirds of the call's time
    (abort,) = outage.now.sent()
    assert abort.opcode is Opcode.TASK_MANAGEMENT_REQUEST
    outage.now.answer(Opcode.TASK_MANAGEMENT_RESPONSE, abort)
    outage.clock.advance(0)
    assert outage.sent() == [READ.rstrip(b"\0")]
    script = outage.now
    (again,) = outage.under_way
    script.say(script.script.data_in(again, 0, b"\xab" * 512, 0, flags=0x81))
    assert call.done
    assert buffer == b"\xab" * 512


def test_an_attempt_of_what_is_not_safe_is_unknown_when_it_was_aborted() -> None:
    outage = Outage(command_timeout_s=4)
    call = outage.start(COMPARE_AND_WRITE, data_out=bytes(1024), timeout_s=6)
    outage.sent()
    outage.clock.advance(4)
    (abort,) = outage.now.sent()
    outage.now.answer(Opcode.TASK_MANAGEMENT_RESPONSE, abort)
    assert isinstance(call.error, TimedOut)
    assert call.error.outcome_unknown


# --- what is told


def test_unit_attentions_are_told_wherever_they_are_met() -> None:
    outage = Outage()
    call = outage.start()
    outage.sent()
    outage.say_status(2, ATTENTION + b"\x2a\x09" + bytes(4))
    assert call.done, "a CHECK CONDITION is an answer"
    (event,) = outage.events
    assert isinstance(event, UnitAttention)
    assert (event.lun, event.sense.asc, event.sense.ascq) == (0, 0x2A, 0x09)
    assert "capacity data has changed" in str(event)


def test_unit_attentions_of_a_new_session_are_taken_from_a_known_unit() -> None:
    outage = Outage()
    Outcome(outage.road.know(0))
    answer_identity(outage, b"\0" * 7 + b"\x01")
    outage.cut()
    outage.answer()
    outage.sent()
    outage.say_status(2, NEXUS_LOSS)
    assert outage.sent() == [b""], "it is asked again"
    outage.good()
    answer_identity(outage, b"\0" * 7 + b"\x01")
    assert [event.sense.ascq for event in outage.events if isinstance(event, UnitAttention)] == [7]
    assert isinstance(outage.events[-1], LoggedInAgain)


def test_a_listener_that_fails_harms_nobody() -> None:
    outage = Outage()

    def fail(event: object) -> None:
        raise RuntimeError("no")

    end = outage.road.listen(fail)
    outage.cut()
    end()
    outage.answer()
    assert isinstance(outage.events[-1], LoggedInAgain)


# --- other requests, and the end


def test_a_ping_waits_for_a_session() -> None:
    outage = Outage()
    outage.cut()
    ping = Outcome(outage.road.nop())
    late = Outcome(outage.road.nop(timeout_s=1))
    outage.clock.advance(1)
    assert isinstance(late.result, TimedOut)
    outage.answer()
    (sent,) = outage.now.sent()
    outage.now.answer(Opcode.NOP_IN, sent)
    assert ping.result == 0.0


def test_a_ping_whose_session_is_lost_is_sent_on_the_next() -> None:
    outage = Outage()
    ping = Outcome(outage.road.nop())
    outage.now.sent()
    outage.cut()
    assert ping.waiting
    outage.answer()
    (sent,) = outage.now.sent()
    outage.now.answer(Opcode.NOP_IN, sent)
    assert not ping.waiting


def test_a_function_is_asked_for_once() -> None:
    outage = Outage()
    reset = Outcome(outage.road.task_management(TaskManagementFunction.LOGICAL_UNIT_RESET))
    outage.now.sent()
    outage.cut()
    assert isinstance(reset.result, SessionLost)


def test_closing_lets_calls_end_and_logs_out() -> None:
    outage = Outage()
    call = outage.start()
    outage.sent()
    closing = Outcome(outage.road.close())
    with pytest.raises(SessionClosed):
        outage.start()
    outage.good()
    assert call.done
    (logout,) = outage.now.sent()
    outage.now.answer(Opcode.LOGOUT_RESPONSE, logout)
    assert closing.result is None
    assert outage.logins == []
    assert not outage.clock.getDelayedCalls()


@pytest.mark.parametrize("logging_in", [True, False])
def test_closing_in_an_outage_ends_it(logging_in: bool) -> None:
    outage = Outage()
    call = outage.start(WRITE, data_out=bytes(512))
    outage.sent()
    outage.cut()
    if not logging_in:
        outage.refuse(NONE)
    ping = Outcome(outage.road.nop())
    assert Outcome(outage.road.close()).result is None
    assert isinstance(call.error, SessionLost)
    assert call.error.outcome_unknown
    assert isinstance(ping.result, SessionClosed)
    assert not outage.clock.getDelayedCalls()
    assert "ended" in repr(outage.road)


def test_a_session_lost_while_closing_is_the_end() -> None:
    outage = Outage()
    call = outage.start(READ, data_in=bytearray(512))
    outage.sent()
    closing = Outcome(outage.road.close())
    outage.cut()
    assert closing.result is None
    assert isinstance(call.error, SessionLost)
    assert outage.logins == []


def test_an_abort_fails_what_is_under_way() -> None:
    outage = Outage()
    call = outage.start(READ, data_in=bytearray(512))
    outage.sent()
    outage.road.abort()
    assert isinstance(call.error, SessionLost)
    assert not outage.road.alive
    assert not outage.clock.getDelayedCalls()


def test_the_state_can_be_read() -> None:
    outage = Outage()
    assert "logged in" in repr(outage.road)
    outage.cut()
    outage.start()
    assert "logging in, 1 tries calls=1 waiting=1" in repr(outage.road)
    assert State.LOGGING_IN.value in repr(outage.road)


def test_a_disk_that_does_not_say_which_it_is_while_its_target_starts_is_asked_at_the_next_login() -> None:
    was = Identity("naa.60000000000000000000000000000001", 512, 8)
    with pytest.raises(ConnectFailed):
        was.check(Identity("", 512, 8), "here")
    with pytest.raises(DiskChanged):
        was.check(Identity("naa.60000000000000000000000000000002", 512, 8), "here")
