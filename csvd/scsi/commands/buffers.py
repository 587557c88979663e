"""READ BUFFER and WRITE BUFFER: data, echo, and their descriptors; there is no microcode to load (SPC-4 6.20, 6.49)."""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int16ub, Int24ub, Struct

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.device_buffers import BUFFER_BYTES
from csvd.scsi.outcome import GOOD, Outcome, Reply, Status
from csvd.scsi.sense import Asc, illegal_request, invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus


class BufferMode(IntEnum):
    """MODE."""

    DATA = 0x02
    DESCRIPTOR = 0x03
    ECHO = 0x0A
    ECHO_DESCRIPTOR = 0x0B


_MODE: Final = 0x1F

# Offset and length have three bytes; no struct has such a field.
BUFFER_FIELDS: Final = (
    CdbField("operation_code", Int8ub),
    CdbField("mode", Int8ub, _MODE),
    CdbField("buffer_id", Int8ub, 0xFF),
    CdbField("buffer_offset_high", Int8ub, 0xFF),
    CdbField("buffer_offset", Int16ub, 0xFFFF),
    CdbField("length_high", Int8ub, 0xFF),
    CdbField("length", Int16ub, 0xFFFF),
    CdbField("control", Int8ub, NACA),
)
READ_BUFFER: Final = CdbLayout(*BUFFER_FIELDS)
WRITE_BUFFER: Final = CdbLayout(*BUFFER_FIELDS)
# An offset boundary of zero: any byte may be the first.
BUFFER_DESCRIPTOR: Final = Struct("offset_boundary" / Int8ub, "buffer_capacity" / Int24ub)
# EBOS zero: who shares the echo buffer is not told that it was overwritten; each nexus has its own.
ECHO_BUFFER_DESCRIPTOR: Final = Struct("ebos" / Int8ub, "reserved" / Int8ub, "buffer_capacity" / Int16ub)

_unpack = READ_BUFFER.unpacker(
    "mode", "buffer_id", "buffer_offset_high", "buffer_offset", "length_high", "length"
).unpack_from


def _fields(cdb: bytes) -> tuple[int, int, int, int]:
    """(mode, buffer ID, offset, length) of either command."""
    mode, buffer_id, offset_high, offset, length_high, length = _unpack(cdb)
    return mode & _MODE, buffer_id, offset_high << 16 | offset, length_high << 16 | length


def _check_data_buffer(layout: CdbLayout, buffer_id: int, offset: int) -> None:
    if buffer_id:
        raise invalid_field_in_cdb(layout.pointer("buffer_id"))
    if offset >= BUFFER_BYTES:
        raise invalid_field_in_cdb(layout.pointer("buffer_offset_high"))


def _read_buffer(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    mode, buffer_id, offset, length = _fields(cdb)
    buffers = nexus.server.buffers
    match mode:
        case BufferMode.DATA:
            _check_data_buffer(READ_BUFFER, buffer_id, offset)
            data = buffers.read(offset, length)
        case BufferMode.DESCRIPTOR:
            capacity = 0 if buffer_id else BUFFER_BYTES
            data = BUFFER_DESCRIPTOR.build({"offset_boundary": 0, "buffer_capacity": capacity})
        case BufferMode.ECHO:
            echo = buffers.read_echo(nexus.nexus.name)
            if echo is None:
                raise illegal_request(Asc.COMMAND_SEQUENCE_ERROR)
            data = echo
        case BufferMode.ECHO_DESCRIPTOR:
            data = ECHO_BUFFER_DESCRIPTOR.build({"ebos": 0, "reserved": 0, "buffer_capacity": BUFFER_BYTES})
        case _:
            raise invalid_field_in_cdb(READ_BUFFER.pointer("mode", _MODE))
    return Reply(Status.GOOD, data[:length])


def _write_buffer(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
    mode, buffer_id, offset, length = _fields(cdb)
    if mode not in (BufferMode.DATA, BufferMode.ECHO):
        raise invalid_field_in_cdb(WRITE_BUFFER.pointer("mode", _MODE))
    if mode == BufferMode.DATA:
        _check_data_buffer(WRITE_BUFFER, buffer_id, offset)
    else:
        offset = 0
    if offset + length > BUFFER_BYTES:
        raise invalid_field_in_cdb(WRITE_BUFFER.pointer("length_high"))
    if len(data_out) < length:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    data = bytes(data_out[:length])
    if mode == BufferMode.DATA:
        nexus.server.buffers.write(offset, data)
    else:
        nexus.server.buffers.write_echo(nexus.nexus.name, data)
    return GOOD


def _data_out_length(_server: DeviceServer, cdb: bytes) -> int:
    _, _, _, length = _fields(cdb)
    return length if length <= BUFFER_BYTES else 0


COMMANDS: Final = (
    Command(
        name="WRITE BUFFER",
        operation_code=0x3B,
        layout=WRITE_BUFFER,
        direction=DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS,
        handler=_write_buffer,
        data_out_length=_data_out_length,
    ),
    Command(
        name="READ BUFFER",
        operation_code=0x3C,
        layout=READ_BUFFER,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.CONFLICTS_WITH_EXCLUSIVE_ACCESS,
        handler=_read_buffer,
    ),
)
