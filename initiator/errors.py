"""The errors of the initiator: every call of this package raises one of these, or succeeds."""

from __future__ import annotations

from typing import TYPE_CHECKING

from csvd.errors import ConfigError, CsvdError
from csvd.iscsi.codes import LoginStatus, RejectReason, TaskManagementResponse

if TYPE_CHECKING:
    from initiator.scsi.sense import Sense


class InitiatorError(CsvdError):
    """Root of the errors of the initiator."""


class UrlError(ConfigError, InitiatorError):
    """Not an iSCSI URL. The text never repeats the part that may hold a secret."""


class ConnectFailed(InitiatorError):
    """No connection to the portal: refused, unreachable, an unknown name."""


class ProtocolViolation(InitiatorError):
    """The target broke RFC 7143; the connection is closed at once."""


class DamagedPdu(InitiatorError):
    """A digest says that a PDU of the target is not what it sent; the connection is closed (RFC 7143 section 7.8)."""


class LoginRefused(InitiatorError):
    """The target ended the login with a status other than success (RFC 7143 section 11.13.5)."""

    def __init__(self, status: int, what: str = "", *, hint: str = "") -> None:
        self.status = status
        try:
            name = LoginStatus(status).name.lower().replace("_", " ")
        except ValueError:
            name = "a status RFC 7143 does not know"
        super().__init__(what or f"the target refused the login: {name} ({status:#06x})", hint=hint)


class AuthenticationFailed(LoginRefused):
    """The login failed for its CHAP user or secret, or for the want of them."""

    def __init__(self, what: str = "", *, hint: str = "check the CHAP user and secret") -> None:
        super().__init__(LoginStatus.AUTHENTICATION_FAILURE, what, hint=hint)


class LoginRedirected(LoginRefused):
    """The target is at another address (status class 1), and we could not follow it there."""

    def __init__(self, status: int, address: str, *, what: str = "", why: str = "") -> None:
        self.address = address
        super().__init__(
            status, what or f"the target has moved to {address[:80]!r}", hint="" if what else "connect there"
        )
        self.why = why


class SessionLost(InitiatorError):
    """The session ended before the call did: whether the target executed the command is unknown.

    Attributes:
        outcome_unknown: False where it is known that the target never had the whole command, and so did nothing.
    """

    outcome_unknown = True


class TimedOut(InitiatorError):
    """The deadline of the call passed: whether the target executed the command is unknown, and it may do so yet.

    Attributes:
        outcome_unknown: False where it is known that the target never had the whole command, and so did nothing.
    """

    outcome_unknown = True


class NoPath(TimedOut):
    """No path to the disk took the command in its time; the text says of each why."""


class DifferentDisk(InitiatorError):
    """A path leads to another disk than the others: by its VPD page 83h, its serial number or its size."""


class SessionClosed(InitiatorError):
    """The call was made on a session that this side has closed, or that ended: nothing was sent."""

    outcome_unknown = False


class CommandAborted(InitiatorError):
    """The command was ended by a task management function that this side asked for."""


class AttemptAborted(CommandAborted):
    """The command had no answer in the time of one attempt, and was ended by ABORT TASK or LOGICAL UNIT RESET: no task
    of it is left, and how much of it was done is unknown."""


class CommandRejected(InitiatorError):
    """The target answered a PDU by a Reject (RFC 7143 section 11.17)."""

    def __init__(self, what: str, reason: int) -> None:
        self.reason = reason
        try:
            name = RejectReason(reason).name.lower().replace("_", " ")
        except ValueError:
            name = "unknown reason"
        super().__init__(what, why=f"rejected: {name} ({reason:#04x})")


class TaskManagementFailed(InitiatorError):
    """The target answered a task management function by anything but "function complete" (section 11.6.1)."""

    def __init__(self, what: str, response: int) -> None:
        self.response = response
        try:
            name = TaskManagementResponse(response).name.lower().replace("_", " ")
        except ValueError:
            name = "unknown response"
        super().__init__(what, why=f"{name} ({response})")


class CommandFailed(InitiatorError):
    """A SCSI command ended with a status other than GOOD.

    Attributes:
        command: the name of the command.
        status: the SCSI status (SAM-5 section 5.3.1).
        sense: what CHECK CONDITION said; None with any other status.
        response: the iSCSI response code; other than 0 the command did not reach the device server (section 11.4.3).
    """

    def __init__(self, command: str, status: int, sense: Sense | None = None, *, response: int = 0) -> None:
        self.command = command
        self.status = status
        self.sense = sense
        self.response = response
        if response:
            why = f"target failure, iSCSI response {response:#04x}"
        elif sense is not None:
            why = str(sense)
        else:
            why = f"{STATUS_NAMES.get(status, 'unknown SCSI status')} ({status:#04x})"
        super().__init__(f"{command} failed", why=why)

    @property
    def sense_key(self) -> int | None:
        """The sense key (SPC-4 section 4.5.6), or None without sense data."""
        return None if self.sense is None else self.sense.key

    @property
    def asc(self) -> int | None:
        """The additional sense code, or None without sense data."""
        return None if self.sense is None else self.sense.asc

    @property
    def ascq(self) -> int | None:
        """The additional sense code qualifier, or None without sense data."""
        return None if self.sense is None else self.sense.ascq


class NotReady(CommandFailed):
    """Sense key NOT READY: the logical unit can not be reached now, at this port or at all."""


class MediumError(CommandFailed):
    """Sense key MEDIUM ERROR: blocks can not be read or written; ``sense.information`` is the first of them."""


class HardwareError(CommandFailed):
    """Sense key HARDWARE ERROR."""


class IllegalRequest(CommandFailed):
    """Sense key ILLEGAL REQUEST: the device does not take the command as it is; nothing was done."""


class UnsupportedCommand(IllegalRequest):
    """The device does not have the command, or not this service action of it or this field (20h, 24h)."""


class WriteProtected(CommandFailed):
    """Sense key DATA PROTECT: the disk may not be written."""


class SpaceExhausted(WriteProtected):
    """A thin disk has no room left behind it (27h/07h): after more was provided the write may be done again."""


class AttentionPending(CommandFailed):
    """Sense key UNIT ATTENTION: the command was not executed, for there is news of the unit."""


class CommandAbortedByTarget(CommandFailed):
    """Sense key ABORTED COMMAND, or status TASK ABORTED."""


class CopyFailed(CommandFailed):
    """Sense key COPY ABORTED: a third-party copy ended in the middle; ``sense`` says of which end."""


class Miscompare(CommandFailed):
    """Sense key MISCOMPARE: the blocks are not what the command says; nothing was written.

    Attributes:
        offset_bytes: of COMPARE AND WRITE: where the first difference is in the data to compare.
        lba: of VERIFY: the first block that differs. Both are None where the target does not say.
    """

    offset_bytes: int | None = None
    lba: int | None = None


class ReservationConflict(CommandFailed):
    """Status RESERVATION CONFLICT: a reservation of somebody else, or a key not registered here (SPC-4 5.13)."""


class DiskChanged(InitiatorError):
    """After a new login there is another disk behind the LUN: nothing is written to it, and the road is at an end."""


class FlushInDoubt(InitiatorError):
    """A flush after a new login, to a target that may have lost power since it acknowledged writes: those without FUA
    that were not flushed before may be gone. It is said once; the writes since the last flush are to be done again."""


class ResidualMismatch(InitiatorError):
    """The command ended with GOOD but moved other than the number of bytes that it names."""


class MalformedAnswer(InitiatorError):
    """Data-In that is shorter than its own header says, or whose fields contradict one another."""


STATUS_NAMES = {
    0x00: "GOOD",
    0x02: "CHECK CONDITION",
    0x04: "CONDITION MET",
    0x08: "BUSY",
    0x18: "RESERVATION CONFLICT",
    0x28: "TASK SET FULL",
    0x30: "ACA ACTIVE",
    0x40: "TASK ABORTED",
}
"""SAM-5 section 5.3.1."""
