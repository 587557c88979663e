"""The migrations to this node: agrees to them or not, connects each to its stream, and follows it to its end."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Final, TypeVar

import msgspec
from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from csvd.migration.chunks import MAXIMUM_MEMORY_BYTES, MAXIMUM_NAME_BYTES, MIGRATION_ID_BYTES, VERSION, Opening
from csvd.migration.errors import MigrationError, MigrationRefused
from csvd.migration.handover import SUBMIT_TIMEOUT_S
from csvd.migration.image import MemoryImage
from csvd.migration.incoming import Arrival, IncomingMigration, IncomingState
from csvd.migration.interfaces import GuestHost, StreamLink
from csvd.migration.outgoing import METHOD_ABORT, METHOD_PREPARE, STREAM_KIND, Surroundings
from csvd.migration.receiver import ImageWriter

MAXIMUM_INCOMING: Final = 4
_ENDED_KEPT: Final = 64

_Request = TypeVar("_Request")
_Id = Annotated[str, msgspec.Meta(pattern=f"^[0-9a-f]{{{2 * MIGRATION_ID_BYTES}}}$")]


class PrepareRequest(msgspec.Struct, frozen=True):
    """The parameters of the call by which a source asks."""

    version: int
    migration_id: _Id
    guest: Annotated[str, msgspec.Meta(min_length=1, max_length=MAXIMUM_NAME_BYTES)]
    epoch: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    spec: dict[str, Any]
    memory_bytes: Annotated[int, msgspec.Meta(gt=0, le=MAXIMUM_MEMORY_BYTES)]
    page_bytes: Annotated[int, msgspec.Meta(ge=512, le=1 << 20)]
    digest_seed: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    is_running: bool


class AbortRequest(msgspec.Struct, frozen=True):
    """The parameters of the call by which a source takes its request back before it has opened its stream."""

    migration_id: _Id


class MigrationDestination:
    """The service at the destination. It serves the cluster's calls and streams as soon as it is made.

    Args:
        guests: the guests of this node.
        maximum_incoming: migrations at once; one a guest.
    """

    _log = Logger()

    def __init__(
        self, surroundings: Surroundings, guests: GuestHost, *, maximum_incoming: int = MAXIMUM_INCOMING
    ) -> None:
        self._surroundings = surroundings
        self._cluster = surroundings.cluster
        self._guests = guests
        self._maximum_incoming = maximum_incoming
        self._under_way: dict[str, IncomingMigration | None] = {}
        self._ended: list[IncomingMigration] = []
        self._is_stopping = False
        self._cluster.serve(METHOD_PREPARE, self._prepare)
        self._cluster.serve(METHOD_ABORT, self._abort)
        self._cluster.serve_stream(STREAM_KIND, self._stream_opened)

    async def _prepare(self, peer: str, params: dict[str, Any]) -> dict[str, Any]:
        """Serve METHOD_PREPARE. Raises MigrationRefused, or the host's error."""
        request = _converted(params, PrepareRequest, peer)
        where = f"guest {request.guest}"
        if request.version != VERSION:
            raise MigrationRefused(
                f"{peer} speaks version {request.version} of the stream, this node {VERSION}", where=where
            )
        if self._is_stopping:
            raise MigrationRefused("this node is shutting down", where=where)
        if not await self._source_owns(peer, request):
            raise MigrationRefused(
                f"the register does not name {peer} as the owner, epoch {request.epoch}", where=where
            )
        await self._make_way(peer, request.guest)
        if len(self._under_way) >= self._maximum_incoming:
            raise MigrationRefused(f"{len(self._under_way)} guests are on their way to this node already", where=where)
        self._under_way[request.guest] = None
        try:
            migration = await self._arrival(peer, request)
        except BaseException:
            self._under_way.pop(request.guest, None)
            raise
        self._under_way[request.guest] = migration
        Deferred.fromCoroutine(migration.run()).addBoth(self._over, migration)
        return {"version": VERSION}

    async def _source_owns(self, peer: str, request: PrepareRequest) -> bool:
        """Whether the register says, now, that the one who asks may."""
        answer = await self._cluster.submit({"op": "guest_read", "name": request.guest}, timeout_s=SUBMIT_TIMEOUT_S)
        record: dict[str, Any] | None = answer.get("guest")
        return record is not None and (record["owner"], record["epoch"]) == (peer, request.epoch)

    async def _make_way(self, peer: str, guest: str) -> None:
        """Drop a copy of the same guest that an earlier attempt of the same source has left behind.

        The source owns the guest and asks anew, so its earlier attempt is settled and cannot hand over any more.
        """
        if guest not in self._under_way:
            return
        earlier = self._under_way[guest]
        if earlier is None or earlier.arrival.source != peer or not earlier.is_orphaned:
            raise MigrationRefused("the guest is on its way to this node already", where=f"guest {guest}")
        earlier.abort("it asks anew")
        await earlier.when_over()

    async def _arrival(self, peer: str, request: PrepareRequest) -> IncomingMigration:
        """Have the host make room, and open the image."""
        guest = await self._guests.arrive(
            request.guest,
            spec=request.spec,
            memory_bytes=request.memory_bytes,
            source=peer,
            epoch=request.epoch,
            is_running=request.is_running,
        )
        opening = Opening(
            bytes.fromhex(request.migration_id),
            request.guest,
            request.memory_bytes,
            request.page_bytes,
            request.digest_seed,
        )
        arrival = Arrival(peer, request.epoch, opening, request.spec, request.is_running)
        image: MemoryImage | None = None
        try:
            image = opened = MemoryImage.open(guest.image_path, request.memory_bytes, writable=True)
            # Its tables take a while to make for a large guest.
            writer = await self._surroundings.run_in_thread(lambda: ImageWriter(opened, opening))
        except BaseException:
            if image is not None:
                image.close()
            await guest.discard()
            raise
        return IncomingMigration(self._surroundings, arrival, guest, image, writer)

    async def _abort(self, peer: str, params: dict[str, Any]) -> dict[str, Any]:
        """Serve METHOD_ABORT; answers whether there was something to call off."""
        migration = self._find(peer, _converted(params, AbortRequest, peer).migration_id)
        if migration is not None:
            migration.abort("before its stream was open")
        return {"found": migration is not None}

    def _stream_opened(self, peer: str, header: dict[str, Any], link: StreamLink) -> None:
        """Serve STREAM_KIND. Raises MigrationRefused, which refuses the stream."""
        migration = self._find(peer, header.get("migration_id"))
        if migration is None:
            raise MigrationRefused("no such migration is expected here", where=f"stream of {peer}")
        migration.attach(link)

    def _find(self, peer: str, migration_id: object) -> IncomingMigration | None:
        for migration in self._under_way.values():
            if migration and (migration.arrival.source, migration.migration_id) == (peer, migration_id):
                return migration
        return None

    def _over(self, result: object, migration: IncomingMigration) -> None:
        guest = migration.arrival.opening.guest
        if self._under_way.get(guest) is migration:  # a new attempt may have taken the place
            del self._under_way[guest]
        self._ended.append(migration)
        del self._ended[:-_ENDED_KEPT]
        if isinstance(result, Failure):
            self._log.failure("guest {guest}: a fault in its arrival", result, guest=guest)
        self._log.info(
            "guest {guest}: its arrival from {source} ended: {state} {reason}",
            guest=guest,
            source=migration.arrival.source,
            state=migration.state.value,
            reason=migration.reason,
        )

    def migrations(self) -> Sequence[IncomingMigration]:
        """Those under way, and the last that ended."""
        return [*filter(None, self._under_way.values()), *self._ended]

    async def stop(self) -> None:
        """Take none any more and throw away what is not complete.

        A complete copy stays, and its note beside the image: the register may yet name this node.
        """
        self._is_stopping = True
        for migration in [*filter(None, self._under_way.values())]:
            if migration.state in (IncomingState.WAITING, IncomingState.RECEIVING):
                over = migration.when_over()
                migration.fail(MigrationError("the destination is shutting down"))
                await over


def _converted(params: dict[str, Any], kind: type[_Request], peer: str) -> _Request:
    try:
        return msgspec.convert(params, kind)
    except msgspec.ValidationError as error:
        raise MigrationRefused("a request for a migration is malformed", where=peer, why=str(error)) from error
