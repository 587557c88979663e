"""Vital product data pages: one row a page (SPC-4 7.8, SBC-3 6.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from construct import Const, Int8ub, Int16ub, Int32ub, Padding, Struct

from csvd.scsi import vpd_block, vpd_device
from csvd.scsi.command import ANY_LUN, DISKS, LOGICAL_UNITS
from csvd.scsi.logical_unit import LogicalUnit, Peripheral
from csvd.scsi.vpd_third_party_copy import third_party_copy

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

PAGE_HEADER: Final = Struct("peripheral" / Int8ub, "page_code" / Int8ub, "page_length" / Int16ub)

BLOCK_DEVICE_CHARACTERISTICS: Final = Struct(
    "medium_rotation_rate" / Int16ub,
    "product_type" / Int8ub,
    "wabereq_wacereq_and_form_factor" / Int8ub,
    "fuab_and_vbuls" / Int8ub,
    Padding(55),
)
REFERRALS: Final = Struct(
    "reserved" / Const(bytes(4)),
    "user_data_segment_size" / Int32ub,
    "user_data_segment_multiplier" / Int32ub,
)


@dataclass(frozen=True, slots=True)
class VpdPage:
    """The row of one VPD page.

    Args:
        code, name: PAGE CODE and name in the standard.
        body: makes the page without its four-byte header, for the nexus that asks.
        peripherals: the kinds of logical unit that have it.
    """

    code: int
    name: str
    body: Callable[[ItlNexus], bytes]
    peripherals: frozenset[Peripheral] = DISKS

    def encode(self, nexus: ItlNexus) -> bytes:
        """The whole page."""
        body = self.body(nexus)
        header = {"peripheral": nexus.unit.peripheral, "page_code": self.code, "page_length": len(body)}
        return PAGE_HEADER.build(header) + body


def find_page(unit: LogicalUnit, code: int) -> VpdPage | None:
    """The page with this code, where the logical unit has it."""
    return next((page for page in _pages_of(unit) if page.code == code), None)


def _pages_of(unit: LogicalUnit) -> list[VpdPage]:
    return [page for page in PAGES if unit.peripheral in page.peripherals]


def _supported_pages(nexus: ItlNexus) -> bytes:
    return bytes(page.code for page in _pages_of(nexus.unit))


def _offers_block_erase(nexus: ItlNexus) -> bool:
    return nexus.server.commands.find_service_action(0x48, 0x02) is not None


def _block_device_characteristics(nexus: ItlNexus) -> bytes:
    return BLOCK_DEVICE_CHARACTERISTICS.build(
        {
            "medium_rotation_rate": nexus.unit.medium_rotation_rate,
            "product_type": 0,
            # WABEREQ 01b: after BLOCK ERASE reads are answered, with zeros.
            "wabereq_wacereq_and_form_factor": _offers_block_erase(nexus) << 6,
            "fuab_and_vbuls": 0,
        }
    )


def _referrals(_nexus: ItlNexus) -> bytes:
    # R_SUP is zero: no user data segments, for every port reaches all of the disk.
    return REFERRALS.build({"user_data_segment_size": 0, "user_data_segment_multiplier": 0})


# Ascending by code, as VPD page 00h lists them (SPC-4 7.8.15).
PAGES: Final = (
    VpdPage(0x00, "Supported VPD Pages", _supported_pages, ANY_LUN),
    VpdPage(0x80, "Unit Serial Number", vpd_device.unit_serial_number),
    VpdPage(0x83, "Device Identification", vpd_device.device_identification, LOGICAL_UNITS),
    VpdPage(0x85, "Management Network Addresses", vpd_device.management_network_addresses),
    VpdPage(0x86, "Extended INQUIRY Data", vpd_device.extended_inquiry_data),
    VpdPage(0x87, "Mode Page Policy", vpd_device.mode_page_policy),
    VpdPage(0x88, "SCSI Ports", vpd_device.scsi_ports),
    VpdPage(0x8F, "Third-party Copy", third_party_copy),
    VpdPage(0xB0, "Block Limits", vpd_block.block_limits),
    VpdPage(0xB1, "Block Device Characteristics", _block_device_characteristics),
    VpdPage(0xB2, "Logical Block Provisioning", vpd_block.logical_block_provisioning),
    VpdPage(0xB3, "Referrals", _referrals),
)
