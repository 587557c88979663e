"""Task management functions, by the bits of REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS (SPC-4 6.36, SAM-5 7)."""

from __future__ import annotations

from enum import IntEnum
from typing import Final


class TaskManagementFunction(IntEnum):
    """The value is the bit in the first two bytes of the report, big-endian."""

    ABORT_TASK = 0x8000
    ABORT_TASK_SET = 0x4000
    CLEAR_ACA = 0x2000
    CLEAR_TASK_SET = 0x1000
    LOGICAL_UNIT_RESET = 0x0800
    QUERY_TASK = 0x0400
    TARGET_RESET = 0x0200
    QUERY_ASYNCHRONOUS_EVENT = 0x0004
    QUERY_TASK_SET = 0x0002
    I_T_NEXUS_RESET = 0x0001


OFFERED: Final = (
    TaskManagementFunction.ABORT_TASK,
    TaskManagementFunction.ABORT_TASK_SET,
    TaskManagementFunction.CLEAR_TASK_SET,
    TaskManagementFunction.LOGICAL_UNIT_RESET,
    TaskManagementFunction.TARGET_RESET,
)
"""What RFC 7143 11.5.1 lets an initiator ask for and the target carries out."""

OFFERED_AT_LEVEL_2: Final = (
    TaskManagementFunction.QUERY_TASK,
    TaskManagementFunction.QUERY_ASYNCHRONOUS_EVENT,
    TaskManagementFunction.QUERY_TASK_SET,
    TaskManagementFunction.I_T_NEXUS_RESET,
)
"""What comes to it where iSCSIProtocolLevel 2 was agreed (RFC 7144 section 6.3)."""
