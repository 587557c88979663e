"""REPORT TARGET PORT GROUPS and SET TARGET PORT GROUPS (SPC-4 6.37 and 6.45)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Const, Int8ub, Int16ub, Int32ub, Struct

from csvd.scsi.cdb import NACA, SERVICE_ACTION, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.outcome import GOOD, Outcome, Reply, Status
from csvd.scsi.sense import (
    Asc,
    CheckCondition,
    SenseKey,
    illegal_request,
    invalid_field_in_cdb,
    wrong_in_list,
)
from csvd.scsi.target_ports import ACTIVE, AccessState, TargetPortGroup

if TYPE_CHECKING:
    from csvd.scsi.device_server import DeviceServer, ItlNexus
    from csvd.scsi.logical_unit import LogicalUnit
    from csvd.scsi.target_ports import TargetPorts

_PARAMETER_DATA_FORMAT: Final = 0xE0
_EXTENDED: Final = 1
_PREF: Final = 0x80
_STATE: Final = 0x0F
# T_SUP, U_SUP, S_SUP, AN_SUP and AO_SUP: every state but offline and logical block dependent.
_SUPPORTED_STATES: Final = 0x80 | 0x08 | 0x04 | 0x02 | 0x01
_SETTABLE: Final = frozenset(AccessState) - {AccessState.TRANSITIONING}

REPORT_TARGET_PORT_GROUPS: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, _PARAMETER_DATA_FORMAT | SERVICE_ACTION),
    CdbField("reserved", Int32ub),
    CdbField("allocation_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved_2", Int8ub),
    CdbField("control", Int8ub, NACA),
)
SET_TARGET_PORT_GROUPS: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("service_action", Int8ub, SERVICE_ACTION),
    CdbField("reserved", Int32ub),
    CdbField("parameter_list_length", Int32ub, 0xFFFF_FFFF),
    CdbField("reserved_2", Int8ub),
    CdbField("control", Int8ub, NACA),
)
EXTENDED_HEADER: Final = Struct(
    "format_type" / Const(0x10, Int8ub),
    # Nothing is known of how long an implicit transition takes.
    "implicit_transition_time" / Const(0, Int8ub),
    "reserved" / Const(0, Int16ub),
)
GROUP_DESCRIPTOR: Final = Struct(
    "pref_and_state" / Int8ub,
    "supported_states" / Int8ub,
    "target_port_group" / Int16ub,
    "reserved" / Const(0, Int8ub),
    "status_code" / Int8ub,
    "vendor_specific" / Const(0, Int8ub),
    "target_port_count" / Int8ub,
)
PORT_DESCRIPTOR: Final = Struct("obsolete" / Const(0, Int16ub), "relative_target_port_identifier" / Int16ub)
SET_HEADER: Final = Struct("reserved" / Int32ub)
SET_DESCRIPTOR: Final = Struct("state" / Int8ub, "reserved" / Int8ub, "target_port_group" / Int16ub)

_unpack_report = REPORT_TARGET_PORT_GROUPS.unpacker("service_action", "allocation_length").unpack_from
_unpack_set = SET_TARGET_PORT_GROUPS.unpacker("parameter_list_length").unpack_from


def _group_descriptor(group: TargetPortGroup) -> bytes:
    data: bytes = GROUP_DESCRIPTOR.build(
        {
            "pref_and_state": (_PREF if group.preferred else 0) | group.state,
            "supported_states": _SUPPORTED_STATES,
            "target_port_group": group.tag,
            "status_code": group.changed_by,
            "target_port_count": len(group.ports),
        }
    )
    return data + b"".join(PORT_DESCRIPTOR.build({"relative_target_port_identifier": port}) for port in group.ports)


def _report_target_port_groups(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    action, allocation_length = _unpack_report(cdb)
    extended = (action & _PARAMETER_DATA_FORMAT) >> 5
    if extended > _EXTENDED:
        raise invalid_field_in_cdb(REPORT_TARGET_PORT_GROUPS.pointer("service_action", _PARAMETER_DATA_FORMAT))
    data = EXTENDED_HEADER.build({}) if extended else b""
    data += b"".join(_group_descriptor(group) for group in nexus.nexus.device.ports.groups.values())
    return Reply(Status.GOOD, (Int32ub.build(len(data)) + data)[:allocation_length])


def _longest_list(ports: TargetPorts) -> int:
    """A list may name each group once."""
    return int(SET_HEADER.sizeof() + SET_DESCRIPTOR.sizeof() * len(ports.groups))


def _set_target_port_groups(nexus: ItlNexus, cdb: bytes, data_out: memoryview) -> Outcome:
    (length,) = _unpack_set(cdb)
    if not length:
        return GOOD
    device = nexus.nexus.device
    whole = SET_DESCRIPTOR.sizeof()
    if length > _longest_list(device.ports) or length < SET_HEADER.sizeof() or length % whole or len(data_out) < length:
        raise illegal_request(Asc.PARAMETER_LIST_LENGTH_ERROR)
    states: dict[int, AccessState] = {}
    for offset in range(SET_HEADER.sizeof(), length, whole):
        descriptor = SET_DESCRIPTOR.parse(bytes(data_out[offset : offset + whole]))
        state = descriptor.state & _STATE
        if state not in _SETTABLE:
            raise wrong_in_list(offset, 3)
        if descriptor.target_port_group not in device.ports.groups or descriptor.target_port_group in states:
            raise wrong_in_list(offset + 2)
        states[descriptor.target_port_group] = AccessState(state)
    before = {tag: group.state for tag, group in device.ports.groups.items()}
    if any(before[tag] is AccessState.TRANSITIONING for tag in states) or not ACTIVE & {*(before | states).values()}:
        # One initiator must not take the disk from all of them.
        raise CheckCondition(SenseKey.HARDWARE_ERROR, Asc.SET_TARGET_PORT_GROUPS_COMMAND_FAILED)
    device.set_access_states(states, by_nexus=nexus.nexus.name)
    return GOOD


def _has_states_of_its_own(unit: LogicalUnit) -> bool:
    """Where several nodes export a logical unit, the states tell how these nodes are, which is nobody's to set."""
    return not unit.is_clustered


def _set_length(_server: DeviceServer, cdb: bytes) -> int:
    (length,) = _unpack_set(cdb)
    # One that is longer than any list of all groups is refused; it need not come first.
    return length if length <= SET_HEADER.sizeof() + SET_DESCRIPTOR.sizeof() * 0xFFFF else 0


COMMANDS: Final = (
    Command(
        name="REPORT TARGET PORT GROUPS",
        operation_code=0xA3,
        service_action=0x0A,
        layout=REPORT_TARGET_PORT_GROUPS,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.ALLOWED,
        handler=_report_target_port_groups,
    ),
    Command(
        name="SET TARGET PORT GROUPS",
        operation_code=0xA4,
        service_action=0x0A,
        layout=SET_TARGET_PORT_GROUPS,
        direction=DataDirection.DATA_OUT,
        reservation=Reservation.CONFLICTS,
        handler=_set_target_port_groups,
        data_out_length=_set_length,
        offered=_has_states_of_its_own,
    ),
)
