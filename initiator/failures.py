"""The error of a command that did not end with GOOD, by its status and sense."""

from __future__ import annotations

from typing import Final

from initiator.engine.requests import BUSY, CHECK_CONDITION, TASK_SET_FULL, Command
from initiator.errors import (
    AttentionPending,
    CommandAbortedByTarget,
    CommandFailed,
    CopyFailed,
    HardwareError,
    IllegalRequest,
    MediumError,
    Miscompare,
    NotReady,
    ReservationConflict,
    SpaceExhausted,
    UnsupportedCommand,
    WriteProtected,
)
from initiator.scsi import cdb, sense
from initiator.scsi.sense import Sense, SenseKey

RESERVATION_CONFLICT: Final = 0x18
TASK_ABORTED: Final = 0x40

_COMPARE_AND_WRITE: Final = 0x89

_BY_STATUS: Final[dict[int, type[CommandFailed]]] = {
    RESERVATION_CONFLICT: ReservationConflict,
    TASK_ABORTED: CommandAbortedByTarget,
}
_BY_KEY: Final[dict[SenseKey, type[CommandFailed]]] = {
    SenseKey.NOT_READY: NotReady,
    SenseKey.MEDIUM_ERROR: MediumError,
    SenseKey.HARDWARE_ERROR: HardwareError,
    SenseKey.ILLEGAL_REQUEST: IllegalRequest,
    SenseKey.UNIT_ATTENTION: AttentionPending,
    SenseKey.DATA_PROTECT: WriteProtected,
    SenseKey.COPY_ABORTED: CopyFailed,
    SenseKey.ABORTED_COMMAND: CommandAbortedByTarget,
    SenseKey.MISCOMPARE: Miscompare,
}
_BY_CODE: Final[dict[tuple[SenseKey, int, int], type[CommandFailed]]] = {
    (SenseKey.ILLEGAL_REQUEST, 0x20, 0x00): UnsupportedCommand,
    (SenseKey.ILLEGAL_REQUEST, 0x24, 0x00): UnsupportedCommand,
    (SenseKey.DATA_PROTECT, 0x27, 0x07): SpaceExhausted,
}


def failure_of(command: Command) -> CommandFailed:
    """Give the error of a command that ended without GOOD."""
    found = sense.parse(command.sense) if command.status == CHECK_CONDITION else None
    kind = _BY_STATUS.get(command.status, CommandFailed) if found is None else _kind_of(found)
    failure = kind(cdb.name_of(command.cdb), command.status, found, response=command.response)
    if isinstance(failure, Miscompare) and found is not None and command.cdb[0] == _COMPARE_AND_WRITE:
        failure.offset_bytes = found.information
    return failure


def _kind_of(found: Sense) -> type[CommandFailed]:
    if found.deferred:
        return CommandFailed  # it is of an earlier command, and says nothing of this one
    return _BY_CODE.get((found.key, found.asc, found.ascq)) or _BY_KEY.get(found.key, CommandFailed)


def passes(failure: CommandFailed) -> bool:
    """Whether waiting helps: the device is busy, its queue full, or it is becoming ready."""
    if failure.status in (BUSY, TASK_SET_FULL):
        return True
    found = failure.sense
    return found is not None and (found.key, found.asc, found.ascq) == (SenseKey.NOT_READY, 0x04, 0x01)
