"""The sense data of what a disk could not do (SBC-3 4.21)."""

from __future__ import annotations

import errno
from typing import Final

from csvd.scsi.procedure import DiskFault
from csvd.scsi.sense import Asc, CheckCondition, SenseKey

_MEDIUM_ERRORS: Final = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EBADMSG, errno.EUCLEAN})
_SPACE_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_PROTECT_ERRORS: Final = frozenset({errno.EROFS, errno.EPERM, errno.EACCES, errno.EBADE})
"""EBADE: the disk is another target's, and this node was fenced from it."""
_UNREACHED_ERRORS: Final = frozenset(
    {
        errno.EAGAIN,
        errno.EBUSY,
        errno.ECONNABORTED,
        errno.ECONNREFUSED,
        errno.ECONNRESET,
        errno.EHOSTDOWN,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
        errno.ENOTCONN,
        errno.ESTALE,
    }
)
"""The disk is somewhere else, and is not reached: an initiator that tries again may find it."""


def fault_condition(fault: DiskFault) -> CheckCondition:
    """The sense data of what a disk could not do (SBC-3 4.21)."""
    number, operation = fault.error_number, fault.operation
    if number in _SPACE_ERRORS:
        return CheckCondition(SenseKey.DATA_PROTECT, Asc.SPACE_ALLOCATION_FAILED_WRITE_PROTECT)
    if number in _PROTECT_ERRORS and operation != "read":
        return CheckCondition(SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)
    if number == errno.ETIMEDOUT:
        # Whether it was done is unknown: ABORTED COMMAND has initiators repeat it, NOT READY would say that it was not.
        return CheckCondition(SenseKey.ABORTED_COMMAND, Asc.LOGICAL_UNIT_COMMUNICATION_TIME_OUT)
    if number in _UNREACHED_ERRORS:
        return CheckCondition(SenseKey.ABORTED_COMMAND, Asc.LOGICAL_UNIT_COMMUNICATION_FAILURE)
    if number not in _MEDIUM_ERRORS:
        return CheckCondition(SenseKey.HARDWARE_ERROR, Asc.INTERNAL_TARGET_FAILURE)
    if operation == "flush":
        # Which of the blocks could not be written is not known.
        return CheckCondition(SenseKey.MEDIUM_ERROR, Asc.WRITE_ERROR)
    return CheckCondition(
        SenseKey.MEDIUM_ERROR,
        Asc.UNRECOVERED_READ_ERROR if operation == "read" else Asc.WRITE_ERROR,
        information=fault.offset_bytes // fault.unit.block_bytes,
    )
