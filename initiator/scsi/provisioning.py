"""Logical block provisioning: what UNMAP sends and GET LBA STATUS answers (SBC-3 sections 4.7, 5.4, 5.27)."""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from initiator.errors import InitiatorError, MalformedAnswer
from initiator.scsi.inquiry import BlockLimits
from initiator.scsi.ranges import cut

LBA_STATUS_HEADER_BYTES: Final = 8
LBA_STATUS_DESCRIPTOR_BYTES: Final = 16
MAXIMUM_DESCRIPTORS: Final = (0xFFFF - 8) // 16
"""UNMAP block descriptors that one parameter list can hold."""

_MOST_BLOCKS: Final = 0xFFFFFFFF
_UNMAP_HEADER = struct.Struct(">HH4x")
_UNMAP_DESCRIPTOR = struct.Struct(">QI4x")
_STATUS_DESCRIPTOR = struct.Struct(">QIB3x")


@dataclass(frozen=True, slots=True, order=True)
class Extent:
    """A run of blocks."""

    lba: int
    blocks: int

    @property
    def end(self) -> int:
        """The LBA after the last block."""
        return self.lba + self.blocks


class ProvisioningStatus(IntEnum):
    """PROVISIONING STATUS (SBC-4 section 5.5.3)."""

    MAPPED = 0
    DEALLOCATED = 1
    ANCHORED = 2
    MAPPED_OR_UNKNOWN = 3


@dataclass(frozen=True, slots=True)
class LbaStatus:
    """A run of blocks that all have one provisioning status."""

    lba: int
    blocks: int
    status: ProvisioningStatus

    @property
    def end(self) -> int:
        """The LBA after the last block."""
        return self.lba + self.blocks

    @property
    def mapped(self) -> bool:
        """Whether the blocks may hold data; of the others it is known that they were not written since the unmap."""
        return self.status in (ProvisioningStatus.MAPPED, ProvisioningStatus.MAPPED_OR_UNKNOWN)


def unmap_list(extents: Iterable[Extent]) -> bytes:
    """Build the parameter list of UNMAP; no extent may be longer than 4,294,967,295 blocks."""
    descriptors = b"".join(_UNMAP_DESCRIPTOR.pack(extent.lba, extent.blocks) for extent in extents)
    return _UNMAP_HEADER.pack(len(descriptors) + 6, len(descriptors)) + descriptors


def unmap_batches(extents: Iterable[Extent], limits: BlockLimits) -> Iterator[list[Extent]]:
    """Give the extents of one UNMAP command after the other: as many blocks and descriptors as VPD B0h allows.

    An extent that is too long is cut where the optimal unmap granularity has its borders. Where the page names no
    limits a command has one extent.
    """
    most = min(limits.maximum_unmap_lba_count or _MOST_BLOCKS, _MOST_BLOCKS)
    descriptors = min(limits.maximum_unmap_block_descriptor_count or 1, MAXIMUM_DESCRIPTORS)
    batch: list[Extent] = []
    room = most
    for extent in extents:
        for lba, blocks in cut(
            extent.lba, extent.blocks, most, limits.optimal_unmap_granularity, limits.unmap_granularity_alignment or 0
        ):
            if batch and (blocks > room or len(batch) == descriptors):
                yield batch
                batch, room = [], most
            batch.append(Extent(lba, blocks))
            room -= blocks
    if batch:
        yield batch


def merge(extents: Iterable[Extent], block_count: int) -> list[Extent]:
    """Put extents in order and join those that touch; empty ones vanish.

    Raises:
        InitiatorError: one is not on a disk of ``block_count`` blocks.
    """
    merged: list[Extent] = []
    for extent in sorted(extents):
        if extent.lba < 0 or extent.blocks < 0 or extent.end > block_count:
            raise InitiatorError(
                f"blocks {extent.lba} to {extent.end - 1} are not on the disk", why=f"it has {block_count} blocks"
            )
        if merged and extent.lba <= merged[-1].end:
            last = merged[-1]
            merged[-1] = Extent(last.lba, max(last.end, extent.end) - last.lba)
        elif extent.blocks:
            merged.append(extent)
    return merged


def parse_lba_status(data: bytes, lba: int, end: int) -> list[LbaStatus]:
    """Parse the answer of GET LBA STATUS for blocks from ``lba`` on; what is outside ``lba`` to ``end`` is cut off.

    The descriptors that are whole count, whatever the header says of more. At least one block at ``lba`` is told of.

    Raises:
        MalformedAnswer: no descriptor for ``lba``, an empty one, or one that does not follow the one before it.
    """
    length = 4 + int.from_bytes(data[0:4], "big") if len(data) >= LBA_STATUS_HEADER_BYTES else 0
    stop = min(len(data), length)
    found: list[LbaStatus] = []
    at = lba
    for offset in range(LBA_STATUS_HEADER_BYTES, stop - LBA_STATUS_DESCRIPTOR_BYTES + 1, LBA_STATUS_DESCRIPTOR_BYTES):
        first, blocks, status = _STATUS_DESCRIPTOR.unpack_from(data, offset)
        if first > at or first + blocks <= at or (found and first != at):
            raise MalformedAnswer(f"GET LBA STATUS tells of {blocks} blocks at {first} where block {at} was due")
        upto = min(first + blocks, end)
        _append(found, LbaStatus(at, upto - at, _status(status & 0x0F)))
        at = upto
        if at >= end:
            return found
    if not found:
        raise MalformedAnswer(f"GET LBA STATUS says nothing of block {lba}")
    return found


def extend(found: list[LbaStatus], more: Iterable[LbaStatus]) -> None:
    """Append runs to those before them; what continues the last run with its status becomes one with it."""
    for run in more:
        _append(found, run)


def _append(found: list[LbaStatus], run: LbaStatus) -> None:
    if found and found[-1].status is run.status and found[-1].end == run.lba:
        found[-1] = LbaStatus(found[-1].lba, found[-1].blocks + run.blocks, run.status)
    else:
        found.append(run)


def _status(value: int) -> ProvisioningStatus:
    # What a later standard may add is not known to be unmapped.
    return ProvisioningStatus(value) if value <= ProvisioningStatus.ANCHORED else ProvisioningStatus.MAPPED_OR_UNKNOWN
