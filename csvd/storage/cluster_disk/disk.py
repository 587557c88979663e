"""ClusterDisk: the area of a shared disk, as `csvd.shared_disk.SharedDisk`."""

from __future__ import annotations

import errno
from collections.abc import Coroutine
from typing import Any, TypeVar

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.shared_disk import (
    FILE_LOCK,
    NO_FENCE,
    OSD_BLOCKLIST,
    PERSISTENT_RESERVATION,
    FenceProof,
    NotProven,
    OwnerBlock,
    OwnerChanged,
    RecordSlot,
)
from csvd.storage.cluster_disk import layout
from csvd.storage.cluster_disk.area import comparing, read_blocks, read_owner_block, write_blocks
from csvd.storage.cluster_disk.errors import AreaError
from csvd.storage.cluster_disk.layout import BLOCK_BYTES, DATA_OFFSET, SLOT_OFFSETS, Superblock
from csvd.storage.cluster_disk.record_slots import (
    Header,
    data_blocks_bytes,
    newest_first,
    pack_slot,
    parse_header,
)
from csvd.storage.disk import DIFFERS, Disk, FencingDisk, StorageError

T = TypeVar("T")

_log = Logger()


class ClusterDisk:
    """The area of a disk that nodes share.

    Args:
        disk: open, and this one's from now on. It must read what other hosts have written: `open_cluster_disk` sees to
            that.
        superblock: what was read from it.
    """

    def __init__(self, disk: Disk, superblock: Superblock) -> None:
        self._disk = disk
        self._superblock = superblock
        self._newest: Header | None = None
        self._next_slot: int | None = None
        """Where the next write goes: the older slot; None where that has to be looked up."""

    @property
    def disk(self) -> Disk:
        """The disk under it; from `data_offset_bytes` on it is the volumes'."""
        return self._disk

    @property
    def url(self) -> str:
        """The name it was opened by."""
        return self._disk.url

    @property
    def uuid(self) -> str:
        """What the area was given when it was formatted."""
        return str(self._superblock.uuid)

    @property
    def name(self) -> str:
        """What the disk was called when it was formatted."""
        return self._superblock.name

    @property
    def data_offset_bytes(self) -> int:
        """Where the area ends."""
        return DATA_OFFSET

    @property
    def fence_kind(self) -> str:
        """How a node is kept off; see `SharedDisk`."""
        if isinstance(self._disk, FencingDisk):
            # A reservation says of itself, too, when it does not outlive a loss of power.
            for kind in (FILE_LOCK, PERSISTENT_RESERVATION, OSD_BLOCKLIST):
                if self._disk.capabilities.fence.startswith(kind):
                    return kind
        return NO_FENCE

    # Who may write

    def join(self, node: str, number: int) -> Deferred[None]:
        """Take the place of a node; see `SharedDisk`. Nothing to do without a fence."""
        return self._run(self._join(node, number))

    async def _join(self, node: str, number: int) -> None:
        if self.fence_kind != NO_FENCE:
            await self._fencing.join(node, number)

    def leave(self) -> Deferred[None]:
        """Give the place up; see `SharedDisk`."""
        return self._run(self._leave())

    async def _leave(self) -> None:
        if self.fence_kind != NO_FENCE:
            await self._fencing.leave()

    def fence(self, node: str, number: int) -> Deferred[FenceProof]:
        """Keep a node off; see `SharedDisk`."""
        return self._run(self._keep_off(node, number))

    async def _keep_off(self, node: str, number: int) -> FenceProof:
        if self.fence_kind == NO_FENCE:
            why = "this kind of disk has no fence"
            raise NotProven(f"{node} can not be kept off the disk", where=self.url, why=why, hint="wait for its lease")
        return await self._fencing.fence(node, number)

    def is_gone(self, node: str, number: int) -> Deferred[bool]:
        """Whether a node is seen to be off; see `SharedDisk`."""
        return self._run(self._is_gone(node, number))

    async def _is_gone(self, node: str, number: int) -> bool:
        return self.fence_kind != NO_FENCE and await self._fencing.is_gone(node, number)

    @property
    def _fencing(self) -> FencingDisk:
        assert isinstance(self._disk, FencingDisk)
        return self._disk

    # The owner

    def read_owner(self) -> Deferred[OwnerBlock]:
        """The owner block as it is on the disk now. Fails with AreaError where it is damaged."""
        return self._run(self._read_owner())

    async def _read_owner(self) -> OwnerBlock:
        return layout.parse_owner(await read_owner_block(self._disk), self._superblock.uuid, self.url)

    def write_owner(self, expected: OwnerBlock, new: OwnerBlock) -> Deferred[None]:
        """Compare and write the owner block; see `SharedDisk`. It is read back before this fires."""
        return self._run(self._write_owner(expected, new))

    async def _write_owner(self, expected: OwnerBlock, new: OwnerBlock) -> None:
        uuid = self._superblock.uuid
        blocks = layout.pack_owner(expected, uuid), layout.pack_owner(new, uuid)
        try:
            await comparing(self._disk).compare_and_write(layout.OWNER_OFFSET, *blocks)
        except StorageError as error:
            if error.errno != DIFFERS:
                raise
        found = await self._read_owner()
        # Not as expected, and as it was to be: an answer was lost, and the write was sent once more.
        if found != new:
            raise OwnerChanged(found, where=self.url)

    # The records

    def read_records(self) -> Deferred[RecordSlot]:
        """The newer of the whole record slots. Fails with AreaError where neither is whole."""
        return self._run(self._read_records())

    async def _read_records(self) -> RecordSlot:
        self._newest = self._next_slot = None
        headers = await self._headers()
        for number in newest_first(headers):
            header = headers[number]
            assert header is not None
            at = SLOT_OFFSETS[number] + BLOCK_BYTES
            blocks = await read_blocks(self._disk, at, data_blocks_bytes(header.length_bytes))
            data = blocks[: header.length_bytes]
            if header.fits(data):
                self._newest, self._next_slot = header, 1 - number
                return RecordSlot(header.epoch, header.sequence, data)
            _log.warn(
                "{url}: the write {sequence} of epoch {epoch} to record slot {number} was torn, and does not count",
                url=self.url,
                number=number,
                epoch=header.epoch,
                sequence=header.sequence,
            )
        raise AreaError(
            "neither of the record slots of the disk is whole",
            where=self.url,
            why="a write that is torn damages one of them alone: something else has written to the disk, or it fails",
            hint="see docs/cluster-disk.md, When something is damaged",
        )

    async def _headers(self) -> list[Header | None]:
        uuid = self._superblock.uuid
        return [parse_header(await read_blocks(self._disk, at, BLOCK_BYTES), uuid) for at in SLOT_OFFSETS]

    def write_records(self, slot: RecordSlot) -> Deferred[None]:
        """Write the older of the two slots; see `SharedDisk`. Fails with AreaError, and writes nothing, where the slot
        is not newer than what is there, or too long."""
        return self._run(self._write_records(slot))

    async def _write_records(self, slot: RecordSlot) -> None:
        # Another node may have written in another epoch, or this one before it failed.
        if self._next_slot is None or self._newest is None or self._newest.epoch != slot.epoch:
            await self._read_records()
        assert self._newest is not None
        assert self._next_slot is not None
        if (slot.epoch, slot.sequence) <= self._newest.order:
            why = f"epoch {self._newest.epoch}, sequence {self._newest.sequence} is there already"
            what = f"the records of epoch {slot.epoch}, sequence {slot.sequence} are not new"
            raise AreaError(what, where=self.url, why=why)
        written, number = pack_slot(slot, self._superblock.uuid), self._next_slot
        self._next_slot = None
        await write_blocks(self._disk, written, SLOT_OFFSETS[number])
        self._newest = parse_header(written, self._superblock.uuid)
        self._next_slot = 1 - number

    # The end

    def close(self) -> Deferred[None]:
        """Leave, and close the disk. Closing twice is no error."""
        return self._run(self._close())

    async def _close(self) -> None:
        try:
            await self._leave()
        except StorageError as error:
            # Closed already, or fenced: there is nothing to leave. What is not left has to be fenced.
            if error.errno != errno.EBADF:
                _log.warn("{url}: {error}", url=self.url, error=error)
        await self._disk.close()

    @staticmethod
    def _run(work: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        return Deferred.fromCoroutine(work)
