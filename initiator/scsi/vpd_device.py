"""VPD pages of the device and its ports: 85h, 86h, 87h, 88h (SPC-4 section 7.8)."""

from __future__ import annotations

from dataclasses import dataclass

from initiator.errors import MalformedAnswer
from initiator.scsi import designators, transport_id
from initiator.scsi.designators import Designator, printable
from initiator.scsi.transport_id import TransportId


@dataclass(frozen=True, slots=True)
class ManagementAddress:
    """Where the device is managed."""

    association: int
    service_type: int
    """1 storage configuration, 2 diagnostics, 3 status, 4 logging, 5 code download, 6 copies, 7 administrative."""
    address: str


@dataclass(frozen=True, slots=True)
class ManagementNetworkAddresses:
    """VPD 85h."""

    addresses: tuple[ManagementAddress, ...]


@dataclass(frozen=True, slots=True)
class ExtendedInquiryData:
    """VPD 86h (SPC-4 section 7.8.7): what commands and task attributes the unit knows."""

    simple_supported: bool
    ordered_supported: bool
    head_of_queue_supported: bool
    priority_supported: bool
    grouping_supported: bool
    protection_types: int
    """SPT: which types of protection information it can be formatted with."""
    guard_check: bool
    application_tag_check: bool
    reference_tag_check: bool
    write_uncorrectable_supported: bool
    volatile_cache: bool
    """V_SUP."""
    non_volatile_cache: bool
    """NV_SUP."""
    unit_attentions_cleared_by_loss: bool
    """LUICLR: an I_T nexus loss clears nothing but of its own."""
    referrals_supported: bool
    extended_self_test_minutes: int
    maximum_sense_data_bytes: int


@dataclass(frozen=True, slots=True)
class ModePagePolicy:
    """How the copies of one mode page are shared; ``page`` 3Fh with ``subpage`` FFh means all others."""

    page: int
    subpage: int
    multiple_units: bool
    policy: int
    """0 shared, 1 for each target port, 2 for each initiator port, 3 for each I_T nexus."""


@dataclass(frozen=True, slots=True)
class ModePagePolicies:
    """VPD 87h."""

    policies: tuple[ModePagePolicy, ...]


@dataclass(frozen=True, slots=True)
class ScsiPort:
    """A port of the device: its names as target port, and as initiator port where it is one."""

    relative_port: int
    initiator: TransportId | None
    designators: tuple[Designator, ...]

    @property
    def name(self) -> str:
        """The SCSI name of the target port; empty where it has none."""
        return next((name.text for name in self.designators if name.kind == 8), "")


@dataclass(frozen=True, slots=True)
class ScsiPorts:
    """VPD 88h."""

    ports: tuple[ScsiPort, ...]


def parse_management(body: bytes) -> ManagementNetworkAddresses:
    """Parse VPD 85h.

    Raises:
        MalformedAnswer: an address runs past the end.
    """
    found: list[ManagementAddress] = []
    at = 0
    while at < len(body):
        first = at + 4
        end = first + (int.from_bytes(body[at + 2 : first], "big") if first <= len(body) else 1)
        if end > len(body):
            raise MalformedAnswer("an address of VPD page 85h runs past its end")
        found.append(ManagementAddress(body[at] >> 5 & 3, body[at] & 0x1F, printable(body[first:end])))
        at = end
    return ManagementNetworkAddresses(tuple(found))


def parse_extended_inquiry(body: bytes) -> ExtendedInquiryData:
    """Parse VPD 86h; what is missing at its end is 0."""
    body = body.ljust(60, b"\0")
    return ExtendedInquiryData(
        simple_supported=bool(body[1] & 0x01),
        ordered_supported=bool(body[1] & 0x02),
        head_of_queue_supported=bool(body[1] & 0x04),
        priority_supported=bool(body[1] & 0x08),
        grouping_supported=bool(body[1] & 0x10),
        protection_types=body[0] >> 3 & 7,
        guard_check=bool(body[0] & 0x04),
        application_tag_check=bool(body[0] & 0x02),
        reference_tag_check=bool(body[0] & 0x01),
        write_uncorrectable_supported=bool(body[2] & 0x08),
        volatile_cache=bool(body[2] & 0x01),
        non_volatile_cache=bool(body[2] & 0x02),
        unit_attentions_cleared_by_loss=bool(body[3] & 0x01),
        referrals_supported=bool(body[4] & 0x10),
        extended_self_test_minutes=int.from_bytes(body[6:8], "big"),
        maximum_sense_data_bytes=body[9],
    )


def parse_mode_policies(body: bytes) -> ModePagePolicies:
    """Parse VPD 87h; what is no whole descriptor at its end is left out."""
    return ModePagePolicies(
        tuple(
            ModePagePolicy(body[at] & 0x3F, body[at + 1], bool(body[at + 2] & 0x80), body[at + 2] & 3)
            for at in range(0, len(body) - 3, 4)
        )
    )


def parse_ports(body: bytes) -> ScsiPorts:
    """Parse VPD 88h.

    Raises:
        MalformedAnswer: a descriptor runs past the end.
    """
    found: list[ScsiPort] = []
    at = 0
    while at < len(body):
        first = at + 8
        named = first + int.from_bytes(body[at + 6 : first], "big")
        names = named + 4
        end = names + int.from_bytes(body[named + 2 : names], "big")
        if names > len(body) or end > len(body):
            raise MalformedAnswer("a port of VPD page 88h runs past its end")
        initiator = transport_id.parse(body[first:named]) if named > first else None
        port = int.from_bytes(body[at + 2 : at + 4], "big")
        found.append(ScsiPort(port, initiator, designators.parse_list(body[names:end])))
        at = end
    return ScsiPorts(tuple(found))
