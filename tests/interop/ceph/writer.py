"""A process that joins an image as a node and writes to it without a pause, until the cluster takes no more from it.

`python -m tests.interop.ceph.writer URL NODE SLOTS` prints "writing" when the first writes are acknowledged, and in the
end one line: how many writes were acknowledged, how many were refused as those of a fenced node, and how many failed in
another way. SIGTERM ends it, too.
"""

from __future__ import annotations

import signal
import sys
from typing import Any, Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.python.failure import Failure

from csvd.storage.disk import FENCED, StorageError
from csvd.storage.rbd.disk import RbdDisk
from tests.interop.ceph.disks import Disks, run_with_disks

SLOT_BYTES: Final = 64 << 10
DEPTH: Final = 32
LONGEST_S: Final = 60.0


class Writer:
    """Keeps `DEPTH` writes under way."""

    def __init__(self, disk: RbdDisk, slots: int) -> None:
        self.acknowledged = 0
        self.fenced = 0
        self.failed = 0
        self.is_ended = False
        self._disk = disk
        self._slots = slots
        self._data = b"W" * SLOT_BYTES

    async def lane(self, first: int) -> None:
        """One write after the other, over all slots of a lane."""
        slot = first
        while not self.is_ended:
            written = self._disk.write_from((self._data,), slot * SLOT_BYTES)
            written.addCallbacks(self._done, self._not_done)
            await written
            slot = (slot + DEPTH) % self._slots

    def _done(self, _: object) -> None:
        self.acknowledged += 1
        if self.acknowledged == self._slots:
            _say("writing")

    def _not_done(self, failure: Failure) -> None:
        assert isinstance(failure.value, StorageError), failure
        if failure.value.errno == FENCED:
            self.fenced += 1
        else:
            self.failed += 1
        # Some more tries: a client that is fenced stays it.
        self.is_ended = self.fenced + self.failed > 4 * DEPTH


async def write(disks: Disks, url: str, node: str, slots: int) -> None:
    """Do it."""
    disk = await disks.open(url)
    await disk.join(node)
    writer = Writer(disk, slots)

    def end(*_: Any) -> None:
        writer.is_ended = True

    signal.signal(signal.SIGTERM, end)
    await DeferredList([Deferred.fromCoroutine(writer.lane(first)) for first in range(DEPTH)], fireOnOneErrback=True)
    _say(f"acknowledged {writer.acknowledged} fenced {writer.fenced} failed {writer.failed}")


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    run_with_disks(
        lambda disks: write(disks, sys.argv[1], sys.argv[2], int(sys.argv[3])),
        time_limit_s=LONGEST_S,
    )
