"""What the control API answers instead of what was asked for: which error has which HTTP status, and its JSON face."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from csvd.cluster.errors import RemoteError
from csvd.errors import CsvdError


class ApiError(CsvdError):
    """A request that is not answered with what it asked for.

    Attributes:
        status: the HTTP status.
    """

    status: int = 500


class BadRequest(ApiError):
    """The request is wrong in itself; asked again, it is wrong again."""

    status = 400


class NotFound(ApiError):
    """There is no such thing."""

    status = 404


class MethodNotAllowed(ApiError):
    """The thing is there, but does not take this method."""

    status = 405


class Refused(ApiError):
    """As things are, the answer is no."""

    status = 409


class TooLarge(ApiError):
    """The request is longer than this node takes."""

    status = 413


class Unavailable(ApiError):
    """It can not be done now, or nobody can tell whether it was done."""

    status = 503


REFUSED: Final = 409

# By name, because an error of another node comes as a name. A class that is not here has the status of its base.
_STATUS: Final[Mapping[str, int]] = {
    "BadRequest": 400,
    "ConfigError": 400,
    "NotFound": 404,
    "GuestNotHere": 404,
    "NoSuchDisk": 404,
    "MethodNotAllowed": 405,
    "Refused": 409,
    "CommandRefused": 409,
    "VmError": 409,
    "MigrationError": 409,
    "TooLarge": 413,
    "Unavailable": 503,
    "GuestTimeout": 503,
    "OutcomeUnknown": 503,
    "PeerUnreachable": 503,
    "ClusterError": 503,
    "CsvdError": REFUSED,
}


def status_of(error: CsvdError) -> int:
    """The HTTP status of an error."""
    if isinstance(error, RemoteError):
        return _STATUS.get(error.kind, REFUSED)
    return next(_STATUS[base.__name__] for base in type(error).__mro__ if base.__name__ in _STATUS)


def to_json(error: CsvdError) -> dict[str, Any]:
    """The body that tells of an error."""
    kind = error.kind if isinstance(error, RemoteError) and error.kind else type(error).__name__
    fields = {"kind": kind, "what": error.what, "where": error.where, "why": error.why, "hint": error.hint}
    return {"error": fields}
