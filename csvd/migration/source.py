"""The migrations away from this node: starts them, keeps them apart, and remembers how they ended."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Final

from twisted.internet.defer import Deferred, DeferredList
from twisted.logger import Logger

from csvd.migration.chunks import MIGRATION_ID_BYTES
from csvd.migration.errors import MigrationError, MigrationRefused
from csvd.migration.interfaces import GuestHost
from csvd.migration.outgoing import OutgoingMigration, Surroundings
from csvd.migration.precopy import Policy, Precopy
from csvd.migration.report import Report

MAXIMUM_OUTGOING: Final = 4
STOP_TIMEOUT_S: Final = 10.0
_ENDED_KEPT: Final = 64


class MigrationSource:
    """The service at the source.

    Args:
        guests: the guests of this node.
        maximum_outgoing: migrations at once; one a guest.
    """

    _log = Logger()

    def __init__(
        self, surroundings: Surroundings, guests: GuestHost, *, maximum_outgoing: int = MAXIMUM_OUTGOING
    ) -> None:
        self._surroundings = surroundings
        self._guests = guests
        self._maximum_outgoing = maximum_outgoing
        self._under_way: dict[str, OutgoingMigration] = {}
        self._ended: list[OutgoingMigration] = []
        self._is_stopping = False

    def start(self, guest: str, destination: str, policy: Policy | None = None) -> OutgoingMigration:
        """Begin to move a guest; its progress, its report and its cancel are on what this returns.

        Raises MigrationRefused when it cannot begin, or the host's error when the guest is not here or busy.
        """
        where = f"guest {guest}"
        if self._is_stopping:
            raise MigrationRefused("this node is shutting down", where=where)
        if destination == self._surroundings.cluster.node:
            raise MigrationRefused("the guest is on that node already", where=where)
        if guest in self._under_way:
            raise MigrationRefused("the guest is being moved already", where=where)
        if len(self._under_way) >= self._maximum_outgoing:
            raise MigrationRefused(f"{len(self._under_way)} guests are being moved from here already", where=where)
        leaving = self._guests.depart(guest)
        migration = OutgoingMigration(
            self._surroundings,
            leaving,
            guest,
            destination,
            Precopy(leaving.memory_bytes, leaving.page_bytes, policy or Policy()),
            migration_id=os.urandom(MIGRATION_ID_BYTES),
            digest_seed=int.from_bytes(os.urandom(7), "big"),
        )
        self._under_way[guest] = migration
        Deferred.fromCoroutine(migration.run()).addBoth(self._over, migration)
        return migration

    def _over(self, result: object, migration: OutgoingMigration) -> None:
        del self._under_way[migration.name]
        self._ended.append(migration)
        del self._ended[:-_ENDED_KEPT]
        if not isinstance(result, Report):
            self._log.error("the migration of {guest} broke off: {reason}", guest=migration.name, reason=result)
            return
        self._log.info(
            "guest {guest} to {destination}: {state} after {total_s:.3f} s, downtime {downtime_ms} ms {reason}",
            guest=migration.name,
            destination=migration.destination,
            state=result.state,
            total_s=result.total_s,
            downtime_ms=result.downtime_ms,
            reason=result.reason,
        )

    def migrations(self) -> Sequence[OutgoingMigration]:
        """Those under way, and the last that ended."""
        return [*self._under_way.values(), *self._ended]

    def find(self, migration_id: str) -> OutgoingMigration:
        """A migration by its id. Raises MigrationError when it is not known (any more)."""
        for migration in self.migrations():
            if migration.migration_id == migration_id:
                return migration
        raise MigrationError("no such migration", where=migration_id)

    async def stop(self) -> None:
        """Start none any more, call off those that can be, and wait for the others, though not for ever.

        One that is still in doubt then stays so: its guest ends with this daemon, and the register decides where it
        may be started again.
        """
        self._is_stopping = True
        waiting = []
        for migration in list(self._under_way.values()):
            waiting.append(migration.when_finished())
            if migration.progress().is_cancellable:
                migration.cancel("this node is shutting down")
        finished: Deferred[None] = Deferred()
        timer = self._surroundings.clock.callLater(STOP_TIMEOUT_S, finished.callback, None)

        def all_over(_: object) -> None:
            if timer.active():
                timer.cancel()
                finished.callback(None)

        DeferredList(waiting).addCallback(all_over)
        await finished
