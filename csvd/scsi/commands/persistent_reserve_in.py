"""PERSISTENT RESERVE IN (SPC-4 6.15): one row a service action."""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import reduce
from operator import or_
from typing import TYPE_CHECKING, Final, TypeAlias

from construct import Const, Int8ub, Int16ub, Int32ub, Int64ub, Padding, Struct

from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.outcome import Outcome, Reply, Status
from csvd.scsi.procedure import Procedure, Steps
from csvd.scsi.reservation_guard import CONFLICT
from csvd.scsi.reservations import TYPES, State
from csvd.scsi.transport_id import encode_transport_id

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus

PERSISTENT_RESERVE_IN: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("reserved", Int8ub),
    CdbField("reserved_2", Int32ub),
    CdbField("allocation_length", Int16ub, 0xFFFF),
    CdbField("control", Int8ub, NACA),
)
_unpack = PERSISTENT_RESERVE_IN.unpacker("allocation_length").unpack_from

HEADER: Final = Struct("prgeneration" / Int32ub, "additional_length" / Int32ub)
RESERVATION_DESCRIPTOR: Final = Struct(
    "reservation_key" / Int64ub,
    Padding(5),
    "scope_and_type" / Int8ub,
    Padding(2),
)
CAPABILITIES: Final = Struct(
    "length" / Const(8, Int16ub),
    "capabilities" / Int8ub,
    "allow_commands_and_ptpl_a" / Int8ub,
    "persistent_reservation_type_mask" / Int16ub,
    Padding(2),
)
FULL_STATUS_DESCRIPTOR: Final = Struct(
    "reservation_key" / Int64ub,
    Padding(4),
    "all_tg_pt_and_r_holder" / Int8ub,
    "scope_and_type" / Int8ub,
    Padding(4),
    "relative_target_port_identifier" / Int16ub,
    "additional_descriptor_length" / Int32ub,
)
# As FULL_STATUS_DESCRIPTOR: a thousand registrations must not hold up the others.
_pack_full_status = struct.Struct(">Q4xBB4xHI").pack

_CRH: Final = 0x10
_SIP_C: Final = 0x08
_ATP_C: Final = 0x04
_PTPL_C: Final = 0x01
_TMV: Final = 0x80
_ALLOW_COMMANDS: Final = 0b100 << 4
"""As the rows say: TEST UNIT READY and RECEIVE COPY RESULTS through all types; MODE SENSE, READ BUFFER, REPORT
SUPPORTED OPERATION CODES and the like through Write Exclusive types (SPC-4 table 208)."""
_PTPL_A: Final = 0x01
_R_HOLDER: Final = 0x01


def _with_header(state: State, body: bytes) -> bytes:
    return HEADER.build({"prgeneration": state.generation, "additional_length": len(body)}) + body


def _read_keys(_server: DeviceServer, state: State) -> bytes:
    return _with_header(state, b"".join(key.to_bytes(8) for key in state.keys.values()))


def _read_reservation(_server: DeviceServer, state: State) -> bytes:
    if state.type is None:
        return _with_header(state, b"")
    # Of an all registrants type, no key is that of the holder.
    key = state.keys[state.holder] if state.holder is not None else 0
    return _with_header(
        state, RESERVATION_DESCRIPTOR.build({"reservation_key": key, "scope_and_type": state.type.code})
    )


def _report_capabilities(server: DeviceServer, state: State) -> bytes:
    return CAPABILITIES.build(
        {
            "capabilities": _CRH | _SIP_C | _ATP_C | (_PTPL_C if server.unit.keeps else 0),
            "allow_commands_and_ptpl_a": _TMV | _ALLOW_COMMANDS | (_PTPL_A if state.aptpl else 0),
            "persistent_reservation_type_mask": reduce(or_, (row.mask for row in TYPES.values())),
        }
    )


def _read_full_status(_server: DeviceServer, state: State) -> bytes:
    body = bytearray()
    for nexus, key in state.keys.items():
        holds = state.type is not None and state.holds(nexus)
        transport_id = encode_transport_id(nexus.initiator_port)
        kind = state.type.code if state.type is not None and holds else 0
        body += _pack_full_status(key, _R_HOLDER if holds else 0, kind, nexus.relative_target_port, len(transport_id))
        body += transport_id
    return _with_header(state, bytes(body))


_Data: TypeAlias = "Callable[[DeviceServer, State], bytes]"


def _handler(data: _Data) -> Handler:
    def handle(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
        server = nexus.server
        if server.reservations.legacy_holder is not None:
            # From any nexus (SPC-2 5.5.1).
            return CONFLICT
        (allocation_length,) = _unpack(cdb)
        if nexus.unit.cluster is not None:
            return Procedure(_ask(server, data, allocation_length))
        return Reply(Status.GOOD, data(server, server.reservations.state)[:allocation_length])

    return handle


def _ask(server: DeviceServer, data: _Data, allocation_length: int) -> Steps:
    state = yield from server.reservations.read()
    return Reply(Status.GOOD, data(server, state)[:allocation_length])


def _row(name: str, service_action: int, data: _Data) -> Command:
    return Command(
        name=f"PERSISTENT RESERVE IN, {name}",
        operation_code=0x5E,
        service_action=service_action,
        layout=PERSISTENT_RESERVE_IN,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.CONFLICTS_WITH_LEGACY,
        handler=_handler(data),
    )


COMMANDS: Final = (
    _row("READ KEYS", 0x00, _read_keys),
    _row("READ RESERVATION", 0x01, _read_reservation),
    _row("REPORT CAPABILITIES", 0x02, _report_capabilities),
    _row("READ FULL STATUS", 0x03, _read_full_status),
)
