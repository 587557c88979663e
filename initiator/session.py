"""A session with a target: requests with deadlines over a link, queue depth, keepalive, logout."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Final, TypeVar

from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from csvd.iscsi.codes import TaskManagementFunction
from csvd.iscsi.keys import SessionParameters
from initiator.deadlines import Deadlines
from initiator.engine.connection import InitiatorConnection
from initiator.engine.requests import (
    AsyncMessage,
    Command,
    ConnectionFailed,
    Event,
    LoggedIn,
    Logout,
    Ping,
    Request,
    TaskManagement,
    TextExchange,
)
from initiator.engine.session import SessionState
from initiator.errors import (
    InitiatorError,
    SessionClosed,
    SessionLost,
    TaskManagementFailed,
    TimedOut,
)
from initiator.keepalive import Keepalive
from initiator.ladder import Ladder
from initiator.link import Link
from initiator.more_links import MoreLinks
from initiator.options import SessionOptions
from initiator.road import Finished, deadline_of, submit
from initiator.scsi import cdb as cdbs
from initiator.scsi import lun as luns
from initiator.target_messages import obey
from initiator.url import Portal
from initiator.waiting import answer, follow

LOGOUT_TIMEOUT_S: Final = 5.0

_Asked = TypeVar("_Asked", bound=Request)


class Session:
    """An I_T nexus: a :class:`Road <initiator.road.Road>` to the LUNs of one target, until it is lost. Made by
    :func:`initiator.login`."""

    def __init__(self, portal: Portal, target_name: str, options: SessionOptions, *, reactor: Any) -> None:
        self.portal = portal
        self.target_name = target_name
        self.peer: Portal | None = None
        """The address that was connected to, where ``portal`` may be a name."""
        self.options = options
        self.reactor = reactor
        self.log = Logger()
        self._engine: InitiatorConnection | None = None
        self._link: Link | None = None
        self._ended: InitiatorError | None = None
        self._closing: Deferred[None] | None = None
        self._logged_in: Deferred[None] = Deferred()
        self._queue: deque[Command] = deque()
        self._in_flight = 0
        self.messages = 0  # of the target by itself, so far
        self._deadlines = Deadlines(reactor, self._expired)
        self._ladder = Ladder(self._ask_reset, self._drop)
        self._idle: list[Deferred[None]] = []
        self.on_end: Callable[[Session], None] | None = None
        """Called once, when a session that was logged in has ended and before its calls fail."""
        self.on_message: Callable[[AsyncMessage], None] | None = None
        """Called with what the target says by itself."""
        self.time2wait_s = 0.0
        """When the session has ended: how long the target wants us to wait before a new login (Time2Wait)."""
        self._keepalive = Keepalive(
            reactor,
            options.nop_interval_s,
            ping=lambda: self.nop(timeout_s=options.nop_timeout_s),
            bytes_received=lambda: self._link.bytes_received if self._link is not None else 0,
            deaf=self._deaf,
        )
        self._more = MoreLinks(
            reactor,
            options.nop_interval_s,
            ping=lambda link: self._ping(Ping(), options.nop_timeout_s, link),
            deaf=self._deaf,
        )

    # --- what it is

    @property
    def alive(self) -> bool:
        """Whether calls can be made."""
        return self._ended is None and self._closing is None and self._usable

    @property
    def ended(self) -> InitiatorError | None:
        """Why the session is at an end; None while it is not."""
        return self._ended

    @property
    def leaving(self) -> bool:
        """Whether it is being logged out of, or is at an end."""
        return self._ended is not None or self._closing is not None

    @property
    def parameters(self) -> SessionParameters:
        """The outcome of negotiation (RFC 7143 section 13)."""
        return self._the_engine.session.parameters

    @property
    def tsih(self) -> int:
        """The target's handle of this session."""
        return self._the_engine.session.tsih

    @property
    def target_alias(self) -> str:
        """What the target calls itself to people; often empty."""
        return self._the_engine.session.target_alias

    @property
    def portal_group_tag(self) -> int | None:
        """The portal group that the session is with, where the target named it."""
        return self._the_engine.session.portal_group_tag

    @property
    def _the_engine(self) -> InitiatorConnection:
        if self._engine is None:
            raise SessionClosed("the session is not connected", where=self.where)
        return self._engine

    @property
    def _usable(self) -> bool:
        # The engine knows of a failure some calls before the session does: first come the answers that came before it.
        return self._engine is not None and self._engine.failed is None and (not self._more.all or self._more.usable)

    @property
    def state(self) -> SessionState:
        """What the engines of its connections share."""
        return self._the_engine.session

    @property
    def connections(self) -> int:
        """How many connections it has; 0 when it has ended."""
        return 0 if self._ended is not None or self._link is None else 1 + len(self._more.all)

    @property
    def session(self) -> Session:
        """This one."""
        return self

    @property
    def where(self) -> str:
        """Portal and target, for messages."""
        return f"{self.portal} {self.target_name}".strip()

    def __repr__(self) -> str:
        state = "alive" if self.alive else "ended"
        return f"<Session {self.where} {state} under way={self._in_flight} waiting={len(self._queue)}>"

    # --- calls

    def start(self, command: Command, deadline_s: float, finished: Finished, attempt_s: float | None = None) -> None:
        """Send a command when there is room for it: :meth:`Road.start <initiator.road.Road.start>`.

        Args:
            attempt_s: a time before the deadline. A command that was sent and has no answer then is aborted: it ends
                with AttemptAborted when the target has let it go, if nothing else comes first.
        """
        engine, link = self._engine, self._link
        # `alive` and `_issue`, without their calls: that is a tenth of what a session costs a READ.
        if engine is None or engine.failed is not None or self._ended is not None or self._closing is not None:
            raise self._closed_error()
        if self._more.all and not self._more.usable:
            raise self._closed_error()
        command.finished = finished
        command.deadline_s = deadline_s
        self._deadlines.set(command, deadline_s if attempt_s is None else min(attempt_s, deadline_s))
        if self._queue or self._more.all or self._in_flight >= self.options.queue_depth or link is None:
            self._queue.append(command)
            self._issue()
        else:
            self._in_flight += 1
            engine.send(command)
            link.wake()

    def cancel(self, command: Command) -> None:
        """Abort a command that nobody waits for any more."""
        command.finished = None
        self._deadlines.at.pop(command, None)
        self._take_back(command)

    def submit(self, command: Command, timeout_s: float | None = None) -> Deferred[Command]:
        """Start a command and give a Deferred for it: :func:`initiator.road.submit`."""
        return submit(self, command, timeout_s)

    async def nop(self, data: bytes = b"", *, timeout_s: float | None = None) -> float:
        """Ping the target by NOP-Out; give the seconds until its answer.

        Raises:
            TimedOut, SessionLost, SessionClosed.
        """
        return await self._ping(Ping(data), timeout_s)

    async def text(self, text: bytes, *, limit_bytes: int = 1 << 20, timeout_s: float | None = None) -> bytes:
        """Send a text and give the target's whole answer (RFC 7143 section 11.10).

        Raises:
            TimedOut, SessionLost, SessionClosed, CommandRejected.
        """
        exchange = await self._ask(TextExchange(text, limit=limit_bytes), timeout_s)
        return bytes(exchange.answer)

    async def task_management(
        self, function: TaskManagementFunction, *, lun: int = 0, timeout_s: float | None = None
    ) -> None:
        """Have the target run a task management function on a LUN, or on all of them. Commands under way that it ends
        fail with CommandAborted.

        Raises:
            TaskManagementFailed: the target did not do it.
            TimedOut, SessionLost, SessionClosed.
        """
        asked = await self._ask(TaskManagement(function, luns.encode(lun)), timeout_s)
        if asked.response:
            raise TaskManagementFailed(f"{function.name.replace('_', ' ')} failed", asked.response)

    async def close(self) -> None:
        """Let the calls under way end, log out, close the connection. Never fails; may be called again. Cancelled, it
        closes the connection at once."""
        if self._ended is not None:
            return
        if self._closing is not None:
            await follow(self._closing)
            return
        await self.log_out(None)

    async def log_out(self, within_s: float | None) -> None:
        """Let the calls under way end, within a time if the target set one, and log out. Only one does it."""
        self._closing = Deferred()
        self._keepalive.stop()
        late = None if within_s is None else self.reactor.callLater(within_s, self._be_idle)
        try:
            if (self._in_flight or self._queue) and within_s != 0:
                idle: Deferred[None] = Deferred()
                self._idle.append(idle)
                await idle
            self._more.stop()
            logout = await self._ask(Logout(), LOGOUT_TIMEOUT_S, closing=True)
            self.time2wait_s = float(logout.time2wait)
        except InitiatorError as error:
            self.log.info("{where}: logout: {error}", where=self.where, error=str(error))
        finally:
            if late is not None and late.active():
                late.cancel()
            self.abort()
            self._closing.callback(None)

    def abort(self) -> None:
        """Close the connection at once, without a logout; calls under way fail with SessionLost."""
        self.end(SessionClosed("this side has closed the session", where=self.where))

    # --- the link

    async def attach(self, engine: InitiatorConnection, link: Link, *, timeout_s: float | None = None) -> None:
        """Log in over a link, within a time, and use it from here on.

        Raises:
            LoginRefused, ProtocolViolation, TimedOut, SessionLost.
        """
        self._engine, self._link = engine, link
        limit_s = self.options.timeout_s if timeout_s is None else timeout_s
        late = self.reactor.callLater(limit_s, self._login_late, limit_s)
        link.start()
        try:
            await self._logged_in
        except CancelledError:
            self.abort()
            raise
        finally:
            if late.active():
                late.cancel()
        if self.alive:
            self._keepalive.start()

    def add(self, link: Link) -> None:
        """Use one more connection, which has logged in to this session."""
        if self.alive:
            self._more.add(link)
            self._issue()
        else:
            link.close()
            link.engine.close(self._closed_error())

    def _login_late(self, limit_s: float) -> None:
        self.end(TimedOut(f"the login took more than {limit_s:g} s", where=self.where))

    def link_events(self, events: list[Event]) -> None:
        """Take what happened (link.LinkOwner)."""
        at, aborting = self._deadlines.at, self._ladder.aborting
        for event in events:
            if type(event) is Command:
                self._in_flight -= 1
                if aborting or event.error is not None:
                    self._ladder.came_back(event)
                at.pop(event, None)
                finished = event.finished
                if finished is not None:  # else timed out or cancelled before: nobody waits
                    event.finished = None
                    finished(event)
            elif isinstance(event, Request):
                self._answered(event)
            elif isinstance(event, LoggedIn):
                self._logged_in.callback(None)
            elif isinstance(event, ConnectionFailed):
                self.end(event.error)
            else:
                obey(self, event)
        if self._queue:
            self._issue()
        if self._idle:
            self._check_idle()
        if self._more.all and self._link is not None:
            self._more.wake(self._link)

    def link_lost(self, reason: str) -> None:
        """The connection broke (link.LinkOwner)."""
        self.end(SessionLost("the connection to the target broke", where=self.where, why=reason))

    def end(self, error: InitiatorError) -> None:
        """End the session for good: every call that waits fails."""
        if self._ended is not None:
            return
        self._ended = error
        error.where = error.where or self.where
        self._keepalive.stop()
        if self._link is not None:
            self._link.close()
        if self._engine is not None:
            self._engine.close(error)
        self._more.close(error)
        waiting = self._deadlines.stop()
        if self._logged_in.called:
            self._told_end(error)
        self._queue.clear()
        self._in_flight = 0
        if not self._logged_in.called:
            self._logged_in.errback(error)
        elif not isinstance(error, SessionClosed):
            self.log.warn("{where}: session lost: {error}", where=self.where, error=str(error))
        for request in waiting:
            self._finish(request, self._lost_error(request, error))
        self._check_idle()

    def _told_end(self, error: InitiatorError) -> None:
        if not self.time2wait_s and not isinstance(error, SessionClosed):
            self.time2wait_s = float(self.parameters.default_time2wait)
        on_end, self.on_end = self.on_end, None
        if on_end is not None:
            on_end(self)

    def _lost_error(self, request: Request, error: InitiatorError) -> SessionLost:
        lost = SessionLost("the session with the target is lost", where=self.where, why=str(error))
        lost.outcome_unknown = not isinstance(request, Command) or request.was_sent
        lost.__cause__ = error
        return lost

    def _closed_error(self) -> SessionClosed:
        why = self._ended or (self._engine.failed if self._engine is not None else None)
        return SessionClosed("the session is closed", where=self.where, why=str(why or ""))

    # --- requests

    async def _ask(
        self, request: _Asked, timeout_s: float | None, *, closing: bool = False, over: Link | None = None
    ) -> _Asked:
        if not (self.alive or (closing and self._usable)):
            raise self._closed_error()
        done: Deferred[_Asked] = Deferred(partial(self._forget, request))
        request.context, request.finished = done, answer
        (self._the_engine if over is None else over.engine).send(request)
        self._deadlines.set(request, deadline_of(self, timeout_s))
        self._wake(over)
        return await done

    async def _ping(self, ping: Ping, timeout_s: float | None, over: Link | None = None) -> float:
        began = self.reactor.seconds()
        await self._ask(ping, timeout_s, over=over)
        return float(self.reactor.seconds() - began)

    def _forget(self, request: Request, _done: Deferred[Any]) -> None:
        """The caller waits no more; an answer is ignored."""
        request.finished = None
        self._deadlines.at.pop(request, None)

    def _issue(self) -> None:
        """Send the commands that have waited longest, as far as the queue depth goes."""
        while self._queue and self._in_flight < self.options.queue_depth and self._usable:
            self._in_flight += 1
            if self._more.all and self._link is not None:
                link = self._more.least(self._link)
                link.engine.send(self._queue.popleft())
                link.wake()
            else:
                self._the_engine.send(self._queue.popleft())
                self._wake()

    def _wake(self, link: Link | None = None) -> None:
        link = link or self._link
        if link is not None:
            link.wake()

    def _check_idle(self) -> None:
        if not (self._in_flight or self._queue):
            self._be_idle()

    def _be_idle(self) -> None:
        idle, self._idle = self._idle, []
        for done in idle:
            done.callback(None)

    def _answered(self, request: Request) -> None:
        self._deadlines.at.pop(request, None)
        if type(request) is TaskManagement and self._ladder.answered(request):
            return
        self._finish(request)

    def _finish(self, request: Request, error: InitiatorError | None = None) -> None:
        finished, request.finished = request.finished, None
        if finished is not None:
            request.error = error or request.error
            finished(request)

    def _take_back(self, request: Request) -> None:
        """Stop a request that nobody waits for any more: a command is aborted, other answers are ignored."""
        if not isinstance(request, Command) or self._ended is not None:
            return
        if request in self._queue:
            self._queue.remove(request)
            self._check_idle()
            return
        engine = request.connection or self._the_engine
        engine.release(request)
        link = self._more.of(engine) or self._link
        if request.sent and link is not None:
            link.keep_unsent()
        self._abort(request)
        if request.done and request.error is not None:  # it waited for the target's window, and was never sent
            self._in_flight -= 1
            self._issue()
            self._check_idle()

    def _abort(self, command: Command) -> None:
        """Have the target end a command, by whatever it takes (ladder)."""
        if command.was_sent and self._ladder.has(command):
            return
        engine = command.connection or self._the_engine
        abort = engine.abort(command)
        if abort is not None:
            self._ladder.begin(command, abort)
            self._deadlines.set(abort, deadline_of(self, self.options.abort_timeout_s))
            self._wake(self._more.of(engine))

    def _ask_reset(self, reset: TaskManagement) -> None:
        self.log.warn("{where}: a command can not be aborted: LOGICAL UNIT RESET", where=self.where)
        self._the_engine.send(reset)
        self._deadlines.set(reset, deadline_of(self, self.options.abort_timeout_s))
        self._wake()

    def _drop(self, why: str) -> None:
        self.end(TimedOut("the session is dropped", where=self.where, why=why))

    # --- time

    def _expired(self, request: Request) -> None:
        if not self._usable:
            return  # its end is on its way to here
        if isinstance(request, TaskManagement) and self._ladder.expired(request):
            return
        if isinstance(request, Command) and request.deadline_s > self.reactor.seconds():
            self._deadlines.set(request, request.deadline_s)
            if request.was_sent:
                self._abort(request)
            return
        name = cdbs.name_of(request.cdb) if isinstance(request, Command) else type(request).__name__
        late = TimedOut(f"{name} has no answer within its time", where=self.where)
        late.outcome_unknown = not isinstance(request, Command) or request.was_sent
        self._take_back(request)
        self._finish(request, late)

    def _deaf(self) -> None:
        why = f"no answer to a ping for {self.options.nop_timeout_s:g} s"
        self.end(SessionLost("the target is deaf", where=self.where, why=why))
