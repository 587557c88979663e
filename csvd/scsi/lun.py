"""The 8-byte LUN field: peripheral and flat space addressing, and the REPORT LUNS well known LUN (SAM-5 4.7)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

LUN_LIMIT: Final = 1 << 14
"""Flat space addressing has 14 bits."""

REPORT_LUNS_WELL_KNOWN: Final = 0xC101_0000_0000_0000
"""Extended logical unit addressing, well known logical unit 01h (SAM-5 4.7, SPC-4 8.2)."""

_PERIPHERAL_LIMIT: Final = 1 << 8
_FLAT: Final = 0x4000


def encode_lun(number: int) -> int:
    """The LUN field of a logical unit: peripheral device addressing below 256, else flat space addressing."""
    if number < _PERIPHERAL_LIMIT:
        return number << 48
    return (_FLAT | number) << 48


def lun_spellings(number: int) -> Iterable[int]:
    """Every LUN field that addresses this logical unit. Hosts may use flat space addressing for small numbers too."""
    if number < _PERIPHERAL_LIMIT:
        yield number << 48
    yield (_FLAT | number) << 48
