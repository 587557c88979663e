"""When to log in again, and what becomes of the commands of a lost session."""

from __future__ import annotations

import pytest

from initiator.engine.relogin import Fate, Relogin, State, fate_of, passes
from initiator.engine.requests import Command
from initiator.errors import (
    AttemptAborted,
    AuthenticationFailed,
    CommandAborted,
    CommandRejected,
    ConnectFailed,
    DiskChanged,
    InitiatorError,
    LoginRedirected,
    LoginRefused,
    ProtocolViolation,
    SessionLost,
    TimedOut,
)
from initiator.scsi import cdb

NONE = ConnectFailed("no connection")


def down(*, chance: float = 0.0) -> Relogin:
    relogin = Relogin(0.5, 4.0, lambda: chance)
    relogin.lost(100.0)
    return relogin


def test_the_first_login_is_tried_at_once_and_the_others_ever_later() -> None:
    relogin, now, waits = down(), 100.0, []
    assert (relogin.state, relogin.due_at_s) == (State.WAITING, 100.0)
    for _ in range(6):
        relogin.begin()
        relogin.failed(now, NONE)
        waits.append(relogin.due_at_s - now)
        now = relogin.due_at_s
    assert waits == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    assert relogin.tries == 6
    assert "6 tries" in str(relogin)
    relogin.begin()
    relogin.succeeded()
    assert relogin.state is State.UP
    relogin.lost(now)
    assert relogin.tries == 0


def test_chance_takes_up_to_a_half_of_a_wait() -> None:
    relogin = down(chance=0.99)
    relogin.begin()
    relogin.failed(100.0, NONE)
    assert 100.25 < relogin.due_at_s < 100.26


def test_a_target_that_never_comes_back_is_no_overflow() -> None:
    relogin = down()
    for _ in range(5000):
        relogin.begin()
        relogin.failed(0.0, NONE)
    assert relogin.due_at_s == 4.0


def test_the_time_that_the_target_demands_is_waited_out() -> None:
    relogin = Relogin(0.5, 4.0, lambda: 0.0)
    relogin.lost(100.0, 7.0)
    assert relogin.due_at_s == 107.0


def test_a_login_that_can_not_succeed_later_ends_it() -> None:
    relogin = down()
    relogin.begin()
    relogin.failed(100.0, AuthenticationFailed())
    assert relogin.state is State.ENDED
    relogin.lost(101.0)
    assert relogin.state is State.ENDED


def test_the_answer_of_a_login_that_nobody_waits_for_changes_nothing() -> None:
    relogin = down()
    relogin.begin()
    relogin.end()
    relogin.failed(100.0, NONE)
    assert relogin.state is State.ENDED


@pytest.mark.parametrize(
    "error",
    [
        NONE,
        TimedOut("x"),
        SessionLost("x"),
        ProtocolViolation("x"),
        LoginRedirected(0x0101, "elsewhere"),
        LoginRefused(0x0203),
        LoginRefused(0x0206),
        LoginRefused(0x0300),
        LoginRefused(0x0301),
        LoginRefused(0x0302),
        LoginRefused(0x03FF),
    ],
)
def test_what_a_restarting_target_brings_about_passes(error: InitiatorError) -> None:
    assert passes(error)


@pytest.mark.parametrize(
    "error",
    [AuthenticationFailed(), LoginRefused(0x0202), LoginRefused(0x0204), LoginRefused(0x0200), DiskChanged("x")],
)
def test_what_must_be_changed_on_this_side_does_not(error: InitiatorError) -> None:
    assert not passes(error)


def command(cdb_bytes: bytes, error: InitiatorError | None, *, sent: bool = True) -> Command:
    made = Command(0, cdb_bytes)
    made.error = error
    if sent:
        made.tag = 7
    return made


LOST = SessionLost("x")
WRITE, COMPARE_AND_WRITE = cdb.write(0, 1), b"\x89" + bytes(15)


def test_what_was_not_sent_is_sent_whatever_it_is() -> None:
    assert fate_of(command(COMPARE_AND_WRITE, LOST, sent=False), fenced=False) is Fate.SEND


def test_what_was_sent_is_sent_again_where_it_is_idempotent_and_the_old_one_is_gone() -> None:
    assert fate_of(command(WRITE, LOST), fenced=True) is Fate.SEND
    assert fate_of(command(WRITE, LOST), fenced=False) is Fate.UNKNOWN
    assert fate_of(command(COMPARE_AND_WRITE, LOST), fenced=True) is Fate.UNKNOWN


def test_an_attempt_that_the_target_let_go_of_is_gone() -> None:
    assert fate_of(command(WRITE, AttemptAborted("x")), fenced=False) is Fate.SEND
    assert fate_of(command(COMPARE_AND_WRITE, AttemptAborted("x")), fenced=False) is Fate.UNKNOWN


def test_the_caller_may_know_better_than_the_cdb() -> None:
    safe, unsafe = command(b"\xc0", LOST), command(WRITE, LOST)
    safe.idempotent, unsafe.idempotent = True, False
    assert fate_of(safe, fenced=True) is Fate.SEND
    assert fate_of(unsafe, fenced=True) is Fate.UNKNOWN


@pytest.mark.parametrize("error", [None, TimedOut("x"), CommandAborted("x"), CommandRejected("x", 9)])
def test_an_answer_is_an_answer(error: InitiatorError | None) -> None:
    assert fate_of(command(WRITE, error), fenced=True) is Fate.DONE
