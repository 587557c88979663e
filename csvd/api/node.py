"""The routes of the node itself: its status and the cluster's, its sessions, its events."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from csvd.api.errors import BadRequest
from csvd.api.events import EventRing
from csvd.api.guest_list import list_guests
from csvd.api.interfaces import Cluster, Guests, Json, Target
from csvd.api.peers import Peers
from csvd.api.routes import Answer, Request, Route

MEMBERS: Final = "members"


@dataclass(frozen=True, slots=True)
class TargetFacts:
    """What the configuration says of the target.

    Args:
        units: number, disk, size and so on of each logical unit.
    """

    name: str
    portal_group_tag: int
    units: Sequence[Json]


class NodeRoutes:
    """Answers for this node, and for the cluster as it sees it."""

    def __init__(
        self,
        cluster: Cluster,
        guests: Guests,
        peers: Peers,
        events: EventRing,
        *,
        target: Target | None,
        target_facts: TargetFacts | None,
        version: str,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._guests = guests
        self._peers = peers
        self._events = events
        self._target = target
        self._target_facts = target_facts
        self._version = version
        self._now_s = now_s
        self._began_s = now_s()

    def routes(self) -> Sequence[Route]:
        """The rows of the table."""
        return (
            Route(
                "GET",
                "/v1/status",
                self._status,
                "The node and its cluster; with detail=members also what the other nodes say of themselves.",
                query=("detail",),
            ),
            Route("GET", "/v1/node", self._node, "What this node says of itself."),
            Route("GET", "/v1/sessions", self._sessions, "The iSCSI sessions of this node."),
            Route(
                "GET", "/v1/events", self._list_events, "What happened at this node after event N.", query=("after",)
            ),
        )

    async def _status(self, request: Request) -> Answer:
        detail = request.query.get("detail", "")
        if detail not in ("", MEMBERS):
            raise BadRequest(f"there is no detail {detail[:60]!r}", where=request.path, hint=f"detail={MEMBERS}")
        facts = {self._cluster.node: self._facts()}
        if detail and not request.forwarded_by:
            facts |= await self._peers.gather(Request("GET", "/v1/node"))
        status = self._cluster.status()
        epoch = status["epoch"]
        return Answer(
            200,
            {
                "node": status["node"],
                "coordinator": {"node": status["coordinator"], "epoch": epoch} if status["coordinator"] else None,
                "is_coordinator": status["is_coordinator"],
                "leader": status["leader"],
                "term": status["term"],
                "commit_index": status["commit_index"],
                "revision": status["revision"],
                "failure": status["failure"],
                "members": {member["node"]: _member(member, facts) for member in status["members"]},
                "guests": list_guests(self._guests, self._cluster),
            },
        )

    async def _node(self, request: Request) -> Answer:
        return Answer(200, self._facts())

    def _facts(self) -> Json:
        target = self._target_facts
        return {
            "node": self._cluster.node,
            "version": self._version,
            "process_id": os.getpid(),
            "uptime_s": self._now_s() - self._began_s,
            "target": None if target is None else target.name,
            "portal_group_tag": None if target is None else target.portal_group_tag,
            "units": [] if target is None else list(target.units),
            "portals": [] if self._target is None else self._target.portals,
            "sessions": 0 if self._target is None else len(self._target.sessions()),
        }

    async def _sessions(self, request: Request) -> Answer:
        return Answer(200, {"sessions": [] if self._target is None else self._target.sessions()})

    async def _list_events(self, request: Request) -> Answer:
        after = request.query.get("after", "0")
        if not after.isascii() or not after.isdigit() or len(after) > 18:
            raise BadRequest(f"{after[:60]!r} is not the number of an event", where=request.path)
        return Answer(200, self._events.after(int(after)))


def _member(member: Json, facts: dict[str, Json]) -> Json:
    return {
        "address": member["address"],
        "link": member["link"],
        "connected": member["link"] in ("self", "up"),
        "trouble": member["trouble"],
        "facts": facts.get(member["node"]),
    }
