"""LOG SENSE (SPC-4 6.7)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int16ub

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.log_pages import LogPage, log_pages_of
from csvd.scsi.outcome import Outcome, Reply, Status
from csvd.scsi.procedure import Procedure, Steps, Usage
from csvd.scsi.sense import invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus
    from csvd.scsi.logical_unit import LogicalUnit

_SP: Final = 0x01
_PAGE_CONTROL: Final = 0xC0
_PAGE_CODE: Final = 0x3F

LOG_SENSE: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, _SP),
    CdbField("page_control_and_code", Int8ub, _PAGE_CONTROL | _PAGE_CODE),
    CdbField("subpage_code", Int8ub, 0xFF),
    CdbField("reserved", Int8ub),
    CdbField("parameter_pointer", Int16ub, 0xFFFF),
    CdbField("allocation_length", Int16ub, 0xFFFF),
    CdbField("control", Int8ub, NACA),
)
_unpack = LOG_SENSE.unpacker(
    "flags", "page_control_and_code", "subpage_code", "parameter_pointer", "allocation_length"
).unpack_from


def _log_sense(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    flags, page_byte, subpage, pointer, allocation_length = _unpack(cdb)
    if flags & _SP:
        raise invalid_field_in_cdb(LOG_SENSE.pointer("flags", _SP))
    page = _find(nexus.unit, page_byte & _PAGE_CODE, subpage)
    if pointer > page.largest:
        raise invalid_field_in_cdb(LOG_SENSE.pointer("parameter_pointer"))
    if page.needs_usage:
        return Procedure(_with_usage(nexus.unit, page, pointer, allocation_length))
    return Reply(Status.GOOD, page.encode(nexus.unit, pointer, None)[:allocation_length])


def _find(unit: LogicalUnit, code: int, subpage: int) -> LogPage:
    pages = [page for page in log_pages_of(unit) if page.code == code]
    if not pages:
        raise invalid_field_in_cdb(LOG_SENSE.pointer("page_control_and_code", _PAGE_CODE))
    for page in pages:
        if page.subpage == subpage:
            return page
    raise invalid_field_in_cdb(LOG_SENSE.pointer("subpage_code"))


def _with_usage(unit: LogicalUnit, page: LogPage, pointer: int, allocation_length: int) -> Steps:
    used_bytes = yield Usage(unit)
    return Reply(Status.GOOD, page.encode(unit, pointer, used_bytes)[:allocation_length])


COMMANDS: Final = (
    Command(
        name="LOG SENSE",
        operation_code=0x4D,
        layout=LOG_SENSE,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.ALLOWED,
        handler=_log_sense,
    ),
)
