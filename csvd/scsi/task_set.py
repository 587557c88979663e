"""The task set of a logical unit: which commands may begin, by their task attributes (SAM-5 8)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

UNTAGGED: Final = 0
SIMPLE: Final = 1
ORDERED: Final = 2
HEAD_OF_QUEUE: Final = 3
ACA: Final = 4
"""The ATTR field of a SCSI Command, as RFC 7143 11.3.1 numbers it; untagged counts as simple."""


class TaskGate(Protocol):
    """Whether tasks of a logical unit may begin."""

    def admits(self) -> bool:
        """Whether they may NOW. Where they may not, the task set has been closed when this returns."""


class TaskSet:
    """One task set for all I_T nexuses (TST 0). PURE: it calls back when a task may begin.

    Simple tasks begin in any order. An ordered one begins when all before it have ended, and those after it wait for
    its end. One at the head of the queue begins at once.

    Attributes:
        begun: tasks that have begun and not ended. While `is_free`, whoever begins a simple one counts it here, and
            calls `leave_simple` when it has ended.
        ordered_count: ordered tasks so far.
        is_free: no ordered task is there, nor one that waits for one, and it is not closed: a simple task may begin.
        openings: how often it was opened after it had been closed.
        gate: of a logical unit of several nodes; asked once more whether this node may act, before a task begins.
    """

    __slots__ = (
        "_is_closed",
        "_is_releasing",
        "_ordered_begun",
        "_waiting",
        "begun",
        "gate",
        "is_free",
        "openings",
        "ordered_count",
    )

    def __init__(self) -> None:
        self.begun = 0
        self._ordered_begun = False
        self._waiting: dict[Callable[[], None], int] = {}
        self._is_releasing = False
        self._is_closed = False
        self.is_free = True
        self.gate: TaskGate | None = None
        self.ordered_count = 0
        self.openings = 0

    def close(self) -> None:
        """No task begins from now on, not even one at the head of the queue: all wait."""
        self._is_closed = True
        self.is_free = False

    def open(self) -> None:
        """Tasks may begin again. Those that have waited begin before this returns, as their attributes have it; but
        those at the head of the queue first."""
        self._is_closed = False
        self.openings += 1
        self.is_free = not (self._waiting or self._ordered_begun)
        for begin, attribute in list(self._waiting.items()):
            if attribute == HEAD_OF_QUEUE and not self._is_closed and begin in self._waiting:
                del self._waiting[begin]
                self._begin(attribute, begin)
        self._release()

    def enter(self, attribute: int, begin: Callable[[], None]) -> None:
        """A task comes: `begin` is called when it may begin, before this returns where that is at once.

        Call `leave` when it has ended, also when `begin` found that it was aborted meanwhile.
        """
        if attribute == ORDERED:
            self.ordered_count += 1
        if attribute == HEAD_OF_QUEUE and not self._is_closed:
            self._begin(attribute, begin)
        elif self._waiting or not self._may_begin(attribute):
            self._waiting[begin] = attribute
            self.is_free = False
        else:
            self._begin(attribute, begin)

    def withdraw(self, begin: Callable[[], None]) -> None:
        """A task that has not begun goes away: its `begin` is not called any more. Others may begin before this
        returns."""
        del self._waiting[begin]
        self._release()

    def leave_simple(self) -> None:
        """A simple task that had begun has ended."""
        self.begun -= 1
        if not self.is_free:
            self._release()

    def leave(self, attribute: int) -> None:
        """A task that had begun has ended."""
        self.begun -= 1
        if attribute == ORDERED:
            self._ordered_begun = False
        self._release()

    def _release(self) -> None:
        """Begin what may. A task may end as soon as it begins, and let the next one go: they are begun from here, one
        after the other, never one inside another, for a thousand that wait must not cost a thousand frames."""
        if self._is_releasing:
            return
        self._is_releasing = True
        try:
            while self._waiting:
                begin, attribute = next(iter(self._waiting.items()))
                if not self._may_begin(attribute):
                    break
                del self._waiting[begin]
                self._begin(attribute, begin)
        finally:
            self._is_releasing = False
            self.is_free = not (self._waiting or self._ordered_begun or self._is_closed)

    def _may_begin(self, attribute: int) -> bool:
        if self._is_closed:
            return False
        if attribute == HEAD_OF_QUEUE:
            return True
        return not self.begun if attribute == ORDERED else not self._ordered_begun

    def _begin(self, attribute: int, begin: Callable[[], None]) -> None:
        self.begun += 1
        if attribute == ORDERED:
            self._ordered_begun = True
            self.is_free = False
        begin()
