"""libiscsi's small programs: how they are asked, and the fields that they print."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.interop.programs import succeed

# SPC-4 section 7.8: the codes of the vital product data pages.
SUPPORTED_VPD_PAGES = 0x00
UNIT_SERIAL_NUMBER = 0x80
DEVICE_IDENTIFICATION = 0x83
BLOCK_LIMITS = 0xB0
BLOCK_DEVICE_CHARACTERISTICS = 0xB1
LOGICAL_BLOCK_PROVISIONING = 0xB2


@dataclass(frozen=True, slots=True)
class Discovered:
    """A target as `iscsi-ls -s` shows it: its name, its portals (`HOST:PORT,TPGT`) and its LUNs that are disks."""

    name: str
    portals: tuple[str, ...]
    disks: tuple[int, ...]


def iscsi_ls(portal: str) -> Discovered:
    """Discovery, then a login and REPORT LUNS, INQUIRY and READ CAPACITY for each LUN; the one target there is."""
    printed = succeed("iscsi-ls", "-s", f"iscsi://{portal}")
    named = re.findall(r"^Target:(\S+) Portal:(\S+)$", printed, re.MULTILINE)
    assert len({name for name, _ in named}) == 1, printed
    disks = re.findall(r"^Lun:(\d+) +Type:DIRECT_ACCESS \(Size:\d+[KMGT]?\)$", printed, re.MULTILINE)
    return Discovered(named[0][0], tuple(portal for _, portal in named), tuple(map(int, disks)))


def iscsi_inq(url: str, page: int | None = None) -> dict[str, list[str]]:
    """Standard INQUIRY data, or a vital product data page, as field name -> values in the order printed."""
    flags = [] if page is None else ["-e", "1", "-c", str(page)]
    fields: dict[str, list[str]] = {}
    for line in succeed("iscsi-inq", *flags, url).splitlines():
        name, colon, value = line.partition(":")
        if colon:
            fields.setdefault(name.strip(), []).append(value)
    return fields


def vpd_pages(url: str) -> list[int]:
    """The pages that page 00h lists."""
    return [int(value.split()[0], 16) for value in iscsi_inq(url, SUPPORTED_VPD_PAGES)["Page"]]


def capacity_bytes(url: str) -> int:
    """READ CAPACITY(16)."""
    return int(succeed("iscsi-readcapacity16", "-s", url))
