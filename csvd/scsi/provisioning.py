"""Logical block provisioning, as READ CAPACITY(16) and VPD page B2h say it: derived from the disk and the commands."""

from __future__ import annotations

from typing import Final, NamedTuple

from csvd.scsi.command import CommandTable
from csvd.scsi.logical_unit import LogicalUnit

_UNMAP: Final = 0x42
_WRITE_SAME_10: Final = 0x41
_WRITE_SAME_16: Final = 0x93


class Provisioning(NamedTuple):
    """Logical block provisioning management (SBC-3 4.7).

    LBPME is set for a thin logical unit that offers a command to unmap; without one a host could ask for nothing, so
    the logical unit says that it is not managed. LBPRZ follows: what is unmapped reads as zeros here, always.
    """

    lbpme: bool
    lbprz: bool
    lbpu: bool
    lbpws: bool
    lbpws10: bool


def provisioning(unit: LogicalUnit, commands: CommandTable) -> Provisioning:
    """What the logical unit says of itself."""
    lbpu = unit.thin and _UNMAP in commands.by_operation_code
    lbpws = unit.thin and _WRITE_SAME_16 in commands.by_operation_code
    lbpws10 = unit.thin and _WRITE_SAME_10 in commands.by_operation_code
    managed = lbpu or lbpws or lbpws10
    return Provisioning(managed, managed, lbpu, lbpws, lbpws10)
