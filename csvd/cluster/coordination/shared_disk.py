"""The shared disk that coordination works on; declared below cluster and storage, which do not know one another."""

from __future__ import annotations

from csvd.shared_disk import (
    FILE_LOCK,
    MAXIMUM_RECORDS_BYTES,
    NO_FENCE,
    OSD_BLOCKLIST,
    PERSISTENT_RESERVATION,
    FenceProof,
    NotProven,
    OwnerBlock,
    OwnerChanged,
    RecordSlot,
    SharedDisk,
)

__all__ = [
    "FILE_LOCK",
    "MAXIMUM_RECORDS_BYTES",
    "NO_FENCE",
    "OSD_BLOCKLIST",
    "PERSISTENT_RESERVATION",
    "FenceProof",
    "NotProven",
    "OwnerBlock",
    "OwnerChanged",
    "RecordSlot",
    "SharedDisk",
]
