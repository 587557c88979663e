"""Logical block provisioning, as READ CAPACITY(16), VPD page B2h and log page 0Ch say it (SBC-3 4.7).

Resources are counted in threshold sets of 2**THRESHOLD EXPONENT blocks: a mebibyte, or more where 32 bits would not
count them all.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from csvd.scsi.command import CommandTable
from csvd.scsi.logical_unit import LogicalUnit

_UNMAP: Final = 0x42
_WRITE_SAME_10: Final = 0x41
_WRITE_SAME_16: Final = 0x93

_THRESHOLD_SET_BYTES: Final = 1 << 20
_MOST_SETS: Final = 0xFFFF_FFFF


class Provisioning(NamedTuple):
    """Logical block provisioning management (SBC-3 4.7).

    LBPME is set for a thin logical unit that offers a command to unmap; without one a host could ask for nothing, so
    the logical unit says that it is not managed. LBPRZ follows: what is unmapped reads as zeros here, always. So does
    ANC_SUP: zeros that the store allocates are anchored blocks.
    """

    lbpme: bool
    lbprz: bool
    lbpu: bool
    lbpws: bool
    lbpws10: bool
    anc_sup: bool


class ResourceCounts(NamedTuple):
    """LBA mapping resources, in threshold sets (log page 0Ch, SBC-3 6.4.5)."""

    available: int
    used: int


def provisioning(unit: LogicalUnit, commands: CommandTable) -> Provisioning:
    """What the logical unit says of itself."""
    lbpu = unit.thin and _UNMAP in commands.by_operation_code
    lbpws = unit.thin and _WRITE_SAME_16 in commands.by_operation_code
    lbpws10 = unit.thin and _WRITE_SAME_10 in commands.by_operation_code
    managed = lbpu or lbpws or lbpws10
    return Provisioning(managed, managed, lbpu, lbpws, lbpws10, managed)


def threshold_exponent(unit: LogicalUnit) -> int:
    """THRESHOLD EXPONENT of page B2h: a threshold set is 2**n logical blocks; never zero, which means no thresholds."""
    exponent = max(1, (_THRESHOLD_SET_BYTES // unit.block_bytes).bit_length() - 1)
    while unit.block_count >> exponent > _MOST_SETS:
        exponent += 1
    return exponent


def default_threshold_count(unit: LogicalUnit) -> int:
    """THRESHOLD COUNT that stands for `LogicalUnit.soft_threshold_percent`; zero for none."""
    total = resource_counts(unit, 0).available
    return -(-total * unit.soft_threshold_percent // 100)


def resource_counts(unit: LogicalUnit, used_bytes: int) -> ResourceCounts:
    """What is used and what is left of a logical unit.

    Args:
        used_bytes: the answer to `procedure.Usage`.
    """
    set_bytes = unit.block_bytes << threshold_exponent(unit)
    total = -(-unit.block_count * unit.block_bytes // set_bytes)
    used = min(-(-used_bytes // set_bytes), total)
    return ResourceCounts(total - used, used)
