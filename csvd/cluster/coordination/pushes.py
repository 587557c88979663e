"""Pushes to one node: numbered, in order, and sent again until they are answered or the node is gone.

The node begins them in the order of their numbers, whatever order they come in, and each of them once.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final

from csvd.cluster.bell import Bell
from csvd.cluster.coordination.faces import Json
from csvd.cluster.coordination.membership import Membership
from csvd.cluster.errors import ClusterError

PUSH: Final = "session.push"
MAXIMUM_AT_ONCE: Final = 64
"""Calls of pushes to one node that are under way; others wait for their turn."""
_TRY_S: Final = 10.0
_PAUSE_S: Final = 0.1


@dataclass(slots=True)
class Pushes:
    """The pushes to one session.

    Attributes:
        is_gone: nothing of the session can act any more: whoever waits for an answer need wait no longer.
    """

    node: str
    session: str
    disk: str
    epoch: int
    membership: Membership
    bell: Bell
    is_over: Callable[[], bool]
    is_gone: bool = False
    last_number: int = 0
    unanswered: dict[int, None] = field(default_factory=dict)
    _under_way: int = 0

    async def push(self, service: str, method: str, params: Json) -> Json | None:
        """Tell the node; gives its answer, or None when it is gone or its handler failed, or the office is over."""
        self.last_number += 1
        number = self.last_number
        self.unanswered[number] = None
        try:
            while not self.is_gone and not self.is_over():
                if self._under_way < MAXIMUM_AT_ONCE and self.membership.is_linked(self.node):
                    answer = await self._try(number, service, method, params)
                    if answer is not None:
                        told = answer.get("answer")
                        return told if isinstance(told, dict) else None
                if not self.is_gone and not self.is_over():
                    await self.bell.wait(_PAUSE_S)
            return None
        finally:
            del self.unanswered[number]
            self.bell.ring()

    async def answered(self, timeout_s: float) -> bool:
        """Wait until none is unanswered that was begun by now; whether they all are."""
        last = self.last_number
        while any(number <= last for number in self.unanswered):
            if not await self.bell.wait(timeout_s):
                return False
        return True

    async def gone(self, timeout_s: float) -> None:
        """Wait until the session is gone, or the office is over; or until the time is up."""
        while not self.is_gone and not self.is_over() and await self.bell.wait(timeout_s):
            pass

    async def _try(self, number: int, service: str, method: str, params: Json) -> Json | None:
        sent: dict[str, Any] = {
            "disk": self.disk,
            "epoch": self.epoch,
            "session": self.session,
            "number": number,
            "oldest": next(iter(self.unanswered)),
            "service": service,
            "method": method,
            "params": params,
        }
        self._under_way += 1
        try:
            answer = await self.membership.call(self.node, PUSH, sent, timeout_s=_TRY_S)
        except ClusterError:
            return None  # It may have been done: the node knows its number, and answers the next try alike.
        finally:
            self._under_way -= 1
        return answer if "answer" in answer or "error" in answer else None
