"""What keeps commands out that a reservation of another I_T nexus forbids (SPC-4 5.13.1, SBC-3 4.17, SPC-2 5.5)."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import TYPE_CHECKING, Final

from csvd.scsi.command import Reservation
from csvd.scsi.outcome import Reply, Status

if TYPE_CHECKING:
    from csvd.scsi.command import Command
    from csvd.scsi.device_server import DeviceServer, ItlNexus
    from csvd.scsi.nexus import Nexus
    from csvd.scsi.reservation_store import Attentions, ReservationStore
    from csvd.scsi.reservations import Registrant

CONFLICT: Final = Reply(Status.RESERVATION_CONFLICT)


class ReservationGuard:
    """The guard of one device server, and its ear at the store of the reservations.

    Args:
        server: whose commands.
        store: the reservations of its logical unit.
        nexuses: the open I_T nexuses of the target.
    """

    def __init__(self, server: DeviceServer, store: ReservationStore, nexuses: Mapping[str, Nexus]) -> None:
        self._server = server
        self._store = store
        self._nexuses = nexuses
        self.end = store.subscribe(self)
        """Hear no more of the store."""

    def concerns(self, itl: ItlNexus) -> bool:
        """See `Guard.concerns`: not who may do all, so that the holder of a reservation pays nothing for it."""
        who = itl.nexus.registrant
        return self._store.legacy_holder not in (None, who) or not self._store.state.admits(who)

    def check(self, itl: ItlNexus, command: Command, cdb: bytes) -> Reply | None:
        """See `Guard.check`."""
        who = itl.nexus.registrant
        kind = command.reservation_of(cdb)
        if kind is Reservation.ALLOWED:
            return None
        if self._store.legacy_holder not in (None, who):
            return CONFLICT
        if kind is Reservation.CONFLICTS_WITH_LEGACY:
            return None
        state = self._store.state
        if state.type is None or state.admits(who):
            return None
        return CONFLICT if state.type.exclusive_access or kind is Reservation.CONFLICTS else None

    def reservations_changed(self, attentions: Attentions) -> None:
        """See `Listener.reservations_changed`."""
        self._server.refresh()
        if attentions:
            by_registrant: dict[Registrant, list[ItlNexus]] = {}
            for itl in self._server.nexuses.values():
                by_registrant.setdefault(itl.nexus.registrant, []).append(itl)
            for who, asc in attentions:
                for itl in by_registrant.get(who, ()):
                    itl.establish(asc)

    def nexus_names(self, who: Iterable[Registrant]) -> list[str]:
        """See `Listener.nexus_names`."""
        asked = set(who)
        return [name for name, nexus in self._nexuses.items() if nexus.registrant in asked]

    def initiator_ports(self, names: Collection[str]) -> list[tuple[str, str]]:
        """See `Listener.initiator_ports`."""
        identities = (nexus.identity for nexus in self._nexuses.values())
        return [
            (name, identity.initiator_port)
            for identity in identities
            if (name := identity.initiator_name.lower()) in names
        ]
