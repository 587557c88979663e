"""PERSISTENT RESERVE OUT (SPC-4 6.16): one row a service action.

REPLACE LOST RESERVATION is not offered, and RLR_C says so: what was kept is whole, or the start ends.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from construct import Int8ub, Int16ub, Int32ub, Int64ub, Padding, Struct

from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.outcome import GOOD, Outcome
from csvd.scsi.procedure import AbortTasks, Procedure, Steps
from csvd.scsi.reservation_guard import CONFLICT
from csvd.scsi.reservations import (
    FLAGS,
    SCOPE_AND_TYPE,
    TRANSPORT_IDS,
    TYPES,
    Action,
    Clear,
    Move,
    Preempt,
    Register,
    Registrant,
    Release,
    ReservationConflict,
    ReservationType,
    Reserve,
    invalid_in_list,
)
from csvd.scsi.sense import Asc, FieldPointer, illegal_request, invalid_field_in_cdb
from csvd.scsi.transport_id import InitiatorName, parse_transport_ids

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus

PERSISTENT_RESERVE_OUT: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("scope_and_type", Int8ub, 0xFF),
    CdbField("reserved", Int16ub),
    CdbField("parameter_list_length", Int32ub, 0xFFFF_FFFF),
    CdbField("control", Int8ub, NACA),
)
_unpack = PERSISTENT_RESERVE_OUT.unpacker("scope_and_type", "parameter_list_length").unpack_from

BASIC_PARAMETER_LIST: Final = Struct(
    "reservation_key" / Int64ub,
    "service_action_reservation_key" / Int64ub,
    Padding(4),
    "flags" / Int8ub,
    Padding(3),
)
SPECIFIED_PORTS_HEADER: Final = Struct("transportid_parameter_data_length" / Int32ub)
MOVE_PARAMETER_LIST: Final = Struct(
    "reservation_key" / Int64ub,
    "service_action_reservation_key" / Int64ub,
    Padding(1),
    "flags" / Int8ub,
    "relative_target_port_identifier" / Int16ub,
    "transportid_length" / Int32ub,
)

_LIST_BYTES: Final = 24
_MOST_LIST_BYTES: Final = 64 << 10
_LEAST_TRANSPORT_ID_BYTES: Final = 24
_SPEC_I_PT: Final = 0x08
_ALL_TG_PT: Final = 0x04
_UNREG: Final = 0x02
_APTPL: Final = 0x01
_MOVE_FLAGS: Final = FieldPointer(17, in_cdb=False)
_MOVE_PORT: Final = FieldPointer(18, in_cdb=False)
_LENGTH: Final = FieldPointer(5)

MakeAction: TypeAlias = "Callable[[ItlNexus, Any, ReservationType | None, bytes], Action]"
"""Makes the action of a nexus, its basic parameter list, the TYPE and the additional parameter data."""


def _list_length(server: DeviceServer, cdb: bytes) -> int:
    _, length = _unpack(cdb)
    return int(length) if length <= _MOST_LIST_BYTES else 0


def _whole_list(cdb: bytes, data_out: memoryview) -> tuple[ReservationType | None, bytes]:
    """TYPE, None where it or SCOPE is one that no reservation has, and the parameter list.

    Raises:
        CheckCondition: PARAMETER LIST LENGTH ERROR: it is too short, too long, or less came than the CDB says.
    """
    scope_and_type, length = _unpack(cdb)
    if not _LIST_BYTES <= length <= _MOST_LIST_BYTES or len(data_out) < length:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR, _LENGTH)
    # SCOPE is the upper half: zero for the logical unit, and nothing else.
    return TYPES.get(scope_and_type), bytes(data_out[:length])


def _carry_out(nexus: ItlNexus, action: Action, *, aborts: bool) -> Steps:
    """The steps of a service action; PREEMPT AND ABORT has the tasks of those that it preempted aborted."""
    server = nexus.server
    try:
        change = yield from server.reservations.carry_out(nexus.unit, action, aborts=aborts)
    except ReservationConflict:
        return CONFLICT
    if aborts:
        others = [preempted for preempted in change.preempted if preempted != nexus.nexus.registrant]
        names = server.reservations.nexus_names(others)
        for name in names:
            server.medium_state.allow_removal(name)
        yield AbortTasks(nexus.unit, names)
    return GOOD


def _basic(make: MakeAction, *, aborts: bool) -> Handler:
    def handle(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
        kind, data = _whole_list(cdb, data_out)
        parameters = BASIC_PARAMETER_LIST.parse(data[:_LIST_BYTES])
        additional = data[_LIST_BYTES:]
        if not parameters.flags & _SPEC_I_PT and additional:
            raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR, _LENGTH)
        if parameters.flags & _SPEC_I_PT:
            if make is not _register:
                raise invalid_in_list(FLAGS)
            return Procedure(_register_others(nexus, parameters, _specified(additional)))
        return Procedure(_carry_out(nexus, make(nexus, parameters, kind, additional), aborts=aborts))

    return handle


def _register(nexus: ItlNexus, parameters: Any, _kind: ReservationType | None, _additional: bytes) -> Action:
    return _registration(nexus, parameters, ignores_key=False)


def _register_and_ignore(nexus: ItlNexus, parameters: Any, _kind: ReservationType | None, _additional: bytes) -> Action:
    return _registration(nexus, parameters, ignores_key=True)


def _register_others(nexus: ItlNexus, parameters: Any, named: Sequence[InitiatorName]) -> Steps:
    """The steps of REGISTER with SPEC_I_PT. A TransportID names one port, or all of the initiator that are known: that
    have a session with the logical unit, at whatever node."""
    unknown = {each.name for each in named if each.isid is None}
    known = (yield from nexus.server.reservations.known_ports(unknown)) if unknown else {}
    ports: dict[str, None] = {}
    for each in named:
        found = [each.port] if each.isid is not None else known.get(each.name)
        if not found:
            raise invalid_in_list(TRANSPORT_IDS)
        ports.update(dict.fromkeys(found))
    ports.pop(nexus.nexus.identity.initiator_port, None)
    action = _registration(nexus, parameters, ignores_key=False, initiator_ports=list(ports))
    return (yield from _carry_out(nexus, action, aborts=False))


def _registration(
    nexus: ItlNexus, parameters: Any, *, ignores_key: bool, initiator_ports: Sequence[str] | None = None
) -> Action:
    flags = parameters.flags
    if flags & _APTPL and not nexus.unit.keeps:
        raise invalid_in_list(FLAGS)
    who = nexus.nexus.registrant
    ports = nexus.nexus.device.target_ports() if flags & _ALL_TG_PT else [who]
    specified = None
    if initiator_ports is not None:
        specified = tuple(
            Registrant(name, port.target_port, port.relative_target_port) for name in initiator_ports for port in ports
        )
    return Register(
        who,
        parameters.reservation_key,
        parameters.service_action_reservation_key,
        ignores_key=ignores_key,
        other_ports=tuple(other for port in ports if (other := port.with_initiator(who)) != who),
        specified=specified,
        aptpl=bool(flags & _APTPL),
    )


def _specified(additional: bytes) -> list[InitiatorName]:
    """Whom SPEC_I_PT lists.

    Raises:
        CheckCondition: INVALID FIELD IN PARAMETER LIST: the list is not whole.
    """
    header_bytes = SPECIFIED_PORTS_HEADER.sizeof()
    if len(additional) < header_bytes:
        raise invalid_in_list(TRANSPORT_IDS)
    length = SPECIFIED_PORTS_HEADER.parse(additional[:header_bytes]).transportid_parameter_data_length
    if length > len(additional) - header_bytes:
        raise invalid_in_list(TRANSPORT_IDS)
    return list(dict.fromkeys(parse_transport_ids(additional[header_bytes : header_bytes + length])))


def _reserve(nexus: ItlNexus, parameters: Any, kind: ReservationType | None, _additional: bytes) -> Action:
    if kind is None:
        raise invalid_field_in_cdb(SCOPE_AND_TYPE)
    return Reserve(nexus.nexus.registrant, parameters.reservation_key, kind)


def _release(nexus: ItlNexus, parameters: Any, kind: ReservationType | None, _additional: bytes) -> Action:
    return Release(nexus.nexus.registrant, parameters.reservation_key, kind)


def _clear(nexus: ItlNexus, parameters: Any, _kind: ReservationType | None, _additional: bytes) -> Action:
    return Clear(nexus.nexus.registrant, parameters.reservation_key)


def _preempt(nexus: ItlNexus, parameters: Any, kind: ReservationType | None, _additional: bytes) -> Action:
    return Preempt(nexus.nexus.registrant, parameters.reservation_key, parameters.service_action_reservation_key, kind)


def _register_and_move(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
    _, data = _whole_list(cdb, data_out)
    parameters = MOVE_PARAMETER_LIST.parse(data[:_LIST_BYTES])
    if parameters.flags & _APTPL and not nexus.unit.keeps:
        raise invalid_in_list(_MOVE_FLAGS)
    length = parameters.transportid_length
    if length != len(data) - _LIST_BYTES or length < _LEAST_TRANSPORT_ID_BYTES:
        raise invalid_in_list(FieldPointer(20, in_cdb=False))
    names = parse_transport_ids(data[_LIST_BYTES:])
    if len(names) != 1 or names[0].isid is None:
        # A reservation moves to one port.
        raise invalid_in_list(TRANSPORT_IDS)
    port = parameters.relative_target_port_identifier
    target = next((each for each in nexus.nexus.device.target_ports() if each.relative_target_port == port), None)
    if target is None:
        raise invalid_in_list(_MOVE_PORT)
    action = Move(
        nexus.nexus.registrant,
        parameters.reservation_key,
        parameters.service_action_reservation_key,
        to=Registrant(names[0].port, target.target_port, port),
        unregisters=bool(parameters.flags & _UNREG),
        aptpl=bool(parameters.flags & _APTPL),
    )
    return Procedure(_carry_out(nexus, action, aborts=False))


def _row(name: str, service_action: int, handler: Handler) -> Command:
    return Command(
        name=f"PERSISTENT RESERVE OUT, {name}",
        operation_code=0x5F,
        service_action=service_action,
        layout=PERSISTENT_RESERVE_OUT,
        direction=DataDirection.DATA_OUT,
        # Who may do what is settled by the action itself, from the keys (SPC-4 table 66).
        reservation=Reservation.CONFLICTS_WITH_LEGACY,
        handler=handler,
        data_out_length=_list_length,
    )


COMMANDS: Final = (
    _row("REGISTER", 0x00, _basic(_register, aborts=False)),
    _row("RESERVE", 0x01, _basic(_reserve, aborts=False)),
    _row("RELEASE", 0x02, _basic(_release, aborts=False)),
    _row("CLEAR", 0x03, _basic(_clear, aborts=False)),
    _row("PREEMPT", 0x04, _basic(_preempt, aborts=False)),
    _row("PREEMPT AND ABORT", 0x05, _basic(_preempt, aborts=True)),
    _row("REGISTER AND IGNORE EXISTING KEY", 0x06, _basic(_register_and_ignore, aborts=False)),
    _row("REGISTER AND MOVE", 0x07, _register_and_move),
)
