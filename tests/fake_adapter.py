"""What an executor sees of a connection, for tests without a socket."""

from __future__ import annotations

from collections.abc import Callable

from csvd.target.statistics import ConnectionCounter


class FakeAdapter:
    """Takes the executor's word for everything, and has a buffer of its own for each READ."""

    def __init__(self) -> None:
        self.held_bytes = 0
        self.turn_bytes = 0
        self.segments = None
        self.counter = ConnectionCounter()

    def read_buffer(self, length_bytes: int) -> memoryview:
        """Give a buffer to answer from."""
        return memoryview(bytearray(length_bytes))

    def proceed(self) -> None:
        """There is an answer that came later than its turn."""

    def when_there(self, there: Callable[[], None]) -> None:
        """The peer is there."""
        there()
