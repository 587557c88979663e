"""Who may touch which range of a disk: what makes COMPARE AND WRITE atomic against everything (SBC-3 5.2).

READ and WRITE share the disk: they never wait for one another. A command that must see and change a range as one claims
it for itself: it waits for what is under way there, and what comes later waits for it. First come, first served, where
ranges meet; claims that meet nobody go ahead. So what a claim waits for is every earlier one that it meets.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from itertools import count
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from csvd.scsi.cluster_unit import ClusterUnit


class Claim(NamedTuple):
    """A range of a disk, shared with readers and writers, or exclusive."""

    locks: RangeLocks
    offset_bytes: int
    length_bytes: int
    exclusive: bool


class RangeLocks:
    """The claims on one disk.

    Attributes:
        held, waiting: what was asked for here, and granted, or not yet; in the order in which it was asked for.
        exclusive: those of both that claim a range for themselves: shared ones look at no others, for a thousand reads
            and writes at once must not cost a million comparisons.
        exclusive_count: claims of ranges for themselves so far.
        cluster: the logical unit of several nodes whose disk this is: claims of ranges for oneself hold on all of them.
        contended: whether there is an exclusive claim, held or waiting: while False, a shared access that is over
            before anything else can run needs no claim.
    """

    __slots__ = ("_due", "_is_granting", "cluster", "contended", "exclusive", "exclusive_count", "held", "waiting")

    def __init__(self) -> None:
        self.held: dict[Claims, None] = {}
        self.waiting: dict[Claims, None] = {}
        self.exclusive: dict[Claims, None] = {}
        self.exclusive_count = 0
        self.cluster: ClusterUnit | None = None
        self.contended = False
        self._due: Collection[Claims] = ()
        self._is_granting = False

    def must_wait(self, offset_bytes: int, length_bytes: int) -> bool:
        """Whether a shared access to a range would have to wait."""
        asked = (Claim(self, offset_bytes, length_bytes, False),)
        return any(_touch(other.exclusive, asked) for other in self.exclusive)

    def share(self, offset_bytes: int, length_bytes: int) -> Claims:
        """Have a range, shared, at once; only where this is not `contended`. On the data path of every write."""
        claims = Claims.__new__(Claims)
        claims.claims = (Claim(self, offset_bytes, length_bytes, False),)
        claims.exclusive = _NONE
        claims._disks = (self,)
        claims._granted = _nothing
        claims._turn = next(_TURNS)
        self.held[claims] = None
        return claims

    def released(self, *, exclusive: bool) -> None:
        """A claim has ended: grant what has nobody before it any more, here and at its other disks.

        What is granted may end at once, and others with it: they are granted from here, one after the other, never one
        inside another. A thousand that wait must not cost a thousand frames.
        """
        # The end of a shared one lets exclusive ones go, and nobody else: the others stand behind those.
        if exclusive or self._due is self.waiting:
            self._due = self.waiting
        else:
            self._due = self.exclusive
        if self._is_granting:
            return
        self._is_granting = True
        try:
            while self._due:
                candidates, self._due = list(self._due), ()
                for asked in candidates:
                    if asked in self.waiting and asked.may_go():
                        asked.go()
        finally:
            self._is_granting = False


class Claims:
    """Ranges, of one disk or several, that are granted together. `acquire` once, `release` once."""

    __slots__ = ("_disks", "_granted", "_turn", "claims", "exclusive")

    def __init__(self, claims: Sequence[Claim]) -> None:
        self.claims = claims
        self.exclusive: Sequence[Claim] = [one for one in claims if one.exclusive]
        self._disks: tuple[RangeLocks, ...] = ()
        self._granted: Callable[[], None] = _nothing
        self._turn = 0

    def acquire(self, granted: Callable[[], None]) -> None:
        """Ask for them; `granted` is called when they are had: before this returns where nobody has them."""
        self._turn = next(_TURNS)
        self._granted = granted
        disks = self._disks = tuple(dict.fromkeys(one.locks for one in self.claims))
        may_go = self.may_go()
        for one in self.exclusive:
            one.locks.exclusive[self] = None
            one.locks.exclusive_count += 1
            one.locks.contended = True
        for locks in disks:
            (locks.held if may_go else locks.waiting)[self] = None
        if may_go:
            granted()

    def release(self) -> None:
        """Give them back, or take back a claim that still waits; others may be granted theirs before this returns."""
        for locks in self._disks:
            locks.held.pop(self, None)
            locks.waiting.pop(self, None)
        for one in self.exclusive:
            one.locks.exclusive.pop(self, None)
            one.locks.contended = bool(one.locks.exclusive)
        for locks in self._disks:
            if locks.waiting:
                locks.released(exclusive=bool(self.exclusive))

    def meets(self, other: Claims) -> bool:
        """Whether one of them has to wait for the other."""
        return _touch(self.exclusive, other.claims) or _touch(other.exclusive, self.claims)

    def may_go(self) -> bool:
        """Whether it meets none that was asked for before it."""
        return not any(self.meets(other) for locks in self._disks for other in self._before(locks))

    def _before(self, locks: RangeLocks) -> Iterator[Claims]:
        """Those that it may have to wait for; no later one that is held, for that one meets nobody."""
        if self.exclusive:
            yield from locks.held
        for other in locks.waiting if self.exclusive else locks.exclusive:
            if other._turn >= self._turn:
                break
            yield other

    def go(self) -> None:
        """It is granted."""
        for locks in self._disks:
            del locks.waiting[self]
            locks.held[self] = None
        self._granted()


def _touch(ones: Iterable[Claim], others: Iterable[Claim]) -> bool:
    """Whether a range of these has bytes in common with one of those."""
    return any(
        one.locks is other.locks
        and one.offset_bytes < other.offset_bytes + other.length_bytes
        and other.offset_bytes < one.offset_bytes + one.length_bytes
        for one in ones
        for other in others
    )


_TURNS = count(1)
_NONE: Sequence[Claim] = ()


def _nothing() -> None:
    return None
