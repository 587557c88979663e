"""Vital product data pages: one row a page (SPC-4 7.8, SBC-3 6.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from construct import Bytes, Const, GreedyBytes, Int8ub, Int16ub, Int32ub, Int64ub, Padding, Struct, this

from csvd.scsi.command import ANY_LUN, DISKS
from csvd.scsi.logical_unit import Identity, Peripheral
from csvd.scsi.provisioning import provisioning

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer

PAGE_HEADER: Final = Struct("peripheral" / Int8ub, "page_code" / Int8ub, "page_length" / Int16ub)

DESIGNATOR: Final = Struct(
    "code_set" / Int8ub,
    "association_and_type" / Int8ub,
    "reserved" / Const(0, Int8ub),
    "designator_length" / Int8ub,
    "designator" / Bytes(this.designator_length),
)
BLOCK_LIMITS: Final = Struct(
    "wsnz" / Int8ub,
    "maximum_compare_and_write_length" / Int8ub,
    "optimal_transfer_length_granularity" / Int16ub,
    "maximum_transfer_length" / Int32ub,
    "optimal_transfer_length" / Int32ub,
    "maximum_prefetch_length" / Int32ub,
    "maximum_unmap_lba_count" / Int32ub,
    "maximum_unmap_block_descriptor_count" / Int32ub,
    "optimal_unmap_granularity" / Int32ub,
    "unmap_granularity_alignment" / Int32ub,
    "maximum_write_same_length" / Int64ub,
    Padding(20),
)
BLOCK_DEVICE_CHARACTERISTICS: Final = Struct(
    "medium_rotation_rate" / Int16ub,
    "product_type" / Int8ub,
    "wabereq_wacereq_and_form_factor" / Int8ub,
    "fuab_and_vbuls" / Int8ub,
    Padding(55),
)
LOGICAL_BLOCK_PROVISIONING: Final = Struct(
    "threshold_exponent" / Int8ub,
    "flags" / Int8ub,
    "provisioning_type" / Int8ub,
    "reserved" / Const(0, Int8ub),
    "provisioning_group_descriptor" / GreedyBytes,
)

_BINARY: Final = 1
_ASCII: Final = 2
_T10_VENDOR_ID: Final = 0x01
_NAA: Final = 0x03


@dataclass(frozen=True, slots=True)
class VpdPage:
    """The row of one VPD page.

    Args:
        code, name: PAGE CODE and name in the standard.
        body: makes the page without its four-byte header.
        peripherals: the kinds of logical unit that have it.
    """

    code: int
    name: str
    body: Callable[[DeviceServer], bytes]
    peripherals: frozenset[Peripheral] = DISKS

    def encode(self, server: DeviceServer) -> bytes:
        """The whole page."""
        body = self.body(server)
        header = {"peripheral": server.unit.peripheral, "page_code": self.code, "page_length": len(body)}
        return PAGE_HEADER.build(header) + body


def find_page(server: DeviceServer, code: int) -> VpdPage | None:
    """The page with this code, where the logical unit has it."""
    return next((page for page in _pages_of(server) if page.code == code), None)


def _pages_of(server: DeviceServer) -> list[VpdPage]:
    return [page for page in PAGES if server.unit.peripheral in page.peripherals]


def _supported_pages(server: DeviceServer) -> bytes:
    return bytes(page.code for page in _pages_of(server))


def _unit_serial_number(server: DeviceServer) -> bytes:
    return server.unit.identity.serial.encode("ascii")


def t10_vendor_designator(identity: Identity) -> bytes:
    """T10 vendor identification and what the vendor adds: product and serial number (SPC-4 7.8.6.4)."""
    text = f"{identity.vendor:<8}{identity.product:<16}{identity.serial}"
    return DESIGNATOR.build(
        {
            "code_set": _ASCII,
            "association_and_type": _T10_VENDOR_ID,
            "designator_length": len(text),
            "designator": text.encode("ascii"),
        }
    )


def naa_designator(identity: Identity) -> bytes:
    """NAA designator of the logical unit (SPC-4 7.8.6.6)."""
    return DESIGNATOR.build(
        {
            "code_set": _BINARY,
            "association_and_type": _NAA,
            "designator_length": len(identity.naa),
            "designator": identity.naa,
        }
    )


def _device_identification(server: DeviceServer) -> bytes:
    identity = server.unit.identity
    return naa_designator(identity) + t10_vendor_designator(identity)


def _block_limits(server: DeviceServer) -> bytes:
    # Zero is "not supported" or "not reported" in every field: no COMPARE AND WRITE, PREFETCH, UNMAP and WRITE SAME.
    unit = server.unit
    granularity = unit.physical_block_bytes // unit.block_bytes
    return BLOCK_LIMITS.build(
        {
            "wsnz": 0,
            "maximum_compare_and_write_length": 0,
            "optimal_transfer_length_granularity": granularity if granularity > 1 else 0,
            "maximum_transfer_length": unit.maximum_transfer_blocks,
            "optimal_transfer_length": 0,
            "maximum_prefetch_length": 0,
            "maximum_unmap_lba_count": 0,
            "maximum_unmap_block_descriptor_count": 0,
            "optimal_unmap_granularity": 0,
            "unmap_granularity_alignment": 0,
            "maximum_write_same_length": 0,
        }
    )


def _offers_block_erase(server: DeviceServer) -> bool:
    return server.commands.find_service_action(0x48, 0x02) is not None


def _block_device_characteristics(server: DeviceServer) -> bytes:
    return BLOCK_DEVICE_CHARACTERISTICS.build(
        {
            "medium_rotation_rate": server.unit.medium_rotation_rate,
            "product_type": 0,
            # WABEREQ 01b: after BLOCK ERASE reads are answered, with zeros.
            "wabereq_wacereq_and_form_factor": _offers_block_erase(server) << 6,
            "fuab_and_vbuls": 0,
        }
    )


_THIN_PROVISIONED: Final = 2


def _logical_block_provisioning(server: DeviceServer) -> bytes:
    managed = provisioning(server.unit, server.commands)
    lbprz_bit = 2
    return LOGICAL_BLOCK_PROVISIONING.build(
        {
            "threshold_exponent": 0,
            "flags": managed.lbpu << 7 | managed.lbpws << 6 | managed.lbpws10 << 5 | managed.lbprz << lbprz_bit,
            "provisioning_type": _THIN_PROVISIONED if managed.lbpme else 0,
            "provisioning_group_descriptor": b"",
        }
    )


# Ascending by code, as VPD page 00h lists them (SPC-4 7.8.15).
PAGES: Final = (
    VpdPage(0x00, "Supported VPD Pages", _supported_pages, ANY_LUN),
    VpdPage(0x80, "Unit Serial Number", _unit_serial_number),
    VpdPage(0x83, "Device Identification", _device_identification),
    VpdPage(0xB0, "Block Limits", _block_limits),
    VpdPage(0xB1, "Block Device Characteristics", _block_device_characteristics),
    VpdPage(0xB2, "Logical Block Provisioning", _logical_block_provisioning),
)
