"""Logical units over disks: one place where both are opened, for every program that serves them."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from twisted.internet.defer import Deferred, DeferredLock
from twisted.python.failure import Failure

from csvd.errors import ConfigError
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.range_locks import RangeLocks
from csvd.storage.disk import Disk, ResizableDisk, StorageError
from csvd.storage.open import is_there, open_disk, place_of
from csvd.storage.pool import DiskPool


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitSettings:
    """What a person says of a logical unit; the rest follows from its disk.

    Args:
        number: LUN.
        disk: path or URL of the disk.
        create_bytes: make the file, this long, when it is missing.
        may_have_grown: whether a file that is there may be longer than ``create_bytes``: it was resized since.
        full: every block has its space on the store: it is not thinly provisioned, and a file that is created, or
            grows, is allocated.
        read_only, removable, block_bytes: see LogicalUnit.
        physical_block_bytes: what the disk writes at once; 0 for what the disk says of itself.
        vendor, product, revision, serial, naa: names; None for those made of the disk's identity.
        direct: go past the page cache.
        soft_threshold_percent: see LogicalUnit.
        rotation_rate: MEDIUM ROTATION RATE: 0 not reported, 1 does not rotate, 1025 to 65534 revolutions a minute.
        write_cache: whether a write may be GOOD before it is durable; None for what the disk says of itself.
        maximum_transfer_bytes: a longer transfer is refused.
        is_clustered: see LogicalUnit.
        disk_secret, disk_initiator_name, disk_timeout_s: how to reach a disk that is somewhere else; see
            `csvd.storage.kind.Opening`.
    """

    number: int
    disk: str
    create_bytes: int | None = None
    may_have_grown: bool = False
    full: bool = False
    read_only: bool = False
    removable: bool = False
    block_bytes: int = 512
    physical_block_bytes: int = 0
    vendor: str | None = None
    product: str | None = None
    revision: str | None = None
    serial: str | None = None
    naa: bytes | None = None
    direct: bool = False
    soft_threshold_percent: int = 0
    rotation_rate: int = 0
    write_cache: bool | None = None
    maximum_transfer_bytes: int = 8 << 20
    is_clustered: bool = False
    disk_secret: bytes | None = field(default=None, repr=False)
    disk_initiator_name: str | None = None
    disk_timeout_s: float = 30.0


@dataclass(slots=True, eq=False)
class _OpenDisk:
    """A disk that is open, and the units over it."""

    disk: Disk
    units: set[LogicalUnit] = field(default_factory=set)


@dataclass(slots=True, eq=False)
class _Place:
    """What is open of one store, whatever names and options it was opened by.

    Args:
        disks: by what they differ in: whether they are read-only, and whether they go past the page cache.
        turn: who opens or closes one of them; the others wait, and find what the first has opened.
        waiting: how many have it or wait for it.
    """

    locks: RangeLocks = field(default_factory=RangeLocks)
    disks: dict[tuple[bool, bool], _OpenDisk] = field(default_factory=dict)
    turn: DeferredLock = field(default_factory=DeferredLock)
    waiting: int = 0


class Units:
    """Opens disks as logical units, and closes them again.

    A disk that is open is opened no second time: units over the same file, of one target or of several, share one disk
    and its claims on ranges, so that COMPARE AND WRITE is atomic across all of them. Who opens a disk that is just
    being opened or closed waits for that.
    """

    def __init__(self, pool: DiskPool) -> None:
        self._pool = pool
        self._places: dict[str, _Place] = {}

    async def open(self, settings: UnitSettings) -> LogicalUnit:
        """Open a disk as a logical unit.

        Raises:
            ConfigError: the disk can not be opened, is of another size than asked for, or a setting does not fit it.
            StorageError: the disk can not be reached, or failed.
        """
        async with self._turn(place_of(settings.disk)) as place:
            key = (settings.read_only, settings.direct)
            opened = place.disks.get(key)
            is_new = opened is None
            if opened is None:
                opened = _OpenDisk(await self._open_disk(settings))
            try:
                _check_size(settings, opened.disk)
                unit = _unit(settings, opened.disk, place.locks)
            except ConfigError:
                if is_new:
                    with contextlib.suppress(StorageError):
                        await opened.disk.close()
                raise
            place.disks[key] = opened
            opened.units.add(unit)
            return unit

    @contextlib.asynccontextmanager
    async def _turn(self, name: str) -> AsyncIterator[_Place]:
        """Have a place for oneself."""
        place = self._places.setdefault(name, _Place())
        place.waiting += 1
        try:
            await place.turn.acquire()
            try:
                yield place
            finally:
                place.turn.release()
        finally:
            place.waiting -= 1
            if not place.waiting and not place.disks:
                del self._places[name]

    def _open_disk(self, settings: UnitSettings) -> Deferred[Disk]:
        if settings.create_bytes is None or is_there(settings.disk):
            return self._open(settings, None)

        def not_created(failure: Failure) -> Any:
            # Another node that starts at the same time may have made it meanwhile.
            is_made = isinstance(failure.value, ConfigError) and is_there(settings.disk)
            return self._open(settings, None) if is_made else failure

        return self._open(settings, settings.create_bytes).addErrback(not_created)

    def _open(self, settings: UnitSettings, create_bytes: int | None) -> Deferred[Disk]:
        return open_disk(
            settings.disk,
            pool=self._pool,
            create_bytes=create_bytes,
            full=settings.full,
            read_only=settings.read_only,
            block_bytes=settings.block_bytes,
            direct=settings.direct,
            secret=settings.disk_secret,
            initiator_name=settings.disk_initiator_name,
            timeout_s=settings.disk_timeout_s,
        )

    async def close(self, unit: LogicalUnit) -> None:
        """Let go of a unit; its disk is closed with the last one over it. A unit that is closed is no error.

        Raises:
            StorageError: what was written could not be made durable.
        """
        name = self._name_of(unit)
        if name is None:
            return
        async with self._turn(name) as place:
            for key, opened in place.disks.items():
                if unit not in opened.units:
                    continue
                opened.units.remove(unit)
                if not opened.units:
                    del place.disks[key]
                    await opened.disk.close()
                return

    def _name_of(self, unit: LogicalUnit) -> str | None:
        for name, place in self._places.items():
            if any(unit in opened.units for opened in place.disks.values()):
                return name
        return None

    async def close_all(self) -> None:
        """Close every disk."""
        for place in list(self._places.values()):
            for opened in list(place.disks.values()):
                for unit in list(opened.units):
                    await self.close(unit)

    def sharing(self, unit: LogicalUnit) -> list[LogicalUnit]:
        """All units over the disk of a unit, this one included."""
        return [each for opened in self._sharing(unit) for each in opened.units]

    def _sharing(self, unit: LogicalUnit) -> list[_OpenDisk]:
        name = self._name_of(unit)
        assert name is not None, "the unit is closed"
        return list(self._places[name].disks.values())

    async def resize(self, unit: LogicalUnit, size_bytes: int | None, *, full: bool = False) -> None:
        """Give the disk of a unit another size; ``block_count`` of all units over it is the caller's to set.

        Args:
            size_bytes: of a file; None takes the size that a file or block device was given by others.
            full: allocate what is added.

        Raises:
            ConfigError: the disk has no size that changes, or the size is no whole number of blocks.
            StorageError: the store has no room, or failed.
        """
        disk = unit.device
        url = disk.url
        if not isinstance(disk, ResizableDisk):
            raise ConfigError("this disk keeps its size", where=url)
        for each in self.sharing(unit):
            if size_bytes is not None and (not size_bytes or size_bytes % each.block_bytes):
                why = f"{size_bytes} bytes are not a whole number of {each.block_bytes}-byte blocks"
                raise ConfigError("can not take this size", where=url, why=why)
        await disk.resize(size_bytes, full=full)
        for opened in self._sharing(unit):
            other = opened.disk
            if isinstance(other, ResizableDisk) and other is not disk:
                await other.resize(None)


def _check_size(settings: UnitSettings, disk: Disk) -> None:
    create_bytes = settings.create_bytes
    if create_bytes is None or disk.size_bytes == create_bytes:
        return
    if settings.may_have_grown and disk.size_bytes > create_bytes:
        return
    raise ConfigError(
        f"is there with {disk.size_bytes} bytes, not with the {create_bytes} that are to be created",
        where=settings.disk,
        hint="leave out the size to serve it as it is",
    )


def _unit(settings: UnitSettings, disk: Disk, locks: RangeLocks) -> LogicalUnit:
    capabilities = disk.capabilities
    block_bytes = settings.block_bytes
    default = Identity()
    identity = Identity(
        vendor=settings.vendor or default.vendor,
        product=settings.product or default.product,
        revision=settings.revision or default.revision,
        serial=settings.serial or disk.identity(),
        naa=settings.naa or b"",
    )
    write_cache = capabilities.volatile_cache if settings.write_cache is None else settings.write_cache
    return LogicalUnit(
        settings.number,
        disk,
        block_bytes,
        disk.size_bytes // block_bytes,
        identity,
        read_only=disk.read_only,
        write_cache=write_cache,
        removable=settings.removable,
        maximum_transfer_bytes=settings.maximum_transfer_bytes,
        thin=capabilities.discard and not settings.full,
        soft_threshold_percent=settings.soft_threshold_percent,
        physical_block_bytes=settings.physical_block_bytes or max(block_bytes, capabilities.physical_block_bytes),
        medium_rotation_rate=settings.rotation_rate,
        is_clustered=settings.is_clustered,
        locks=locks,
    )
