"""A disk that nodes share: its owner, its records, and the fence that keeps a node off it.

The cluster decides by this interface, and the stores implement it; neither knows the other. A shared disk has an area
of its own at its start: the owner block, a lock for every node where that is the fence, and two record slots. What
comes after is the volumes'.

Nodes are known by their ids and by their numbers, 1 to 32, which no two members have at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Protocol

from twisted.internet.defer import Deferred

from csvd.errors import CsvdError

MAXIMUM_RECORDS_BYTES: Final = 1024 * 1024 - 4096
"""Of one record slot, without what the store adds."""

FILE_LOCK: Final = "file lock"
PERSISTENT_RESERVATION: Final = "persistent reservation"
OSD_BLOCKLIST: Final = "osd blocklist"
NO_FENCE: Final = "none"


@dataclass(frozen=True, slots=True)
class OwnerBlock:
    """Who may act for the disk, as the disk itself says.

    Args:
        epoch: of the office; 0 on a disk that never had a coordinator. It only grows.
        node: the id of the coordinator; empty with epoch 0.
        number: its number, by which it can be fenced when it is no member any more; 0 with epoch 0.
        is_released: it gave the office up and acts no more: nobody need fence it.
    """

    epoch: int = 0
    node: str = ""
    number: int = 0
    is_released: bool = False


@dataclass(frozen=True, slots=True)
class RecordSlot:
    """The whole state that a coordinator keeps on the disk.

    Args:
        epoch: of the office that wrote it; 0 on a disk on which none was written.
        sequence: the number of the write in that epoch. Of two slots the newer is the one whose (epoch, sequence) is
            higher.
        data: up to MAXIMUM_RECORDS_BYTES.
    """

    epoch: int = 0
    sequence: int = 0
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class FenceProof:
    """Why nothing of a node can land on the disk any more.

    Args:
        kind: the fence, as in `SharedDisk.fence_kind`; or "lease" where its lease was waited out, "released" where the
            node gave its place up itself, "by hand" where a person vouches for it.
        node: the id of the node that is kept off.
        seen: what was seen, for people: "the lock of number 3 was taken".
        at_s: when, on CLOCK_BOOTTIME of the node that saw it.
    """

    kind: str
    node: str
    seen: str
    at_s: float


class NotProven(CsvdError):
    """Nobody can say now that the node is off the disk: its lock is held, so it lives. Asking again is right."""


class OwnerChanged(CsvdError):
    """The owner block was not what the writer believed; nothing was written.

    Args:
        found: what it is.
    """

    def __init__(self, found: OwnerBlock, *, where: str) -> None:
        self.found = found
        why = f"it says {found.node or 'nobody'}, epoch {found.epoch}{', released' if found.is_released else ''}"
        super().__init__("the owner block was changed by another node", where=where, why=why)


class SharedDisk(Protocol):
    """The area of a shared disk, as one process uses it.

    Failures of the store are CsvdErrors, of the Deferred, never raised. After one it is unknown whether the thing was
    done, but never is a write half done that says it was.
    """

    @property
    def url(self) -> str:
        """The name it was opened by."""

    @property
    def uuid(self) -> str:
        """What the area was given when it was formatted; the same on every node."""

    @property
    def fence_kind(self) -> str:
        """How a node is kept off: FILE_LOCK, PERSISTENT_RESERVATION, OSD_BLOCKLIST or NO_FENCE.

        A file lock is had only once the node's process has let go of it: asking for it harms nobody. The others do
        harm: they keep off a node that is alive, too.
        """

    def join(self, node: str, number: int) -> Deferred[None]:
        """Take the place of a node: from now on this process writes as that node.

        Joining again is no error. It ends a fence of this node: the caller knows that whoever fenced it agrees. Fails
        where another process has the place.
        """

    def leave(self) -> Deferred[None]:
        """Give the place up, after the writes under way have ended; fires when others can see that. Leaving twice, or
        without having joined, is no error."""

    def fence(self, node: str, number: int) -> Deferred[FenceProof]:
        """Keep a node off. Fires when none of its writes can land any more, also none that it has sent already.

        Fails with NotProven when that can not be said now; asking again is right. To fence one that is off, or that
        never joined, is no error. With NO_FENCE it always fails so.
        """

    def is_gone(self, node: str, number: int) -> Deferred[bool]:
        """Whether a node is seen to be off, by a look that does no harm. False is no news: by a file lock it is seen
        that the process has it; the other fences can not look."""

    def read_owner(self) -> Deferred[OwnerBlock]:
        """The owner block as it is on the disk now."""

    def write_owner(self, expected: OwnerBlock, new: OwnerBlock) -> Deferred[None]:
        """Compare and write the owner block, in one step for all nodes; fires when it is durable. Fails with
        OwnerChanged where it is not as expected."""

    def read_records(self) -> Deferred[RecordSlot]:
        """The newer of the whole record slots. A slot whose write was torn does not count."""

    def write_records(self, slot: RecordSlot) -> Deferred[None]:
        """Write the older of the two slots; fires when it is durable. One write at a time. While it is under way the
        other slot stays as it is."""

    def close(self) -> Deferred[None]:
        """Leave, and let go of the disk. Closing twice is no error."""
