"""The routes of guests and their migrations. Any node answers for any guest: what only its owner can do goes there."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Final

from csvd.api.bodies import CreateGuest, MigrateGuest, Nothing, body_of
from csvd.api.errors import NotFound, Refused, Unavailable
from csvd.api.events import EventRing
from csvd.api.guest_list import list_guests
from csvd.api.interfaces import Cluster, Guests, Json, Migration, Migrations
from csvd.api.members import taker_in
from csvd.api.peers import FORWARD_TIMEOUT_S, Peers
from csvd.api.routes import Answer, Request, Route
from csvd.cluster.errors import ClusterError, CommandRefused
from csvd.cluster.names import GUEST_NAME_RULE, is_guest_name
from csvd.errors import ConfigError
from csvd.migration.precopy import Policy
from csvd.vm.spec import GuestSpec

READ_TIMEOUT_S: Final = 3.0
VERIFY_TIMEOUT_S: Final = 600.0
STARTS_KEPT: Final = 256

Here = Callable[[str], Awaitable[Answer]]


class GuestMoved(Unavailable):
    """A request was forwarded to a node that does not own the guest any more."""


class GuestRoutes:
    """Answers for the guests of the cluster.

    Args:
        policy: of the migrations that begin at this node.
    """

    def __init__(
        self,
        cluster: Cluster,
        guests: Guests,
        migrations: Migrations,
        peers: Peers,
        events: EventRing,
        *,
        policy: Policy,
        now_s: Callable[[], float] = time.time,
    ) -> None:
        self._cluster = cluster
        self._guests = guests
        self._migrations = migrations
        self._peers = peers
        self._events = events
        self._policy = policy
        self._now_s = now_s
        self._started_s: dict[str, float] = {}

    def routes(self) -> Sequence[Route]:
        """The rows of the table."""
        guest = "/v1/guests/{name}"
        return (
            Route("GET", "/v1/guests", self._list, "All guests of the cluster."),
            Route("POST", "/v1/guests", self._create, "Make a guest and run it: name, spec, node (this one)."),
            Route("GET", guest, self._show, "One guest, with what its owner knows of it."),
            Route("DELETE", guest, self._remove, "Remove a stopped guest and its image."),
            Route("POST", f"{guest}/start", self._start, "Run a stopped guest."),
            Route("POST", f"{guest}/stop", self._stop, "End a guest's process; its image stays."),
            Route("POST", f"{guest}/pause", self._pause, "Have a guest execute nothing until it is resumed."),
            Route("POST", f"{guest}/resume", self._resume, "Let a paused guest execute again."),
            Route("GET", f"{guest}/verify", self._verify, "Have a guest check every page of its memory."),
            Route("POST", f"{guest}/migrations", self._migrate, "Begin to move a guest to another node: to."),
            Route("GET", f"{guest}/migration", self._migration, "Progress and report of its latest migration."),
            Route("DELETE", f"{guest}/migration", self._cancel, "Call its migration off."),
        )

    # Guests

    async def _list(self, request: Request) -> Answer:
        return Answer(200, {"guests": list_guests(self._guests, self._cluster)})

    async def _create(self, request: Request) -> Answer:
        body = body_of(request, CreateGuest)
        if not is_guest_name(body.name):
            raise ConfigError(f"{body.name[:80]!r} is not the name of a guest", hint=f"a name is {GUEST_NAME_RULE}")
        spec = GuestSpec.from_json(body.spec)
        node = self._cluster.node if body.node is None else body.node
        node = self._host(node)
        if node != self._cluster.node:
            return await self._peers.ask(node, request)
        with self._needing_coordinator():
            guest = await self._guests.create(body.name, spec)
        self._events.add("guest", f"guest {body.name} was made on {node}", subject=body.name)
        return Answer(201, guest)

    async def _show(self, request: Request) -> Answer:
        async def here(name: str) -> Answer:
            return Answer(200, await self._guests.show(name))

        answer = await self._at_owner(request, here)
        if answer.status == 200 and not request.forwarded_by:
            answer.body["migration"] = await self._latest_migration(request)
        return answer

    async def _remove(self, request: Request) -> Answer:
        async def here(name: str) -> Answer:
            await self._guests.remove(name)
            self._events.add("guest", f"guest {name} was removed", subject=name)
            return Answer(200, {"name": name, "removed": True})

        return await self._at_owner(request, here)

    async def _start(self, request: Request) -> Answer:
        return await self._steer(request, self._guests.start)

    async def _stop(self, request: Request) -> Answer:
        return await self._steer(request, self._guests.stop)

    async def _pause(self, request: Request) -> Answer:
        return await self._steer(request, self._guests.pause)

    async def _resume(self, request: Request) -> Answer:
        return await self._steer(request, self._guests.resume)

    async def _steer(self, request: Request, steer: Callable[[str], Awaitable[Json]]) -> Answer:
        async def here(name: str) -> Answer:
            return Answer(200, await steer(name))

        body_of(request, Nothing)
        return await self._at_owner(request, here)

    async def _verify(self, request: Request) -> Answer:
        async def here(name: str) -> Answer:
            found = await self._guests.verify(name)
            return Answer(200, {**asdict(found), "is_intact": found.is_intact})

        return await self._at_owner(request, here, timeout_s=VERIFY_TIMEOUT_S)

    # Migrations

    async def _migrate(self, request: Request) -> Answer:
        to = self._host(body_of(request, MigrateGuest).to)

        async def here(name: str) -> Answer:
            migration = self._migrations.start(name, to, self._policy)
            self._started_s[migration.migration_id] = self._now_s()
            while len(self._started_s) > STARTS_KEPT:
                del self._started_s[next(iter(self._started_s))]
            self._events.add("migration", f"guest {name} leaves {self._cluster.node} for {to}", subject=name)
            migration.when_finished().addCallback(lambda report: self._finished(migration, report))
            return Answer(202, self._face(migration))

        return await self._at_owner(request, here)

    def _finished(self, migration: Migration, report: Any) -> None:
        text = f"guest {migration.name} to {migration.destination}: {report.state}"
        if report.downtime_ms is not None:
            text += f", downtime {report.downtime_ms:.1f} ms"
        if report.reason:
            text += f": {report.reason}"
        self._events.add("migration", text, subject=migration.name)

    def _face(self, migration: Migration) -> Json:
        return {**migration.progress().to_json(), "started_s": self._started_s.get(migration.migration_id, 0.0)}

    async def _migration(self, request: Request) -> Answer:
        latest = await self._latest_migration(request)
        if latest is None:
            name = request.names["name"]
            raise NotFound(
                "no migration of the guest is known", where=f"guest {name}", why="no node that answers has one"
            )
        return Answer(200, latest)

    async def _latest_migration(self, request: Request) -> Json | None:
        """A guest's latest migration, as the node that it left or leaves knows it: its reports stay there."""
        own = self._own_migration(request.names["name"])
        if request.forwarded_by or (own is not None and own["report"] is None):
            return own
        asked = Request("GET", f"{_guest_path(request)}/migration")
        found = list((await self._peers.gather(asked)).values())
        if own is not None:
            found.append(own)
        return max(found, key=lambda face: (face["report"] is None, face["started_s"]), default=None)

    def _own_migration(self, name: str) -> Json | None:
        own = [migration for migration in self._migrations.migrations() if migration.name == name]
        under_way = [migration for migration in own if migration.progress().report is None]
        return self._face([*own, *under_way][-1]) if own else None

    async def _cancel(self, request: Request) -> Answer:
        async def here(name: str) -> Answer:
            for migration in self._migrations.migrations():
                if migration.name == name and migration.progress().report is None:
                    migration.cancel()
                    return Answer(202, self._face(migration))
            raise Refused("no migration of the guest is under way", where=f"guest {name}")

        return await self._at_owner(request, here)

    # Where

    def _host(self, name: str) -> str:
        """The id of the node that is to run a guest.

        Raises:
            NotFound: there is no such node.
            Refused: it takes none.
        """
        members = self._cluster.register.members
        return taker_in(members, name, witness_does="runs no guests", drained_does="takes no guests").id

    async def _at_owner(self, request: Request, here: Here, *, timeout_s: float = FORWARD_TIMEOUT_S) -> Answer:
        """Have the owner of the guest answer: ``here`` when it is this node."""
        name = request.names["name"]
        owner = await self._owner(name, is_fresh=False)
        if owner != self._cluster.node:
            if request.forwarded_by:
                # The node that forwarded it knew more, or less, than this one.
                owner = await self._owner(name, is_fresh=True)
                if owner != self._cluster.node:
                    raise GuestMoved("the guest has moved meanwhile", where=f"guest {name}", hint="ask again")
                return await self._here(here, name)
            answer = await self._peers.ask(owner, request, timeout_s=timeout_s)
            if not _says_moved(answer):
                return answer
            owner = await self._owner(name, is_fresh=True)
            if owner != self._cluster.node:
                return await self._peers.ask(owner, request, timeout_s=timeout_s)
        return await self._here(here, name)

    async def _here(self, here: Here, name: str) -> Answer:
        with self._needing_coordinator():
            return await here(name)

    @contextmanager
    def _needing_coordinator(self) -> Iterator[None]:
        """Tell a refusal that there is a reason for from one because nobody was there to take the command."""
        try:
            yield
        except CommandRefused as error:
            if self._cluster.status()["leader"] is None:
                raise Unavailable("no coordinator answers", where=error.where, why=error.why or error.what) from error
            raise

    async def _owner(self, name: str, *, is_fresh: bool) -> str:
        """The node that owns a guest; ``is_fresh``: as it is now, by the coordinator's word.

        Raises:
            NotFound: there is no such guest, by the coordinator's word.
            Unavailable: no coordinator answers.
        """
        record = self._cluster.register.guest(name)
        if record is not None and not is_fresh:
            return record.owner
        if not is_guest_name(name):
            raise NotFound("there is no such guest", where=f"guest {name[:80]}")
        try:
            found = await self._cluster.read_guest(name, timeout_s=READ_TIMEOUT_S)
        except ClusterError as error:
            raise Unavailable("no coordinator answers", where=f"guest {name}", why=error.why or error.what) from error
        if found is None:
            raise NotFound("there is no such guest", where=f"guest {name}")
        return str(found["owner"])


def _guest_path(request: Request) -> str:
    return "/".join(request.path.split("/")[:4])


def _says_moved(answer: Answer) -> bool:
    error = answer.body.get("error")
    return answer.status == GuestMoved.status and isinstance(error, dict) and error.get("kind") == GuestMoved.__name__
