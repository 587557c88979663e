"""START STOP UNIT (SBC-3 5.25) and PREVENT ALLOW MEDIUM REMOVAL (SPC-4 6.17)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int16ub

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Reservation
from csvd.scsi.outcome import GOOD, Outcome
from csvd.scsi.procedure import Flush, Procedure, Steps
from csvd.scsi.range_locks import Claim
from csvd.scsi.sense import invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

_POWER_CONDITION: Final = 0xF0
_NO_FLUSH: Final = 0x04
_LOEJ: Final = 0x02
_START: Final = 0x01
_PREVENT: Final = 0x03

# IMMED is not evaluated: the answer comes when it is done, which takes no longer than a flush.
START_STOP_UNIT: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("immed", Int8ub),
    CdbField("reserved", Int8ub),
    CdbField("power_condition_modifier", Int8ub),
    CdbField("flags", Int8ub, _POWER_CONDITION | _NO_FLUSH | _LOEJ | _START),
    CdbField("control", Int8ub, NACA),
)
PREVENT_ALLOW_MEDIUM_REMOVAL: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("reserved", Int8ub),
    CdbField("reserved_2", Int16ub),
    CdbField("prevent", Int8ub, _PREVENT),
    CdbField("control", Int8ub, NACA),
)
_unpack_start_stop = START_STOP_UNIT.unpacker("flags").unpack_from
_unpack_prevent = PREVENT_ALLOW_MEDIUM_REMOVAL.unpacker("prevent").unpack_from


def _start_stop_unit(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    (flags,) = _unpack_start_stop(cdb)
    state, unit = nexus.server.medium_state, nexus.unit
    if flags & _POWER_CONDITION:
        # There is one power condition, so every wish for another comes to nothing; libiscsi and hosts that tend disks
        # want none of them refused. With one, START and LOEJ are ignored (SBC-3 5.25).
        return GOOD
    if flags & _LOEJ and not unit.removable:
        raise invalid_field_in_cdb(START_STOP_UNIT.pointer("flags", _LOEJ))
    if flags & _START:
        if flags & _LOEJ:
            state.load(nexus.nexus.name)
        else:
            state.set_started(True)
        return GOOD
    if flags & _LOEJ:
        state.check_removal()
    # It waits for what is under way.
    claim = Claim(unit.locks, 0, unit.block_bytes * unit.block_count, exclusive=True)
    return Procedure(_stop(nexus, eject=bool(flags & _LOEJ), flush=not flags & _NO_FLUSH), (claim,))


def _stop(nexus: ItlNexus, *, eject: bool, flush: bool) -> Steps:
    if flush:
        yield Flush(nexus.unit)
    state = nexus.server.medium_state
    if eject:
        state.eject()
    elif not (nexus.unit.removable or nexus.unit.is_clustered) and set(nexus.server.nexuses) == {nexus.nexus.name}:
        # Not while others use it, or may use it at another node: Windows stops its disks when it shuts down, and Linux
        # does not start them again.
        # A removable medium that is only stopped stays at hand, as libiscsi's suite demands; taking it out is LOEJ.
        state.set_started(False)
    return GOOD


def _prevent_allow_medium_removal(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    (prevent,) = _unpack_prevent(cdb)
    state, name = nexus.server.medium_state, nexus.nexus.name
    match prevent & _PREVENT:
        case 0:
            state.allow_removal(name)
        case 1:
            state.prevent_removal(name)
        case _:
            raise invalid_field_in_cdb(PREVENT_ALLOW_MEDIUM_REMOVAL.pointer("prevent", _PREVENT))
    return GOOD


def _start_stop_reservation(cdb: bytes) -> Reservation:
    """Only a start may run beside the reservation of another (SBC-3 4.17)."""
    starts = cdb[4] & (_POWER_CONDITION | _LOEJ | _START) == _START
    return Reservation.ALLOWED if starts else Reservation.CONFLICTS


def _prevent_allow_reservation(cdb: bytes) -> Reservation:
    """Only an allowance may run beside the reservation of another (SPC-4 5.13.1)."""
    return Reservation.CONFLICTS if cdb[4] & _PREVENT else Reservation.ALLOWED


COMMANDS: Final = (
    Command(
        name="START STOP UNIT",
        operation_code=0x1B,
        layout=START_STOP_UNIT,
        direction=DataDirection.NONE,
        reservation=Reservation.CONFLICTS,
        reservation_by_cdb=_start_stop_reservation,
        handler=_start_stop_unit,
        recommended_timeout_s=60,
    ),
    Command(
        name="PREVENT ALLOW MEDIUM REMOVAL",
        operation_code=0x1E,
        layout=PREVENT_ALLOW_MEDIUM_REMOVAL,
        direction=DataDirection.NONE,
        reservation=Reservation.CONFLICTS,
        reservation_by_cdb=_prevent_allow_reservation,
        handler=_prevent_allow_medium_removal,
    ),
)
