"""The routes of the cluster's nodes: who they are, what they are called, draining, and eviction."""

from __future__ import annotations

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any, Final, Protocol

from csvd.api.bodies import SetNode, body_of
from csvd.api.errors import NotFound, Refused
from csvd.api.interfaces import Json, Membership
from csvd.api.routes import FORCE, Answer, Request, Route, is_forced
from csvd.cluster.register_members import Member, member_named
from csvd.errors import CsvdError

COMMAND_TIMEOUT_S: Final = 15.0
ROTATE_TIMEOUT_S: Final = 20.0
"""A node that was evicted alive has to be off the disk first: that takes as long as its lease."""


class RotateKey(Protocol):
    """Has secrets sealed with a new key."""

    def __call__(self, *, without: str, timeout_s: float) -> Awaitable[Json]:
        """See `Exports.rotate_key`."""


class MemberRoutes:
    """Answers for the nodes of the cluster.

    Args:
        cluster: this node's membership.
        rotate: has the secrets of the cluster sealed with a new key: see `Exports.rotate_key`.
    """

    def __init__(self, cluster: Membership, rotate: RotateKey) -> None:
        self._cluster = cluster
        self._rotate = rotate

    def routes(self) -> Sequence[Route]:
        """The rows of the table."""
        return (
            Route("GET", "/v1/nodes", self._list, "The nodes of the cluster, as this one knows them."),
            Route("GET", "/v1/nodes/{node}", self._show, "One node, by its id or its name."),
            Route("PATCH", "/v1/nodes/{node}", self._set, "Change a node: name, is_draining."),
            Route(
                "DELETE",
                "/v1/nodes/{node}",
                self._evict,
                "Take a node out of the cluster for good; with force=true also one that has guests.",
                query=(FORCE,),
            ),
        )

    async def _list(self, request: Request) -> Answer:
        status = self._cluster.status()
        return Answer(200, {"nodes": [_face(member, status) for member in self._cluster.register.members.values()]})

    async def _show(self, request: Request) -> Answer:
        return Answer(200, _face(self._named(request), self._cluster.status()))

    async def _set(self, request: Request) -> Answer:
        body = body_of(request, SetNode)
        changes: Json = {}
        if body.name is not None:
            changes["name"] = body.name
        if body.is_draining is not None:
            changes["is_draining"] = body.is_draining
        member = self._named(request)
        await self._submit({"op": "member_set", "id": member.id, **changes})
        now = self._cluster.register.members.get(member.id, member)
        return Answer(200, _face(now, self._cluster.status()))

    async def _evict(self, request: Request) -> Answer:
        force = is_forced(request)
        member = self._named(request)
        owned = [name for name, guest in self._cluster.register.guests.items() if guest.owner == member.id]
        if owned and not force:
            raise Refused(
                f"node {member.name} has guests: {', '.join(owned)}",
                hint="migrate them first; with --force they stay in the register, with an owner that is gone",
            )
        await self._submit({"op": "member_remove", "id": member.id})
        rotated = await self._rotated(member.id)
        return Answer(200, {"id": member.id, "name": member.name, "guests": owned, **rotated})

    async def _rotated(self, node: str) -> Json:
        """What became of the key that an evicted node still has; without a new one nothing else is less true."""
        try:
            rotated = await self._rotate(without=node, timeout_s=ROTATE_TIMEOUT_S)
        except CsvdError as error:
            return {"key": None, "secrets": [], "trouble": str(error)}
        return {**rotated, "trouble": ""}

    async def _submit(self, command: dict[str, Any]) -> None:
        await self._cluster.submit(command, timeout_s=COMMAND_TIMEOUT_S)

    def _named(self, request: Request) -> Member:
        return named_in(self._cluster.register.members, request.names["node"])


def named_in(members: Mapping[str, Member], name: str) -> Member:
    """The node that is meant by an id or a name. Raises NotFound."""
    found = member_named(members, name)
    if found is None:
        known = ", ".join(member.name for member in members.values())
        raise NotFound(f"there is no node {name[:63]!r} in the cluster", hint=f"nodes: {known}")
    return found


def taker_in(members: Mapping[str, Member], name: str, *, witness_does: str, drained_does: str) -> Member:
    """The node that is meant by an id or a name, and is to be given something.

    Args:
        witness_does, drained_does: what a witness, or a node that is being drained, says of that.

    Raises:
        NotFound: there is no such node.
        Refused: it is given nothing.
    """
    member = named_in(members, name)
    if member.is_witness:
        raise Refused(f"node {member.name} is a witness, which {witness_does}")
    if member.is_draining:
        raise Refused(
            f"node {member.name} is being drained, and {drained_does}", hint=f"csvd node undrain {member.name}"
        )
    return member


def _face(member: Member, status: Json) -> Json:
    """A node, with what the status of the one that is asked says of it."""
    unknown = {"address": member.address, "link": "down", "trouble": ""}
    link = next((one for one in status["members"] if one["node"] == member.id), unknown)
    return {
        **member.to_json(),
        "address": link["address"],
        "link": link["link"],
        "trouble": link["trouble"],
        "is_coordinator": status["coordinator"] == member.id,
    }
