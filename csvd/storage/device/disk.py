"""DeviceDisk: a SCSI disk of the kernel that several hosts have."""

from __future__ import annotations

import fcntl
import struct
from dataclasses import replace
from typing import Any, Final

from twisted.internet.defer import Deferred, fail

from csvd.shared_disk import PERSISTENT_RESERVATION
from csvd.storage.device.fence import DeviceFence
from csvd.storage.device.scsi_generic import Ioctl
from csvd.storage.device.unit import DeviceUnit
from csvd.storage.disk import DiskCapabilities, differs
from csvd.storage.file import FileDisk
from csvd.storage.iscsi.errors import storage_error
from csvd.storage.pool import DiskPool
from initiator import InitiatorError, Miscompare
from initiator.scsi import reservations
from initiator.scsi.reservations import ReserveIn

_BLKSSZGET: Final = 0x1268
_ROOM_BYTES: Final = 4096


class DeviceDisk(FileDisk):
    """A block device whose logical unit keeps reservations, opened past the page cache.

    Args:
        unit, wwid, block_bytes: of the device, by the functions here.
    """

    def __init__(self, fd: int, *, unit: DeviceUnit, wwid: str, block_bytes: int, pool: DiskPool, **how: Any) -> None:
        fence = DeviceFence(fd, pool, how["url"], unit, f"scsi {wwid}")
        super().__init__(fd, pool=pool, fence=fence, **how)
        self._unit = unit
        self._block_bytes = block_bytes

    def compare_and_write(self, offset_bytes: int, expected: bytes, new: bytes) -> Deferred[None]:
        """Write a block if it holds another one, by COMPARE AND WRITE: no lock of this host keeps others off."""
        refusal = self._check_write("compare and write", offset_bytes, len(new))
        if refusal is not None:
            return fail(refusal)
        return Deferred.fromCoroutine(self._compare(offset_bytes, expected, new))

    async def _compare(self, offset_bytes: int, expected: bytes, new: bytes) -> None:
        size = self._block_bytes
        try:
            await self._unit.compare_and_write(offset_bytes // size, expected[:size], new[:size])
        except Miscompare as error:
            raise differs(self.url, offset_bytes) from error
        except InitiatorError as error:
            raise storage_error("compare and write", error, where=self.url, offset_bytes=offset_bytes) from error


def device_disk(
    fd: int, wwid: str, *, pool: DiskPool, capabilities: DiskCapabilities, ioctl: Ioctl = fcntl.ioctl, **how: Any
) -> DeviceDisk | None:
    """The disk over an open SCSI disk; None where that keeps no reservations, or this process may not use them.

    Args:
        wwid: of `wwid_of`.
        capabilities, how: as of `FileDisk`; what the device adds is put in.
    """
    unit = DeviceUnit(fd, pool, ioctl=ioctl)
    try:
        unit.run_now(reservations.reserve_in(ReserveIn.READ_KEYS, _ROOM_BYTES), room_bytes=_ROOM_BYTES)
        (block_bytes,) = struct.unpack("i", ioctl(fd, _BLKSSZGET, bytes(4)))
    except (InitiatorError, OSError):
        return None
    can = replace(capabilities, fence=PERSISTENT_RESERVATION, shared_between="hosts")
    return DeviceDisk(fd, unit=unit, wwid=wwid, block_bytes=block_bytes, pool=pool, capabilities=can, **how)
