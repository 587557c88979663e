"""What a copy has at either end: a file, a LUN or a pipe."""

from __future__ import annotations

from typing import Any, Protocol

from initiator.images.plan import Run

Identity = dict[str, Any]
"""What tells an end from others, and (of a source) whether it has changed: plain values, fit for JSON."""


class End(Protocol):
    """One end. Offsets and lengths are bytes of the end itself.

    Every call raises CsvdError or OSError when it fails. Several calls may be under way at once.
    """

    name: str
    """The path or the URL, for messages."""
    size_bytes: int | None
    """None: a pipe, that has no size."""
    align_bytes: int
    """Offsets of reads and writes are multiples of it."""
    ordered: bool
    """A pipe: what is read and written follows what was before, and there is no map."""
    chunk_bytes: int
    """What one read or write is best of."""

    @property
    def identity(self) -> Identity:
        """What it is."""

    async def runs(self, offset: int, length: int) -> list[Run]:
        """Tell which parts read as zeros without reading them: runs without a gap from ``offset`` on. They may end
        before the range does, but tell of one byte at least."""

    async def close(self) -> None:
        """Let go of it."""


class SourceEnd(End, Protocol):
    """An end that is read."""

    async def read_into(self, offset: int, view: memoryview) -> int:
        """Fill the view; give its length, or less where a pipe ends."""


class TargetEnd(End, Protocol):
    """An end that is written."""

    grows: bool
    """A file: writing behind its end makes it longer."""
    zeroes_fast: bool
    """Whether :meth:`zero` is better than writing zeros."""
    reads_zero: bool
    """Everything reads as zeros where this copy has not written."""

    async def write(self, offset: int, view: memoryview) -> None:
        """Write all of the view."""

    async def zero(self, offset: int, length: int) -> None:
        """Have a range read as zeros."""

    async def ends_at(self, size: int) -> None:
        """The copy has ended: a file is made so long, if it is shorter."""

    async def flush(self) -> None:
        """Have on stable storage what was written before."""
