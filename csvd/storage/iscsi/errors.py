"""What the initiator's errors are to a disk: a StorageError with an errno, and why."""

from __future__ import annotations

import errno
from typing import Final

from csvd.errors import ConfigError, CsvdError
from csvd.storage.disk import FENCED, StorageError
from initiator.errors import (
    AuthenticationFailed,
    CommandAborted,
    CommandFailed,
    CommandRejected,
    ConnectFailed,
    DiskChanged,
    InitiatorError,
    LoginRefused,
    MalformedAnswer,
    ProtocolViolation,
    ResidualMismatch,
    SessionClosed,
    SessionLost,
    TimedOut,
)
from initiator.scsi.sense import Sense, SenseKey

RESERVATION_CONFLICT: Final = 0x18
_BUSY: Final = (0x08, 0x28)
_NO_SPACE: Final = (0x27, 0x07)
_BEYOND_THE_END: Final = (0x21, 0x00)
_NO_SUCH_COMMAND: Final = (0x20, 0x00)

_BY_CLASS: Final[tuple[tuple[type[InitiatorError], int], ...]] = (
    (TimedOut, errno.ETIMEDOUT),
    (ConnectFailed, errno.EHOSTUNREACH),
    (DiskChanged, errno.ENODEV),
    (SessionClosed, errno.ENOTCONN),
    (SessionLost, errno.ECONNRESET),
    (CommandAborted, errno.EAGAIN),
    (CommandRejected, errno.EPROTO),
    (ProtocolViolation, errno.EPROTO),
    (ResidualMismatch, errno.EPROTO),
    (MalformedAnswer, errno.EPROTO),
)
_BY_KEY: Final = {
    SenseKey.NOT_READY: errno.EAGAIN,
    SenseKey.MEDIUM_ERROR: errno.EIO,
    SenseKey.HARDWARE_ERROR: errno.EREMOTEIO,
    SenseKey.ILLEGAL_REQUEST: errno.EINVAL,
    SenseKey.UNIT_ATTENTION: errno.EAGAIN,
    SenseKey.DATA_PROTECT: errno.EROFS,
    SenseKey.ABORTED_COMMAND: errno.EAGAIN,
}


def storage_error(
    operation: str, error: InitiatorError, *, where: str, offset_bytes: int = 0, block_bytes: int = 0
) -> StorageError:
    """The error of a call that the initiator could not carry out.

    Args:
        block_bytes: of the LUN, where the block at fault, if the target names it, is to be told as an offset.
    """
    why = str(error)
    if isinstance(error, CommandFailed):
        number = _errno_of(error)
        if number == FENCED:
            why = "this node has no place on the disk, or was fenced (RESERVATION CONFLICT)"
        elif number == errno.EIO and block_bytes and error.sense is not None and error.sense.information is not None:
            at_fault = error.sense.information * block_bytes
            offset_bytes = max(offset_bytes, at_fault)
    else:
        number = next((number for kind, number in _BY_CLASS if isinstance(error, kind)), errno.EIO)
    return StorageError(operation, number, where=where, offset_bytes=offset_bytes, why=why)


def opening_error(error: InitiatorError, *, where: str) -> CsvdError:
    """The error of a disk that could not be opened: what a person can put right is a ConfigError."""
    if isinstance(error, ConfigError):
        return error
    hint = ""
    if isinstance(error, AuthenticationFailed):
        hint = "the user stands in the URL, his secret in the file of disk_secret_file"
    if isinstance(error, LoginRefused):
        return ConfigError("can not be opened", where=where, why=str(error), hint=hint)
    return storage_error("open", error, where=where)


def _errno_of(error: CommandFailed) -> int:
    if error.status == RESERVATION_CONFLICT:
        return FENCED
    if error.status in _BUSY:
        return errno.EBUSY
    sense = error.sense
    return errno.EIO if sense is None else _errno_of_sense(sense)


def _errno_of_sense(sense: Sense) -> int:
    code = (sense.asc, sense.ascq)
    if sense.key is SenseKey.DATA_PROTECT and code == _NO_SPACE:
        return errno.ENOSPC
    if sense.key is SenseKey.ILLEGAL_REQUEST:
        if code == _NO_SUCH_COMMAND:
            return errno.EOPNOTSUPP
        if code == _BEYOND_THE_END:
            return errno.EIO  # the disk has become shorter
    return _BY_KEY.get(sense.key, errno.EIO)
