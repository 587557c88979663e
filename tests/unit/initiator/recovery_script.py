"""A road that logs in again, on a clock that stands still, to targets played by hand: one for each session."""

from __future__ import annotations

from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from initiator.engine.requests import Command
from initiator.errors import InitiatorError
from initiator.events import RoadEvent
from initiator.recovery import Recovery
from initiator.session import Session
from tests.unit.initiator.session_script import SessionScript

ATTENTION = b"\x70\0\x06" + bytes(9)


class Outage:
    """The road, its clock, the sessions so far, and the logins that wait for an answer of the test."""

    def __init__(self, **options: Any) -> None:
        self.clock = Clock()
        self.options = {
            "nop_interval_s": 0,
            "command_timeout_s": 0,
            "first_backoff_s": 1,
            "last_backoff_s": 8,
        } | options
        self.logins: list[Deferred[Session]] = []
        self.events: list[RoadEvent] = []
        self.now = self.session_script()
        self.road = Recovery(self.now.session, self._log_in, chance=lambda: 0.0)
        self.road.listen(self.events.append)

    def session_script(self) -> SessionScript:
        script = SessionScript(clock=self.clock, **self.options)
        script.log_in()
        return script

    async def _log_in(self, deadline_s: float) -> Session:
        self.logins.append(Deferred())
        return await self.logins[-1]

    def cut(self, *, wait_s: float = 0) -> None:
        """Break the connection; the time that was negotiated is waited."""
        self.now.session.time2wait_s = wait_s or 1e-9
        self.now.session.link_lost("cut")
        self.clock.advance(1e-9)

    def answer(self, **fields: Any) -> SessionScript:
        """Let the login that waits succeed; the script of the new session."""
        self.now = self.session_script()
        self.logins[-1].callback(self.now.session)
        return self.now

    def refuse(self, error: InitiatorError) -> None:
        """Let the login that waits fail."""
        self.logins[-1].errback(error)

    def start(self, cdb: bytes = bytes(6), *, timeout_s: float = 30, **fields: Any) -> Call:
        return Call(self, Command(0, cdb, **fields), timeout_s)

    def sent(self) -> list[bytes]:
        """The CDBs of what was sent on the session of now, without their padding."""
        return [bytes(each.cdb).rstrip(b"\0") for each in self.now.sent() if "cdb" in each.fields]

    @property
    def under_way(self) -> list[Command]:
        """The commands that were sent on the session of now and have no answer."""
        return [each for each in self.now.script.engine.outstanding.values() if isinstance(each, Command)]

    def good(self, *, of: int | None = None) -> None:
        """Let the target end what is under way with GOOD: all, or so many."""
        self.now.good(*self.under_way[:of])

    def say_status(self, status: int, sense: bytes = b"") -> None:
        """Let the target end the oldest command under way."""
        command = self.under_way[0]
        data = len(sense).to_bytes(2, "big") + sense if sense else b""
        self.now.say(self.now.script.response(command, status, data=data))


class Call:
    """A command on the road, and what came of it."""

    def __init__(self, outage: Outage, command: Command, timeout_s: float) -> None:
        self.command = command
        self.times = 0
        outage.road.start(command, outage.clock.seconds() + timeout_s, self._finished)
        assert not self.times, "never from inside start"

    def _finished(self, command: Command) -> None:
        assert command is self.command
        self.times += 1
        assert self.times == 1

    @property
    def waits(self) -> bool:
        return not self.times

    @property
    def done(self) -> bool:
        return bool(self.times) and self.command.error is None

    @property
    def error(self) -> Any:
        return self.command.error if self.times else None
