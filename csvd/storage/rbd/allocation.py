"""What of an image is allocated, by asking the cluster about every object. Everything here blocks: see `blocking`.

Without an object map, which needs an exclusive lock, there is no other way. An object counts up to its own end: where
it has holes nobody tells.
"""

from __future__ import annotations

from typing import Final

from csvd.storage.rbd.handle import RbdHandle

MOST_OBJECTS: Final = 16384
"""Of an image of more (64 GiB with the usual objects of 4 MiB) nobody counts how much is allocated."""

Run = tuple[int, int, bool]


def allocated_runs(handle: RbdHandle, offset_bytes: int, length_bytes: int, most_runs: int) -> list[Run]:
    """Runs (offset_bytes, length_bytes, allocated) of a range, as `Disk.allocation` gives them; at most `most_runs`.

    Raises:
        rbd.Error: the cluster failed.
    """
    extents = _extents(handle, offset_bytes, length_bytes)
    return runs_of(extents, offset_bytes, offset_bytes + length_bytes)[:most_runs]


def used_bytes(handle: RbdHandle) -> int | None:
    """How much of the image is allocated, or None where that would take too long to find out.

    Raises:
        rbd.Error: the cluster failed.
    """
    size_bytes = handle.size_bytes()
    if size_bytes > MOST_OBJECTS * handle.object_bytes:
        return None
    runs = runs_of(_extents(handle, 0, size_bytes), 0, size_bytes)
    return sum(length_bytes for _, length_bytes, allocated in runs if allocated)


def runs_of(extents: list[tuple[int, int]], begin_bytes: int, end_bytes: int) -> list[Run]:
    """A range as runs, allocated where an extent is; adjoining ones are one."""
    runs: list[Run] = []
    at = begin_bytes
    for offset_bytes, length_bytes in sorted(extents):
        begin = max(offset_bytes, at)
        end = min(offset_bytes + length_bytes, end_bytes)
        if end <= begin:
            continue
        if begin > at:
            runs.append((at, begin - at, False))
        if runs and runs[-1][2]:
            first, _, _ = runs.pop()
            begin = first
        runs.append((begin, end - begin, True))
        at = end
    if at < end_bytes:
        runs.append((at, end_bytes - at, False))
    return runs


def _extents(handle: RbdHandle, offset_bytes: int, length_bytes: int) -> list[tuple[int, int]]:
    """What may have data."""
    extents: list[tuple[int, int]] = []

    def found(offset_bytes: int, length_bytes: int, exists: bool) -> None:
        if exists:
            extents.append((offset_bytes, length_bytes))

    handle.image.diff_iterate(offset_bytes, length_bytes, None, found)
    return extents
