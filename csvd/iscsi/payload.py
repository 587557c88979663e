"""Data that is sent without being here: only how long it is counts for the protocol (RFC 7143 section 11.7)."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from csvd.iscsi.digests import Buffer


class Payload(Protocol):
    """The data of a task that the adapter moves by itself, or a part of it: it stands in the output in its place."""

    def __len__(self) -> int:
        """Bytes."""

    def __getitem__(self, part: slice, /) -> Payload:
        """A part, without a step."""


Piece: TypeAlias = Buffer | Payload
"""A piece of the output."""


def sliceable(data: Piece) -> Piece:
    """Give what has the same bytes, and is cut without being copied."""
    return memoryview(data) if isinstance(data, (bytes, bytearray)) else data
