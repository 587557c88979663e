"""MODE SENSE(6) and (10) (SPC-4 6.13 and 6.14), with the block descriptors of SBC-3 6.4.2."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from construct import Bytes, Const, Int8ub, Int16ub, Int24ub, Int32ub, Int64ub, Struct

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.outcome import Outcome, Reply, Status
from csvd.scsi.sense import Asc, illegal_request, invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus
    from csvd.scsi.logical_unit import LogicalUnit

_DBD: Final = 0x08
_LLBAA: Final = 0x10
_PAGE_CODE: Final = 0x3F
_WP: Final = 0x80
_DPOFUA: Final = 0x10


class PageControl(IntEnum):
    """PAGE CONTROL (SPC-4 6.13)."""

    CURRENT = 0
    CHANGEABLE = 1
    DEFAULT = 2
    SAVED = 3


MODE_SENSE_6: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, _DBD),
    CdbField("page_control_and_code", Int8ub, 0xFF),
    CdbField("subpage_code", Int8ub, 0xFF),
    CdbField("allocation_length", Int8ub, 0xFF),
    CdbField("control", Int8ub, NACA),
)
MODE_SENSE_10: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, _LLBAA | _DBD),
    CdbField("page_control_and_code", Int8ub, 0xFF),
    CdbField("subpage_code", Int8ub, 0xFF),
    CdbField("reserved", Int8ub),
    CdbField("reserved_2", Int16ub),
    CdbField("allocation_length", Int16ub, 0xFFFF),
    CdbField("control", Int8ub, NACA),
)
MODE_HEADER_6: Final = Struct(
    "mode_data_length" / Int8ub,
    "medium_type" / Const(0, Int8ub),
    "device_specific_parameter" / Int8ub,
    "block_descriptor_length" / Int8ub,
)
MODE_HEADER_10: Final = Struct(
    "mode_data_length" / Int16ub,
    "medium_type" / Const(0, Int8ub),
    "device_specific_parameter" / Int8ub,
    "longlba" / Int8ub,
    "reserved" / Const(0, Int8ub),
    "block_descriptor_length" / Int16ub,
)
SHORT_LBA_BLOCK_DESCRIPTOR: Final = Struct(
    "number_of_logical_blocks" / Int32ub,
    "reserved" / Const(0, Int8ub),
    "logical_block_length" / Int24ub,
)
LONG_LBA_BLOCK_DESCRIPTOR: Final = Struct(
    "number_of_logical_blocks" / Int64ub,
    "reserved" / Const(bytes(4), Bytes(4)),
    "logical_block_length" / Int32ub,
)

_FIELDS: Final = ("flags", "page_control_and_code", "subpage_code", "allocation_length")
_unpack_6 = MODE_SENSE_6.unpacker(*_FIELDS).unpack_from
_unpack_10 = MODE_SENSE_10.unpacker(*_FIELDS).unpack_from


def _device_specific_parameter(server: DeviceServer) -> int:
    return (_WP if server.write_protected else 0) | _DPOFUA


def _block_descriptor(unit: LogicalUnit, *, long_lba: bool) -> bytes:
    if long_lba:
        return LONG_LBA_BLOCK_DESCRIPTOR.build(
            {"number_of_logical_blocks": unit.block_count, "logical_block_length": unit.block_bytes}
        )
    return SHORT_LBA_BLOCK_DESCRIPTOR.build(
        {
            "number_of_logical_blocks": min(unit.block_count, 0xFFFF_FFFF),
            "logical_block_length": unit.block_bytes,
        }
    )


def _pages(layout: CdbLayout, server: DeviceServer, page_byte: int, subpage: int) -> bytes:
    control = PageControl(page_byte >> 6)
    mode = server.mode
    pages = mode.select(page_byte & _PAGE_CODE, subpage)
    if not pages:
        known = mode.select(page_byte & _PAGE_CODE, 0)
        wrong = layout.pointer("subpage_code") if known else layout.pointer("page_control_and_code", _PAGE_CODE)
        raise invalid_field_in_cdb(wrong)
    if control is PageControl.SAVED and not mode.unit.keeps:
        raise illegal_request(Asc.SAVING_PARAMETERS_NOT_SUPPORTED, layout.pointer("page_control_and_code", 0xC0))
    values = {
        PageControl.CURRENT: mode.current,
        PageControl.CHANGEABLE: mode.changeable,
        PageControl.DEFAULT: mode.default,
        PageControl.SAVED: mode.saved,
    }[control]
    return b"".join(page.encode(values(page), saveable=mode.is_saveable(page)) for page in pages)


def _mode_sense_6(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    flags, page_byte, subpage, allocation_length = _unpack_6(cdb)
    server = nexus.server
    pages = _pages(MODE_SENSE_6, server, page_byte, subpage)
    descriptor = b"" if flags & _DBD else _block_descriptor(nexus.unit, long_lba=False)
    header = MODE_HEADER_6.build(
        {
            # Its own byte does not count (SPC-4 7.5.5).
            "mode_data_length": MODE_HEADER_6.sizeof() - 1 + len(descriptor) + len(pages),
            "device_specific_parameter": _device_specific_parameter(server),
            "block_descriptor_length": len(descriptor),
        }
    )
    return Reply(Status.GOOD, (header + descriptor + pages)[:allocation_length])


def _mode_sense_10(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    flags, page_byte, subpage, allocation_length = _unpack_10(cdb)
    server = nexus.server
    pages = _pages(MODE_SENSE_10, server, page_byte, subpage)
    long_lba = bool(flags & _LLBAA)
    descriptor = b"" if flags & _DBD else _block_descriptor(nexus.unit, long_lba=long_lba)
    header = MODE_HEADER_10.build(
        {
            "mode_data_length": MODE_HEADER_10.sizeof() - 2 + len(descriptor) + len(pages),
            "device_specific_parameter": _device_specific_parameter(server),
            "longlba": long_lba and bool(descriptor),
            "block_descriptor_length": len(descriptor),
        }
    )
    return Reply(Status.GOOD, (header + descriptor + pages)[:allocation_length])


COMMANDS: Final = (
    Command(
        name="MODE SENSE(6)",
        operation_code=0x1A,
        layout=MODE_SENSE_6,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS,
        handler=_mode_sense_6,
    ),
    Command(
        name="MODE SENSE(10)",
        operation_code=0x5A,
        layout=MODE_SENSE_10,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS,
        handler=_mode_sense_10,
    ),
)
