"""THIN PROVISIONING SOFT THRESHOLD REACHED: told once when what a thin logical unit uses grows over the threshold.

The threshold is that of the Logical Block Provisioning mode page (SBC-3 4.7.3.7, 6.4.7). What the disk uses costs a
system call, so it is looked at after every few mebibytes that changed, not after each command.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from csvd.scsi.block_steps import Part
from csvd.scsi.procedure import DiskFault, Usage
from csvd.scsi.provisioning import resource_counts
from csvd.scsi.sense import Asc

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer

LOOK_EVERY_BYTES: Final = 8 << 20


class ThresholdWatch:
    """Watches one logical unit. The first change is looked at, too: a restart may find the threshold passed already.

    Args:
        server: of the logical unit.
    """

    __slots__ = ("_is_looking", "_is_reached", "_server", "_unseen_bytes")

    def __init__(self, server: DeviceServer) -> None:
        self._server = server
        self._unseen_bytes = LOOK_EVERY_BYTES
        self._is_looking = False
        self._is_reached = False

    def changed(self, length_bytes: int) -> bool:
        """Count what was written, zeroed or unmapped; gives whether it is time for `look`."""
        self._unseen_bytes += length_bytes
        return self._unseen_bytes >= LOOK_EVERY_BYTES and self._server.unit.thin and not self._is_looking

    def look(self, nexus: str) -> Part:
        """Look at what is used. A disk that does not tell is as if nothing were used.

        Args:
            nexus: the I_T nexus whose command changed something; SITUA has it alone be told.
        """
        self._unseen_bytes = 0
        if not self._server.mode.soft_threshold.reported:
            self._is_reached = False
            return
        self._is_looking = True
        try:
            used_bytes = yield Usage(self._server.unit)
        except DiskFault:
            used_bytes = None
        finally:
            self._is_looking = False
        if used_bytes is not None:
            self._seen(used_bytes, nexus)

    def _seen(self, used_bytes: int, nexus: str) -> None:
        threshold = self._server.mode.soft_threshold
        was_reached = self._is_reached
        self._is_reached = resource_counts(self._server.unit, used_bytes).used >= threshold.sets
        if not self._is_reached or was_reached:
            return
        told = self._server.nexuses
        if threshold.single_nexus and nexus in told:
            told[nexus].establish(Asc.THIN_PROVISIONING_SOFT_THRESHOLD_REACHED)
        else:
            self._server.establish(Asc.THIN_PROVISIONING_SOFT_THRESHOLD_REACHED)
