"""What the initiator's errors are to a disk."""

from __future__ import annotations

import errno

import pytest

from csvd.errors import ConfigError
from csvd.storage.disk import FENCED, StorageError
from csvd.storage.iscsi.errors import opening_error, storage_error
from initiator import (
    AuthenticationFailed,
    CommandFailed,
    ConnectFailed,
    InitiatorError,
    LoginRefused,
    MalformedAnswer,
    SessionLost,
    TimedOut,
    UrlError,
)
from initiator.errors import DiskChanged, SessionClosed
from initiator.scsi.sense import Sense, SenseKey

WHERE = "iscsi://host/iqn.2026-11.example:a/0"


def failed(key: SenseKey, asc: int = 0, ascq: int = 0, information: int | None = None) -> CommandFailed:
    return CommandFailed("WRITE(10)", 0x02, Sense(key, asc, ascq, information))


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (CommandFailed("WRITE(10)", 0x18), FENCED),
        (CommandFailed("WRITE(10)", 0x08), errno.EBUSY),
        (CommandFailed("WRITE(10)", 0x28), errno.EBUSY),
        (CommandFailed("WRITE(10)", 0x02), errno.EIO),
        (failed(SenseKey.MEDIUM_ERROR, 0x11), errno.EIO),
        (failed(SenseKey.HARDWARE_ERROR, 0x44), errno.EREMOTEIO),
        (failed(SenseKey.DATA_PROTECT, 0x27, 0x00), errno.EROFS),
        (failed(SenseKey.DATA_PROTECT, 0x27, 0x07), errno.ENOSPC),
        (failed(SenseKey.NOT_READY, 0x04, 0x01), errno.EAGAIN),
        (failed(SenseKey.ABORTED_COMMAND, 0x2F), errno.EAGAIN),
        (failed(SenseKey.ILLEGAL_REQUEST, 0x20), errno.EOPNOTSUPP),
        (failed(SenseKey.ILLEGAL_REQUEST, 0x21), errno.EIO),
        (failed(SenseKey.ILLEGAL_REQUEST, 0x24), errno.EINVAL),
        (failed(SenseKey.VENDOR_SPECIFIC, 0x80), errno.EIO),
        (TimedOut("too late"), errno.ETIMEDOUT),
        (SessionLost("cut"), errno.ECONNRESET),
        (SessionClosed("closed"), errno.ENOTCONN),
        (DiskChanged("another disk"), errno.ENODEV),
        (ConnectFailed("nobody there"), errno.EHOSTUNREACH),
        (MalformedAnswer("short"), errno.EPROTO),
        (InitiatorError("something else"), errno.EIO),
    ],
)
def test_every_error_has_an_errno(error: InitiatorError, number: int) -> None:
    made = storage_error("write", error, where=WHERE, offset_bytes=4096)
    assert (made.operation, made.errno, made.offset_bytes, made.where) == ("write", number, 4096, WHERE)
    assert made.why


def test_the_block_at_fault_is_told_as_an_offset() -> None:
    error = failed(SenseKey.MEDIUM_ERROR, 0x11, information=20)
    assert storage_error("read", error, where=WHERE, offset_bytes=8192, block_bytes=512).offset_bytes == 20 * 512
    assert storage_error("read", error, where=WHERE, offset_bytes=8192).offset_bytes == 8192


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (AuthenticationFailed("no"), ConfigError),
        (LoginRefused(0x0203), ConfigError),
        (UrlError("no URL"), ConfigError),
        (ConnectFailed("nobody there"), StorageError),
        (TimedOut("too late"), StorageError),
    ],
)
def test_what_a_person_can_put_right_is_a_wrong_setting(error: InitiatorError, kind: type[Exception]) -> None:
    assert type(opening_error(error, where=WHERE)) in (kind, type(error))
    assert isinstance(opening_error(error, where=WHERE), kind)
