"""What carries commands to the LUNs of a target: one session, or more than one behind the same face.

A :class:`Disk <initiator.disk.Disk>` runs over any road. The simplest is a
:class:`Session <initiator.session.Session>`: it ends when its connection does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from twisted.internet.defer import Deferred

from csvd.iscsi.codes import TaskManagementFunction
from initiator.engine.requests import Command
from initiator.errors import SessionClosed
from initiator.waiting import answer

if TYPE_CHECKING:
    from initiator.options import SessionOptions
    from initiator.session import Session

Finished = Callable[[Command], None]


class Road(Protocol):
    """Carries commands. Times are in seconds; a deadline is a time of ``reactor.seconds()``."""

    reactor: Any
    options: SessionOptions

    @property
    def where(self) -> str:
        """Portal and target, for messages."""

    @property
    def session(self) -> Session:
        """The session that it has now, or had last."""

    @property
    def alive(self) -> bool:
        """Whether commands can be started."""

    def start(self, command: Command, deadline_s: float, finished: Finished) -> None:
        """Send a command when there is room for it.

        ``finished(command)`` is called once, and never from inside this call: with ``command.error`` None when the
        command has a status, whichever that is; else with TimedOut or SessionLost (whether the target executed it is
        unknown), CommandAborted or CommandRejected. The buffers of the command belong to the road until then. A command
        that ended with an error is not to be started again.

        Raises:
            SessionClosed: the road is at an end; nothing was sent.
        """

    def cancel(self, command: Command) -> None:
        """Nobody waits for a command any more: it is aborted where it was sent, and ``finished`` is not called."""

    async def nop(self, *, timeout_s: float | None = None) -> float:
        """Ping the target; give the seconds until its answer."""

    async def task_management(
        self, function: TaskManagementFunction, *, lun: int = 0, timeout_s: float | None = None
    ) -> None:
        """Have the target run a task management function on a LUN (RFC 7143 section 11.5)."""

    async def close(self) -> None:
        """Let the calls under way end, and log out. Never raises."""

    def abort(self) -> None:
        """End at once, without a logout; calls under way fail with SessionLost."""


class Underway(Deferred[Command]):
    """Fires with a command at its status, whichever that is; cancelling it aborts the command.

    Errors: those of :meth:`Road.start`.
    """

    road: Road
    command: Command


def begin(road: Road, command: Command, deadline_s: float) -> Deferred[Command]:
    """Start a command, and give what fires when it has ended."""
    done = Underway(_cancelled)
    done.road, done.command, command.context = road, command, done
    try:
        road.start(command, deadline_s, answer)
    except SessionClosed as error:
        done.errback(error)
    return done


def submit(road: Road, command: Command, timeout_s: float | None = None) -> Deferred[Command]:
    """Start a command that has so long from now; by default what the road's options say."""
    return begin(road, command, deadline_of(road, timeout_s))


def deadline_of(road: Road, timeout_s: float | None) -> float:
    """Give the deadline of a call that has so long from now; by default what the road's options say."""
    return float(road.reactor.seconds() + (road.options.timeout_s if timeout_s is None else timeout_s))


def _cancelled(done: Deferred[Any]) -> None:
    """The Deferred itself fails with CancelledError."""
    if isinstance(done, Underway):
        done.command.context = None
        done.road.cancel(done.command)
