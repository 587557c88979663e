"""The sense data of what a disk could not do (SBC-3 4.21)."""

from __future__ import annotations

import errno
from typing import Final

from csvd.scsi.procedure import DiskFault
from csvd.scsi.sense import Asc, CheckCondition, SenseKey

_MEDIUM_ERRORS: Final = frozenset({errno.EIO, errno.ENODATA, errno.EILSEQ, errno.EBADMSG, errno.EUCLEAN})
_SPACE_ERRORS: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_PROTECT_ERRORS: Final = frozenset({errno.EROFS, errno.EPERM, errno.EACCES})


def fault_condition(fault: DiskFault) -> CheckCondition:
    """The sense data of what a disk could not do (SBC-3 4.21)."""
    number, operation = fault.error_number, fault.operation
    if number in _SPACE_ERRORS:
        return CheckCondition(SenseKey.DATA_PROTECT, Asc.SPACE_ALLOCATION_FAILED_WRITE_PROTECT)
    if number in _PROTECT_ERRORS and operation != "read":
        return CheckCondition(SenseKey.DATA_PROTECT, Asc.WRITE_PROTECTED)
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
