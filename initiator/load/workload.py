"""What a load asks of a LUN: which blocks next, and whether to read or to write them."""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from initiator.errors import InitiatorError

_CDB16: Final = struct.Struct(">BBQIBB").pack
_READ_16: Final = 0x88
_WRITE_16: Final = 0x8A
_FUA: Final = 0x08


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What the commands of a load are.

    Args:
        block_bytes: what one command moves.
        reads: how many of a hundred commands are READs; the rest are WRITEs.
        random: at any multiple of ``block_bytes``; else one after another, from the beginning again at the end.
        first_bytes: where the range begins that is read and written.
        length_bytes: how long it is.
        fua: a WRITE is on stable storage when it is answered.
    """

    block_bytes: int
    reads: int
    random: bool
    first_bytes: int
    length_bytes: int
    fua: bool = False

    @property
    def slots(self) -> int:
        """How many places a command can be at."""
        return self.length_bytes // self.block_bytes

    def check(self, lun_block_bytes: int, size_bytes: int, maximum_bytes: int) -> None:
        """See that a LUN can be asked for it.

        Raises:
            InitiatorError: odd sizes, a range that is not on the LUN or has no room, more than one command may move.
        """
        if self.block_bytes % lun_block_bytes or self.first_bytes % lun_block_bytes:
            raise InitiatorError("the LUN has other blocks", why=f"they are of {lun_block_bytes} bytes")
        if self.first_bytes + self.length_bytes > size_bytes:
            raise InitiatorError("the range is not on the LUN", why=f"it has {size_bytes} bytes")
        if not self.slots:
            raise InitiatorError("there is no room for one command", why=f"the range has {self.length_bytes} bytes")
        if maximum_bytes and self.block_bytes > maximum_bytes:
            raise InitiatorError("the LUN takes no command so long", why=f"at most {maximum_bytes} bytes each")


class Commands:
    """The commands of a workload, one after another.

    ``chance`` gives numbers from 0 up to but not including 1. After :meth:`next_cdb`, ``is_read`` says what the CDB is.
    """

    __slots__ = ("_at", "_blocks", "_chance", "_first", "_flags", "_random", "_reads", "_slots", "is_read")

    def __init__(
        self, workload: Workload, lun_block_bytes: int, chance: Callable[[], float], *, start: int = 0
    ) -> None:
        self._chance = chance
        self._blocks = workload.block_bytes // lun_block_bytes
        self._first = workload.first_bytes // lun_block_bytes
        self._slots = workload.slots
        self._reads = workload.reads / 100
        self._random = workload.random
        self._flags = _FUA if workload.fua else 0
        self._at = start % workload.slots
        self.is_read = True

    def next_cdb(self) -> bytes:
        """Give the CDB of the next command (SBC-3 sections 5.13 and 5.34)."""
        if self._random:
            slot = int(self._chance() * self._slots)
        else:
            slot = self._at
            self._at = slot + 1 if slot + 1 < self._slots else 0
        reads = self._reads
        self.is_read = is_read = reads == 1 or (reads > 0 and self._chance() < reads)
        if is_read:
            return _CDB16(_READ_16, 0, self._first + slot * self._blocks, self._blocks, 0, 0)
        return _CDB16(_WRITE_16, self._flags, self._first + slot * self._blocks, self._blocks, 0, 0)
