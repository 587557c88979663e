"""The routes of what a node exports: targets, logical units, access lists, portals, the configuration in force."""

from __future__ import annotations

from collections.abc import Sequence

from csvd.api.bodies import Keys, Named, Nothing, Resize, body_of
from csvd.api.errors import BadRequest
from csvd.api.interfaces import Exports
from csvd.api.peers import Peers
from csvd.api.routes import FORCE, Answer, Request, Route, is_forced

GRACE = "grace_s"
SCOPE = "scope"
NODE = "node"
MAX_GRACE_S = 3600


class ExportRoutes:
    """Answers for the targets of this node and of its cluster."""

    def __init__(self, exports: Exports, peers: Peers) -> None:
        self._exports = exports
        self._peers = peers

    def routes(self) -> Sequence[Route]:
        """The rows of the table."""
        target, lun = "/v1/targets/{target}", "/v1/targets/{target}/luns/{lun}"
        return (
            Route("GET", "/v1/config", self._configuration, "The configuration in force, and where it is from."),
            Route("POST", "/v1/key", self._rotate, "Seal the secrets of the cluster with a new key."),
            Route("GET", "/v1/portals", self._portals, "Where this node listens, and for which targets."),
            Route("GET", "/v1/targets", self._targets, "The targets of this node and of its cluster."),
            Route(
                "POST",
                "/v1/targets",
                self._create_target,
                "Serve another target: name, keys; with scope=node at this node alone, with scope=cluster at all.",
                query=(SCOPE,),
            ),
            Route("GET", target, self._target, "One target, with its logical units and its access list."),
            Route("PATCH", target, self._set_target, "Change keys of a target; null is the default."),
            Route("DELETE", target, self._remove_target, "Serve a target no more.", query=(FORCE,)),
            Route("GET", "/v1/luns", self._all_luns, "The logical units of all targets."),
            Route("GET", f"{target}/luns", self._luns, "The logical units of a target."),
            Route("POST", f"{target}/luns", self._add_lun, "Serve another logical unit: keys."),
            Route("GET", lun, self._lun, "One logical unit."),
            Route("PATCH", lun, self._set_lun, "Change keys of a logical unit; null is the default."),
            Route("DELETE", lun, self._remove_lun, "Serve a logical unit no more; its disk stays."),
            Route("POST", f"{lun}/resize", self._resize_lun, "Give a logical unit another size: size_bytes, force."),
            Route("GET", f"{target}/acl", self._acl, "The access list of a target."),
            Route("POST", f"{target}/acl", self._add_acl, "Let an initiator log in: name, keys."),
            Route("PATCH", f"{target}/acl/{{initiator}}", self._set_acl, "Change what holds for an initiator: keys."),
            Route("DELETE", f"{target}/acl/{{initiator}}", self._remove_acl, "Let an initiator log in no more."),
            Route(
                "DELETE",
                f"{target}/sessions/{{tsih}}",
                self._drop_session,
                "End a session, of this node or of node; with grace_s its initiator is asked to log out first.",
                query=(GRACE, NODE),
            ),
        )

    async def _configuration(self, request: Request) -> Answer:
        return Answer(200, self._exports.configuration())

    async def _portals(self, request: Request) -> Answer:
        return Answer(200, {"portals": self._exports.portals()})

    async def _rotate(self, request: Request) -> Answer:
        body_of(request, Nothing)
        return Answer(200, await self._exports.rotate_key())

    async def _targets(self, request: Request) -> Answer:
        await self._exports.refresh()
        return Answer(200, {"targets": self._exports.targets()})

    async def _create_target(self, request: Request) -> Answer:
        body = body_of(request, Named)
        return Answer(201, await self._exports.create_target(body.name, body.keys, scope=request.query.get(SCOPE, "")))

    async def _target(self, request: Request) -> Answer:
        await self._exports.refresh()
        return Answer(200, self._exports.target(request.names["target"]))

    async def _set_target(self, request: Request) -> Answer:
        body = body_of(request, Keys)
        return Answer(200, await self._exports.set_target(request.names["target"], body.keys))

    async def _remove_target(self, request: Request) -> Answer:
        force = is_forced(request)
        return Answer(200, await self._exports.remove_target(request.names["target"], force=force))

    async def _all_luns(self, request: Request) -> Answer:
        return Answer(200, {"luns": self._exports.luns()})

    async def _luns(self, request: Request) -> Answer:
        return Answer(200, {"luns": self._exports.luns(request.names["target"])})

    async def _add_lun(self, request: Request) -> Answer:
        body = body_of(request, Keys)
        return Answer(201, await self._exports.add_lun(request.names["target"], body.keys))

    async def _lun(self, request: Request) -> Answer:
        return Answer(200, self._exports.lun(request.names["target"], _number(request, "lun")))

    async def _set_lun(self, request: Request) -> Answer:
        body = body_of(request, Keys)
        return Answer(200, await self._exports.set_lun(request.names["target"], _number(request, "lun"), body.keys))

    async def _remove_lun(self, request: Request) -> Answer:
        body_of(request, Nothing)
        return Answer(200, await self._exports.remove_lun(request.names["target"], _number(request, "lun")))

    async def _resize_lun(self, request: Request) -> Answer:
        body = body_of(request, Resize)
        name, number = request.names["target"], _number(request, "lun")
        return Answer(200, await self._exports.resize_lun(name, number, body.size_bytes, force=body.force))

    async def _acl(self, request: Request) -> Answer:
        return Answer(200, {"acl": self._exports.acl(request.names["target"])})

    async def _add_acl(self, request: Request) -> Answer:
        body = body_of(request, Named)
        return Answer(201, await self._exports.add_acl(request.names["target"], body.name, body.keys))

    async def _set_acl(self, request: Request) -> Answer:
        body = body_of(request, Keys)
        return Answer(200, await self._exports.set_acl(request.names["target"], request.names["initiator"], body.keys))

    async def _remove_acl(self, request: Request) -> Answer:
        return Answer(200, await self._exports.remove_acl(request.names["target"], request.names["initiator"]))

    async def _drop_session(self, request: Request) -> Answer:
        grace = request.query.get(GRACE, "0")
        if not grace.isascii() or not grace.isdigit() or len(grace) > 4 or int(grace) > MAX_GRACE_S:
            raise BadRequest(f"{grace[:20]!r} is not 0 to {MAX_GRACE_S} seconds", where=request.path)
        tsih = _number(request, "tsih")
        node = request.query.get(NODE, self._peers.node)
        if node != self._peers.node and not request.forwarded_by:
            query = {name: value for name, value in request.query.items() if name != NODE}
            return await self._peers.ask(node, Request(request.method, request.path, query, request.body))
        return Answer(200, await self._exports.drop_session(request.names["target"], tsih, grace_s=int(grace)))


def _number(request: Request, name: str) -> int:
    text = request.names[name]
    if not text.isascii() or not text.isdigit() or len(text) > 9:
        raise BadRequest(f"{text[:40]!r} is not a number", where=request.path)
    return int(text)
