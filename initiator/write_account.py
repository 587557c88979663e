"""Whether a flush can be believed: an account of the writes that were acknowledged and not flushed, by logical unit.

A SYNCHRONIZE CACHE says that what is in the write cache now is on the medium. What it was sent for is more: that every
write acknowledged before is. The two are the same unless the target has lost power in between, with the cache that such
a write was in; then a flush that is sent, or sent again, to the target that came back would be answered by GOOD, and
that answer would lie. So for each logical unit it is kept in mind whether there are such writes, and what its unit
attentions say of its power since (:func:`initiator.scsi.write_cache.judge`).

What can not be known is treated as lost: most targets say 29h/00h, "power on, reset, or bus device reset", to every new
session. Then, unless the unit says that it has no volatile cache (WCE), one flush fails with FlushInDoubt, and the
caller writes again what it wrote since the last flush that did not fail. ``assume_power_kept`` leaves only 29h/01h,
which says power on and nothing else.
"""

from __future__ import annotations

from initiator.engine.requests import GOOD, Command
from initiator.errors import FlushInDoubt
from initiator.scsi import write_cache
from initiator.scsi.sense import Sense
from initiator.scsi.write_cache import Cache


class WriteAccount:
    """The account of one road. It holds a few words for each logical unit that was written to."""

    def __init__(self, *, assume_power_kept: bool) -> None:
        self.unflushed: set[int] = set()
        """LUN fields with writes that were acknowledged without FUA and not flushed."""
        self.at_risk: dict[int, Sense] = {}
        """LUN fields whose unflushed writes may be gone, and what said so."""
        self._assume_power_kept = assume_power_kept
        self._flushing: set[Command] = set()

    def sent(self, command: Command) -> None:
        """A command without data goes to a session. Writes that end while a flush runs are not covered by it."""
        if write_cache.is_flush(command.cdb) and command.lun in self.unflushed and write_cache.flushes_all(command.cdb):
            self.unflushed.discard(command.lun)
            self._flushing.add(command)

    def not_done(self, command: Command) -> None:
        """A command came to no answer, or to another than GOOD."""
        if command in self._flushing:
            self._flushing.discard(command)
            self.unflushed.add(command.lun)

    def good(self, command: Command) -> None:
        """A command that reads nothing ended with GOOD. A flush that can not be believed gets its error here."""
        lun, cdb = command.lun, command.cdb
        if lun not in self.unflushed and write_cache.may_stay_in_cache(cdb):
            self.unflushed.add(lun)
        elif write_cache.is_flush(cdb):
            self._flushing.discard(command)
            sense = self.at_risk.get(lun)
            if sense is not None:
                if write_cache.flushes_all(cdb):
                    del self.at_risk[lun]
                command.error = FlushInDoubt(
                    "writes acknowledged before may be lost",
                    why=f"the target said: {sense}",
                    hint="write again what was written since the last flush",
                )

    def attention(self, lun: int, sense: Sense, *, on_new_session: bool) -> bool:
        """A logical unit said this; give whether its unflushed writes are at risk by it now.

        On a session that lives on 29h/00h is a reset, of whomever: a target that loses its power loses its sessions.
        """
        cache = write_cache.judge([sense])
        if cache is Cache.KEPT or (cache is Cache.IN_DOUBT and (self._assume_power_kept or not on_new_session)):
            return False
        if lun not in self.unflushed and not any(flush.lun == lun for flush in self._flushing):
            return False
        self.at_risk.setdefault(lun, sense)
        return True

    def no_cache(self, lun: int) -> None:
        """A logical unit says that it has no volatile write cache: nothing was at risk."""
        self.at_risk.pop(lun, None)


def ended_well(command: Command) -> bool:
    """Whether a command has status GOOD."""
    return command.error is None and command.status == GOOD and not command.response
