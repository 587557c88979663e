"""When to log in again, and what becomes of a command whose session was lost. Decisions only: time, errors and chance
come in as arguments.

The first new login is tried at once (after the time that the target demands, if it does: Time2Wait, RFC 7143 sections
7.5 and 11.9.1), the next after ``first_backoff_s``, each further one after twice the time of the one before, up to
``last_backoff_s``; a fraction of it up to a half is left to chance, so that the initiators of a target that comes back
do not all come at once. It goes on until somebody ends it or the target refuses for good.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Final

from csvd.iscsi.codes import LoginStatus
from initiator.engine.requests import Command
from initiator.errors import (
    AttemptAborted,
    ConnectFailed,
    DamagedPdu,
    InitiatorError,
    LoginRedirected,
    LoginRefused,
    ProtocolViolation,
    SessionClosed,
    SessionLost,
    TimedOut,
)
from initiator.scsi.idempotence import is_idempotent

_PASSING: Final = (
    ConnectFailed,
    TimedOut,
    SessionLost,
    SessionClosed,
    ProtocolViolation,
    DamagedPdu,
    LoginRedirected,
)
"""What an unreachable, a restarting or a half-dead target brings about. A stream that was cut or garbled on its way
looks like a violation of the protocol."""

_PASSING_STATUS: Final = frozenset(
    {
        LoginStatus.NOT_FOUND,  # a target that starts listens before it has its disks
        LoginStatus.TOO_MANY_CONNECTIONS,
        LoginStatus.TARGET_ERROR,
        LoginStatus.SERVICE_UNAVAILABLE,
        LoginStatus.OUT_OF_RESOURCES,
    }
)


def passes(error: InitiatorError) -> bool:
    """Whether a login that failed so may succeed later, with nothing changed on this side."""
    if isinstance(error, LoginRefused) and not isinstance(error, LoginRedirected):
        return error.status in _PASSING_STATUS or error.status >> 8 == 3
    return isinstance(error, _PASSING)


class State(Enum):
    """Where a session that is to be kept up is."""

    UP = "logged in"
    WAITING = "waiting to log in"
    LOGGING_IN = "logging in"
    ENDED = "ended"


class Relogin:
    """The state of one road between sessions.

    Args:
        chance: gives a number from 0 to below 1 whenever it is called.
    """

    def __init__(self, first_backoff_s: float, last_backoff_s: float, chance: Callable[[], float]) -> None:
        self.state = State.UP
        self.tries = 0
        """Logins that were begun since the session was lost."""
        self.lost_at_s = 0.0
        self.due_at_s = 0.0
        """When the next login begins, while waiting for it."""
        self._first_backoff_s = first_backoff_s
        self._last_backoff_s = last_backoff_s
        self._chance = chance

    def __str__(self) -> str:
        return f"{self.state.value}, {self.tries} tries" if self.tries else self.state.value

    def lost(self, now_s: float, wait_s: float = 0.0) -> None:
        """The session is gone; the target wants us to stay away for ``wait_s``."""
        if self.state is State.UP:
            self.lost_at_s, self.tries = now_s, 0
        if self.state is not State.ENDED:
            self.state = State.WAITING
            self.due_at_s = now_s + wait_s

    def begin(self) -> None:
        """A login begins."""
        assert self.state is State.WAITING, self
        self.state = State.LOGGING_IN
        self.tries += 1

    def failed(self, now_s: float, error: InitiatorError) -> None:
        """The login came to nothing: wait for the next, or end."""
        if self.state is not State.LOGGING_IN:
            return
        if not passes(error):
            self.state = State.ENDED
            return
        doubled_s = self._first_backoff_s * 2 ** min(self.tries - 1, 32)
        self.state = State.WAITING
        self.due_at_s = now_s + min(doubled_s, self._last_backoff_s) * (1 - self._chance() / 2)

    def succeeded(self) -> None:
        """The session is there again."""
        assert self.state is State.LOGGING_IN, self
        self.state = State.UP

    def end(self) -> None:
        """No more logins."""
        self.state = State.ENDED


class Fate(Enum):
    """What becomes of a command that a session gave back."""

    DONE = "done"
    """It goes to its caller as it is."""
    SEND = "send"
    """The target has not executed it, or may execute it again: it waits for the next session."""
    UNKNOWN = "unknown"
    """Whether the target executed it is not known, and it must not be executed twice."""


def fate_of(command: Command, *, fenced: bool) -> Fate:
    """Decide on a command that came back from a session.

    Args:
        fenced: whether no task of that session can act any more when the command is sent again. Without it a command
            that was sent is not sent again: the first one could act after the second, and undo what came between.
    """
    error = command.error
    if isinstance(error, AttemptAborted):
        fenced = True  # the target said so
    elif not isinstance(error, SessionLost):
        return Fate.DONE
    if not command.was_sent:
        return Fate.SEND
    idempotent = is_idempotent(command.cdb) if command.idempotent is None else command.idempotent
    return Fate.SEND if idempotent and fenced else Fate.UNKNOWN
