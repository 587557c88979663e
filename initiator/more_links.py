"""Further connections of a session, beside its first (RFC 7143 sections 4.2.2 and 6.3.1).

A command goes to the connection that has the least to bring to an end. At ErrorRecoveryLevel 0 the session ends with
any of them: a command that went down with its connection left a CmdSN that the target waits for.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Coroutine
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from initiator.dial import dial
from initiator.engine.connection import InitiatorConnection
from initiator.engine.login import LoginSettings
from initiator.engine.requests import ConnectionFailed, Event, LoggedIn
from initiator.errors import ConnectFailed, InitiatorError, LoginRefused, SessionLost, TimedOut
from initiator.keepalive import Keepalive
from initiator.link import Link

if TYPE_CHECKING:
    from initiator.session import Session

MOST_CONNECTIONS: Final = 64
"""Connections of one session."""

CHALLENGE_BYTES: Final = 1 + 32
"""CHAP_I and CHAP_C for a target that has to prove itself."""

_log = Logger()


class MoreLinks:
    """The links of a session beside its first. Most sessions have none.

    Args:
        ping: pings the target over a link; raises TimedOut without an answer.
        deaf: called when a ping has no answer.
    """

    def __init__(
        self,
        reactor: Any,
        interval_s: float,
        *,
        ping: Callable[[Link], Coroutine[Deferred[Any], Any, float]],
        deaf: Callable[[], None],
    ) -> None:
        self.all: list[Link] = []
        self._reactor = reactor
        self._interval_s = interval_s
        self._ping = ping
        self._deaf = deaf
        self._keepalives: list[Keepalive] = []

    @property
    def usable(self) -> bool:
        """Whether all of them can go on."""
        return all(link.engine.failed is None for link in self.all)

    def add(self, link: Link) -> None:
        """Use a link whose login is done."""
        keepalive = Keepalive(
            self._reactor,
            self._interval_s,
            ping=lambda: self._ping(link),
            bytes_received=lambda: link.bytes_received,
            deaf=self._deaf,
        )
        self.all.append(link)
        self._keepalives.append(keepalive)
        keepalive.start()

    def least(self, first: Link) -> Link:
        """Give the link with the least to bring to an end; among equals the earliest, whose caches are warm."""
        best, load = first, first.engine.load
        for link in self.all:
            if not load:
                break
            if link.engine.load < load:
                best, load = link, link.engine.load
        return best

    def wake(self, first: Link) -> None:
        """The target has said something on one link, and the window is open for what waits on the others."""
        for link in (first, *self.all):
            if link.engine.has_data_to_send:
                link.wake()

    def of(self, engine: InitiatorConnection | None) -> Link | None:
        """Give the link of a connection; None where it is the first one's."""
        return next((link for link in self.all if link.engine is engine), None)

    def stop(self) -> None:
        """The session is logged out of: the target may close them when it likes. Nothing is under way any more."""
        for keepalive in self._keepalives:
            keepalive.stop()
        for link in self.all:
            link.owner = _NOBODY

    def close(self, error: InitiatorError) -> None:
        """Close them at once."""
        self.stop()
        for link in self.all:
            link.close()
            link.engine.close(error)
        self.all.clear()


class _Nobody:
    """What a link reports to that nobody needs any more."""

    def link_events(self, events: list[Event]) -> None:
        """Nobody waits for it."""

    def link_lost(self, reason: str) -> None:
        """It was to be closed."""


_NOBODY: Final = _Nobody()


class _Joining:
    """What a link reports to until its login is done; then it is the session's."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.link: Link | None = None
        self.done: Deferred[None] = Deferred()

    def link_events(self, events: list[Event]) -> None:
        for index, event in enumerate(events):
            if isinstance(event, LoggedIn) and self.link is not None and not self.done.called:
                self.link.owner = self.session
                self.done.callback(None)
                if self.link.owner is self.session:
                    self.session.link_events(events[index + 1 :])
                return
            if isinstance(event, ConnectionFailed):
                self.fail(event.error)

    def link_lost(self, reason: str) -> None:
        self.fail(SessionLost("the connection broke during its login", where=self.session.where, why=reason))

    def late(self) -> None:
        self.fail(TimedOut("the login of a further connection has no answer", where=self.session.where))

    def fail(self, error: InitiatorError) -> None:
        if not self.done.called:
            self.done.errback(error)


async def join_more(session: Session, settings: LoginSettings, reactor: Any) -> None:
    """Add connections to a session until it has as many as were asked for and the target takes. Where the target has no
    room for one more, the session goes on with those that it has.

    Raises:
        ProtocolViolation: the target broke RFC 7143; the session is to be ended.
    """
    wanted = min(session.options.connections, session.parameters.max_connections, MOST_CONNECTIONS)
    # Half the time of the call: what is asked by the first connection has to have its own.
    deadline_s = reactor.seconds() + session.options.timeout_s / 2
    for number in range(1, wanted):
        if not session.alive:
            return
        challenge = os.urandom(CHALLENGE_BYTES)
        try:
            await _join(
                session, replace(settings, connection_id=number, target_challenge=challenge), reactor, deadline_s
            )
        except (LoginRefused, ConnectFailed, SessionLost, TimedOut) as error:
            _log.warn(
                "{where}: {number} of {wanted} connections: {error}",
                where=session.where,
                number=number,
                wanted=wanted,
                error=str(error),
            )
            return


async def _join(session: Session, settings: LoginSettings, reactor: Any, deadline_s: float) -> None:
    sock = await dial(session.portal, reactor=reactor, timeout_s=max(deadline_s - reactor.seconds(), 0.001))
    joining = _Joining(session)
    engine = InitiatorConnection(session.state, settings)
    joining.link = link = Link(sock, engine, joining, reactor=reactor)
    late = reactor.callLater(max(deadline_s - reactor.seconds(), 0.0), joining.late)
    joining.done.addCallback(lambda _: session.add(link))
    link.start()
    try:
        await joining.done
    except BaseException as error:
        link.close()
        engine.close(error if isinstance(error, InitiatorError) else SessionLost("the login was given up"))
        raise
    finally:
        if late.active():
            late.cancel()
