"""What a disk has on it already, by its first bytes: so that nothing is formatted that somebody needs. PURE."""

from __future__ import annotations

from typing import Final

LOOKED_AT_BYTES: Final = 1 << 20

_SIGNATURES: Final = (
    (0x438, b"\x53\xef", "an ext4, ext3 or ext2 file system"),
    (0, b"XFSB", "an XFS file system"),
    (0x10040, b"_BHRfS_M", "a Btrfs file system"),
    (0, b"LUKS\xba\xbe", "an encrypted volume (LUKS)"),
    (0x200, b"LABELONE", "a physical volume of LVM"),
    (0x200, b"EFI PART", "a partition table (GPT)"),
    (0x1000, b"EFI PART", "a partition table (GPT)"),
    (0x1000, b"\xfc\x4e\x2b\xa9", "a member of a RAID (md)"),
    (0, b"\xfc\x4e\x2b\xa9", "a member of a RAID (md)"),
    (0, b"QFI\xfb", "a qcow2 image"),
    (0, b"KDMV", "a VMDK image"),
    (0xFF6, b"SWAPSPACE2", "swap space"),
    (3, b"NTFS    ", "an NTFS file system"),
    (0x36, b"FAT", "a FAT file system"),
    (0x52, b"FAT32", "a FAT file system"),
    (0x8001, b"CD001", "an ISO 9660 file system"),
    (0x10000, b"\x01\x16\x19\x70", "a GFS2 file system"),
    (0x2000, b"OCFSV2", "an OCFS2 file system"),
    (0, b"\x10\x20\x21\x12", "a lockspace of sanlock"),
    (0, b"\x10\x20\x15\x06", "resources of sanlock"),
    (0x1FE, b"\x55\xaa", "a partition table or a boot sector"),
)
"""Where it is, what it is, and its name. What is less sure comes later."""


def contents_of(head: bytes) -> str | None:
    """What is on a disk; None where there are only zeros.

    Args:
        head: its first `LOOKED_AT_BYTES`.
    """
    for at, signature, name in _SIGNATURES:
        if head[at : at + len(signature)] == signature:
            return name
    first = len(head) - len(head.lstrip(b"\0"))
    return None if first == len(head) else f"data that csvd does not know, from byte {first} on"
