"""Histories: what clients did to a shared object, and what they know of it. PURE."""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

FOR_EVER: Final = float("inf")


class Outcome(Enum):
    """What the client knows of its call."""

    OK = "ok"
    """It was carried out, and this is its answer; a refusal by the object's rules is an answer, too."""
    FAIL = "fail"
    """It was not carried out, and never will be."""
    INFO = "info"
    """Unknown: it may take effect at any time after its beginning, also long after the client gave it up, or never."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call of one client.

    Args:
        client: who called; it has one call under way at a time.
        key: which object; objects of different keys have nothing to do with one another.
        call: what it asked, for the model.
        begun_s: when it was sent, or before.
        outcome: what is known of it.
        answer: the answer of one that is OK.
        ended_s: when the answer was there, or after; of one of unknown outcome it means nothing.
    """

    client: str
    key: str
    call: Hashable
    begun_s: float
    outcome: Outcome
    answer: Hashable = None
    ended_s: float = FOR_EVER

    def __str__(self) -> str:
        end = f"{self.ended_s:.6f}" if self.outcome is Outcome.OK else "?"
        answer = f" -> {self.answer!r}" if self.outcome is Outcome.OK else f" ({self.outcome.value})"
        return f"{self.begun_s:.6f}-{end} {self.client}: {self.key} {self.call!r}{answer}"


class History:
    """Records operations; one that never ended is one of unknown outcome."""

    def __init__(self) -> None:
        self._begun: dict[str, Operation] = {}
        self._ended: list[Operation] = []

    def invoke(self, client: str, key: str, call: Hashable, at_s: float) -> None:
        """A client is about to call.

        Raises:
            ValueError: the client's last call has not ended.
        """
        if client in self._begun:
            raise ValueError(f"{client} calls while its last call is under way: {self._begun[client]}")
        self._begun[client] = Operation(client, key, call, at_s, Outcome.INFO)

    def ok(self, client: str, answer: Hashable, at_s: float) -> None:
        """The client's call was answered."""
        was = self._begun.pop(client)
        self._ended.append(Operation(client, was.key, was.call, was.begun_s, Outcome.OK, answer, at_s))

    def fail(self, client: str, at_s: float) -> None:
        """The client's call was not carried out, and never will be."""
        was = self._begun.pop(client)
        self._ended.append(Operation(client, was.key, was.call, was.begun_s, Outcome.FAIL, None, at_s))

    def info(self, client: str) -> None:
        """What became of the client's call is unknown."""
        self._ended.append(self._begun.pop(client))

    @property
    def operations(self) -> list[Operation]:
        """All, in the order of their beginnings."""
        return sorted([*self._ended, *self._begun.values()], key=lambda operation: operation.begun_s)


def by_key(operations: Iterable[Operation]) -> dict[str, list[Operation]]:
    """The history of each object."""
    parts: dict[str, list[Operation]] = {}
    for operation in operations:
        parts.setdefault(operation.key, []).append(operation)
    return parts
