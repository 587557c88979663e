"""EXTENDED COPY(LID1) and (LID4), block to block, and COPY OPERATION ABORT (SPC-4 6.4 to 6.6).

A CSCD is found among the logical units that the I_T nexus may see, and nowhere else. Everything is checked before the
first byte moves, so a copy that is refused has changed nothing.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int32ub

from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.copy_list import CopyList, parse_lid1, parse_lid4
from csvd.scsi.copy_movements import movements_of
from csvd.scsi.copy_steps import Movement, carried_out, claims_of
from csvd.scsi.outcome import GOOD, Outcome
from csvd.scsi.procedure import Background, Procedure, Steps
from csvd.scsi.sense import Asc, CheckCondition, illegal_request, invalid_field_in_cdb
from csvd.scsi.third_party_copy import MAXIMUM_DESCRIPTOR_LIST_BYTES, CopyOperation, CopyStatus

if TYPE_CHECKING:
    from collections.abc import Callable

    from csvd.scsi.device_server import DeviceServer, ItlNexus

LID1: Final = 0x00
LID4: Final = 0x01
COPY_OPERATION_ABORT: Final = 0x1C
_LONGEST_HEADER: Final = 48

EXTENDED_COPY: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("reserved", Int32ub),
    CdbField("reserved_2", Int32ub),
    CdbField("parameter_list_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved_3", Int8ub),
    CdbField("control", Int8ub, NACA),
)
ABORT: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("list_identifier", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved", Int32ub),
    CdbField("reserved_2", Int32ub),
    CdbField("reserved_3", Int8ub),
    CdbField("control", Int8ub, NACA),
)
_unpack = EXTENDED_COPY.unpacker("parameter_list_length").unpack_from
_unpack_abort = ABORT.unpacker("list_identifier").unpack_from


def _parameter_list_length(_server: DeviceServer, cdb: bytes) -> int:
    (length,) = _unpack(cdb)
    return int(length) if length <= _LONGEST_HEADER + MAXIMUM_DESCRIPTOR_LIST_BYTES else 0


def _copying(service_action: int, parse: Callable[[bytes], CopyList]) -> Handler:
    def extended_copy(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
        (length,) = _unpack(cdb)
        if not length:
            return GOOD
        if length > _LONGEST_HEADER + MAXIMUM_DESCRIPTOR_LIST_BYTES:
            raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
        asked = parse(bytes(data_out[:length]))
        movements = _checked(nexus, service_action, asked)
        claims = claims_of(movements)
        if asked.immediate:
            return Procedure(_behind_the_answer(nexus, service_action, asked, movements))
        return Procedure(_before_the_answer(nexus, service_action, asked, movements), claims)

    return extended_copy


def _begin(nexus: ItlNexus, service_action: int, asked: CopyList) -> CopyOperation:
    return nexus.server.copies.begin(nexus.nexus.name, asked.list_identifier, service_action, nexus.unit.block_bytes)


def _checked(nexus: ItlNexus, service_action: int, asked: CopyList) -> list[Movement]:
    """What the segments ask for; a segment that can not be done is told by RECEIVE COPY RESULTS, too."""
    try:
        return movements_of(nexus, asked)
    except CheckCondition as condition:
        operation = _begin(nexus, service_action, asked)
        operation.end(CopyStatus.FAILED, nexus.server.refuse(condition))
        raise


def _before_the_answer(nexus: ItlNexus, service_action: int, asked: CopyList, movements: list[Movement]) -> Steps:
    operation = _begin(nexus, service_action, asked)
    return (yield from carried_out(nexus.server, operation, movements))


def _behind_the_answer(nexus: ItlNexus, service_action: int, asked: CopyList, movements: list[Movement]) -> Steps:
    operation = _begin(nexus, service_action, asked)
    operation.status = CopyStatus.IN_BACKGROUND
    claims = claims_of(movements)
    yield Background(carried_out(nexus.server, operation, movements), claims)
    return GOOD


def _copy_operation_abort(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    (list_identifier,) = _unpack_abort(cdb)
    operation = nexus.server.copies.find(nexus.nexus.name, list_identifier)
    if operation is None or not operation.under_way:
        raise invalid_field_in_cdb(ABORT.pointer("list_identifier"))
    operation.abort_asked = True
    return GOOD


def _row(name: str, service_action: int, handler: Handler) -> Command:
    return Command(
        name=name,
        operation_code=0x83,
        service_action=service_action,
        layout=EXTENDED_COPY,
        direction=DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS,
        handler=handler,
        data_out_length=_parameter_list_length,
        recommended_timeout_s=3600,
    )


COMMANDS: Final = (
    _row("EXTENDED COPY(LID1)", LID1, _copying(LID1, parse_lid1)),
    _row("EXTENDED COPY(LID4)", LID4, _copying(LID4, parse_lid4)),
    Command(
        name="COPY OPERATION ABORT",
        operation_code=0x83,
        service_action=COPY_OPERATION_ABORT,
        layout=ABORT,
        direction=DataDirection.NONE,
        reservation=Reservation.CONFLICTS,
        handler=_copy_operation_abort,
    ),
)
