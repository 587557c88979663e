"""The buffer of the large READs that are answered in the turn of the loop in which they are executed."""

from __future__ import annotations

from typing import Final

KEPT_BYTES: Final = 2**20
"""A longer buffer is not kept for the next READ."""


class ReadBuffer:
    """One buffer for all connections: most READs are read into it and sent from it before anything else runs.

    A buffer of its own for each READ costs more than the reading: it is filled with zeros first, and where the heap has
    shrunk meanwhile the kernel gives it page by page, and fills those with zeros too. Used again and again, it also
    stays in the processor's cache.
    """

    __slots__ = ("_is_taken", "_view")

    def __init__(self) -> None:
        self._view = memoryview(bytearray())
        self._is_taken = False

    def take(self, length_bytes: int) -> memoryview:
        """Have a buffer, with anything in it. Tell by `sent` or `keep` what becomes of it, before the turn ends."""
        if self._is_taken or length_bytes > KEPT_BYTES:
            return memoryview(bytearray(length_bytes))
        if length_bytes > len(self._view):
            self._view = memoryview(bytearray(length_bytes))
        self._is_taken = True
        return self._view[:length_bytes]

    def sent(self) -> None:
        """Nobody refers to what was taken any more."""
        self._is_taken = False

    def keep(self) -> None:
        """What was taken waits to be sent: it is not taken again."""
        if self._is_taken:
            self._view = memoryview(bytearray())
            self._is_taken = False
