"""REPORT SUPPORTED OPERATION CODES and TASK MANAGEMENT FUNCTIONS (SPC-4 6.35 and 6.36), from the command table."""

from __future__ import annotations

from functools import lru_cache, reduce
from operator import or_
from typing import TYPE_CHECKING, Final

from construct import Bytes, Const, Int8ub, Int16ub, Int32ub, Struct, this

from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.outcome import Outcome, Reply, Status
from csvd.scsi.sense import invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.command import CommandTable
    from csvd.scsi.device_server import ItlNexus

_RCTD: Final = 0x80
_REPORTING_OPTIONS: Final = 0x07
_REPD: Final = 0x80

REPORT_SUPPORTED_OPERATION_CODES: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("flags", Int8ub, _RCTD | _REPORTING_OPTIONS),
    CdbField("requested_operation_code", Int8ub, 0xFF),
    CdbField("requested_service_action", Int16ub, 0xFFFF),
    CdbField("allocation_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved", Int8ub),
    CdbField("control", Int8ub, NACA),
)
REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("flags", Int8ub, _REPD),
    CdbField("reserved", Int8ub),
    CdbField("reserved_2", Int16ub),
    CdbField("allocation_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved_3", Int8ub),
    CdbField("control", Int8ub, NACA),
)
COMMAND_DESCRIPTOR: Final = Struct(
    "operation_code" / Int8ub,
    "reserved" / Const(0, Int8ub),
    "service_action" / Int16ub,
    "reserved_2" / Const(0, Int8ub),
    "ctdp_and_servactv" / Int8ub,
    "cdb_length" / Int16ub,
)
ONE_COMMAND_HEADER: Final = Struct(
    "reserved" / Const(0, Int8ub),
    "ctdp_and_support" / Int8ub,
    "cdb_size" / Int16ub,
    "cdb_usage_data" / Bytes(this.cdb_size),
)
COMMAND_TIMEOUTS_DESCRIPTOR: Final = Struct(
    "descriptor_length" / Const(0x0A, Int16ub),
    "reserved" / Const(0, Int8ub),
    "command_specific" / Const(0, Int8ub),
    # Zero: not indicated. A disk takes as long as it takes.
    "nominal_command_processing_timeout_s" / Const(0, Int32ub),
    "recommended_command_timeout_s" / Int32ub,
)
_FUNCTIONS_BASIC: Final = Struct("functions" / Int16ub, "reserved" / Const(0, Int8ub), "additional_length" / Int8ub)
# REPD: TMFTMOV is zero and so are the timeouts, so none is indicated.
_FUNCTIONS_EXTENSION: Final = bytes(12)

_CTDP_IN_LIST: Final = 0x02
_SERVACTV: Final = 0x01
_CTDP_OF_ONE: Final = 0x80
_SUPPORTED_BY_STANDARD: Final = 0x03
_NOT_SUPPORTED: Final = 0x01

_unpack = REPORT_SUPPORTED_OPERATION_CODES.unpacker(
    "flags", "requested_operation_code", "requested_service_action", "allocation_length"
).unpack_from
_unpack_functions = REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS.unpacker("flags", "allocation_length").unpack_from


def _timeouts(command: Command) -> bytes:
    return COMMAND_TIMEOUTS_DESCRIPTOR.build({"recommended_command_timeout_s": command.recommended_timeout_s})


@lru_cache(maxsize=16)
def _all_commands(table: CommandTable, *, timeouts: bool) -> bytes:
    data = bytearray()
    for command in table:
        has_action = command.service_action is not None
        data += COMMAND_DESCRIPTOR.build(
            {
                "operation_code": command.operation_code,
                "service_action": command.service_action or 0,
                "ctdp_and_servactv": (_CTDP_IN_LIST if timeouts else 0) | (_SERVACTV if has_action else 0),
                "cdb_length": command.layout.length,
            }
        )
        if timeouts:
            data += _timeouts(command)
    return Int32ub.build(len(data)) + bytes(data)


def _one_command(command: Command | None, *, timeouts: bool) -> bytes:
    if command is None:
        return ONE_COMMAND_HEADER.build({"ctdp_and_support": _NOT_SUPPORTED, "cdb_size": 0, "cdb_usage_data": b""})
    header = ONE_COMMAND_HEADER.build(
        {
            "ctdp_and_support": (_CTDP_OF_ONE if timeouts else 0) | _SUPPORTED_BY_STANDARD,
            "cdb_size": command.layout.length,
            "cdb_usage_data": command.usage_data(),
        }
    )
    return header + (_timeouts(command) if timeouts else b"")


def _find_requested(table: CommandTable, option: int, operation_code: int, service_action: int) -> Command | None:
    """The row that is asked about (SPC-4 6.35, REPORTING OPTIONS).

    Raises:
        CheckCondition: INVALID FIELD IN CDB: option 1 of a command with service actions, or 2 of one without them.
    """
    with_actions = table.has_service_actions(operation_code)
    plain = table.by_operation_code.get(operation_code)
    if (option == 1 and with_actions) or (option == 2 and plain is not None):
        raise invalid_field_in_cdb(REPORT_SUPPORTED_OPERATION_CODES.pointer("flags", _REPORTING_OPTIONS))
    if with_actions:
        return table.find_service_action(operation_code, service_action)
    # Option 3 takes a command without service actions when none is named.
    return plain if option == 1 or service_action == 0 else None


def _report_supported_operation_codes(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    flags, operation_code, service_action, allocation_length = _unpack(cdb)
    option = flags & _REPORTING_OPTIONS
    timeouts = bool(flags & _RCTD)
    table = nexus.server.commands
    if option == 0:
        data = _all_commands(table, timeouts=timeouts)
    elif option <= 3:
        data = _one_command(_find_requested(table, option, operation_code, service_action), timeouts=timeouts)
    else:
        raise invalid_field_in_cdb(REPORT_SUPPORTED_OPERATION_CODES.pointer("flags", _REPORTING_OPTIONS))
    return Reply(Status.GOOD, data[:allocation_length])


def _report_supported_task_management_functions(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    flags, allocation_length = _unpack_functions(cdb)
    if allocation_length < _FUNCTIONS_BASIC.sizeof():
        raise invalid_field_in_cdb(REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS.pointer("allocation_length"))
    extension = _FUNCTIONS_EXTENSION if flags & _REPD else b""
    functions: int = reduce(or_, nexus.nexus.functions, 0)
    data = _FUNCTIONS_BASIC.build({"functions": functions, "additional_length": len(extension)}) + extension
    return Reply(Status.GOOD, data[:allocation_length])


COMMANDS: Final = (
    Command(
        name="REPORT SUPPORTED OPERATION CODES",
        operation_code=0xA3,
        service_action=0x0C,
        layout=REPORT_SUPPORTED_OPERATION_CODES,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS,
        handler=_report_supported_operation_codes,
    ),
    Command(
        name="REPORT SUPPORTED TASK MANAGEMENT FUNCTIONS",
        operation_code=0xA3,
        service_action=0x0D,
        layout=REPORT_SUPPORTED_TASK_MANAGEMENT_FUNCTIONS,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS,
        handler=_report_supported_task_management_functions,
    ),
)
