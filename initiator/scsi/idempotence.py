"""Which commands may be sent a second time when nobody knows whether the first one was executed.

A command is idempotent when executed twice, with nothing of the same caller in between, it leaves the disk as once, and
answers as once. What another initiator wrote in between is written over by the second execution, as it would be by a
first one that came late: until the call is done its caller must hold whatever lock there is between the two.

Whoever is not in the table is not: COMPARE AND WRITE finds its own data and miscompares, PERSISTENT RESERVE OUT finds
its own key, EXTENDED COPY may copy what the copy has changed, and of unknown commands nothing is known.
"""

from __future__ import annotations

from typing import Final

_COMMANDS: Final = frozenset(
    {
        0x00,  # TEST UNIT READY
        0x03,  # REQUEST SENSE
        0x08,  # READ(6)
        0x0A,  # WRITE(6)
        0x12,  # INQUIRY
        0x1A,  # MODE SENSE(6)
        0x25,  # READ CAPACITY(10)
        0x28,  # READ(10)
        0x2A,  # WRITE(10)
        0x2E,  # WRITE AND VERIFY(10)
        0x2F,  # VERIFY(10)
        0x34,  # PRE-FETCH(10)
        0x35,  # SYNCHRONIZE CACHE(10)
        0x41,  # WRITE SAME(10)
        0x42,  # UNMAP
        0x4D,  # LOG SENSE
        0x5A,  # MODE SENSE(10)
        0x5E,  # PERSISTENT RESERVE IN
        0x88,  # READ(16)
        0x8A,  # WRITE(16)
        0x8E,  # WRITE AND VERIFY(16)
        0x8F,  # VERIFY(16)
        0x90,  # PRE-FETCH(16)
        0x91,  # SYNCHRONIZE CACHE(16)
        0x93,  # WRITE SAME(16)
        0x9C,  # WRITE ATOMIC(16)
        0xA0,  # REPORT LUNS
        0xA3,  # MAINTENANCE IN
        0xA8,  # READ(12)
        0xAA,  # WRITE(12)
        0xAE,  # WRITE AND VERIFY(12)
        0xAF,  # VERIFY(12)
    }
)
"""By operation code (SPC-4, SBC-3)."""

_SERVICE_ACTIONS: Final = frozenset(
    {
        (0x7F, 0x0009),  # READ(32)
        (0x7F, 0x000A),  # VERIFY(32)
        (0x7F, 0x000B),  # WRITE(32)
        (0x7F, 0x000C),  # WRITE AND VERIFY(32)
        (0x7F, 0x000D),  # WRITE SAME(32)
        (0x9E, 0x10),  # READ CAPACITY(16)
        (0x9E, 0x12),  # GET LBA STATUS
    }
)
"""By operation code and service action, where the code alone does not say it."""


def is_idempotent(cdb: bytes) -> bool:
    """Whether a command may be sent again when its outcome is unknown."""
    if not cdb:
        return False
    code = cdb[0]
    if code == 0x7F:
        return (code, int.from_bytes(cdb[8:10], "big")) in _SERVICE_ACTIONS
    return code in _COMMANDS or (len(cdb) > 1 and (code, cdb[1] & 0x1F) in _SERVICE_ACTIONS)
