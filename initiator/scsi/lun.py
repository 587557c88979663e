"""Logical unit numbers on the wire (SAM-5 section 4.7)."""

from __future__ import annotations

from initiator.errors import InitiatorError

_SIMPLE_LIMIT = 0x100
_FLAT_LIMIT = 0x4000
_OTHER_METHODS = 1 << 48


def encode(lun: int) -> int:
    """Give the 8-byte LUN field, as a big-endian number: peripheral addressing below 256, flat below 16,384.

    A LUN of another addressing method is given as its whole 8 bytes, as :func:`decode` gives it.

    Raises:
        InitiatorError: there is no such LUN.
    """
    if 0 <= lun < _SIMPLE_LIMIT:
        return lun << 48
    if lun < 0 or _FLAT_LIMIT <= lun < _OTHER_METHODS or lun >= 1 << 64:
        raise InitiatorError(f"there is no LUN {lun}", hint="a LUN is 0 to 16383")
    return (_FLAT_LIMIT | lun) << 48 if lun < _FLAT_LIMIT else lun


def decode(field: int) -> int:
    """Give the number in an 8-byte LUN field; the whole field where its addressing method is no simple one."""
    method, rest = field >> 62, field & ((1 << 48) - 1)
    if rest == 0 and method == 0 and field >> 56 == 0:
        return field >> 48
    if rest == 0 and method == 1:
        return (field >> 48) & (_FLAT_LIMIT - 1)
    return field
