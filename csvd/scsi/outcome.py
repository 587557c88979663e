"""What a command comes to: a `Reply` that is ready, a `Transfer` that the glue carries out on the disk first, or a
`Procedure` of several steps."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final, TypeAlias

from csvd.scsi.procedure import Procedure

if TYPE_CHECKING:
    from csvd.scsi.logical_unit import LogicalUnit


class Status(IntEnum):
    """Status codes (SAM-5 5.3)."""

    GOOD = 0x00
    CHECK_CONDITION = 0x02
    CONDITION_MET = 0x04
    BUSY = 0x08
    RESERVATION_CONFLICT = 0x18
    TASK_SET_FULL = 0x28
    ACA_ACTIVE = 0x30
    TASK_ABORTED = 0x40


READ: Final = 1
WRITE: Final = 2
FLUSH: Final = 3
OPERATION_NAMES: Final = {READ: "read", WRITE: "write", FLUSH: "flush"}


class Reply:
    """A command that is done: status, Data-In and sense data. Data-In is cut to the allocation length already."""

    __slots__ = ("data_in", "sense", "status")

    def __init__(self, status: int, data_in: bytes = b"", sense: bytes = b"") -> None:
        self.status = status
        self.data_in = data_in
        self.sense = sense

    def __repr__(self) -> str:
        return f"Reply({Status(self.status).name}, data_in={self.data_in.hex()!r}, sense={self.sense.hex()!r})"


GOOD: Final = Reply(Status.GOOD)
BUSY: Final = Reply(Status.BUSY)


class Transfer:
    """Work for the disk of `logical_unit.device`; GOOD when it is done, `TargetDevice.storage_failed` when it fails.

    Attributes:
        operation: READ, WRITE or FLUSH.
        offset_bytes, length_bytes: the range on the disk. For WRITE, `length_bytes` is what the CDB asks for: an
            initiator that sent less (EDTL shorter than the transfer) has only that much written (residual overflow).
            For FLUSH, the range that must become durable; flushing more is right as well.
        fua: a WRITE must be durable before GOOD; a READ must come from what is durable, so the glue flushes
            the disk first when it has a volatile cache (SBC-3, FUA).
    """

    __slots__ = ("fua", "length_bytes", "logical_unit", "offset_bytes", "operation")

    def __init__(
        self, operation: int, logical_unit: LogicalUnit, offset_bytes: int, length_bytes: int, fua: bool
    ) -> None:
        self.operation = operation
        self.logical_unit = logical_unit
        self.offset_bytes = offset_bytes
        self.length_bytes = length_bytes
        self.fua = fua

    def __repr__(self) -> str:
        return (
            f"Transfer({OPERATION_NAMES[self.operation]}, LUN {self.logical_unit.number}, "
            f"{self.length_bytes} bytes at {self.offset_bytes}{', FUA' if self.fua else ''})"
        )


Outcome: TypeAlias = Reply | Transfer | Procedure
