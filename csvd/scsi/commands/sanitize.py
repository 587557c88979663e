"""SANITIZE (SBC-3 5.27): OVERWRITE, BLOCK ERASE and EXIT FAILURE MODE. There is no key to throw away, so there is no
CRYPTOGRAPHIC ERASE."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from construct import Int8ub, Int16ub, Int32ub, Struct

from csvd.scsi.background import Kind
from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation, no_data_out
from csvd.scsi.commands.media import check_writable
from csvd.scsi.medium import erase, overwrite
from csvd.scsi.outcome import GOOD, Outcome
from csvd.scsi.procedure import Background, Procedure, Steps
from csvd.scsi.sense import Asc, FieldPointer, illegal_request, invalid_field_in_cdb

if TYPE_CHECKING:
    from collections.abc import Callable

    from csvd.scsi.device_server import DeviceServer, ItlNexus
    from csvd.scsi.logical_unit import LogicalUnit

_IMMED: Final = 0x80
_AUSE: Final = 0x20
_RESERVED: Final = 0x40
_INVERT: Final = 0x80
_TEST: Final = 0x60
_OVERWRITE_COUNT: Final = 0x1F

OVERWRITE: Final = 0x01
BLOCK_ERASE: Final = 0x02
EXIT_FAILURE_MODE: Final = 0x1F

SANITIZE: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, _IMMED | _AUSE | SERVICE_ACTION),
    CdbField("reserved", Int32ub),
    CdbField("reserved_2", Int8ub),
    CdbField("parameter_list_length", Int16ub, 0xFFFF),
    CdbField("control", Int8ub, NACA),
)
OVERWRITE_HEADER: Final = Struct(
    "invert_and_overwrite_count" / Int8ub,
    "reserved" / Int8ub,
    "initialization_pattern_length" / Int16ub,
)
_HEADER_BYTES: Final = OVERWRITE_HEADER.sizeof()

_unpack = SANITIZE.unpacker("flags", "reserved", "reserved_2", "parameter_list_length").unpack_from


def sanitize_offered(unit: LogicalUnit) -> bool:
    """One that is read-only for good has no data that a host could put out of the world, and says so. Of one that is
    clustered the other nodes would not know how far it is."""
    return not (unit.read_only or unit.is_clustered)


def block_erase_offered(unit: LogicalUnit) -> bool:
    """BLOCK ERASE gives all blocks back to the store, so only a thin logical unit has it."""
    return unit.thin and sanitize_offered(unit)


def _check_cdb(unit: LogicalUnit, cdb: bytes) -> int:
    """The flags of a CDB without a fault."""
    flags, reserved, reserved_2, length = _unpack(cdb)
    if flags & _RESERVED:
        raise invalid_field_in_cdb(SANITIZE.pointer("flags", _RESERVED))
    if reserved or reserved_2:
        raise invalid_field_in_cdb(SANITIZE.pointer("reserved"))
    least, most = 0, 0
    if flags & SERVICE_ACTION == OVERWRITE:
        least, most = _HEADER_BYTES + 1, _HEADER_BYTES + unit.block_bytes
    if not least <= length <= most:
        raise invalid_field_in_cdb(SANITIZE.pointer("parameter_list_length"))
    return int(flags)


def _parameter_list_length(server: DeviceServer, cdb: bytes) -> int:
    length = int.from_bytes(cdb[7:9])
    return length if _HEADER_BYTES < length <= _HEADER_BYTES + server.unit.block_bytes else 0


def _overwrite_description(unit: LogicalUnit, parameters: memoryview) -> dict[str, Any]:
    """What the parameter list of OVERWRITE asks for.

    Raises:
        CheckCondition: INVALID FIELD IN PARAMETER LIST, or PARAMETER LIST LENGTH ERROR.
    """
    if len(parameters) < _HEADER_BYTES:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    header = OVERWRITE_HEADER.parse(bytes(parameters[:_HEADER_BYTES]))
    first, size = header.invert_and_overwrite_count, header.initialization_pattern_length
    if first & _TEST or not first & _OVERWRITE_COUNT:
        raise illegal_request(Asc.INVALID_FIELD_IN_PARAMETER_LIST, FieldPointer(0, in_cdb=False))
    if not 0 < size <= unit.block_bytes:
        raise illegal_request(Asc.INVALID_FIELD_IN_PARAMETER_LIST, FieldPointer(2, in_cdb=False))
    pattern = bytes(parameters[_HEADER_BYTES : _HEADER_BYTES + size])
    if len(pattern) < size:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    return {
        "method": "overwrite",
        "pattern": pattern.hex(),
        "count": first & _OVERWRITE_COUNT,
        "invert": bool(first & _INVERT),
    }


def _work(server: DeviceServer, description: dict[str, Any]) -> Steps:
    unit, progress = server.unit, server.medium_operation.progress
    if description["method"] == "block erase":
        return erase(unit, progress)
    pattern = bytes.fromhex(description["pattern"])
    return overwrite(unit, pattern, progress, count=description["count"], invert=description["invert"])


def _sanitizing(describe: Callable[[LogicalUnit, memoryview], dict[str, Any]]) -> Handler:
    def sanitize(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
        server = nexus.server
        flags = _check_cdb(server.unit, cdb)
        check_writable(server)
        medium, restricted = server.medium_operation, not flags & _AUSE
        if medium.kind is Kind.SANITIZE and medium.restricted and not restricted:
            raise invalid_field_in_cdb(SANITIZE.pointer("flags", _AUSE))
        description = describe(server.unit, data_out)
        return Procedure(
            medium.run(
                Kind.SANITIZE,
                _work(server, description),
                description,
                immediate=bool(flags & _IMMED),
                restricted=restricted,
            )
        )

    return sanitize


def _exit_failure_mode(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    _check_cdb(nexus.unit, cdb)
    medium = nexus.server.medium_operation
    if medium.kind is not Kind.SANITIZE:
        return GOOD
    if medium.restricted:
        raise invalid_field_in_cdb(FieldPointer(1, bit=4))
    return Procedure(medium.leave_failure())


def resumption(server: DeviceServer) -> Background | None:
    """What ends the sanitize operation that a restart cut short; None where there is none."""
    description = server.medium_operation.interrupted
    return None if description is None else server.medium_operation.resume(_work(server, description))


def _row(
    name: str,
    service_action: int,
    handler: Handler,
    *,
    data_out_length: Callable[[DeviceServer, bytes], int] = no_data_out,
    offered: Callable[[LogicalUnit], bool] = sanitize_offered,
) -> Command:
    return Command(
        name=f"SANITIZE ({name})",
        operation_code=0x48,
        service_action=service_action,
        layout=SANITIZE,
        direction=DataDirection.NONE if data_out_length is no_data_out else DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS,
        handler=handler,
        offered=offered,
        recommended_timeout_s=24 * 3600,
        data_out_length=data_out_length,
    )


COMMANDS: Final = (
    _row("OVERWRITE", OVERWRITE, _sanitizing(_overwrite_description), data_out_length=_parameter_list_length),
    _row(
        "BLOCK ERASE",
        BLOCK_ERASE,
        _sanitizing(lambda _unit, _data_out: {"method": "block erase"}),
        offered=block_erase_offered,
    ),
    _row("EXIT FAILURE MODE", EXIT_FAILURE_MODE, _exit_failure_mode),
)
