"""REPORT LUNS (SPC-4 6.33). Every LUN answers it, so a host finds the others even where there is no LUN 0."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int32ub, Int64ub, Padding, Struct, this

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import ANY_LUN, Command, DataDirection, Reservation
from csvd.scsi.logical_unit import Peripheral
from csvd.scsi.lun import REPORT_LUNS_WELL_KNOWN, encode_lun
from csvd.scsi.outcome import Outcome, Reply, Status
from csvd.scsi.sense import invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

REPORT_LUNS: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("reserved", Int8ub),
    CdbField("select_report", Int8ub, 0xFF),
    CdbField("reserved_2", Int8ub),
    CdbField("reserved_3", Int8ub),
    CdbField("reserved_4", Int8ub),
    CdbField("allocation_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved_5", Int8ub),
    CdbField("control", Int8ub, NACA),
)
LUN_LIST: Final = Struct("lun_list_length" / Int32ub, Padding(4), "luns" / Int64ub[this.lun_list_length // 8])

_unpack = REPORT_LUNS.unpacker("select_report", "allocation_length").unpack_from


def _select(numbers: list[int], select_report: int) -> list[int] | None:
    """The LUN fields of the report, None for a reserved value of SELECT REPORT."""
    accessible = [encode_lun(number) for number in numbers]
    match select_report:
        case 0x00:
            return accessible
        case 0x01:
            return [REPORT_LUNS_WELL_KNOWN]
        case 0x02:
            return [*accessible, REPORT_LUNS_WELL_KNOWN]
        case 0x11:
            # Administrative logical units and those that belong to none: all of ours belong to none.
            return accessible
        case 0x10 | 0x12:
            # Administrative logical units, and those that belong to the addressed one: there are none.
            return []
        case _:
            return None


def _report_luns(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    select_report, allocation_length = _unpack(cdb)
    luns = _select(nexus.nexus.numbers, select_report)
    if luns is None:
        raise invalid_field_in_cdb(REPORT_LUNS.pointer("select_report"))
    if nexus.unit.peripheral is not Peripheral.ABSENT:
        nexus.nexus.device.luns_reported(nexus.nexus.name)
    data = LUN_LIST.build({"lun_list_length": 8 * len(luns), "luns": luns})
    return Reply(Status.GOOD, data[:allocation_length])


COMMANDS: Final = (
    Command(
        name="REPORT LUNS",
        operation_code=0xA0,
        layout=REPORT_LUNS,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.ALLOWED,
        handler=_report_luns,
        peripherals=ANY_LUN,
        despite_attention=True,
    ),
)
