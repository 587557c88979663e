"""What stands between a write that was acknowledged and the medium: the volatile write cache, and what empties it.

A write without FUA may be in the cache only (SBC-3 section 4.15) until a SYNCHRONIZE CACHE that came after it. A loss
of power empties the cache; a reset, or the loss of an I_T nexus, does not.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Final

from initiator.scsi.sense import RESET_ASC, Sense

_WITH_FUA: Final = frozenset({0x2A, 0x8A, 0xAA, 0x9C})
"""WRITE(10), (16), (12) and WRITE ATOMIC(16) have a FUA bit, in byte 1."""

_WITHOUT_FUA: Final = frozenset({0x0A, 0x2E, 0x41, 0x42, 0x7F, 0x89, 0x8E, 0x93, 0xAE})
"""WRITE(6), WRITE AND VERIFY, WRITE SAME, UNMAP, the 32-byte commands, COMPARE AND WRITE."""

_FUA: Final = 0x08
_IMMED: Final = 0x02


class Cache(Enum):
    """What is known of the write cache of a logical unit after a new login."""

    KEPT = "kept"
    """There was no power on: what was acknowledged is there."""
    IN_DOUBT = "in doubt"
    """29h/00h: power on, or a reset, or nothing but a session that is new to the target; it does not say which."""
    LOST = "lost"
    """29h/01h: power on."""


def may_stay_in_cache(cdb: bytes) -> bool:
    """Whether what a command writes may be lost with the power after it was acknowledged."""
    return bool(cdb) and (cdb[0] in _WITHOUT_FUA or (cdb[0] in _WITH_FUA and not cdb[1] & _FUA))


def is_flush(cdb: bytes) -> bool:
    """Whether a command is SYNCHRONIZE CACHE(10) or (16)."""
    return bool(cdb) and cdb[0] in (0x35, 0x91)


def flushes_all(cdb: bytes) -> bool:
    """Whether GOOD to a SYNCHRONIZE CACHE says that every block is on the medium: it is of the whole disk, and is not
    answered before it is done (IMMED)."""
    blocks = cdb[7:9] if cdb[0] == 0x35 else cdb[10:14]
    lba = cdb[2:6] if cdb[0] == 0x35 else cdb[2:10]
    return not cdb[1] & _IMMED and not any(blocks) and not any(lba)


def judge(attentions: Iterable[Sense]) -> Cache:
    """Say what became of the write cache, by the unit attentions that a new session met at a logical unit.

    A logical unit that has been powered on since must say so (SAM-5 section 5.14): with 29h/01h, or with 29h/00h,
    which stands for power on and resets alike. 29h/07h (I_T NEXUS LOSS) and the resets 29h/02h to 29h/04h are no loss
    of power, and neither is silence.
    """
    codes = {sense.ascq for sense in attentions if sense.asc == RESET_ASC}
    if 0x01 in codes:
        return Cache.LOST
    return Cache.IN_DOUBT if 0x00 in codes else Cache.KEPT
