"""Errors that an iSCSI peer can cause; each class carries its wire code."""

from __future__ import annotations

from csvd.errors import CsvdError
from csvd.iscsi.codes import LoginStatus, RejectReason


class IscsiError(CsvdError):
    """Root of the errors of the iSCSI layer."""


class ConnectionFailure(IscsiError):
    """The connection can not go on: it is closed without an answer (RFC 7143 section 7.14)."""


class LoginFailure(IscsiError):
    """The login ends with a Login Response of this status, then the connection is closed (section 11.13.5).

    Args:
        pairs: keys that go with it; a redirected login has the TargetAddress.
    """

    def __init__(
        self, status: LoginStatus, what: str, *, hint: str = "", pairs: tuple[tuple[str, str], ...] = ()
    ) -> None:
        self.status = status
        self.pairs = pairs
        super().__init__(what, why=f"login status {status:#06x} {status.name}", hint=hint)


class PduRejected(IscsiError):
    """The PDU is answered by a Reject of this reason, and the connection goes on (section 11.17)."""

    def __init__(self, reason: RejectReason, what: str) -> None:
        self.reason = reason
        super().__init__(what, why=f"reject reason {reason:#04x} {reason.name}")


class TextError(IscsiError):
    """Text that is not a list of key=value pairs within the limits of RFC 7143 section 6.1."""
