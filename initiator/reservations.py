"""Persistent reservations of a logical unit: who may use it, and who is kept from it (SPC-4 section 5.13)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from initiator.scsi import reservations, transport_id
from initiator.scsi.reservations import (
    FullStatus,
    RegisteredKeys,
    Reservation,
    ReservationCapabilities,
    ReservationType,
    ReserveIn,
    ReserveOut,
)

if TYPE_CHECKING:
    from initiator.unit import LogicalUnit

_ANSWER_BYTES: Final = 4096
_LONGEST_ANSWER_BYTES: Final = 0xFFFF


class Reservations:
    """The registrations and the reservation of a logical unit, as ``unit.reservations``.

    A key belongs to an I_T nexus: to this initiator's session at this target port. All calls raise ReservationConflict
    where the key given is not the one registered here, or somebody else holds the reservation; what changes something
    is never repeated by itself after it may have been executed. Keys are numbers of 64 bits; 0 is no key.
    """

    def __init__(self, unit: LogicalUnit) -> None:
        self._unit = unit

    # --- what is

    async def keys(self, *, timeout_s: float | None = None) -> RegisteredKeys:
        """Ask for the registered keys (READ KEYS)."""
        return reservations.parse_keys(await self._ask(ReserveIn.READ_KEYS, timeout_s))

    async def reservation(self, *, timeout_s: float | None = None) -> Reservation:
        """Ask who holds the unit (READ RESERVATION)."""
        return reservations.parse_reservation(await self._ask(ReserveIn.READ_RESERVATION, timeout_s))

    async def capabilities(self, *, timeout_s: float | None = None) -> ReservationCapabilities:
        """Ask what the target can do (REPORT CAPABILITIES)."""
        build = reservations.reserve_in(ReserveIn.REPORT_CAPABILITIES, 8)
        return reservations.parse_capabilities(await self._unit.ask(build, 8, timeout_s=timeout_s))

    async def full_status(self, *, timeout_s: float | None = None) -> FullStatus:
        """Ask for every registered I_T nexus, with the name of its initiator port (READ FULL STATUS)."""
        return reservations.parse_full_status(await self._ask(ReserveIn.READ_FULL_STATUS, timeout_s))

    async def _ask(self, action: ReserveIn, timeout_s: float | None) -> bytes:
        """Ask, and once more where the answer is longer than there was room."""
        room = _ANSWER_BYTES
        data = await self._unit.ask(reservations.reserve_in(action, room), room, timeout_s=timeout_s)
        whole = min(reservations.whole_length(data), _LONGEST_ANSWER_BYTES)
        if len(data) == room < whole:
            data = await self._unit.ask(reservations.reserve_in(action, whole), whole, timeout_s=timeout_s)
        return data

    # --- what changes it

    async def register(
        self,
        new_key: int,
        *,
        key: int = 0,
        ignore_existing: bool = False,
        through_power_loss: bool = False,
        all_target_ports: bool = False,
        initiators: Iterable[bytes] | None = None,
        timeout_s: float | None = None,
    ) -> None:
        """Register a key for this I_T nexus, in the place of ``key`` (0 where none was registered).

        With ``new_key`` 0 the nexus is registered no more: a reservation that it alone holds ends.

        Args:
            ignore_existing: whatever key was registered before.
            through_power_loss: APTPL: registrations and reservation outlast a power loss.
            all_target_ports: ALL_TG_PT: at every target port.
            initiators: SPEC_I_PT: TransportIDs of further initiator ports to be registered
                (:func:`initiator.scsi.transport_id.iscsi` makes one).
        """
        action = ReserveOut.REGISTER_AND_IGNORE_EXISTING_KEY if ignore_existing else ReserveOut.REGISTER
        parameters = reservations.parameter_list(
            key,
            new_key,
            through_power_loss=through_power_loss,
            all_target_ports=all_target_ports,
            initiators=initiators,
        )
        await self._out(action, parameters, None, timeout_s)

    async def reserve(self, kind: ReservationType, *, key: int, timeout_s: float | None = None) -> None:
        """Reserve the unit; who holds it already in this way keeps it."""
        await self._out(ReserveOut.RESERVE, reservations.parameter_list(key), kind, timeout_s)

    async def release(self, kind: ReservationType, *, key: int, timeout_s: float | None = None) -> None:
        """End the reservation that this nexus holds; it stays registered. No reservation is no error."""
        await self._out(ReserveOut.RELEASE, reservations.parameter_list(key), kind, timeout_s)

    async def clear(self, *, key: int, timeout_s: float | None = None) -> None:
        """End the reservation and all registrations, whose ever they are."""
        await self._out(ReserveOut.CLEAR, reservations.parameter_list(key), None, timeout_s)

    async def preempt(
        self,
        victim_key: int,
        *,
        key: int,
        kind: ReservationType,
        abort: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Take the registrations of everybody with a key away, and the reservation where he holds it.

        With ``abort`` his commands are ended, too: when this call has ended, none of his writes lands any more.
        """
        action = ReserveOut.PREEMPT_AND_ABORT if abort else ReserveOut.PREEMPT
        await self._out(action, reservations.parameter_list(key, victim_key), kind, timeout_s)

    async def register_and_move(
        self,
        new_key: int,
        *,
        key: int,
        initiator_name: str,
        isid: bytes,
        relative_target_port: int,
        unregister: bool = False,
        through_power_loss: bool = False,
        timeout_s: float | None = None,
    ) -> None:
        """Hand the reservation to the nexus of another initiator port, registered with a new key.

        Args:
            initiator_name, isid: the session of the other initiator.
            relative_target_port: the target port of the other nexus.
            unregister: this nexus is registered no more.
            through_power_loss: APTPL.
        """
        other = transport_id.iscsi(initiator_name, isid)
        parameters = reservations.move_list(
            key,
            new_key,
            relative_target_port,
            other,
            unregister=unregister,
            through_power_loss=through_power_loss,
        )
        await self._out(ReserveOut.REGISTER_AND_MOVE, parameters, None, timeout_s)

    async def _out(
        self, action: ReserveOut, parameters: bytes, kind: ReservationType | None, timeout_s: float | None
    ) -> None:
        build = reservations.reserve_out(action, len(parameters), kind)
        await self._unit.tell(build, parameters, timeout_s=timeout_s)
