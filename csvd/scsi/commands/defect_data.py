"""READ DEFECT DATA(10) and (12): both lists are empty, for the disk below remaps by itself (SBC-3 5.15 and 5.16)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Const, Int8ub, Int16ub, Int32ub, Struct

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.outcome import Outcome, Reply, Status

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

# REQ_PLIST, REQ_GLIST and DEFECT LIST FORMAT; the answer has PLISTV, GLISTV and the format in the same places.
_LISTS_AND_FORMAT: Final = 0x1F

READ_DEFECT_DATA_10: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("reserved", Int8ub),
    CdbField("lists_and_format", Int8ub, _LISTS_AND_FORMAT),
    CdbField("reserved_2", Int32ub),
    CdbField("allocation_length", Int16ub, 0xFFFF),
    CdbField("control", Int8ub, NACA),
)
READ_DEFECT_DATA_12: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("lists_and_format", Int8ub, _LISTS_AND_FORMAT),
    # Whatever it is, it is behind the end of an empty list, which is no error.
    CdbField("address_descriptor_index", Int32ub, 0xFFFF_FFFF),
    CdbField("allocation_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved", Int8ub),
    CdbField("control", Int8ub, NACA),
)
DEFECT_LIST_HEADER_10: Final = Struct(
    "reserved" / Const(0, Int8ub),
    "lists_and_format" / Int8ub,
    "defect_list_length" / Const(0, Int16ub),
)
DEFECT_LIST_HEADER_12: Final = Struct(
    "reserved" / Const(0, Int8ub),
    "lists_and_format" / Int8ub,
    "generation_code" / Const(0, Int16ub),
    "defect_list_length" / Const(0, Int32ub),
)


def _read_defect_data(layout: CdbLayout, header: Struct) -> Handler:
    unpack = layout.unpacker("lists_and_format", "allocation_length").unpack_from

    def read_defect_data(_nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
        lists_and_format, allocation_length = unpack(cdb)
        data = header.build({"lists_and_format": lists_and_format & _LISTS_AND_FORMAT})
        return Reply(Status.GOOD, data[:allocation_length])

    return read_defect_data


def _row(name: str, operation_code: int, layout: CdbLayout, header: Struct) -> Command:
    return Command(
        name=name,
        operation_code=operation_code,
        layout=layout,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS,
        handler=_read_defect_data(layout, header),
    )


COMMANDS: Final = (
    _row("READ DEFECT DATA(10)", 0x37, READ_DEFECT_DATA_10, DEFECT_LIST_HEADER_10),
    _row("READ DEFECT DATA(12)", 0xB7, READ_DEFECT_DATA_12, DEFECT_LIST_HEADER_12),
)
