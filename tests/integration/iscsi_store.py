"""A LUN of a csvd target in this process, as the store of a disk."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred

from csvd.iscsi.access import OPEN, Access
from csvd.iscsi.chap import Credentials
from csvd.iscsi.portals import PortalGroup
from csvd.storage.disk import Disk
from csvd.storage.open import open_disk
from csvd.storage.pool import DiskPool
from csvd.target.export import Export
from csvd.target.kept_state import KeptState
from csvd.target.service import TargetService
from csvd.target.units import Units, UnitSettings
from tests.unit.storage.disk_stores import GrowingStore

TARGET = "iqn.2026-11.org.example:backing"


class IscsiStore(GrowingStore):
    """The LUN is over a file; its target keeps reservations. Nodes have names of their own to it."""

    def __init__(
        self, folder: Path, *, block_bytes: int = 512, read_only: bool = False, secret: bytes | None = None
    ) -> None:
        super().__init__(folder)
        self._read_only = read_only
        self._access = OPEN if secret is None else Access(credentials={"joe": Credentials("joe", secret)})
        self.block_bytes = self.unit_bytes = block_bytes
        self.path = folder / "backing.img"
        self.url = ""

    @asynccontextmanager
    async def ready(self, reactor: Any) -> AsyncIterator[None]:
        if not self.path.exists():
            self.path.touch()
            os.truncate(self.path, self.size_bytes)
        pool = DiskPool(reactor)
        keeper = KeptState(self.folder / "kept", pool)
        self._units = Units(pool)
        self._unit = await self._units.open(
            UnitSettings(
                number=0,
                disk=str(self.path),
                block_bytes=self.block_bytes,
                read_only=self._read_only,
                serial="backing",
            )
        )
        keeper.attach(self._unit)
        self._service = TargetService(reactor, [Export(TARGET, [self._unit], access=self._access)], keeper=keeper)
        (portal,) = self._service.start([PortalGroup(1, ("127.0.0.1:0",))])
        self.url = f"iscsi://{portal}/{TARGET}/0"
        try:
            yield
        finally:
            await self._service.stop(0.1)
            await self._units.close_all()
            await pool.stop()
            keeper.close()

    def open(self, pool: DiskPool, *, read_only: bool = False) -> Deferred[Disk]:
        return open_disk(self.url, pool=pool, read_only=read_only, block_bytes=self.block_bytes)

    def open_as(self, pool: DiskPool, node: str) -> Deferred[Disk]:
        return open_disk(
            self.url,
            pool=pool,
            block_bytes=self.block_bytes,
            initiator_name=f"iqn.2026-11.org.example:{node}",
        )

    def sessions(self) -> list[dict[str, Any]]:
        """The sessions that the target has."""
        return self._service.sessions()

    async def grow(self, size_bytes: int) -> None:
        await self._units.resize(self._unit, size_bytes)
        self._service.resized(self._unit)
