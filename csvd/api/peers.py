"""Requests that another node answers: forwarded over the cluster's links, answered there as if its own client asked."""

from __future__ import annotations

from typing import Any, Final

import msgspec
from twisted.internet.defer import Deferred, DeferredList

from csvd.api.errors import BadRequest, Unavailable
from csvd.api.interfaces import Cluster, Json
from csvd.api.routes import Answer, Request, Router
from csvd.cluster.errors import ClusterError

METHOD: Final = "control.request"
FORWARD_TIMEOUT_S: Final = 30.0
GATHER_TIMEOUT_S: Final = 1.0


class ForwardedRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The parameters of the call by which a node forwards a request."""

    method: str
    path: str
    query: dict[str, str] = {}
    body: dict[str, Any] = {}


class ForwardedAnswer(msgspec.Struct, frozen=True):
    """What comes back."""

    status: int
    body: dict[str, Any]


class Peers:
    """The other nodes, as the control API sees them."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    @property
    def node(self) -> str:
        """This node."""
        return self._cluster.node

    def serve(self, router: Router) -> None:
        """Answer what other nodes forward."""

        async def answer(peer: str, params: Json) -> Json:
            try:
                asked = msgspec.convert(params, ForwardedRequest)
            except msgspec.ValidationError as error:
                raise BadRequest("a forwarded request is malformed", where=peer, why=str(error)) from error
            request = Request(asked.method, asked.path, asked.query, asked.body, forwarded_by=peer)
            found = await router.dispatch(request)
            return {"status": found.status, "body": found.body}

        self._cluster.serve(METHOD, answer)

    async def ask(self, node: str, request: Request, *, timeout_s: float = FORWARD_TIMEOUT_S) -> Answer:
        """Have another node answer a request.

        Raises:
            ClusterError: it can not be reached, or did not answer in time.
            Unavailable: what it answered is not an answer.
        """
        params = {
            "method": request.method,
            "path": request.path,
            "query": dict(request.query),
            "body": dict(request.body),
        }
        result = await self._cluster.call(node, METHOD, params, timeout_s=timeout_s)
        try:
            answer = msgspec.convert(result, ForwardedAnswer)
        except msgspec.ValidationError as error:
            raise Unavailable("a node's answer is malformed", where=node, why=str(error)) from error
        return Answer(answer.status, answer.body)

    async def gather(self, request: Request) -> dict[str, Json]:
        """Ask all other nodes that there is a link to, at once; give the bodies of those that answered with a 200."""
        status = self._cluster.status()
        nodes = [member["node"] for member in status["members"] if member["link"] == "up"]
        asking = [Deferred.fromCoroutine(self._try(node, request)) for node in nodes]
        answers = await DeferredList(asking, fireOnOneErrback=True)
        return {node: body for node, (_, body) in zip(nodes, answers, strict=True) if body is not None}

    async def _try(self, node: str, request: Request) -> Json | None:
        try:
            answer = await self.ask(node, request, timeout_s=GATHER_TIMEOUT_S)
        except (ClusterError, Unavailable):
            return None  # The member's link tells that it does not answer.
        return answer.body if answer.status == 200 else None
