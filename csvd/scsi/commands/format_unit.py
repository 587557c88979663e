"""FORMAT UNIT (SBC-3 5.4). The block length stays as it is; the medium reads as zeros, or as the pattern, then."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, NamedTuple

from construct import Int8ub, Int16ub, Int32ub, Struct

from csvd.scsi.background import Kind
from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.commands.media import check_writable
from csvd.scsi.medium import overwrite, zero
from csvd.scsi.outcome import Outcome
from csvd.scsi.procedure import Procedure
from csvd.scsi.sense import Asc, illegal_request, invalid_field_in_cdb, wrong_in_list

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus
    from csvd.scsi.logical_unit import LogicalUnit

_FMTPINFO: Final = 0xC0
_LONGLIST: Final = 0x20
_FMTDATA: Final = 0x10
_CMPLST: Final = 0x08
_DEFECT_LIST_FORMAT: Final = 0x07

_PROTECTION_FIELD_USAGE: Final = 0x07
_FOV: Final = 0x80
_FOV_NEEDED: Final = 0x7C
"""DPRY, DCRT, STPF, IP and the obsolete DSP, which FOV set to zero forbids."""
_IP: Final = 0x08
_IMMED: Final = 0x02

FORMAT_UNIT: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, _FMTPINFO | _LONGLIST | _FMTDATA | _CMPLST | _DEFECT_LIST_FORMAT),
    CdbField("vendor_specific", Int8ub),
    CdbField("obsolete", Int16ub),
    CdbField("control", Int8ub, NACA),
)
SHORT_HEADER: Final = Struct(
    "protection_field_usage" / Int8ub,
    "flags" / Int8ub,
    "defect_list_length" / Int16ub,
)
LONG_HEADER: Final = Struct(
    "protection_field_usage" / Int8ub,
    "flags" / Int8ub,
    "reserved" / Int8ub,
    "protection_interval" / Int8ub,
    "defect_list_length" / Int32ub,
)
PATTERN_DESCRIPTOR: Final = Struct(
    "ip_modifier" / Int8ub,
    "initialization_pattern_type" / Int8ub,
    "initialization_pattern_length" / Int16ub,
)
_DEFAULT_PATTERN: Final = 0x00
_REPEAT_PATTERN: Final = 0x01
_SI: Final = 0x20
_ZEROS: Final = b"\0"

_unpack = FORMAT_UNIT.unpacker("flags").unpack_from


class Format(NamedTuple):
    """What a FORMAT UNIT asks for: IMMED, and the pattern of every block."""

    immediate: bool
    pattern: bytes


def _parse(parameters: bytes, block_bytes: int, *, long: bool) -> Format:
    """Read the parameter list.

    Raises:
        CheckCondition: PARAMETER LIST LENGTH ERROR, or INVALID FIELD IN PARAMETER LIST: protection information and
            defects are not there, so nothing may be said of them.
    """
    layout = LONG_HEADER if long else SHORT_HEADER
    if len(parameters) < layout.sizeof():
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    header = layout.parse(parameters)
    if header.protection_field_usage & _PROTECTION_FIELD_USAGE:
        raise wrong_in_list(0, 2)
    if not header.flags & _FOV and header.flags & _FOV_NEEDED:
        raise wrong_in_list(1, (header.flags & _FOV_NEEDED).bit_length() - 1)
    if long and header.protection_interval:
        raise wrong_in_list(3)
    if header.defect_list_length:
        raise wrong_in_list(4 if long else 2)
    pattern = _pattern(parameters, layout.sizeof(), block_bytes) if header.flags & _IP else _ZEROS
    return Format(bool(header.flags & _IMMED), pattern)


def _pattern(parameters: bytes, offset: int, block_bytes: int) -> bytes:
    """The initialization pattern; the default one is zeros (SBC-3 5.4.3.4)."""
    begin = offset + PATTERN_DESCRIPTOR.sizeof()
    if len(parameters) < begin:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    descriptor = PATTERN_DESCRIPTOR.parse(parameters[offset:begin])
    size = descriptor.initialization_pattern_length
    if descriptor.ip_modifier & ~_SI:
        raise wrong_in_list(offset)
    if descriptor.initialization_pattern_type not in (_DEFAULT_PATTERN, _REPEAT_PATTERN):
        raise wrong_in_list(offset + 1)
    if descriptor.initialization_pattern_type == _DEFAULT_PATTERN:
        if size:
            raise wrong_in_list(offset + 2)
        return _ZEROS
    if not 0 < size <= block_bytes:
        raise wrong_in_list(offset + 2)
    if len(parameters) < begin + size:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    return parameters[begin : begin + size]


def _format_unit(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
    server = nexus.server
    (flags,) = _unpack(cdb)
    if flags & _FMTPINFO:
        raise invalid_field_in_cdb(FORMAT_UNIT.pointer("flags", _FMTPINFO))
    wanted = Format(False, _ZEROS)
    if flags & _FMTDATA:
        wanted = _parse(bytes(data_out), server.unit.block_bytes, long=bool(flags & _LONGLIST))
    elif flags & (_LONGLIST | _CMPLST | _DEFECT_LIST_FORMAT):
        raise invalid_field_in_cdb(FORMAT_UNIT.pointer("flags", flags & (_LONGLIST | _CMPLST | _DEFECT_LIST_FORMAT)))
    check_writable(server)
    unit, progress = server.unit, server.medium_operation.progress
    # A pattern of zeros is had in the fast way, too.
    work = overwrite(unit, wanted.pattern, progress) if any(wanted.pattern) else zero(unit, progress)
    return Procedure(server.medium_operation.run(Kind.FORMAT, work, {}, immediate=wanted.immediate))


def _most_parameters(unit: LogicalUnit) -> int:
    return int(LONG_HEADER.sizeof()) + int(PATTERN_DESCRIPTOR.sizeof()) + unit.block_bytes


def _data_out_length(server: DeviceServer, cdb: bytes) -> int:
    # How long the list is only the list itself says.
    takes_data = cdb[1] & _FMTDATA and not cdb[1] & _FMTPINFO and not server.write_protected
    return -_most_parameters(server.unit) if takes_data else 0


def is_of_one_node(unit: LogicalUnit) -> bool:
    """Formatting has the whole medium for itself for long, and the other nodes would not know how far it is."""
    return not unit.is_clustered


COMMANDS: Final = (
    Command(
        name="FORMAT UNIT",
        operation_code=0x04,
        layout=FORMAT_UNIT,
        direction=DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS,
        handler=_format_unit,
        data_out_length=_data_out_length,
        recommended_timeout_s=24 * 3600,
        offered=is_of_one_node,
    ),
)
