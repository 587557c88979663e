"""Who may touch which blocks at once: to write a part of a block it is read first, and nothing may come between."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from twisted.internet.defer import Deferred


@dataclass(slots=True, eq=False)
class Claim:
    """Blocks from ``first`` up to, not including, ``end``; ``alone``, or together with others that are not."""

    first: int
    end: int
    alone: bool
    granted: Deferred[None] = field(default_factory=Deferred)

    def bars(self, other: Claim) -> bool:
        """Whether the two can not be held at once."""
        return (self.alone or other.alone) and self.first < other.end and other.first < self.end


class BlockRanges:
    """Claims, granted in the order in which they come, as far as they are in each other's way."""

    def __init__(self) -> None:
        self._held: set[Claim] = set()
        self._waiting: deque[Claim] = deque()

    async def claim(self, first: int, end: int, *, alone: bool) -> Claim:
        """Wait until the blocks are free; :meth:`release` gives them back."""
        claim = Claim(first, end, alone)
        if self._free(claim, self._waiting):
            self._held.add(claim)
            return claim
        self._waiting.append(claim)
        try:
            await claim.granted
        except BaseException:
            self._waiting.remove(claim)
            self._grant()
            raise
        return claim

    def release(self, claim: Claim) -> None:
        """Give blocks back."""
        self._held.remove(claim)
        if self._waiting:
            self._grant()

    def _free(self, claim: Claim, before: deque[Claim]) -> bool:
        return not any(map(claim.bars, self._held)) and not any(map(claim.bars, before))

    def _grant(self) -> None:
        waiting, self._waiting = self._waiting, deque()
        granted = []
        for claim in waiting:
            if self._free(claim, self._waiting):
                self._held.add(claim)
                granted.append(claim)
            else:
                self._waiting.append(claim)
        for claim in granted:
            claim.granted.callback(None)
