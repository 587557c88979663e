"""The VPD pages that say what a logical unit and its target device are, whatever its command set (SPC-4 7.8)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Bytes, Const, Int8ub, Int16ub, Padding, Struct, this

from csvd.scsi import designators
from csvd.scsi.logical_unit import Peripheral
from csvd.scsi.mode_pages import ALL_PAGES, ALL_SUBPAGES

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

EXTENDED_INQUIRY_DATA: Final = Struct(
    "activate_microcode_spt_and_checks" / Const(0, Int8ub),
    "task_attributes_and_grouping" / Int8ub,
    "wu_cor_d_nv_and_v" / Int8ub,
    "luiclr" / Int8ub,
    "r_sup_and_rtd_sup" / Int8ub,
    Padding(55),
)
MODE_PAGE_POLICY_DESCRIPTOR: Final = Struct(
    "policy_page_code" / Int8ub,
    "policy_subpage_code" / Int8ub,
    "mlus_and_policy" / Int8ub,
    "reserved" / Const(0, Int8ub),
)
SCSI_PORT_DESCRIPTOR: Final = Struct(
    "reserved" / Const(0, Int16ub),
    "relative_port_identifier" / Int16ub,
    "reserved_2" / Const(0, Int16ub),
    "initiator_port_transport_id_length" / Const(0, Int16ub),
    "reserved_3" / Const(0, Int16ub),
    "target_port_descriptors_length" / Int16ub,
    "target_port_descriptors" / Bytes(this.target_port_descriptors_length),
)

_SIMPSUP: Final = 0x01
_ORDSUP: Final = 0x02
_HEADSUP: Final = 0x04
_V_SUP: Final = 0x01
_LUICLR: Final = 0x01
_RTD_SUP: Final = 0x08
_SHARED: Final = 0


def unit_serial_number(nexus: ItlNexus) -> bytes:
    """80h: the serial number."""
    return nexus.unit.identity.serial.encode("ascii")


def device_identification(nexus: ItlNexus) -> bytes:
    """83h: all names of the logical unit, of the port the command came through, and of the target device."""
    identity, device = nexus.unit.identity, nexus.nexus.device
    port = nexus.nexus.identity.portal_group_tag
    names = b""
    if nexus.unit.peripheral is Peripheral.DISK:
        names += designators.naa_designator(identity)
        names += designators.t10_vendor_designator(identity)
        names += designators.eui_64_designator(identity)
    names += designators.relative_target_port_designator(port)
    names += designators.target_port_group_designator(device.ports.group_of(port).tag)
    if device.name:
        names += designators.target_port_name_designator(device.name, port)
        names += designators.target_device_name_designator(device.name)
    return names


def management_network_addresses(_nexus: ItlNexus) -> bytes:
    """85h: none; a node is managed at a socket of its own host."""
    return b""


def extended_inquiry_data(nexus: ItlNexus) -> bytes:
    """86h: all task attributes but ACA, a volatile cache where there is one, no protection information."""
    return EXTENDED_INQUIRY_DATA.build(
        {
            "task_attributes_and_grouping": _SIMPSUP | _ORDSUP | _HEADSUP,
            "wu_cor_d_nv_and_v": _V_SUP if nexus.unit.write_cache else 0,
            "luiclr": _LUICLR,
            "r_sup_and_rtd_sup": _RTD_SUP,
        }
    )


def mode_page_policy(_nexus: ItlNexus) -> bytes:
    """87h: every mode page is shared by all I_T nexuses, and belongs to one logical unit."""
    return MODE_PAGE_POLICY_DESCRIPTOR.build(
        {"policy_page_code": ALL_PAGES, "policy_subpage_code": ALL_SUBPAGES, "mlus_and_policy": _SHARED}
    )


def scsi_ports(nexus: ItlNexus) -> bytes:
    """88h: every target port of the device."""
    device = nexus.nexus.device
    data = b""
    for group in device.ports.groups.values():
        for port in group.ports:
            names = designators.target_port_name_designator(device.name, port) if device.name else b""
            data += SCSI_PORT_DESCRIPTOR.build(
                {
                    "relative_port_identifier": port,
                    "target_port_descriptors_length": len(names),
                    "target_port_descriptors": names,
                }
            )
    return data
