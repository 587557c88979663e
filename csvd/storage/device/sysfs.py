"""What sysfs tells of the device behind an open file."""

from __future__ import annotations

import os
from typing import Final

_DISK: Final = "0"
"""The type of a direct access block device (SPC-4 table 140)."""


def wwid_of(fd: int, sysfs: str = "/sys/dev/block") -> str:
    """The world wide name of the SCSI disk behind an open block device; empty where it is none, or a part of one."""
    device = os.fstat(fd).st_rdev
    folder = f"{sysfs}/{os.major(device)}:{os.minor(device)}/device"
    return _line_of(f"{folder}/wwid") if _line_of(f"{folder}/type") == _DISK else ""


def _line_of(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read(256).strip()
    except OSError:
        return ""
