"""What a region of a disk must hold, block by block, as far as its only writer can know."""

from __future__ import annotations

import struct
from typing import Final

BLOCK_BYTES: Final = 512
ZEROS: Final = 0
"""The version of a block that reads as zeros: never written, or unmapped."""

_STAMP: Final = struct.Struct(">IIQ")


class Mismatch(Exception):
    """A block holds what nobody wrote there, or what was written over long ago."""


class Region:
    """The blocks of one worker.

    An acknowledged write leaves one version that a block may have. A write whose outcome is unknown (the session was
    lost, or the call timed out) adds one to those that it may have; reading settles which.

    Args:
        worker: its number; stands in every block.
        first: LBA of its first block.
        blocks: how many it has.
    """

    def __init__(self, worker: int, first: int, blocks: int) -> None:
        self.worker = worker
        self.first = first
        self.blocks = blocks
        self._versions: list[frozenset[int]] = [frozenset((ZEROS,))] * blocks
        self._last_version = 0

    def new_version(self) -> int:
        """A version that no block had before."""
        self._last_version += 1
        return self._last_version

    def data(self, lba: int, blocks: int, version: int) -> bytes:
        """What a write of this version puts there; every block is different from every other."""
        return b"".join(self._block(lba + offset, version) for offset in range(blocks))

    def _block(self, lba: int, version: int) -> bytes:
        if version == ZEROS:
            return bytes(BLOCK_BYTES)
        return _STAMP.pack(self.worker, lba, version) * (BLOCK_BYTES // _STAMP.size)

    def wrote(self, lba: int, blocks: int, version: int) -> None:
        """The write was acknowledged."""
        self._set(lba, blocks, frozenset((version,)))

    def may_have_written(self, lba: int, blocks: int, version: int) -> None:
        """The write may have been done, in part or in whole."""
        for index in range(lba - self.first, lba - self.first + blocks):
            self._versions[index] |= {version}

    def is_known(self, lba: int, blocks: int) -> bool:
        """Whether each of these blocks can hold only one thing."""
        return all(len(self._versions[lba - self.first + offset]) == 1 for offset in range(blocks))

    def known(self, lba: int) -> bytes:
        """What a block holds that can hold only one thing."""
        (version,) = self._versions[lba - self.first]
        return self._block(lba, version)

    def check(self, lba: int, data: bytes) -> None:
        """Compare what was read, and remember what was found where it was not known.

        Raises:
            Mismatch: a block is none of those that it may be.
        """
        for offset in range(len(data) // BLOCK_BYTES):
            at = lba + offset
            block = data[offset * BLOCK_BYTES : (offset + 1) * BLOCK_BYTES]
            may = self._versions[at - self.first]
            found = [version for version in may if self._block(at, version) == block]
            if not found:
                raise Mismatch(f"worker {self.worker}: block {at} is {block[:16].hex()}…, may be {sorted(may)}")
            self._set(at, 1, frozenset(found))

    def _set(self, lba: int, blocks: int, versions: frozenset[int]) -> None:
        begin = lba - self.first
        self._versions[begin : begin + blocks] = [versions] * blocks
