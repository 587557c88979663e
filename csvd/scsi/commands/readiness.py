"""TEST UNIT READY (SPC-4 6.47) and REQUEST SENSE (SPC-4 6.39)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from construct import Int8ub, Int16ub

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import ANY_LUN, LOGICAL_UNITS, Command, DataDirection, Reservation
from csvd.scsi.logical_unit import Peripheral
from csvd.scsi.outcome import GOOD, Outcome, Reply, Status
from csvd.scsi.sense import Asc, CheckCondition, SenseKey, encode_sense, illegal_request

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

_DESC: Final = 0x01

TEST_UNIT_READY: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("reserved", Int16ub),
    CdbField("reserved_2", Int16ub),
    CdbField("control", Int8ub, NACA),
)
REQUEST_SENSE: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("flags", Int8ub, _DESC),
    CdbField("reserved", Int16ub),
    CdbField("allocation_length", Int8ub, 0xFF),
    CdbField("control", Int8ub, NACA),
)
_unpack_request_sense = REQUEST_SENSE.unpacker("flags", "allocation_length").unpack_from


def _test_unit_ready(_nexus: ItlNexus, _cdb: bytes, _data_out: memoryview) -> Outcome:
    return GOOD


def _request_sense(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
    flags, allocation_length = _unpack_request_sense(cdb)
    if nexus.unit.peripheral is Peripheral.ABSENT:
        # With GOOD status and no unit attention: SPC-4 6.39 for a LUN that does not exist.
        condition = illegal_request(Asc.LOGICAL_UNIT_NOT_SUPPORTED)
    else:
        condition = (
            nexus.take_attention()
            or nexus.nexus.device.ports.condition(nexus)
            or nexus.server.medium_operation.condition()
            or nexus.server.medium_state.condition()
            or CheckCondition(SenseKey.NO_SENSE, Asc.NO_ADDITIONAL_SENSE_INFORMATION)
        )
    return Reply(Status.GOOD, encode_sense(condition, descriptor=bool(flags & _DESC))[:allocation_length])


COMMANDS: Final = (
    Command(
        name="TEST UNIT READY",
        operation_code=0x00,
        layout=TEST_UNIT_READY,
        direction=DataDirection.NONE,
        reservation=Reservation.CONFLICTS_WITH_LEGACY,
        handler=_test_unit_ready,
        peripherals=LOGICAL_UNITS,
    ),
    Command(
        name="REQUEST SENSE",
        operation_code=0x03,
        layout=REQUEST_SENSE,
        direction=DataDirection.DATA_IN,
        reservation=Reservation.ALLOWED,
        handler=_request_sense,
        peripherals=ANY_LUN,
        despite_attention=True,
    ),
)
