"""The copy manager of a logical unit: which copy operations go on, what became of those that ended, and its limits
(SPC-4 5.17)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from csvd.scsi.outcome import Reply, Status
from csvd.scsi.sense import Asc, illegal_request

MAXIMUM_TARGET_DESCRIPTORS: Final = 16
MAXIMUM_SEGMENT_DESCRIPTORS: Final = 64
DESCRIPTOR_BYTES: Final = 32
"""The longest CSCD or segment descriptor that is known here."""
MAXIMUM_DESCRIPTOR_LIST_BYTES: Final = (MAXIMUM_TARGET_DESCRIPTORS + MAXIMUM_SEGMENT_DESCRIPTORS) * DESCRIPTOR_BYTES
MAXIMUM_SEGMENT_BYTES: Final = 256 << 20
MAXIMUM_COPIES: Final = 64
"""Copy operations of one logical unit at once."""
MAXIMUM_RESULTS: Final = 64
"""Ended copy operations of one I_T nexus that are remembered; the oldest is forgotten first."""


class CopyStatus(IntEnum):
    """COPY OPERATION STATUS of RECEIVE COPY STATUS(LID4) and RECEIVE ROD TOKEN INFORMATION (SPC-4 6.24)."""

    COMPLETED = 0x01
    FAILED = 0x02
    COMPLETED_WITH_RESIDUAL = 0x03
    IN_FOREGROUND = 0x11
    IN_BACKGROUND = 0x12
    TERMINATED = 0x60


_UNDER_WAY: Final = (CopyStatus.IN_FOREGROUND, CopyStatus.IN_BACKGROUND)


@dataclass(slots=True, eq=False)
class CopyOperation:
    """One copy operation.

    Args:
        list_identifier: how its nexus names it; None where the parameter list says that it is not used.
        service_action: of the third-party copy command that began it.
        block_bytes: the unit of the transfer count, where that is blocks.

    Attributes:
        segments_processed: segments that are done.
        transferred_bytes: what was written.
        counter: OPERATION COUNTER: it grows while the operation gets on.
        final_status, sense: of the command, once it has ended.
        token: the ROD token that POPULATE TOKEN made.
        abort_asked: COPY OPERATION ABORT, or a reset; the steps look at it between two pieces.
    """

    list_identifier: int | None
    service_action: int
    block_bytes: int
    status: CopyStatus = CopyStatus.IN_FOREGROUND
    segments_processed: int = 0
    transferred_bytes: int = 0
    counter: int = 0
    final_status: Status = Status.GOOD
    sense: bytes = b""
    token: bytes = b""
    abort_asked: bool = False

    @property
    def under_way(self) -> bool:
        """Whether it has not ended."""
        return self.status in _UNDER_WAY

    def advance(self, written_bytes: int) -> None:
        """A piece was written."""
        self.transferred_bytes += written_bytes
        self.counter = self.counter + 1 & 0xFFFF

    def end(self, status: CopyStatus, reply: Reply | None = None) -> None:
        """It has ended, in this reply."""
        self.status = status
        if reply is not None:
            self.final_status, self.sense = Status(reply.status), reply.sense


class CopyManager:
    """The copy operations of one logical unit, by I_T nexus."""

    __slots__ = ("_by_nexus",)

    def __init__(self) -> None:
        self._by_nexus: dict[str, dict[int, CopyOperation]] = {}

    def begin(self, nexus: str, list_identifier: int | None, service_action: int, block_bytes: int) -> CopyOperation:
        """A copy operation of a nexus begins; what an earlier one of this list identifier left is forgotten.

        Raises:
            CheckCondition: OPERATION IN PROGRESS, the list identifier is in use; INSUFFICIENT RESOURCES.
        """
        mine = self._by_nexus.setdefault(nexus, {})
        operation = CopyOperation(list_identifier, service_action, block_bytes)
        if list_identifier is None:
            return operation
        earlier = mine.get(list_identifier)
        if earlier is not None and earlier.under_way:
            raise illegal_request(Asc.OPERATION_IN_PROGRESS)
        if sum(one.under_way for them in self._by_nexus.values() for one in them.values()) >= MAXIMUM_COPIES:
            raise illegal_request(Asc.INSUFFICIENT_RESOURCES)
        mine.pop(list_identifier, None)
        mine[list_identifier] = operation
        self._forget_oldest(mine)
        return operation

    def _forget_oldest(self, mine: dict[int, CopyOperation]) -> None:
        ended = [name for name, one in mine.items() if not one.under_way]
        for name in ended[: max(0, len(ended) - MAXIMUM_RESULTS)]:
            del mine[name]

    def find(self, nexus: str, list_identifier: int) -> CopyOperation | None:
        """The operation that a nexus names so, None where there is none."""
        return self._by_nexus.get(nexus, {}).get(list_identifier)

    def nexus_lost(self, nexus: str) -> None:
        """What a nexus began ends, and what is held for it is dropped."""
        for operation in self._by_nexus.pop(nexus, {}).values():
            operation.abort_asked = True

    def reset(self) -> None:
        """A reset of the logical unit ends all (SPC-4 5.17.4)."""
        for nexus in list(self._by_nexus):
            self.nexus_lost(nexus)
