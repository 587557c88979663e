"""Who may touch which range of a disk: what makes COMPARE AND WRITE atomic against everything (SBC-3 5.2).

READ and WRITE share the disk: they never wait for one another. A command that must see and change a range as one claims
it for itself: it waits for what is under way there, and what comes later waits for it. First come, first served, where
ranges meet; claims that meet nobody go ahead.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple


class Claim(NamedTuple):
    """A range of a disk, shared with readers and writers, or exclusive."""

    locks: RangeLocks
    offset_bytes: int
    length_bytes: int
    exclusive: bool


class RangeLocks:
    """The claims on one disk.

    Attributes:
        contended: whether there is an exclusive claim, held or waiting: while False, a shared access that is over
            before anything else can run needs no claim.
    """

    __slots__ = ("contended", "exclusive", "held", "waiting")

    def __init__(self) -> None:
        self.held: dict[Claims, None] = {}
        self.waiting: dict[Claims, None] = {}
        self.exclusive = 0
        self.contended = False

    def must_wait(self, offset_bytes: int, length_bytes: int) -> bool:
        """Whether a shared access to a range would have to wait."""
        if not self.contended:
            return False
        asked = Claims((Claim(self, offset_bytes, length_bytes, False),))
        return any(asked.meets(other) for other in (*self.held, *self.waiting))


class Claims:
    """Ranges, of one disk or several, that are granted together. `acquire` once, `release` once."""

    __slots__ = ("_disks", "_granted", "claims")

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.claims = claims
        self._disks: tuple[RangeLocks, ...] = ()
        self._granted: Callable[[], None] = _nothing

    def acquire(self, granted: Callable[[], None]) -> None:
        """Ask for them; `granted` is called when they are had: before this returns where nobody has them."""
        disks = self._disks = tuple(dict.fromkeys(one.locks for one in self.claims))
        for one in self.claims:
            if one.exclusive:
                one.locks.exclusive += 1
                one.locks.contended = True
        for locks in disks:
            if locks.contended and any(self.meets(other) for other in (*locks.held, *locks.waiting)):
                break
        else:
            for locks in disks:
                locks.held[self] = None
            granted()
            return
        self._granted = granted
        for locks in disks:
            locks.waiting[self] = None

    def release(self) -> None:
        """Give them back, or take back a claim that still waits; others may be granted theirs before this returns."""
        for locks in self._disks:
            locks.held.pop(self, None)
            locks.waiting.pop(self, None)
        for one in self.claims:
            if one.exclusive:
                one.locks.exclusive -= 1
        for locks in self._disks:
            locks.contended = locks.exclusive > 0
        for locks in self._disks:
            if locks.waiting:
                _grant(locks)

    def meets(self, other: Claims) -> bool:
        """Whether one of them has to wait for the other."""
        return any(
            (mine.exclusive or theirs.exclusive)
            and mine.locks is theirs.locks
            and mine.offset_bytes < theirs.offset_bytes + theirs.length_bytes
            and theirs.offset_bytes < mine.offset_bytes + mine.length_bytes
            for mine in self.claims
            for theirs in other.claims
        )

    def _may_go(self) -> bool:
        for locks in self._disks:
            if any(self.meets(held) for held in locks.held):
                return False
            for earlier in locks.waiting:
                if earlier is self:
                    break
                if self.meets(earlier):
                    return False
        return True

    def _go(self) -> None:
        for locks in self._disks:
            del locks.waiting[self]
            locks.held[self] = None
        self._granted()


def _grant(locks: RangeLocks) -> None:
    """Grant what waited at this disk and has nobody before it any more, here and at its other disks."""
    for asked in list(locks.waiting):
        # What one is granted may end at once, and others with it.
        if asked in locks.waiting and asked._may_go():
            asked._go()


def _nothing() -> None:
    return None
