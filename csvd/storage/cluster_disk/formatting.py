"""Making the area of a disk, and looking whether there is one."""

from __future__ import annotations

from uuid import UUID

from csvd.shared_disk import OwnerBlock, RecordSlot
from csvd.storage.cluster_disk import layout
from csvd.storage.cluster_disk.area import comparing, read_blocks, write_blocks
from csvd.storage.cluster_disk.contents import LOOKED_AT_BYTES, contents_of
from csvd.storage.cluster_disk.errors import AreaError
from csvd.storage.cluster_disk.layout import BLOCK_BYTES, Superblock
from csvd.storage.cluster_disk.record_slots import pack_slot
from csvd.storage.disk import Disk


async def format_disk(disk: Disk, *, name: str, uuid: UUID, force: bool = False) -> Superblock:
    """Make the area of a shared disk: nobody owns it, and nothing is kept on it. Durable when it returns.

    The superblock is written last: a disk that was formatted in part only has no area.

    Args:
        name: of the disk, for people.
        uuid: a new one.
        force: whatever is on the disk; what is in its first 16 MiB is lost.

    Raises:
        AreaError: something is on the disk, or it is too small.
        StorageError: it can not be written, or nodes can not share it.
    """
    if disk.size_bytes < layout.DATA_OFFSET:
        why = f"it has {disk.size_bytes} bytes, and its area alone takes {layout.DATA_OFFSET}"
        raise AreaError("the disk is too small to be shared", where=disk.url, why=why)
    owners = comparing(disk)
    superblock = Superblock(uuid, name, disk.size_bytes)
    block = layout.pack_superblock(superblock)
    if not force:
        await _check_empty(disk)
    # A target that can not do this says so now, while nothing is lost.
    before = await owners.read_compared(layout.OWNER_OFFSET)
    await owners.compare_and_write(layout.OWNER_OFFSET, before, before)
    for offset_bytes in (layout.SUPERBLOCK_OFFSET, layout.COPY_OFFSET):
        await write_blocks(disk, bytes(BLOCK_BYTES), offset_bytes)
    await write_blocks(disk, bytes(layout.DATA_OFFSET - layout.COPY_OFFSET), layout.COPY_OFFSET)
    await write_blocks(disk, bytes(layout.COPY_OFFSET - layout.MEMBERS_OFFSET), layout.MEMBERS_OFFSET)
    before = await owners.read_compared(layout.OWNER_OFFSET)
    await owners.compare_and_write(layout.OWNER_OFFSET, before, layout.pack_owner(OwnerBlock(), uuid))
    await write_blocks(disk, pack_slot(RecordSlot(), uuid), layout.SLOT_OFFSETS[0])
    await write_blocks(disk, block, layout.COPY_OFFSET)
    await write_blocks(disk, block, layout.SUPERBLOCK_OFFSET)
    return superblock


async def find_superblock(disk: Disk) -> Superblock | None:
    """The superblock of a disk, the second where the first is damaged; None where there is neither.

    Raises:
        AreaError: its format is one that this program does not know.
        StorageError: neither can be read.
    """
    found = None
    if disk.size_bytes >= layout.DATA_OFFSET:
        for offset_bytes in (layout.SUPERBLOCK_OFFSET, layout.COPY_OFFSET):
            block = await read_blocks(disk, offset_bytes, BLOCK_BYTES)
            found = found or layout.parse_superblock(block, disk.url)
    return found


async def read_superblock(disk: Disk) -> Superblock:
    """The superblock of a shared disk.

    Raises:
        AreaError: there is none, or its format is one that this program does not know.
        StorageError: it can not be read.
    """
    found = await find_superblock(disk)
    if found is not None:
        return found
    head = await read_blocks(disk, 0, min(LOOKED_AT_BYTES, disk.size_bytes // BLOCK_BYTES * BLOCK_BYTES))
    contents = contents_of(head) or "nothing"
    raise AreaError(
        "the disk is not one that nodes share",
        where=disk.url,
        why=f"it has {contents} on it",
        hint="csvd disk add --create formats a new one",
    )


async def _check_empty(disk: Disk) -> None:
    there = await find_superblock(disk)
    if there is not None:
        contents = f"the shared disk {there.name} of csvd ({there.uuid})"
    else:
        found = contents_of(await read_blocks(disk, 0, LOOKED_AT_BYTES))
        if found is None:
            return
        contents = found
    raise AreaError(
        "the disk is not empty, and is not formatted",
        where=disk.url,
        why=f"it has {contents} on it",
        hint="if nobody needs that any more, use --force",
    )
