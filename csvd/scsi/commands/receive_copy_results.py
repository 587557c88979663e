"""RECEIVE COPY RESULTS: what became of third-party copies, and what they may be (SPC-4 6.18 to 6.26)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Const, Int8ub, Int16ub, Int32ub, Int64ub, Padding, Struct

from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.copy_list import IMPLEMENTED_DESCRIPTORS
from csvd.scsi.outcome import Outcome, Reply, Status
from csvd.scsi.sense import invalid_field_in_cdb
from csvd.scsi.third_party_copy import (
    MAXIMUM_COPIES,
    MAXIMUM_DESCRIPTOR_LIST_BYTES,
    MAXIMUM_SEGMENT_BYTES,
    MAXIMUM_SEGMENT_DESCRIPTORS,
    MAXIMUM_TARGET_DESCRIPTORS,
    CopyOperation,
    CopyStatus,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from csvd.scsi.device_server import ItlNexus

RECEIVE_LID1: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("list_identifier", Int8ub, 0xFF),
    CdbField("reserved", Int8ub),
    CdbField("reserved_2", Int16ub),
    CdbField("reserved_3", Int32ub),
    CdbField("allocation_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved_4", Int8ub),
    CdbField("control", Int8ub, NACA),
)
RECEIVE_LID4: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("list_identifier", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved", Int32ub),
    CdbField("allocation_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved_2", Int8ub),
    CdbField("control", Int8ub, NACA),
)
RECEIVE_PLAIN: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("reserved", Int32ub),
    CdbField("reserved_2", Int32ub),
    CdbField("allocation_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved_3", Int8ub),
    CdbField("control", Int8ub, NACA),
)
STATUS_LID1_DATA: Final = Struct(
    "available_data" / Const(8, Int32ub),
    "hdd_and_copy_manager_status" / Int8ub,
    "segments_processed" / Int16ub,
    "transfer_count_units" / Int8ub,
    "transfer_count" / Int32ub,
)
OPERATING_PARAMETERS: Final = Struct(
    "available_data" / Const(40 + len(IMPLEMENTED_DESCRIPTORS), Int32ub),
    "snlid" / Int8ub,
    Padding(3),
    "maximum_cscd_descriptor_count" / Int16ub,
    "maximum_segment_descriptor_count" / Int16ub,
    "maximum_descriptor_list_length" / Int32ub,
    "maximum_segment_length" / Int32ub,
    "maximum_inline_data_length" / Const(0, Int32ub),
    "held_data_limit" / Const(0, Int32ub),
    "maximum_stream_device_transfer_size" / Const(0, Int32ub),
    Padding(2),
    "total_concurrent_copies" / Int16ub,
    "maximum_concurrent_copies" / Int8ub,
    "data_segment_granularity" / Const(0, Int8ub),
    "inline_data_granularity" / Const(0, Int8ub),
    "held_data_granularity" / Const(0, Int8ub),
    Padding(3),
    "implemented_descriptor_list_length" / Const(len(IMPLEMENTED_DESCRIPTORS), Int8ub),
    "list_of_implemented_descriptor_type_codes" / Const(IMPLEMENTED_DESCRIPTORS),
)
STATUS_LID4_DATA: Final = Struct(
    "available_data" / Int32ub,
    "response_to_service_action" / Int8ub,
    "hdd_and_copy_operation_status" / Int8ub,
    "operation_counter" / Int16ub,
    "estimated_status_update_delay_ms" / Int32ub,
    "extended_copy_completion_status" / Int8ub,
    "length_of_the_sense_data_field" / Int8ub,
    "sense_data_length" / Int8ub,
    "transfer_count_units" / Int8ub,
    "transfer_count" / Int64ub,
    "segments_processed" / Int16ub,
    Padding(6),
)
FAILED_SEGMENT_HEADER: Final = Struct(
    "available_data" / Int32ub,
    Padding(52),
    "extended_copy_command_status" / Int8ub,
    Padding(1),
    "sense_data_length" / Int16ub,
)

_HDD: Final = 0x80
"""Held data are discarded: none are ever held."""
_SNLID: Final = 0x01
_BYTES: Final = 0x00
_LOGICAL_BLOCKS: Final = 0xF1
_COUNT_UNITS: Final = 9
"""TRANSFER COUNT UNITS 0 to 8 are bytes, KiB, MiB and so on."""
_UPDATE_DELAY_MS: Final = 100
_UNKNOWN_DELAY: Final = 0xFFFF_FFFE
_IN_PROGRESS, _DONE, _WITH_ERRORS = 0x00, 0x01, 0x02

_unpack_lid1 = RECEIVE_LID1.unpacker("list_identifier", "allocation_length").unpack_from
_unpack_lid4 = RECEIVE_LID4.unpacker("list_identifier", "allocation_length").unpack_from
_unpack_plain = RECEIVE_PLAIN.unpacker("allocation_length").unpack_from


def _status_lid1(operation: CopyOperation) -> bytes:
    if operation.under_way:
        status = _IN_PROGRESS
    else:
        status = _DONE if operation.status is CopyStatus.COMPLETED else _WITH_ERRORS
    units = next(n for n in range(_COUNT_UNITS) if operation.transferred_bytes >> 10 * n <= 0xFFFF_FFFF)
    return STATUS_LID1_DATA.build(
        {
            "hdd_and_copy_manager_status": _HDD | status,
            "segments_processed": operation.segments_processed,
            "transfer_count_units": units,
            "transfer_count": operation.transferred_bytes >> 10 * units,
        }
    )


def _held_data(operation: CopyOperation) -> bytes | None:
    # HELD DATA LIMIT is zero: there is never any. It can only be asked for when the copy has ended.
    return None if operation.under_way else bytes(4)


def _failed_segment_details(operation: CopyOperation) -> bytes | None:
    if operation.under_way:
        return None
    if not operation.sense:
        return bytes(4)
    sense = operation.sense
    header = {
        "available_data": FAILED_SEGMENT_HEADER.sizeof() - 4 + len(sense),
        "extended_copy_command_status": operation.final_status,
        "sense_data_length": len(sense),
    }
    return FAILED_SEGMENT_HEADER.build(header) + sense


def status_lid4(operation: CopyOperation, *, in_blocks: bool = False, behind: bytes = b"") -> bytes:
    """RECEIVE COPY STATUS(LID4); with `behind` behind the sense data, RECEIVE ROD TOKEN INFORMATION."""
    count = operation.transferred_bytes // operation.block_bytes if in_blocks else operation.transferred_bytes
    header = {
        "available_data": STATUS_LID4_DATA.sizeof() - 4 + len(operation.sense) + len(behind),
        "response_to_service_action": operation.service_action,
        "hdd_and_copy_operation_status": operation.status,
        "operation_counter": operation.counter,
        "estimated_status_update_delay_ms": _UPDATE_DELAY_MS if operation.under_way else _UNKNOWN_DELAY,
        "extended_copy_completion_status": operation.final_status,
        "length_of_the_sense_data_field": len(operation.sense),
        "sense_data_length": len(operation.sense),
        "transfer_count_units": _LOGICAL_BLOCKS if in_blocks else _BYTES,
        "transfer_count": count,
        "segments_processed": operation.segments_processed,
    }
    return STATUS_LID4_DATA.build(header) + operation.sense + behind


def _receiving_lid1(encode: Callable[[CopyOperation], bytes | None]) -> Handler:
    def receive(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
        list_identifier, allocation_length = _unpack_lid1(cdb)
        operation = nexus.server.copies.find(nexus.nexus.name, list_identifier)
        data = None if operation is None else encode(operation)
        if data is None:
            raise invalid_field_in_cdb(RECEIVE_LID1.pointer("list_identifier"))
        return Reply(Status.GOOD, data[:allocation_length])

    return receive


def _receive_status_lid4(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    list_identifier, allocation_length = _unpack_lid4(cdb)
    operation = nexus.server.copies.find(nexus.nexus.name, list_identifier)
    if operation is None:
        raise invalid_field_in_cdb(RECEIVE_LID4.pointer("list_identifier"))
    return Reply(Status.GOOD, status_lid4(operation)[:allocation_length])


def _receive_operating_parameters(_nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    (allocation_length,) = _unpack_plain(cdb)
    data = OPERATING_PARAMETERS.build(
        {
            "snlid": _SNLID,
            "maximum_cscd_descriptor_count": MAXIMUM_TARGET_DESCRIPTORS,
            "maximum_segment_descriptor_count": MAXIMUM_SEGMENT_DESCRIPTORS,
            "maximum_descriptor_list_length": MAXIMUM_DESCRIPTOR_LIST_BYTES,
            "maximum_segment_length": MAXIMUM_SEGMENT_BYTES,
            "total_concurrent_copies": MAXIMUM_COPIES,
            "maximum_concurrent_copies": MAXIMUM_COPIES,
        }
    )
    return Reply(Status.GOOD, data[:allocation_length])


def receiving_row(name: str, service_action: int, layout: CdbLayout, handler: Handler) -> Command:
    """The row of a service action of RECEIVE COPY RESULTS."""
    return Command(
        name=name,
        operation_code=0x84,
        service_action=service_action,
        layout=layout,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.CONFLICTS_WITH_LEGACY,
        handler=handler,
    )


COMMANDS: Final = (
    receiving_row("RECEIVE COPY STATUS(LID1)", 0x00, RECEIVE_LID1, _receiving_lid1(_status_lid1)),
    receiving_row("RECEIVE COPY DATA(LID1)", 0x01, RECEIVE_LID1, _receiving_lid1(_held_data)),
    receiving_row("RECEIVE COPY OPERATING PARAMETERS", 0x03, RECEIVE_PLAIN, _receive_operating_parameters),
    receiving_row("RECEIVE COPY FAILURE DETAILS(LID1)", 0x04, RECEIVE_LID1, _receiving_lid1(_failed_segment_details)),
    receiving_row("RECEIVE COPY STATUS(LID4)", 0x05, RECEIVE_LID4, _receive_status_lid4),
)
