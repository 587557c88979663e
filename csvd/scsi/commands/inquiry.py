"""INQUIRY (SPC-4 6.6): standard data and VPD pages. It answers for every LUN, also those that do not exist."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Bytes, Const, Int8ub, Int16ub, Padding, Struct

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import ANY_LUN, Command, DataDirection, Reservation
from csvd.scsi.outcome import Outcome, Reply, Status
from csvd.scsi.sense import invalid_field_in_cdb
from csvd.scsi.vpd import find_page

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

_EVPD: Final = 0x01
_CMDDT: Final = 0x02

INQUIRY: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, _EVPD),
    CdbField("page_code", Int8ub, 0xFF),
    CdbField("allocation_length", Int16ub, 0xFFFF),
    CdbField("control", Int8ub, NACA),
)
_unpack = INQUIRY.unpacker("flags", "page_code", "allocation_length").unpack_from

_SPC_4: Final = 0x06
_RMB: Final = 0x80
_HISUP_AND_FORMAT_2: Final = 0x12
# TPGS: asymmetric access states that the target changes, and that initiators may change, too.
_IMPLICIT: Final = 0x10
_EXPLICIT: Final = 0x20
_3PC: Final = 0x08
_MULTIP: Final = 0x10
_CMDQUE: Final = 0x02

_MAINTENANCE_IN: Final = 0xA3
_MAINTENANCE_OUT: Final = 0xA4
_TARGET_PORT_GROUPS: Final = 0x0A
_EXTENDED_COPY: Final = 0x83

# SAM-5, iSCSI, SPC-4 and SBC-3, no version claimed (SPC-4 6.6.2).
VERSION_DESCRIPTORS: Final = (0x00A0, 0x0960, 0x0460, 0x04C0)

STANDARD_INQUIRY: Final = Struct(
    "peripheral" / Int8ub,
    "rmb" / Int8ub,
    "version" / Const(_SPC_4, Int8ub),
    "normaca_hisup_and_format" / Const(_HISUP_AND_FORMAT_2, Int8ub),
    "additional_length" / Const(91, Int8ub),
    "sccs_tpgs_3pc_and_protect" / Int8ub,
    "encserv_and_multip" / Int8ub,
    "cmdque" / Const(_CMDQUE, Int8ub),
    "vendor" / Bytes(8),
    "product" / Bytes(16),
    "revision" / Bytes(4),
    Padding(20),
    "clocking_qas_and_ius" / Const(0, Int8ub),
    "reserved" / Const(0, Int8ub),
    "version_descriptors" / Int16ub[8],
    Padding(22),
)


def _standard_data(nexus: ItlNexus) -> bytes:
    unit = nexus.unit
    identity, commands = unit.identity, nexus.server.commands
    tpgs = _IMPLICIT if commands.find_service_action(_MAINTENANCE_IN, _TARGET_PORT_GROUPS) else 0
    tpgs |= _EXPLICIT if commands.find_service_action(_MAINTENANCE_OUT, _TARGET_PORT_GROUPS) else 0
    third_party_copy = _3PC if commands.has_operation_code(_EXTENDED_COPY) else 0
    ports = nexus.nexus.device.ports.groups
    descriptors = [*VERSION_DESCRIPTORS]
    return STANDARD_INQUIRY.build(
        {
            "peripheral": unit.peripheral,
            "rmb": _RMB if unit.removable else 0,
            "sccs_tpgs_3pc_and_protect": tpgs | third_party_copy,
            "encserv_and_multip": _MULTIP if len(ports) > 1 else 0,
            "vendor": f"{identity.vendor:<8}".encode("ascii"),
            "product": f"{identity.product:<16}".encode("ascii"),
            "revision": f"{identity.revision:<4}".encode("ascii"),
            "version_descriptors": descriptors + [0] * (8 - len(descriptors)),
        }
    )


def _inquiry(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    flags, page_code, allocation_length = _unpack(cdb)
    if flags & _CMDDT:
        raise invalid_field_in_cdb(INQUIRY.pointer("flags", _CMDDT))
    if flags & _EVPD:
        page = find_page(nexus.unit, page_code)
        if page is None:
            raise invalid_field_in_cdb(INQUIRY.pointer("page_code"))
        data = page.encode(nexus)
    elif page_code:
        raise invalid_field_in_cdb(INQUIRY.pointer("page_code"))
    else:
        data = _standard_data(nexus)
    return Reply(Status.GOOD, data[:allocation_length])


COMMANDS: Final = (
    Command(
        name="INQUIRY",
        operation_code=0x12,
        layout=INQUIRY,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.ALLOWED,
        handler=_inquiry,
        peripherals=ANY_LUN,
        despite_attention=True,
    ),
)
