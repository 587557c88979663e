"""A node's asks: sent to the coordinator that the session is with, and again to the next one, until they are answered.

An ask has a number. A coordinator answers a number that it has answered, or is at, without beginning anew; and the
answer that was kept with a change is known to the next coordinator. The numbers that have no answer yet are sent along,
so that coordinators know what they may forget: an ask that waits for long must not have them remember all later ones.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from csvd.cluster.bell import Bell
from csvd.cluster.coordination.faces import Json
from csvd.cluster.coordination.membership import Membership
from csvd.cluster.errors import ClusterError, CommandRefused, OutcomeUnknown, PeerUnreachable, RemoteError
from csvd.cluster.reactor import Clock

ASK: Final = "session.ask"
MAXIMUM_AT_ONCE: Final = 64
MAXIMUM_WAITING: Final = 4096
RETRY_S: Final = 0.03


class Asks:
    """The asks of one session.

    Args:
        session: the id, the coordinator and the epoch of the session in which one may ask now, or None.
    """

    def __init__(
        self,
        disk: str,
        *,
        membership: Membership,
        incarnation: int,
        clock: Clock,
        session: Callable[[], tuple[str, str, int] | None],
    ) -> None:
        self._disk = disk
        self._membership = membership
        self._incarnation = incarnation
        self._clock = clock
        self._session = session
        self._bell = Bell(clock)
        self._tries: list[Bell] = []
        self._last_number = 0
        self._under_way: dict[int, None] = {}
        self._turns: deque[Deferred[bool]] = deque()

    def changed(self) -> None:
        """The session has changed."""
        for bell in [self._bell, *self._tries]:
            bell.ring()

    async def ask(self, service: str, method: str, params: Json, *, timeout_s: float) -> Json:
        """See `DiskSession.ask`."""
        deadline_s = self._clock.seconds() + timeout_s
        if len(self._under_way) >= MAXIMUM_AT_ONCE and not await self._turn(timeout_s):
            why = "earlier asks of this node are still under way"
            raise CommandRefused(f"{service} was not asked in the time given", where=self._disk, why=why)
        self._last_number += 1
        number = self._last_number
        self._under_way[number] = None
        try:
            return await self._ask_until(deadline_s, number, service, method, params)
        finally:
            del self._under_way[number]
            while self._turns and len(self._under_way) < MAXIMUM_AT_ONCE:
                turn = self._turns.popleft()
                if not turn.called:
                    turn.callback(True)
                    break

    async def _turn(self, timeout_s: float) -> bool:
        if len(self._turns) >= MAXIMUM_WAITING:
            return False
        turn: Deferred[bool] = Deferred()
        self._turns.append(turn)
        timer = self._clock.callLater(timeout_s, lambda: None if turn.called else turn.callback(False))
        is_there = await turn
        if timer.active():
            timer.cancel()
        return is_there

    async def _ask_until(self, deadline_s: float, number: int, service: str, method: str, params: Json) -> Json:
        may_be_done = False
        trouble = "there is no live session with a coordinator"
        while (left_s := deadline_s - self._clock.seconds()) > 0:
            session = self._session()
            if session is not None:
                try:
                    answer = await self._try(session, left_s, number, service, method, params)
                except PeerUnreachable as error:
                    trouble = str(error)
                except ClusterError as error:
                    # Also a RemoteError: the handler of asks gives the errors of services in its answers.
                    may_be_done = may_be_done or isinstance(error, OutcomeUnknown | RemoteError)
                    trouble = str(error)
                else:
                    if "answer" in answer:
                        return dict(answer["answer"])
                    if "error" in answer:
                        raise _error(answer["error"])
                    may_be_done = may_be_done or answer.get("is_begun") is True
                    trouble = str(answer.get("again"))
            await self._bell.wait(min(RETRY_S, max(0.0, deadline_s - self._clock.seconds())))
        if may_be_done:
            raise OutcomeUnknown(f"whether {service} did {method} is not known", where=self._disk, why=trouble)
        raise CommandRefused(f"{service} was not asked in the time given", where=self._disk, why=trouble)

    async def _try(
        self, session: tuple[str, str, int], timeout_s: float, number: int, service: str, method: str, params: Json
    ) -> Json:
        session_id, coordinator, epoch = session
        sent = {
            "disk": self._disk,
            "epoch": epoch,
            "session": session_id,
            "incarnation": self._incarnation,
            "number": number,
            "waiting": list(self._under_way),
            "service": service,
            "method": method,
            "params": params,
        }
        calling = Deferred.fromCoroutine(self._membership.call(coordinator, ASK, sent, timeout_s=timeout_s))
        outcome: list[Json | Failure] = []
        # A bell of its own: what comes of one ask must not wake the others from the pause before they try again.
        bell = Bell(self._clock)

        def came(result: Json | Failure) -> None:
            outcome.append(result)
            bell.ring()

        calling.addBoth(came)
        self._tries.append(bell)
        try:
            while not outcome:
                now = self._session()
                if now is not None and now != session:
                    # The coordinator that was asked stands still, or is cut off; its successor is asked.
                    return {"again": "the coordinator has changed", "is_begun": True}
                await bell.wait()
        finally:
            self._tries.remove(bell)
        if isinstance(outcome[0], Failure):
            outcome[0].raiseException()
        return outcome[0]


def _error(told: object) -> RemoteError:
    fields = told if isinstance(told, dict) else {}
    texts = {name: str(fields.get(name, "")) for name in ("what", "where", "why", "hint", "kind")}
    return RemoteError(texts.pop("what"), **texts)
