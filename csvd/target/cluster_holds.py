"""Ranges that a command of one node has for itself on all nodes: what makes COMPARE AND WRITE atomic across them.

The command asks the coordinator; that pushes the hold to every node, in one order, and on each it is a claim like any
other: it waits for what is under way there, and what comes later waits for it. On the node of the command it is the
claim of the command itself. When all nodes have it the command runs; when it ends, or is aborted, the coordinator is
told, and tells the others. Who holds what is always settled at the coordinator, so no two commands wait for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.cluster.coordination.faces import DiskSession, Json
from csvd.cluster.errors import ClusterError
from csvd.cluster.reactor import Clock
from csvd.scsi.range_locks import Claim, Claims, RangeLocks
from csvd.target.unit_changes import SERVICE

HOLD_TIMEOUT_S: Final = 600.0
"""Asked anew after that, as long as the command waits."""
AGAIN_S: Final = 0.5
MOST_ASKED: Final = 32
"""Holds of this node that are asked for at once. Each may wait for the end of an earlier one of the same node: the news
of that must find a way past them (see `csvd.cluster.coordination.asks.MAXIMUM_AT_ONCE`)."""
REMEMBERED: Final = 4096
"""Holds that have ended: an answer that comes after the news of its end must not bring one back."""


class _Claimed:
    """Claims of this node for a hold; whoever waits for them hears of it, too, when they are given up before."""

    def __init__(self, claims: Sequence[Claim]) -> None:
        self._claims = Claims(claims)
        self._waiter: Deferred[None] | None = None
        self.is_had = False

    def acquire(self) -> Deferred[None]:
        """Ask for them; fires when they are had or given up."""
        waiter = self._waiter = Deferred()
        self._claims.acquire(self._granted)
        return waiter

    def _granted(self) -> None:
        self.is_had = True
        self._tell()

    def release(self) -> None:
        """Give them up."""
        self._claims.release()
        self._tell()

    def _tell(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None:
            waiter.callback(None)


class ClusterHolds:
    """The holds of one node: those of its own commands, and those of others that are pushed to it.

    Args:
        clock: for what is asked again.
        session: with the coordinator; None while there is none.
        locks: the claims on the disks of a logical unit, by its NAA designator; none where this node does not export
            it.
        prefix: no other node, and no other run of this one, has it.
    """

    log = Logger()

    def __init__(
        self,
        clock: Clock,
        session: Callable[[], DiskSession | None],
        locks: Callable[[str], Sequence[RangeLocks]],
        prefix: str,
    ) -> None:
        self._clock = clock
        self._session = session
        self._locks = locks
        self._prefix = prefix
        self._count = 0
        self._own: dict[str, ClusterHold] = {}
        self._others: dict[str, dict[str, _Claimed]] = {}
        """By the name of the hold and the NAA designator of the logical unit."""
        self._ended: dict[str, None] = {}
        self._turns: dict[str, ClusterHold] = {}
        self._asked = 0
        self._is_asking = False

    def hold(self, claims: Sequence[Claim]) -> ClusterHold:
        """The claims of a command, some of which are to hold on all nodes."""
        return ClusterHold(self, claims)

    # Of commands of this node

    def new_name(self, hold: ClusterHold) -> str:
        """A name for what is asked for now."""
        self._count += 1
        name = f"{self._prefix}-{self._count}"
        self._own[name] = hold
        return name

    def ask_for(self, name: str, hold: ClusterHold) -> None:
        """Ask the coordinator for a hold, when few enough others are asked for."""
        self._turns[name] = hold
        self._ask_next()

    def _ask_next(self) -> None:
        if self._is_asking:
            return  # Where there is nobody to ask, the answer is there at once.
        self._is_asking = True
        while self._turns and self._asked < MOST_ASKED:
            name = next(iter(self._turns))
            hold = self._turns.pop(name)
            self._asked += 1
            self.ask("hold", {"hold": name, "ranges": hold.ranges}, partial(self._answered, name, hold))
        self._is_asking = False

    def _answered(self, name: str, hold: ClusterHold, answer: Json | None) -> None:
        self._asked -= 1
        hold.answered(name, answer)
        self._ask_next()

    def forget(self, name: str) -> None:
        """It is over; the coordinator learns of it, where it was asked."""
        self._own.pop(name, None)
        if self._turns.pop(name, None) is None:
            self._unhold(name)

    def _unhold(self, name: str) -> None:
        self.ask(
            "unhold", {"hold": name}, lambda answer: None if answer is not None else self.later(self._unhold, name)
        )

    def later(self, what: Callable[..., None], *args: Any) -> None:
        """Try once more, in a while."""
        self._clock.callLater(AGAIN_S, what, *args)

    def ask(self, method: str, params: Json, answered: Callable[[Json | None], None]) -> None:
        """Ask the coordinator; None where it has no answer."""
        session = self._session()
        if session is None:
            answered(None)
            return

        def failed(failure: Failure) -> None:
            if failure.check(ClusterError) is None:
                self.log.failure("a fault in asking for {method}", failure, method=method)
            answered(None)

        asking = Deferred.fromCoroutine(session.ask(SERVICE, method, params, timeout_s=HOLD_TIMEOUT_S))
        asking.addCallbacks(answered, failed)

    # What the coordinator pushes

    async def take(self, code: Mapping[str, Any]) -> Json:
        """A hold is granted; it is acknowledged when nobody reads or writes there any more on this node."""
        name = code["hold"]
        own = self._own.get(name)
        if own is not None:
            await own.claim()
        elif not name.startswith(self._prefix):
            await self._take_ranges(name, code["ranges"])
        return {}

    async def take_part(self, code: Mapping[str, Any], naa: str) -> None:
        """A hold that was granted before this node has attached a logical unit."""
        if not code["hold"].startswith(self._prefix):
            await self._take_ranges(code["hold"], [each for each in code["ranges"] if each[0] == naa])

    async def _take_ranges(self, name: str, ranges: Sequence[Sequence[Any]]) -> None:
        if name in self._ended:
            return
        known = self._others.setdefault(name, {})
        waiters = []
        for naa, offset_bytes, length_bytes in ranges:
            if naa not in known:
                claims = [Claim(locks, offset_bytes, length_bytes, True) for locks in self._locks(naa)]
                known[naa] = _Claimed(claims)
                waiters.append(known[naa].acquire())
        for waiter in waiters:
            await waiter

    def release(self, name: str) -> None:
        """A command of another node has ended."""
        self._ended[name] = None
        if len(self._ended) > REMEMBERED:
            del self._ended[next(iter(self._ended))]
        for claimed in self._others.pop(name, {}).values():
            claimed.release()

    def running(self) -> list[Json]:
        """The holds under which commands of this node run. Those that were not granted yet are asked for anew."""
        running: list[Json] = []
        for name, hold in self._own.items():
            if hold.is_running:
                running.append({"hold": name, "ranges": hold.ranges})
            else:
                hold.unclaim()
        return running

    def lapsed(self) -> None:
        """The session is over: the coordinator ends the holds of this node, and nothing runs here that would have to
        respect those of others.

        What was granted and does not run yet is void. Were it kept, what the coordinator tells this node on its coming
        back would wait for it, and the answer by which it is given up would wait for the session.
        """
        self.only(())
        for hold in list(self._own.values()):
            if not hold.is_running:
                hold.unclaim()

    def only(self, names: Sequence[str]) -> None:
        """No other holds of other nodes are in force."""
        for name in sorted(self._others.keys() - set(names)):
            for claimed in self._others.pop(name).values():
                claimed.release()


class ClusterHold:
    """The claims of one command; see `csvd.scsi.cluster_unit.Holding`."""

    def __init__(self, holds: ClusterHolds, claims: Sequence[Claim]) -> None:
        self._holds = holds
        self._claims = claims
        self._name = ""
        self._granted: Callable[[], None] = _nothing
        self._held: _Claimed | None = None
        self.is_running = False
        self.ranges = ranges_of(claims)

    def acquire(self, granted: Callable[[], None]) -> None:
        """Ask for them; `granted` is called when no other node reads or writes there any more."""
        self._granted = granted
        self._ask()

    def _ask(self) -> None:
        name = self._name = self._holds.new_name(self)
        self._holds.ask_for(name, self)

    def answered(self, name: str, answer: Json | None) -> None:
        """The coordinator has granted it, or not; None where it is not known."""
        if name != self._name:
            # It was given up meanwhile. The news of that may have come before the coordinator knew of the hold.
            if answer is None or answer["granted"]:
                self._holds.forget(name)
            return
        if answer is not None and answer["granted"] and self._held is not None and self._held.is_had:
            self.is_running = True
            self._granted()
            return
        # It took too long, or the coordinator has changed between: nothing is held.
        self.unclaim()
        self._holds.forget(name)
        self._name = ""
        self._holds.later(self._ask_again)

    def _ask_again(self) -> None:
        if self._granted is not _nothing:
            self._ask()

    async def claim(self) -> None:
        """The coordinator has granted them: have them here, too."""
        self.unclaim()
        self._held = _Claimed(self._claims)
        await self._held.acquire()

    def unclaim(self) -> None:
        """The grant is void."""
        held, self._held = self._held, None
        if held is not None:
            held.release()

    def release(self) -> None:
        """The command has ended, or was aborted."""
        name, self._name = self._name, ""
        self._granted = _nothing
        self.is_running = False
        self.unclaim()
        if name:
            self._holds.forget(name)


def ranges_of(claims: Sequence[Claim]) -> list[list[Any]]:
    """One range for each clustered logical unit that a command touches, whether it writes there or only reads: with one
    of both left out, two copies in opposite directions could wait for each other."""
    ranges: dict[str, tuple[int, int]] = {}
    for claim in claims:
        cluster = claim.locks.cluster
        if cluster is not None and claim.length_bytes:
            naa = cluster.naa.hex()
            begin, end = ranges.get(naa, (claim.offset_bytes, claim.offset_bytes))
            ranges[naa] = min(begin, claim.offset_bytes), max(end, claim.offset_bytes + claim.length_bytes)
    return [[naa, begin, end - begin] for naa, (begin, end) in sorted(ranges.items())]


def _nothing(*_: Any) -> None:
    return None
