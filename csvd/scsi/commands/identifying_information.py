"""REPORT and SET IDENTIFYING INFORMATION: a label that initiators give a logical unit (SPC-4 6.32 and 6.43)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from construct import Const, Int8ub, Int16ub, Int32ub, Struct

from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.outcome import GOOD, Outcome, Reply, Status
from csvd.scsi.procedure import Keep, Procedure, Steps, Until
from csvd.scsi.sense import Asc, FieldPointer, illegal_request, invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus
    from csvd.scsi.logical_unit import LogicalUnit

KEPT: Final = "identifying information"
"""Under this name `LogicalUnit.kept` has it: hexadecimal digits by information type."""

_INFORMATION_TYPE: Final = 0xFE
_BINARY: Final = 0x00
_TEXT: Final = 0x02
_SUPPORTED: Final = 0x7F
MAXIMUM_BYTES: Final = {_BINARY: 64, _TEXT: 256}
"""What each information type takes at most."""

IDENTIFYING_INFORMATION_FIELDS: Final = (
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("reserved", Int32ub),
    CdbField("length", Int32ub, 0xFFFF_FFFF),
    CdbField("information_type", Int8ub, _INFORMATION_TYPE),
    CdbField("control", Int8ub, NACA),
)
REPORT_IDENTIFYING_INFORMATION: Final = CdbLayout(*IDENTIFYING_INFORMATION_FIELDS)
SET_IDENTIFYING_INFORMATION: Final = CdbLayout(*IDENTIFYING_INFORMATION_FIELDS)
INFORMATION_HEADER: Final = Struct("reserved" / Const(0, Int16ub), "information_length" / Int16ub)
INFORMATION_DESCRIPTOR: Final = Struct(
    "information_type" / Int8ub, "reserved" / Const(0, Int8ub), "maximum_information_length" / Int16ub
)

_unpack = REPORT_IDENTIFYING_INFORMATION.unpacker("length", "information_type").unpack_from


def _kept(unit: LogicalUnit) -> dict[str, Any]:
    kept = unit.kept.get(KEPT)
    return dict(kept) if isinstance(kept, dict) else {}


def _information(unit: LogicalUnit, kind: int) -> bytes:
    text = _kept(unit).get(str(kind))
    return bytes.fromhex(text) if isinstance(text, str) else b""


def _report(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    allocation_length, type_byte = _unpack(cdb)
    kind = type_byte >> 1
    if kind == _SUPPORTED:
        data = b"".join(
            INFORMATION_DESCRIPTOR.build({"information_type": each << 1, "maximum_information_length": most})
            for each, most in sorted(MAXIMUM_BYTES.items())
        )
    elif kind in MAXIMUM_BYTES:
        data = _information(nexus.unit, kind)
    else:
        raise invalid_field_in_cdb(REPORT_IDENTIFYING_INFORMATION.pointer("information_type", _INFORMATION_TYPE))
    header = INFORMATION_HEADER.build({"information_length": len(data)})
    return Reply(Status.GOOD, (header + data)[:allocation_length])


def _set(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
    length, type_byte = _unpack(cdb)
    kind = type_byte >> 1
    if kind not in MAXIMUM_BYTES:
        raise invalid_field_in_cdb(SET_IDENTIFYING_INFORMATION.pointer("information_type", _INFORMATION_TYPE))
    if length > MAXIMUM_BYTES[kind]:
        raise invalid_field_in_cdb(SET_IDENTIFYING_INFORMATION.pointer("length"))
    if len(data_out) < length:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    information = bytes(data_out[:length])
    if kind == _TEXT and information and not _is_text(information):
        raise illegal_request(Asc.INVALID_FIELD_IN_PARAMETER_LIST, FieldPointer(0, in_cdb=False))
    return Procedure(_keep(nexus, kind, information))


def _is_text(information: bytes) -> bool:
    """Null-terminated UTF-8 (SPC-4 6.43)."""
    try:
        information.decode()
    except UnicodeDecodeError:
        return False
    return information.index(b"\0") == len(information.rstrip(b"\0")) if b"\0" in information else False


def _keep(nexus: ItlNexus, kind: int, information: bytes) -> Steps:
    unit, keeping = nexus.unit, nexus.server.keeping
    try:
        yield Until(keeping.take)
        kept = _kept(unit)
        if information:
            kept[str(kind)] = information.hex()
        else:
            kept.pop(str(kind), None)
        if unit.cluster is not None:
            yield from unit.cluster.keep(KEPT, kept or None, nexus.nexus.registrant)
            return GOOD
        yield Keep(unit, KEPT, kept or None)
    finally:
        keeping.pass_on()
    nexus.server.establish(Asc.DEVICE_IDENTIFIER_CHANGED, except_nexus=nexus.nexus.name)
    return GOOD


def _data_out_length(_server: DeviceServer, cdb: bytes) -> int:
    length, type_byte = _unpack(cdb)
    return length if length <= MAXIMUM_BYTES.get(type_byte >> 1, 0) else 0


def _is_kept(unit: LogicalUnit) -> bool:
    return unit.keeps


COMMANDS: Final = (
    Command(
        name="REPORT IDENTIFYING INFORMATION",
        operation_code=0xA3,
        service_action=0x05,
        layout=REPORT_IDENTIFYING_INFORMATION,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.ALLOWED,
        handler=_report,
    ),
    Command(
        name="SET IDENTIFYING INFORMATION",
        operation_code=0xA4,
        service_action=0x06,
        layout=SET_IDENTIFYING_INFORMATION,
        direction=DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS,
        handler=_set,
        data_out_length=_data_out_length,
        offered=_is_kept,
    ),
)
