"""What an operator should read in the log, and what is counted."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class EventKind(StrEnum):
    """Of what kind an event is."""

    LOGIN = "login"
    LOGIN_FAILURE = "login failure"
    LOGIN_REDIRECT = "login redirect"
    LOGOUT = "logout"
    CONNECTION_LOST = "connection lost"
    CONNECTION_FAILURE = "connection failure"
    """The connection is closed for what the peer did."""
    REJECT = "reject"
    TASK_FAILURE = "task failure"
    """A task ended for how its data came."""
    TASK_MANAGEMENT = "task management"
    RESET = "reset"
    ASYNC_MESSAGE = "async message"


class Event(NamedTuple):
    """One event of a connection. ``str`` gives the line for the log, without the peer's address."""

    kind: EventKind
    text: str

    def __str__(self) -> str:
        return f"{self.kind}: {self.text}"
