"""A session on a clock that stands still, over a link without a socket, to a target played by hand."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.python.failure import Failure

from csvd.iscsi.codes import Opcode
from initiator.engine.requests import Command
from initiator.options import SessionOptions
from initiator.session import Session
from initiator.url import Portal
from tests.unit.initiator.target_script import TARGET, Pdu, Script, pdu


class StillLink:
    """A link that keeps what it is told."""

    def __init__(self) -> None:
        self.bytes_received = 0
        self.wakes = 0
        self.kept = 0
        self.closed = False

    def start(self) -> None:
        pass

    def wake(self) -> None:
        self.wakes += 1

    def keep_unsent(self) -> None:
        self.kept += 1

    def close(self) -> None:
        self.closed = True


class SessionScript:
    """The session, its clock, its link and the target."""

    def __init__(self, *, clock: Clock | None = None, **options: Any) -> None:
        self.clock = clock or Clock()
        self.script = Script()
        self.link = StillLink()
        self.session = Session(Portal("192.0.2.1"), TARGET, SessionOptions(**options), reactor=self.clock)
        link: Any = self.link
        self.attaching = Outcome(self.session.attach(self.script.engine, link))

    def log_in(self) -> None:
        (request,) = self.script.sent()
        answer = {"MaxRecvDataSegmentLength": "8192", "ImmediateData": "Yes", "InitialR2T": "Yes"}
        self.say(self.script.login_response(request, answer))
        assert self.attaching.result is None

    def say(self, *pdus: bytes) -> None:
        data = b"".join(pdus)
        self.link.bytes_received += len(data)
        self.session.link_events(self.script.engine.feed(data))

    def sent(self) -> list[Pdu]:
        return self.script.sent()

    def submit(self, timeout_s: float | None = None, **fields: Any) -> tuple[Command, Outcome]:
        command = Command(0, fields.pop("cdb", bytes(6)), **fields)
        return command, Outcome(self.session.submit(command, timeout_s))

    def good(self, *commands: Command) -> None:
        """Let the target end commands with GOOD."""
        self.say(*(self.script.response(command) for command in commands))

    def answer(self, opcode: Opcode, sent: Pdu, **fields: Any) -> None:
        """Let the target answer a request."""
        numbers = self.script.numbers()
        self.say(pdu(opcode, **numbers | {"initiator_task_tag": sent.initiator_task_tag} | fields))


def ready(**options: Any) -> SessionScript:
    """Give a session that is logged in."""
    script = SessionScript(**options)
    script.log_in()
    return script


class Outcome:
    """What came of a coroutine or a Deferred; ``WAITING`` until something has."""

    WAITING = object()

    def __init__(self, work: Coroutine[Deferred[Any], Any, Any] | Deferred[Any]) -> None:
        self.result: Any = self.WAITING
        self.deferred = work if isinstance(work, Deferred) else Deferred.fromCoroutine(work)
        self.deferred.addBoth(self._came)

    def _came(self, result: Any) -> None:
        self.result = result.value if isinstance(result, Failure) else result

    @property
    def waiting(self) -> bool:
        return self.result is self.WAITING
