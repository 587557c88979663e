"""RESERVE(6) and RELEASE(6) (SPC-2 7.21 and 7.16, with the exceptions of SPC-4 5.13.3)."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from construct import Int8ub, Int16ub

from csvd.scsi.cdb import NACA, CdbField, CdbLayout
from csvd.scsi.command import Command, DataDirection, Handler, Reservation
from csvd.scsi.outcome import GOOD, Outcome
from csvd.scsi.procedure import Procedure, Request, Steps
from csvd.scsi.reservation_guard import CONFLICT
from csvd.scsi.reservations import ReservationConflict
from csvd.scsi.sense import invalid_field_in_cdb

if TYPE_CHECKING:
    from csvd.scsi.device_server import ItlNexus

_THIRD_PARTY: Final = 0x1E
_EXTENT: Final = 0x01

RESERVE_6: Final = CdbLayout(
    CdbField("operation_code", Int8ub),
    CdbField("third_party_and_extent", Int8ub, _THIRD_PARTY | _EXTENT),
    CdbField("reservation_identification", Int8ub),
    CdbField("parameter_list_length", Int16ub),
    CdbField("control", Int8ub, NACA),
)
_unpack = RESERVE_6.unpacker("third_party_and_extent").unpack_from

_Act: TypeAlias = "Callable[[ItlNexus], Generator[Request, Any, None]]"


def _steps(nexus: ItlNexus, act: _Act) -> Steps:
    try:
        yield from act(nexus)
    except ReservationConflict:
        return CONFLICT
    return GOOD


def _handler(act: _Act) -> Handler:
    def handle(nexus: ItlNexus, cdb: bytes, _data_out: memoryview) -> Outcome:
        (options,) = _unpack(cdb)
        # The reservation is the nexus' own, of the whole logical unit.
        for bits in (_THIRD_PARTY, _EXTENT):
            if options & bits:
                raise invalid_field_in_cdb(RESERVE_6.pointer("third_party_and_extent", bits))
        return Procedure(_steps(nexus, act))

    return handle


def _row(name: str, operation_code: int, act: _Act, reservation: Reservation) -> Command:
    return Command(
        name=name,
        operation_code=operation_code,
        layout=RESERVE_6,
        direction=DataDirection.NONE,
        reservation=reservation,
        handler=_handler(act),
    )


COMMANDS: Final = (
    _row(
        "RESERVE(6)",
        0x16,
        lambda nexus: nexus.server.reservations.reserve_unit(nexus.nexus.registrant),
        Reservation.CONFLICTS_WITH_LEGACY,
    ),
    # RELEASE of a nexus that has not reserved is GOOD, and does nothing.
    _row(
        "RELEASE(6)",
        0x17,
        lambda nexus: nexus.server.reservations.release_unit(nexus.nexus.registrant),
        Reservation.ALLOWED,
    ),
)
