"""What this process takes of its host."""

from __future__ import annotations

import os


def resident_bytes() -> int:
    """Its memory."""
    with open("/proc/self/statm", "rb") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def open_files() -> int:
    """Its file descriptors."""
    return len(os.listdir("/proc/self/fd"))
