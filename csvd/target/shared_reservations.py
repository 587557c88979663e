"""The reservations of the logical units of one node: one store for each, whichever of its targets export it."""

from __future__ import annotations

from weakref import WeakValueDictionary

from csvd.scsi.logical_unit import LogicalUnit
from csvd.scsi.reservation_store import LocalReservations


class SharedReservations:
    """Stores by the NAA designator of their logical unit.

    A store is there as long as a target exports its unit. When none does any more, that is a loss of power to it: what
    APTPL keeps comes back with the unit.
    """

    def __init__(self) -> None:
        self._stores: WeakValueDictionary[bytes, LocalReservations] = WeakValueDictionary()

    def of(self, unit: LogicalUnit) -> LocalReservations:
        """The store of a logical unit.

        Raises:
            ConfigError: what was kept of its reservations makes no sense.
        """
        naa = unit.identity.naa
        store = self._stores.get(naa)
        if store is None:
            store = self._stores[naa] = LocalReservations(unit)
        return store
