"""The routes of shared disks: what there are, their coordinators, and the fence by hand."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from csvd.api.bodies import body_of
from csvd.api.interfaces import SharedDisks
from csvd.api.routes import Answer, Request, Route


class AddDisk(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of POST /v1/disks."""

    name: str
    url: str
    create_bytes: int | None = None
    adopt: bool = False
    force: bool = False


class MoveCoordinator(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of POST /v1/disks/DISK/coordinator."""

    node: str


class FenceNode(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Of POST /v1/nodes/NODE/fence."""

    force: bool = False
    is_powered_off: bool = False


class DiskRoutes:
    """Answers for the shared disks of the cluster."""

    def __init__(self, disks: SharedDisks) -> None:
        self._disks = disks

    def routes(self) -> Sequence[Route]:
        """The rows of the table."""
        return (
            Route("GET", "/v1/disks", self._list, "The shared disks, with their coordinators, offices and sessions."),
            Route("POST", "/v1/disks", self._add, "Share a disk: name, url, create_bytes, adopt, force."),
            Route("GET", "/v1/disks/{disk}", self._show, "One shared disk, with its owner block and records."),
            Route("DELETE", "/v1/disks/{disk}", self._remove, "Share a disk no more; what is on it stays."),
            Route("POST", "/v1/disks/{disk}/coordinator", self._move, "Have another node coordinate it: node."),
            Route(
                "POST",
                "/v1/nodes/{node}/fence",
                self._fence,
                "Keep a node off all shared disks: force where it is alive, is_powered_off where you see to it.",
            ),
        )

    async def _list(self, request: Request) -> Answer:
        return Answer(200, {"disks": self._disks.list_disks()})

    async def _add(self, request: Request) -> Answer:
        body = body_of(request, AddDisk)
        added = await self._disks.add_disk(
            body.name, body.url, create_bytes=body.create_bytes, adopt=body.adopt, force=body.force
        )
        return Answer(201, added)

    async def _show(self, request: Request) -> Answer:
        return Answer(200, await self._disks.show_disk(request.names["disk"]))

    async def _remove(self, request: Request) -> Answer:
        return Answer(200, await self._disks.remove_disk(request.names["disk"]))

    async def _move(self, request: Request) -> Answer:
        body = body_of(request, MoveCoordinator)
        return Answer(200, await self._disks.move_coordinator(request.names["disk"], body.node))

    async def _fence(self, request: Request) -> Answer:
        body = body_of(request, FenceNode)
        fenced = await self._disks.fence(request.names["node"], force=body.force, is_vouched_for=body.is_powered_off)
        return Answer(200, fenced)
