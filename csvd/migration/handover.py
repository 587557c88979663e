"""Who owns a guest at the end of a hand-over: the register's record is the judge, and this asks it until it has judged.

A hand-over is one compare-and-set, (source, epoch) to (destination, epoch + 1). When its outcome is not known it may
still be under way, so a record that says (source, epoch) decides nothing yet. Either side can end that: a
compare-and-set of (source, epoch) to (source, epoch + 1) leaves the guest where it is, and whichever of the two is
carried out first makes the other impossible.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger

from csvd.cluster.errors import ClusterError, CommandRefused
from csvd.migration.interfaces import Clock, Cluster
from csvd.migration.precopy import Verdict

SUBMIT_TIMEOUT_S: Final = 5.0
_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0

_log = Logger()


class HandOver:
    """One change of owner that may be made, or kept from being made, once.

    Args:
        epoch: the source's; the destination's will be one higher.
        is_under_way: whether a submit of it may be on its way to the register; the source knows, the destination has
            to reckon with it.
    """

    def __init__(
        self,
        cluster: Cluster,
        clock: Clock,
        *,
        guest: str,
        source: str,
        destination: str,
        epoch: int,
        is_under_way: bool = False,
    ) -> None:
        self.guest = guest
        self.source = source
        self.destination = destination
        self.epoch = epoch
        self.is_under_way = is_under_way
        self._cluster = cluster
        self._clock = clock

    def judge(self, owner: str | None, epoch: int) -> Verdict | None:
        """What a record says; ``owner`` None when there is none. None while nothing is decided."""
        if owner is None:
            return Verdict.ELSEWHERE
        if epoch <= self.epoch:
            return None
        if (owner, epoch) == (self.destination, self.epoch + 1):
            return Verdict.MOVED
        # A later record of the source still is the source's: someone made the epoch higher without a move.
        return Verdict.KEPT if owner == self.source else Verdict.ELSEWHERE

    def judge_applied(self) -> Verdict | None:
        """What the register says as far as this node has applied it. What it has decided is never undone."""
        record = self._cluster.register.guest(self.guest)
        return self.judge(record.owner, record.epoch) if record is not None else None

    async def submit(self, new_owner: str) -> None:
        """Submit the compare-and-set from (source, epoch). Raises CommandRefused or another ClusterError (unknown)."""
        command = {
            "op": "guest_move",
            "name": self.guest,
            "owner": self.source,
            "epoch": self.epoch,
            "new_owner": new_owner,
        }
        try:
            await self._cluster.submit(command, timeout_s=SUBMIT_TIMEOUT_S)
        except CommandRefused:
            raise
        except BaseException:
            # Whatever it was, it was not a refusal: the command may be on its way.
            self.is_under_way = True
            raise

    async def settle(self, new_owner: Callable[[], str]) -> Verdict:
        """Ask until the register has decided, and have it decide.

        Args:
            new_owner: the side to propose when nothing is decided yet; asked anew each time.
        """
        pause_s = _FIRST_PAUSE_S
        while True:
            verdict = self.judge_applied()
            if verdict is None:
                try:
                    verdict = await self._decide(new_owner())
                except ClusterError as error:
                    _log.warn("guest {guest}: its owner is not settled yet: {error}", guest=self.guest, error=error)
            if verdict is not None:
                return verdict
            await self.changed(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _decide(self, new_owner: str) -> Verdict | None:
        """Read the record past everything decided before, and propose when it decides nothing."""
        answer = await self._cluster.submit({"op": "guest_read", "name": self.guest}, timeout_s=SUBMIT_TIMEOUT_S)
        record: dict[str, Any] | None = answer.get("guest")
        verdict = self.judge(record["owner"], record["epoch"]) if record is not None else self.judge(None, 0)
        if verdict is not None:
            return verdict
        if not self.is_under_way:
            return Verdict.KEPT
        await self.submit(new_owner)
        return Verdict.MOVED if new_owner == self.destination else Verdict.KEPT

    def changed(self, at_most_s: float) -> Deferred[None]:
        """Fires after the next change of the register, or after ``at_most_s``."""
        fired: Deferred[None] = Deferred()

        def fire(*_: object) -> None:
            unsubscribe()
            if timer.active():
                timer.cancel()
            if not fired.called:
                fired.callback(None)

        unsubscribe = self._cluster.on_change(fire)
        timer = self._clock.callLater(at_most_s, fire)
        return fired
