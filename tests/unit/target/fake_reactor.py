"""A reactor that only remembers who wants to read and write, on a clock that is moved by hand."""

from __future__ import annotations

from typing import Any

from twisted.internet.task import Clock


class FakeReactor(Clock):
    """What a FileDescriptor and a portal ask of a reactor."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: set[Any] = set()
        self.writers: set[Any] = set()

    def addReader(self, reader: Any) -> None:
        self.readers.add(reader)

    def removeReader(self, reader: Any) -> None:
        self.readers.discard(reader)

    def addWriter(self, writer: Any) -> None:
        self.writers.add(writer)

    def removeWriter(self, writer: Any) -> None:
        self.writers.discard(writer)

    def turn(self) -> None:
        """One turn of the loop, in which every socket is tried."""
        for reader in list(self.readers):
            self._drop(reader, reader.doRead())
        for writer in list(self.writers):
            self._drop(writer, writer.doWrite())
        self.advance(0)

    @staticmethod
    def _drop(selectable: Any, reason: Any) -> None:
        if reason is not None:
            selectable.connectionLost(reason)
