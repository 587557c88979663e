"""A road that outlives its sessions: it logs in again, sends again what may be, and calls the rest unknown.

**What is sent again.** When a session is lost, a command under way was never sent, or was sent. The first kind (its
header was not given to the connection's output: ``Command.was_sent``) was not executed, and waits for the next session.
Of the second kind, what is idempotent by its CDB (``scsi.idempotence``) waits too; all else fails at once with
SessionLost: whether the target executed it is unknown, and it is never said to be done.

**Why no write of the old session can undo one of the new.** A write that was sent on the lost session may still be on
its way in the target: were it executed after it was sent again and acknowledged, and after a later write to the same
blocks was acknowledged too, it would undo that. So every new login has the same InitiatorName and ISID and TSIH 0: the
target ends the old session, and all its tasks, before it answers the login (session reinstatement, RFC 7143 section
6.3.5; our target lets new commands wait for what a disk is still at). That holds within one target portal group; where
the new session is with another one the old tasks are not known to be gone, and what was sent is unknown. Every road has
an ISID of its own, so two programs of a host, of one name, do not end one another's sessions. A command that was
acknowledged is no longer kept here, and is not sent again. Of two commands under way at once SAM-5 promises no order;
they are sent again in the order in which they were started.

**What the new session is asked first**: each logical unit that is known (:meth:`Recovery.know`) has to report its unit
attentions, and has to be the same disk as before (VPD 83h, else serial number, else size); then what callers have asked
to be done (:meth:`Recovery.on_new_session`: a reservation's registration is looked after there). Until all that is done
no call is sent. Another disk ends the road with DiskChanged.

**Power.** What a flush says after a new login: ``write_account``.

**Time.** No call outlives its deadline: waiting here it ends with TimedOut at it, and on the session in the same way,
whatever is done behind it (``ladder``). An attempt has a time of its own below that
(``SessionOptions.command_timeout_s``), after which it is aborted and, where that is safe, sent again. A deaf target is
found by NOP-Out (``keepalive``) in the time of the options, whatever the kernel thinks of the connection; a timeout of
TCP's own would know nothing of a target that is stopped while its kernel acknowledges, and add nothing. During an
outage nothing is kept but the calls that wait, one for each caller, and one login.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.defer import TimeoutError as TookTooLong
from twisted.logger import Logger

from csvd.errors import CsvdError
from csvd.iscsi.codes import AsyncEvent, TaskManagementFunction
from initiator.deadlines import Deadlines
from initiator.engine.relogin import Fate, Relogin, State, fate_of
from initiator.engine.requests import GOOD, AsyncMessage, Command, Request
from initiator.errors import AttemptAborted, DiskChanged, InitiatorError, SessionClosed, SessionLost, TimedOut
from initiator.events import (
    LoggedInAgain,
    LoginFailed,
    RoadEnded,
    RoadEvent,
    SessionGone,
    TargetSays,
    UnitAttention,
)
from initiator.identity import Identity, Questions, attention_of
from initiator.road import Finished, deadline_of
from initiator.scsi import cdb as cdbs
from initiator.scsi import lun as luns
from initiator.scsi import sense
from initiator.scsi.sense import Sense
from initiator.session import Session
from initiator.write_account import WriteAccount, ended_well

LogIn = Callable[[float], Coroutine[Deferred[Any], Any, Session]]
"""Logs in by a deadline, with the name and the ISID of the session before."""

Listener = Callable[[RoadEvent], None]
NewSession = Callable[[Session], Coroutine[Deferred[Any], Any, None]]

_Call = tuple[Finished, float, memoryview | None, memoryview]
"""Of a command under way: whom to call, its deadline, and its buffers, which a session takes out of it."""


class Recovery:
    """A :class:`Road <initiator.road.Road>` of one session after another. Made by :func:`initiator.connect`.

    Args:
        session: the first session, just logged in.
        log_in: makes the next one.
        chance: gives numbers from 0 to below 1, for the time between two logins.
    """

    def __init__(self, session: Session, log_in: LogIn, *, chance: Callable[[], float] = random.random) -> None:
        self.options = session.options
        self.reactor = session.reactor
        self.log = Logger()
        self._session = session
        self._log_in = log_in
        self._relogin = Relogin(self.options.first_backoff_s, self.options.last_backoff_s, chance)
        self._writes = WriteAccount(assume_power_kept=self.options.assume_power_kept)
        self._calls: dict[Command, _Call] = {}
        self._again: dict[Command, Command] = {}
        """The command that stands for one that was started here, where that one was sent before."""
        self._sent: dict[Command, int | None] = {}
        """Commands that wait, or were sent again, after they were sent on a session of this portal group."""
        self._waiting = Deadlines(self.reactor, self._late)
        self._known: dict[int, Identity] = {}
        self._hooks: list[NewSession] = []
        self._listeners: list[Listener] = []
        self._waiters: list[Deferred[None]] = []
        self._timer: Any = None
        self._trying: Deferred[None] | None = None
        self._failure: InitiatorError | None = None
        """Of the last login; of the road, when it has ended."""
        self._closing = False
        self._over = False
        self._use(session)

    # --- what it is

    @property
    def session(self) -> Session:
        """The session that it has now, or had last."""
        return self._session

    @property
    def where(self) -> str:
        """Portal and target, for messages."""
        return self._session.where

    @property
    def alive(self) -> bool:
        """Whether commands can be started: they may have to wait for a session."""
        return self._relogin.state is not State.ENDED and not self._closing

    @property
    def connected(self) -> bool:
        """Whether there is a session now."""
        return self._relogin.state is State.UP and self._session.alive

    def __repr__(self) -> str:
        return f"<Recovery {self.where} {self._relogin} calls={len(self._calls)} waiting={len(self._waiting.at)}>"

    def listen(self, listener: Listener) -> Callable[[], None]:
        """Have a function called with every :data:`RoadEvent <initiator.events.RoadEvent>`; give what ends that."""
        self._listeners.append(listener)
        return lambda: self._listeners.remove(listener)

    def on_new_session(self, hook: NewSession) -> Callable[[], None]:
        """Have something done on every new session, before any call is sent on it; give what ends that. When it raises
        an error by which a login may fail for a while there is another login, with any other the road ends."""
        self._hooks.append(hook)
        return lambda: self._hooks.remove(hook)

    async def know(self, lun: int, *, timeout_s: float | None = None) -> Identity:
        """Take note of what a logical unit is: after every new login it has to be the same.

        Raises:
            ConnectFailed: there is no disk.
            TimedOut, SessionLost.
        """
        field = luns.encode(lun)
        limit_s = self.options.timeout_s if timeout_s is None else timeout_s
        identity = await Questions(self, field, limit_s, lambda lun, told: None).identify()
        self._known[field] = identity
        return identity

    # --- commands

    def start(self, command: Command, deadline_s: float, finished: Finished) -> None:
        """Send a command as soon as there is a session with room for it: :meth:`Road.start`."""
        if self._relogin.state is State.ENDED or self._closing:
            raise self._closed_error()
        self._calls[command] = (finished, deadline_s, command.data_in, command.data_out)
        if self._relogin.state is State.UP:
            try:
                self._session.start(command, deadline_s, self._finished, self._attempt_s(deadline_s))
            except SessionClosed:
                self._waiting.set(command, deadline_s)  # it is just about to tell us
            else:
                if not command.length:
                    self._writes.sent(command)
        else:
            self._waiting.set(command, deadline_s)

    def cancel(self, command: Command) -> None:
        """Abort a command that nobody waits for any more."""
        if self._calls.pop(command, None) is None:
            return
        self._writes.not_done(command)
        self._sent.pop(command, None)
        if self._waiting.at.pop(command, None) is None:
            self._session.cancel(self._again.pop(command, command))

    def _attempt_s(self, deadline_s: float) -> float | None:
        limit_s = self.options.command_timeout_s
        if not limit_s:
            return None
        now_s = self.reactor.seconds()
        return float(max(now_s + limit_s, deadline_s - (deadline_s - now_s) / 3))

    def _finished(self, command: Command) -> None:
        """A session gave back a command as it was started here."""
        finished, deadline_s, data_in, _ = self._calls[command]
        if command.error is None and command.status == GOOD and not command.response:
            if data_in is None:
                self._writes.good(command)
        elif not self._ends(command, command, deadline_s):
            return
        del self._calls[command]
        finished(command)

    def _finished_again(self, again: Command) -> None:
        """A session gave back a command that stands for another."""
        command: Command = again.context
        finished, deadline_s, _, _ = self._calls[command]
        del self._again[command]
        command.status, command.response, command.sense = again.status, again.response, again.sense
        command.residual, command.received, command.error = again.residual, again.received, again.error
        if ended_well(again):
            self._writes.good(command)
        elif not self._ends(command, again, deadline_s):
            return
        self._sent.pop(command, None)
        del self._calls[command]
        finished(command)

    def _ends(self, command: Command, given: Command, deadline_s: float) -> bool:
        """Whether a call is over by what a session gave back for it, which is not GOOD; else it waits for another."""
        self._writes.not_done(command)
        if given.error is None:
            attention = attention_of(given)
            if attention is not None:
                self._attention(command.lun, attention)
            return True
        if given.was_sent:
            self._sent[command] = self._session.portal_group_tag
        fate = fate_of(given, fenced=True) if self.alive else Fate.DONE
        if fate is Fate.SEND:
            self._wait(command, deadline_s)
            return False
        if fate is Fate.UNKNOWN:
            command.error = self._unknown(command, given.error)
        elif isinstance(given.error, (TimedOut, SessionLost)):
            given.error.outcome_unknown = command in self._sent
        self._sent.pop(command, None)
        return True

    def _wait(self, command: Command, deadline_s: float) -> None:
        command.error = None
        self._waiting.set(command, deadline_s)
        if self.connected:  # an attempt came to nothing, and the session lives on
            self.reactor.callLater(0, self._send_waiting)

    def _late(self, request: Request) -> None:
        """A command that waits for a session has come to its deadline."""
        assert isinstance(request, Command)
        why = str(self._failure or self._session.ended or "")
        error = TimedOut(f"{cdbs.name_of(request.cdb)} found no session in its time", where=self.where, why=why)
        error.outcome_unknown = request in self._sent
        self._fail(request, error)

    def _fail(self, command: Command, error: InitiatorError) -> None:
        finished = self._calls.pop(command)[0]
        self._sent.pop(command, None)
        command.error = error
        finished(command)

    def _unknown(self, command: Command, cause: InitiatorError) -> InitiatorError:
        kind = TimedOut if isinstance(cause, AttemptAborted) else SessionLost
        why = cause.why or cause.what
        return kind(f"whether {cdbs.name_of(command.cdb)} was done is unknown", where=self.where, why=why)

    def _send_waiting(self) -> None:
        """Send what waits, in the order in which it was started."""
        session = self._session
        for command, (_, deadline_s, data_in, data_out) in list(self._calls.items()):
            if command not in self._waiting.at:
                continue
            if not self.connected:
                return
            del self._waiting.at[command]
            if command in self._sent and self._sent[command] != session.portal_group_tag:
                moved = SessionLost("the new session is with another portal group, and the old tasks may go on")
                self._fail(command, self._unknown(command, moved))
                continue
            out = None if data_in is not None or not len(data_out) else data_out
            again = Command(command.lun, command.cdb, data_in=data_in, data_out=out)
            again.idempotent, again.context = command.idempotent, command
            self._again[command] = again
            self._writes.sent(command)
            session.start(again, deadline_s, self._finished_again, self._attempt_s(deadline_s))

    # --- sessions

    def _use(self, session: Session) -> None:
        self._session = session
        session.on_end, session.on_message = self._session_ended, self._message

    def _session_ended(self, session: Session) -> None:
        if self._closing or self._relogin.state is State.ENDED:
            return
        self._tell(SessionGone(self.where, str(session.ended)))
        self._relogin.lost(self.reactor.seconds(), session.time2wait_s)
        self._schedule()

    def _schedule(self) -> None:
        delay_s = max(0.0, self._relogin.due_at_s - self.reactor.seconds())
        self._timer = self.reactor.callLater(delay_s, self._begin_login)

    def _begin_login(self) -> None:
        self._timer = None
        self._relogin.begin()
        self._trying = Deferred.fromCoroutine(self._try())
        self._trying.addErrback(self._stopped)

    def _stopped(self, failure: Any) -> None:
        self._trying = None
        if not failure.check(CancelledError):
            self.log.failure("{where}: login", failure, where=self.where)
            self._end(InitiatorError("the login failed by a fault of this program", why=str(failure.value)))

    async def _try(self) -> None:
        """Log in once; then all that waits is sent."""
        deadline_s = self.reactor.seconds() + self.options.login_timeout_s
        try:
            session = await self._log_in(deadline_s)
            try:
                left_s = max(deadline_s - self.reactor.seconds(), 0.0)
                await Deferred.fromCoroutine(self._receive(session)).addTimeout(left_s, self.reactor)
                if not session.alive:
                    raise SessionLost("the new session is lost already", where=session.where, why=str(session.ended))
            except TookTooLong:
                session.abort()
                raise TimedOut("the target is slow to show its disks", where=session.where) from None
            except BaseException:
                session.abort()
                raise
        except CsvdError as error:
            self._login_failed(error if isinstance(error, InitiatorError) else InitiatorError(str(error)))
        else:
            self._logged_in(session)

    async def _receive(self, session: Session) -> None:
        """Have every known logical unit say what it has to say, and prove that it is the same."""
        session.on_message = self._message
        for lun in sorted({*self._known, *self._writes.unflushed}):
            ask = Questions(session, lun, self.options.login_timeout_s, self._first_attention)
            await ask.take_attentions()
            if lun in self._known:
                self._known[lun].check(await ask.identify(), f"{session.where} LUN {luns.decode(lun)}")
            if lun in self._writes.at_risk and await ask.has_no_cache():
                self._writes.no_cache(lun)
        for hook in list(self._hooks):
            await hook(session)

    def _login_failed(self, error: InitiatorError) -> None:
        self._trying = None
        now_s = self.reactor.seconds()
        self._relogin.failed(now_s, error)
        if self._relogin.state is State.ENDED:
            self._end(error)
        elif self._relogin.state is State.WAITING:
            self._failure = error
            self._tell(LoginFailed(self.where, str(error), self._relogin.due_at_s - now_s))
            self._schedule()

    def _logged_in(self, session: Session) -> None:
        self._use(session)
        self._trying = self._failure = None
        self._relogin.succeeded()
        down_s = self.reactor.seconds() - self._relogin.lost_at_s
        self._tell(LoggedInAgain(self.where, down_s, self._relogin.tries))
        self._send_waiting()
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)

    # --- what the target says

    def _message(self, message: AsyncMessage) -> None:
        if message.event != AsyncEvent.SCSI_EVENT:
            self._tell(TargetSays(self.where, message.name))
        elif (told := sense.parse(message.sense)) is not None:
            self._tell(UnitAttention(self.where, luns.decode(message.lun), told))

    def _first_attention(self, lun: int, told: Sense) -> None:
        self._attention(lun, told, on_new_session=True)

    def _attention(self, lun: int, told: Sense, *, on_new_session: bool = False) -> None:
        if self._writes.attention(lun, told, on_new_session=on_new_session):
            self.log.warn("{where}: unflushed writes may be lost: {told}", where=self.where, told=str(told))
        self._tell(UnitAttention(self.where, luns.decode(lun), told))

    def _tell(self, event: RoadEvent) -> None:
        self.log.info("{event}", event=str(event))
        for listener in list(self._listeners):
            try:
                listener(event)
            except Exception:  # noqa: BLE001 - whatever a listener does, the road goes on
                self.log.failure("a listener failed")

    # --- other requests

    async def nop(self, *, timeout_s: float | None = None) -> float:
        """Ping the target, waiting for a session if need be; give the seconds until its answer.

        Raises:
            TimedOut, SessionClosed.
        """
        deadline_s = deadline_of(self, timeout_s)
        while True:
            session = await self._a_session(deadline_s)
            try:
                return await session.nop(timeout_s=max(0.0, deadline_s - self.reactor.seconds()))
            except (SessionLost, SessionClosed):
                if not self.alive:
                    raise

    async def task_management(
        self, function: TaskManagementFunction, *, lun: int = 0, timeout_s: float | None = None
    ) -> None:
        """Have the target run a task management function on the session that there is, or the next one; once.

        Raises:
            TaskManagementFailed: the target did not do it.
            TimedOut, SessionLost, SessionClosed.
        """
        deadline_s = deadline_of(self, timeout_s)
        session = await self._a_session(deadline_s)
        await session.task_management(function, lun=lun, timeout_s=max(0.0, deadline_s - self.reactor.seconds()))

    async def _a_session(self, deadline_s: float) -> Session:
        while not self.connected:
            if not self.alive:
                raise self._closed_error()
            waiter: Deferred[None] = Deferred(self._waiters.remove)
            self._waiters.append(waiter)
            waiter.addTimeout(max(0.0, deadline_s - self.reactor.seconds()), self.reactor)
            try:
                await waiter
            except TookTooLong:
                why = str(self._failure or self._session.ended or "")
                raise TimedOut("there is no session with the target", where=self.where, why=why) from None
        return self._session

    # --- the end

    async def close(self) -> None:
        """Let the calls under way end, and log out. Calls that wait for a session fail. Never raises."""
        self._closing = True
        try:
            if self._relogin.state is State.UP:
                await self._session.close()
        finally:
            self.abort()

    def abort(self) -> None:
        """End at once, without a logout; calls under way fail with SessionLost."""
        self._closing = True
        self._end(SessionClosed("this side has closed the session", where=self.where))

    def _closed_error(self) -> SessionClosed:
        return SessionClosed("the session is closed", where=self.where, why=str(self._failure or ""))

    def _end(self, error: InitiatorError) -> None:
        """No login any more: whatever waits fails."""
        if self._over:
            return
        self._over = True
        self._relogin.end()
        self._failure = error
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        trying, self._trying = self._trying, None
        if trying is not None:
            trying.cancel()
        self._session.abort()
        for request in self._waiting.stop():
            if isinstance(request, Command):
                self._fail(request, self._final(request, error))
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            waiter.callback(None)
        if not isinstance(error, SessionClosed):
            self._tell(RoadEnded(self.where, str(error)))

    def _final(self, command: Command, error: InitiatorError) -> InitiatorError:
        if isinstance(error, DiskChanged):
            return DiskChanged(error.what, where=error.where, why=error.why)
        lost = SessionLost("there is no session with the target any more", where=self.where, why=str(error))
        lost.outcome_unknown = command in self._sent
        lost.__cause__ = error
        return lost
