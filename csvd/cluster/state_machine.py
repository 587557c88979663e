"""What Raft replicates, as csvd.cluster.election sees it."""

from __future__ import annotations

from typing import Protocol


class StateMachine(Protocol):
    """What is replicated."""

    @property
    def voters(self) -> frozenset[str]:
        """Who votes, by the commands that were applied; empty before there is any state."""

    def apply(self, command: bytes) -> object:
        """Carry out a committed command; the same on every node; never raises."""

    def take(self) -> bytes:
        """The whole state."""

    def check(self, state: bytes) -> None:
        """Raise a CsvdError where the bytes are not a state."""

    def restore(self, state: bytes) -> None:
        """Become that state."""
