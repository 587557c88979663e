"""A road whose answers a function gives, and a disk on it whose size is known."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from twisted.internet.task import Clock

from initiator.disk import Disk
from initiator.engine.requests import Command
from initiator.errors import InitiatorError
from initiator.options import SessionOptions
from initiator.road import Finished
from initiator.scsi.answers import Capacity
from initiator.scsi.inquiry import BlockLimits
from tests.unit.initiator.session_script import Outcome

CHECK_CONDITION = 0x02
BLOCK_BYTES = 512

Answer = Callable[[Command], Any]


def fixed_sense(key: int, asc: int, ascq: int = 0, information: int | None = None) -> bytes:
    """Give sense data in the fixed format."""
    head = bytes((0x70, 0, key)) if information is None else bytes((0xF0, 0, key))
    return head + (information or 0).to_bytes(4, "big") + b"\x0a" + bytes(4) + bytes((asc, ascq)) + bytes(4)


def refused(key: int, asc: int, ascq: int = 0, information: int | None = None) -> tuple[int, bytes]:
    """Give the answer CHECK CONDITION with such sense data."""
    return CHECK_CONDITION, fixed_sense(key, asc, ascq, information)


class StubRoad:
    """A road that asks a function for its answers: data, a (status, sense), an error, or None: nothing yet."""

    where = "192.0.2.1:3260 iqn.2026-11.test:stub"
    alive = True
    session: Any = None

    def __init__(self, answer: Answer, **options: Any) -> None:
        self.reactor = Clock()
        self.options = SessionOptions(**options)
        self.answer = answer
        self.commands: list[Command] = []
        self.data_out: list[bytes] = []
        self.waiting: list[tuple[Command, Finished]] = []
        self.cancelled: list[Command] = []

    def start(self, command: Command, deadline_s: float, finished: Finished) -> None:
        self.commands.append(command)
        self.data_out.append(bytes(command.data_out))
        answer = self.answer(command)
        if answer is None:
            self.waiting.append((command, finished))
        else:
            self.reactor.callLater(0, self.end, command, finished, answer)

    def cancel(self, command: Command) -> None:
        self.cancelled.append(command)

    def end(self, command: Command, finished: Finished, answer: Any) -> None:
        """Let a command end."""
        if isinstance(answer, InitiatorError):
            command.error = answer
        elif isinstance(answer, tuple):
            command.status, command.sense = answer
        elif command.data_in is not None:
            data = answer[: command.length]
            command.data_in[: len(data)] = data
            command.received = len(data)
            command.residual = command.length - len(data)
        finished(command)

    def settle(self, outcome: Outcome) -> Any:
        """Let everything end that has an answer; give the result or the error."""
        while outcome.waiting and self.reactor.getDelayedCalls():
            self.reactor.advance(0)
            if outcome.waiting and not any(call.getTime() <= self.reactor.seconds() for call in self._calls()):
                self.reactor.advance(0.05)
        return outcome.result

    def _calls(self) -> Any:
        return self.reactor.getDelayedCalls()

    @property
    def cdbs(self) -> list[bytes]:
        """The CDBs that came."""
        return [command.cdb for command in self.commands]


class Rig:
    """A disk on a stub road."""

    def __init__(
        self,
        answer: Answer,
        *,
        blocks: int = 1 << 20,
        limits: BlockLimits | None = None,
        capacity_tail: bytes = bytes(20),
        **options: Any,
    ) -> None:
        size = (blocks - 1).to_bytes(8, "big") + BLOCK_BYTES.to_bytes(4, "big") + capacity_tail
        self.road = StubRoad(lambda _: size, **options)
        road: Any = self.road
        self.disk = Disk(road, 0)
        self.disk.limits = limits or BlockLimits()
        assert isinstance(self.settle(self.disk.read_capacity()), Capacity)
        self.road.answer = answer
        self.road.commands.clear()
        self.road.data_out.clear()

    def settle(self, work: Any) -> Any:
        """Run a call to its end; give its result or its error."""
        return self.road.settle(Outcome(work))


def good(command: Command) -> bytes:
    """Answer GOOD, with zeros."""
    return bytes(command.length)
