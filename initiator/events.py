"""What happens on a road besides its calls, for those who listen: :meth:`Recovery.listen`. ``str`` gives one line."""

from __future__ import annotations

from dataclasses import dataclass

from initiator.scsi.sense import Sense


@dataclass(frozen=True, slots=True)
class SessionGone:
    """The session was lost; a new login is on its way."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: session lost: {self.why}"


@dataclass(frozen=True, slots=True)
class LoginFailed:
    """A new login came to nothing; the next one begins in ``next_s`` seconds."""

    where: str
    why: str
    next_s: float

    def __str__(self) -> str:
        return f"{self.where}: login failed: {self.why}; again in {self.next_s:.1f} s"


@dataclass(frozen=True, slots=True)
class LoggedInAgain:
    """There is a new session, ``down_s`` seconds after the old one was lost, by the login of that number."""

    where: str
    down_s: float
    tries: int

    def __str__(self) -> str:
        return f"{self.where}: logged in again after {self.down_s:.1f} s, at try {self.tries}"


@dataclass(frozen=True, slots=True)
class UnitAttention:
    """A logical unit has news: a unit attention condition, or a SCSI event that the target told by itself."""

    where: str
    lun: int
    sense: Sense

    def __str__(self) -> str:
        return f"{self.where}: LUN {self.lun}: {self.sense}"


@dataclass(frozen=True, slots=True)
class TargetSays:
    """An Async Message other than a SCSI event (RFC 7143 section 11.9)."""

    where: str
    message: str

    def __str__(self) -> str:
        return f"{self.where}: the target says: {self.message}"


@dataclass(frozen=True, slots=True)
class RoadEnded:
    """There will be no further login."""

    where: str
    why: str

    def __str__(self) -> str:
        return f"{self.where}: given up: {self.why}"


RoadEvent = SessionGone | LoginFailed | LoggedInAgain | UnitAttention | TargetSays | RoadEnded
