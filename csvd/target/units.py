"""A logical unit over a disk: one place where both are opened, for every program that serves them."""

from __future__ import annotations

from pathlib import Path

from csvd.errors import ConfigError
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.storage.disk import Disk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool


def logical_unit_of(
    number: int,
    url: str,
    pool: DiskPool,
    *,
    create_bytes: int | None = None,
    read_only: bool = False,
    block_bytes: int = 512,
    serial: str | None = None,
) -> LogicalUnit:
    """Open a disk as a logical unit; its serial number and NAA designator come from the disk's identity.

    Args:
        create_bytes: make the file, sparse and this long, when it is missing; one that is there must have this size.

    Raises:
        ConfigError: the disk can not be opened, or is of another size than asked for.
    """
    missing = create_bytes is not None and not Path(url).exists()
    disk = open_disk(
        url,
        pool=pool,
        create_bytes=create_bytes if missing else None,
        read_only=read_only,
        block_bytes=block_bytes,
        serial=serial,
    )
    if create_bytes is not None and disk.size_bytes != create_bytes:
        disk.close()
        raise ConfigError(
            f"is there with {disk.size_bytes} bytes, not with the {create_bytes} that are to be created",
            where=url,
            hint="leave out the size to serve it as it is",
        )
    return _unit(number, disk, block_bytes)


def _unit(number: int, disk: Disk, block_bytes: int) -> LogicalUnit:
    return LogicalUnit(
        number,
        disk,
        block_bytes,
        disk.size_bytes // block_bytes,
        Identity(serial=disk.identity()),
        read_only=disk.read_only,
        write_cache=disk.capabilities.volatile_cache,
        thin=disk.capabilities.discard,
        physical_block_bytes=max(block_bytes, disk.capabilities.physical_block_bytes),
    )
