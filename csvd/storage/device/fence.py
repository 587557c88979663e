"""The fence of a SCSI disk of the kernel: a persistent reservation among hosts, and a lock within each of them."""

from __future__ import annotations

import errno
import time
from typing import cast

from twisted.internet.defer import Deferred, succeed

from csvd.shared_disk import PERSISTENT_RESERVATION, FenceProof
from csvd.storage.device.unit import DeviceUnit
from csvd.storage.disk import StorageError
from csvd.storage.file_fence import FileFence
from csvd.storage.iscsi.fence import Fence
from csvd.storage.pool import DiskPool
from initiator import Disk


class DeviceFence(FileFence):
    """The place of this process on such a disk.

    A registration is that of the host: it tells nothing of two processes there. So each process has the lock of its
    number, too, and a second node of one host is refused.

    Args:
        fd, pool, url: as of `FileFence`.
        unit: the logical unit.
        identity: of it, the same on every node.
    """

    def __init__(self, fd: int, pool: DiskPool, url: str, unit: DeviceUnit, identity: str) -> None:
        super().__init__(fd, pool, url)
        self._where = url
        self._unit = unit
        # Two sessions of one host are one to the disk: there is no caretaker.
        self._reservation = Fence(cast(Disk, unit), identity, None, url)

    def join(self, node: str, number: int) -> Deferred[None]:
        """Take a place; see `FencingDisk.join`."""
        return Deferred.fromCoroutine(self._join(node, number))

    async def _join(self, node: str, number: int) -> None:
        had_place = self.has_place
        await super().join(node, number)
        try:
            if others := await self.other_places():
                why = f"the member {others[0]} is on this host, and to the disk a host is one initiator"
                raise StorageError("join", errno.EBUSY, where=self._where, why=why)
            await self._reservation.join(node)
        except BaseException:
            if not had_place:
                await super().leave()
            raise

    def fence(self, node: str, number: int) -> Deferred[FenceProof]:
        """Keep a node off; see `FencingDisk.fence`. One that is on this host, and alive, is not."""
        return Deferred.fromCoroutine(self._keep_off(node, number))

    async def _keep_off(self, node: str, number: int) -> FenceProof:
        await super().fence(node, number)
        seen = await self._reservation.fence(node)
        return FenceProof(PERSISTENT_RESERVATION, node, seen, time.clock_gettime(time.CLOCK_BOOTTIME))

    def is_gone(self, number: int) -> Deferred[bool]:
        """False: who has no registration may have commands under way by one that it had."""
        return succeed(False)

    def leave(self) -> Deferred[None]:
        """Give the place up. The host that holds the reservation stays registered: it would be released with it."""
        return Deferred.fromCoroutine(self._leave())

    async def _leave(self) -> None:
        await self._reservation.leave()
        await super().leave()

    def when_idle(self) -> Deferred[None]:
        """Fires when nothing of it is under way."""
        return super().when_idle().addCallback(lambda _: self._unit.when_idle())
