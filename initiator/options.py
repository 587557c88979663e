"""How sessions behave."""

from __future__ import annotations

from dataclasses import dataclass, field

from csvd.iscsi.keys import OFFER, SessionParameters


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOptions:
    """How a session behaves. Times are in seconds."""

    timeout_s: float = 30.0
    """The deadline of a call that names none, and of the login."""
    queue_depth: int = 32
    """Commands under way at once; more calls wait their turn. The target's CmdSN window may allow fewer."""
    nop_interval_s: float = 5.0
    """After so long without a byte from the target it is pinged; 0 never pings."""
    nop_timeout_s: float = 10.0
    """A ping without an answer for so long ends the session."""
    command_timeout_s: float = 20.0
    """A command without an answer for so long, or for two thirds of the time of its call where that is longer, is
    aborted, and sent again where that is safe; only on a road that logs in again. 0: only calls have a deadline."""
    abort_timeout_s: float = 5.0
    """An ABORT TASK without an answer for so long is followed by a LOGICAL UNIT RESET; one that has none for so long
    either, by the end of the session."""
    login_timeout_s: float = 10.0
    """The time of one login of a road that logs in again."""
    first_backoff_s: float = 0.1
    """Between the first and the second login after a session was lost; it doubles with every further one."""
    last_backoff_s: float = 3.0
    """The longest time between two logins."""
    assume_power_kept: bool = False
    """Take 29h/00h after a new login, which may mean a loss of power and mostly does not, for none: a flush then says
    nothing of writes that were acknowledged before (FlushInDoubt)."""
    offer: SessionParameters = field(default=OFFER)
    """What is proposed in the login."""
    connections: int = 1
    """TCP connections of the session (RFC 7143 section 4.2); the target may take fewer."""
