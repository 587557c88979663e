"""Opening a disk that nodes share, and formatting a new one."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from csvd.storage.cluster_disk.disk import ClusterDisk
from csvd.storage.cluster_disk.formatting import format_disk, read_superblock
from csvd.storage.cluster_disk.layout import BLOCK_BYTES
from csvd.storage.disk import Disk
from csvd.storage.open import kind_of, open_disk
from csvd.storage.pool import DiskPool


async def open_cluster_disk(url: str, *, pool: DiskPool, **how: Any) -> ClusterDisk:
    """Open a disk that was formatted.

    Args:
        url, pool: as of `open_disk`; ``how`` are its ``secret``, ``initiator_name`` and ``timeout_s``.

    Raises:
        ConfigError: it can not be opened.
        AreaError: it has no area, or one of another format.
        StorageError: it can not be reached, or failed.
    """
    disk = await _open(url, pool, how)
    try:
        return ClusterDisk(disk, await read_superblock(disk))
    except BaseException:
        await disk.close()
        raise


async def create_cluster_disk(
    url: str,
    *,
    name: str,
    uuid: UUID,
    pool: DiskPool,
    create_bytes: int | None = None,
    force: bool = False,
    **how: Any,
) -> ClusterDisk:
    """Format a disk, and open it.

    Args:
        url, pool: as of `open_disk`; ``how`` are its ``secret``, ``initiator_name`` and ``timeout_s``.
        name, uuid, force: as of `format_disk`.
        create_bytes: make the disk first, of this size; one that is there is never overwritten.

    Raises:
        ConfigError: it can not be opened, or not made.
        AreaError: something is on it, or it is too small.
        StorageError: it can not be reached, or failed, or nodes can not share it.
    """
    disk = await _open(url, pool, how, create_bytes)
    try:
        return ClusterDisk(disk, await format_disk(disk, name=name, uuid=uuid, force=force))
    except BaseException:
        await disk.close()
        raise


async def _open(url: str, pool: DiskPool, how: dict[str, Any], create_bytes: int | None = None) -> Disk:
    """Open the disk past the page cache, where its kind has one: what another host has written is not in it."""
    if create_bytes is not None:
        # Made with the cache, so that a file system which can do nothing else leaves no half of a disk.
        await (await open_disk(url, pool=pool, create_bytes=create_bytes, block_bytes=BLOCK_BYTES, **how)).close()
    return await open_disk(url, pool=pool, block_bytes=BLOCK_BYTES, direct=kind_of(url) == "file", **how)
