"""What the target says by itself, and is obeyed (RFC 7143 section 11.9)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from csvd.iscsi.codes import AsyncEvent
from initiator.engine.requests import AsyncMessage
from initiator.errors import SessionLost
from initiator.scsi import sense

if TYPE_CHECKING:
    from initiator.session import Session

MESSAGES_LOGGED: Final = 64
"""Messages of a target that are logged one by one; of more, those whose number is a power of two."""


def obey(session: Session, message: AsyncMessage) -> None:
    """Tell whoever listens, and do what the target asks for: leave in the time that it gives, or at once."""
    _log(session, message)
    if session.on_message is not None:
        session.on_message(message)
    if session.ended is not None:
        return
    _, second, third = message.parameters
    if message.event in (AsyncEvent.CONNECTION_DROP, AsyncEvent.SESSION_DROP):
        session.time2wait_s = float(second)
        session.end(SessionLost("the target drops the session", where=session.where, why=message.name))
    elif message.event in (AsyncEvent.LOGOUT_REQUEST, AsyncEvent.NEGOTIATION_REQUEST) and not session.leaving:
        # A new login is a negotiation, too.
        Deferred.fromCoroutine(session.log_out(float(third))).addErrback(_failed, session)


def _log(session: Session, message: AsyncMessage) -> None:
    """Log what the target says: all of it while it is little, ever less of it when there is no end."""
    session.messages = count = session.messages + 1
    if count > MESSAGES_LOGGED and count & (count - 1):
        return
    session.log.info(
        "{where}: the target says: {name} {detail} ({count} so far)",
        where=session.where,
        name=message.name,
        detail=str(sense.parse(message.sense) or ""),
        count=count,
    )


def _failed(failure: Failure, session: Session) -> None:
    session.log.failure("{where}: logout on the target's demand", failure, where=session.where)
