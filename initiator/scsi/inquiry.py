"""INQUIRY data and the vital product data pages (SPC-4 sections 6.6.2 and 7.8, SBC-3 section 6.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from initiator.errors import MalformedAnswer
from initiator.scsi import designators, vpd_copy, vpd_device
from initiator.scsi.designators import Designator, printable
from initiator.scsi.vpd_copy import ThirdPartyCopy
from initiator.scsi.vpd_device import ExtendedInquiryData, ManagementNetworkAddresses, ModePagePolicies, ScsiPorts

STANDARD_BYTES: Final = 36
"""Standard INQUIRY data up to PRODUCT REVISION LEVEL: what every device has."""

DEVICE_TYPES: Final = {
    0x00: "disk",
    0x01: "tape",
    0x03: "processor",
    0x05: "CD/DVD",
    0x08: "changer",
    0x0C: "array controller",
    0x0D: "enclosure",
    0x14: "zoned disk",
    0x1F: "none",
}
"""Peripheral device types (SPC-4 section 6.6.2)."""


@dataclass(frozen=True, slots=True)
class Inquiry:
    """Standard INQUIRY data."""

    peripheral_qualifier: int
    device_type: int
    removable: bool
    version: int
    vendor: str
    product: str
    revision: str
    tpgs: int
    """Target port group support: 0 none, 1 implicit, 2 explicit, 3 both."""
    third_party_copy: bool

    @property
    def device_type_name(self) -> str:
        """The peripheral device type in words."""
        return DEVICE_TYPES.get(self.device_type, f"type {self.device_type:#04x}")

    @property
    def is_disk(self) -> bool:
        """Whether it is a disk, of blocks that can be read and written anywhere."""
        return self.device_type in (0x00, 0x14)

    @property
    def connected(self) -> bool:
        """Whether there is a logical unit behind this LUN (peripheral qualifier 0)."""
        return self.peripheral_qualifier == 0

    @property
    def no_disk(self) -> str:
        """Why there is no disk behind this LUN, as the rest of a sentence; empty where there is one."""
        if not self.connected:
            return "is not there"
        return "" if self.is_disk else f"is no disk but {self.device_type_name}"


def parse_standard(data: bytes) -> Inquiry:
    """Parse standard INQUIRY data.

    Raises:
        MalformedAnswer: it is shorter than 36 bytes.
    """
    if len(data) < STANDARD_BYTES:
        raise MalformedAnswer(f"INQUIRY data of {len(data)} bytes, fewer than {STANDARD_BYTES}")
    return Inquiry(
        peripheral_qualifier=data[0] >> 5,
        device_type=data[0] & 0x1F,
        removable=bool(data[1] & 0x80),
        version=data[2],
        vendor=printable(data[8:16]),
        product=printable(data[16:32]),
        revision=printable(data[32:36]),
        tpgs=data[5] >> 4 & 3,
        third_party_copy=bool(data[5] & 0x08),
    )


@dataclass(frozen=True, slots=True)
class SupportedPages:
    """VPD 00h: the pages that the logical unit has."""

    pages: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class UnitSerialNumber:
    """VPD 80h."""

    serial: str


@dataclass(frozen=True, slots=True)
class DeviceIdentification:
    """VPD 83h: by which a disk is recognized whatever road leads to it."""

    designators: tuple[Designator, ...]

    @property
    def unit_identity(self) -> str:
        """The designator of the logical unit by which paths are matched: NAA, else EUI-64, name, T10; else empty."""
        of_unit = [d for d in self.designators if d.association == 0]
        for kind in (3, 2, 8, 1):
            for designator in of_unit:
                if designator.kind == kind:
                    return designator.text
        return ""


@dataclass(frozen=True, slots=True)
class BlockLimits:
    """VPD B0h (SBC-3 section 6.5.3). Lengths are in logical blocks; 0 means that the target reports no limit."""

    maximum_compare_and_write_length: int = 0
    optimal_transfer_length_granularity: int = 0
    maximum_transfer_length: int = 0
    optimal_transfer_length: int = 0
    maximum_unmap_lba_count: int = 0
    maximum_unmap_block_descriptor_count: int = 0
    optimal_unmap_granularity: int = 0
    unmap_granularity_alignment: int | None = None
    maximum_write_same_length: int = 0
    write_same_non_zero: bool = False
    """WSNZ: a WRITE SAME of 0 blocks is refused."""
    maximum_prefetch_length: int = 0
    maximum_atomic_transfer_length: int = 0


@dataclass(frozen=True, slots=True)
class BlockDeviceCharacteristics:
    """VPD B1h (SBC-3 section 6.5.2)."""

    medium_rotation_rate: int
    """0 not reported, 1 a medium that does not rotate, else rotations a minute."""
    nominal_form_factor: int

    @property
    def solid_state(self) -> bool:
        """Whether the target says that the medium does not rotate."""
        return self.medium_rotation_rate == 1


@dataclass(frozen=True, slots=True)
class LogicalBlockProvisioning:
    """VPD B2h (SBC-3 section 6.5.4)."""

    threshold_exponent: int
    unmap: bool
    write_same_16_unmap: bool
    write_same_10_unmap: bool
    read_zeros: bool
    """LBPRZ: unmapped blocks read as zeros."""
    provisioning_type: int
    """0 not reported, 1 resource, 2 thin."""
    anchor_supported: bool = False
    """ANC_SUP: WRITE SAME and UNMAP can anchor blocks."""


@dataclass(frozen=True, slots=True)
class Referrals:
    """VPD B3h (SBC-3 section 6.5.6): which blocks are best reached where; 0 and 0 is: all are alike."""

    user_data_segment_size: int
    user_data_segment_multiplier: int


@dataclass(frozen=True, slots=True)
class RawPage:
    """A VPD page that this package does not parse: its bytes after the header."""

    page: int
    body: bytes


VpdPage = (
    SupportedPages
    | UnitSerialNumber
    | DeviceIdentification
    | ManagementNetworkAddresses
    | ExtendedInquiryData
    | ModePagePolicies
    | ScsiPorts
    | ThirdPartyCopy
    | BlockLimits
    | BlockDeviceCharacteristics
    | LogicalBlockProvisioning
    | Referrals
    | RawPage
)


def parse_vpd(page: int, data: bytes) -> VpdPage:
    """Parse a VPD page by its code.

    Raises:
        MalformedAnswer: it is another page, or shorter than its own header says.
    """
    if len(data) < 4 or data[1] != page:
        raise MalformedAnswer(f"asked for VPD page {page:02X}h and got {data[:4].hex() or 'nothing'}")
    length = int.from_bytes(data[2:4], "big")
    body = bytes(data[4 : 4 + length])
    if len(body) < length:
        raise MalformedAnswer(f"VPD page {page:02X}h says {length} bytes and has {len(body)}")
    parse = _PAGES.get(page)
    return RawPage(page, body) if parse is None else parse(body)


def _supported(body: bytes) -> SupportedPages:
    return SupportedPages(tuple(body))


def _serial(body: bytes) -> UnitSerialNumber:
    return UnitSerialNumber(printable(body))


def _identification(body: bytes) -> DeviceIdentification:
    return DeviceIdentification(designators.parse_list(body))


def _limits(body: bytes) -> BlockLimits:
    body = body.ljust(60, b"\0")  # SBC-2 devices have 12 bytes, and what is missing is 0: no limit reported

    def word(at: int) -> int:
        return int.from_bytes(body[at : at + 4], "big")

    alignment = word(28)
    return BlockLimits(
        maximum_compare_and_write_length=body[1],
        optimal_transfer_length_granularity=int.from_bytes(body[2:4], "big"),
        maximum_transfer_length=word(4),
        optimal_transfer_length=word(8),
        maximum_unmap_lba_count=word(16),
        maximum_unmap_block_descriptor_count=word(20),
        optimal_unmap_granularity=word(24),
        unmap_granularity_alignment=alignment & 0x7FFFFFFF if alignment & 0x80000000 else None,
        maximum_write_same_length=int.from_bytes(body[32:40], "big"),
        write_same_non_zero=bool(body[0] & 0x01),
        maximum_prefetch_length=word(12),
        maximum_atomic_transfer_length=word(40),
    )


def _characteristics(body: bytes) -> BlockDeviceCharacteristics:
    if len(body) < 4:
        raise MalformedAnswer(f"VPD page B1h of {len(body)} bytes")
    return BlockDeviceCharacteristics(int.from_bytes(body[0:2], "big"), body[3] & 0xF)


def _provisioning(body: bytes) -> LogicalBlockProvisioning:
    if len(body) < 4:
        raise MalformedAnswer(f"VPD page B2h of {len(body)} bytes")
    flags = body[1]
    return LogicalBlockProvisioning(
        threshold_exponent=body[0],
        unmap=bool(flags & 0x80),
        write_same_16_unmap=bool(flags & 0x40),
        write_same_10_unmap=bool(flags & 0x20),
        read_zeros=bool(flags & 0x1C),
        provisioning_type=body[2] & 7,
        anchor_supported=bool(flags & 0x02),
    )


def _referrals(body: bytes) -> Referrals:
    if len(body) < 12:
        raise MalformedAnswer(f"VPD page B3h of {len(body)} bytes")
    return Referrals(int.from_bytes(body[4:8], "big"), int.from_bytes(body[8:12], "big"))


_PAGES: Final[dict[int, Callable[[bytes], VpdPage]]] = {
    0x00: _supported,
    0x80: _serial,
    0x83: _identification,
    0x85: vpd_device.parse_management,
    0x86: vpd_device.parse_extended_inquiry,
    0x87: vpd_device.parse_mode_policies,
    0x88: vpd_device.parse_ports,
    0x8F: vpd_copy.parse,
    0xB0: _limits,
    0xB1: _characteristics,
    0xB2: _provisioning,
    0xB3: _referrals,
}
