"""The routes of the node itself: its status and the cluster's, its sessions, its events."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from typing import Final

from csvd.api import metrics
from csvd.api.errors import BadRequest
from csvd.api.events import EventRing
from csvd.api.footprint import open_files, resident_bytes
from csvd.api.guest_list import list_guests
from csvd.api.interfaces import Cluster, Exports, Guests, Json, SharedDisks, Target
from csvd.api.peers import Peers
from csvd.api.routes import Answer, Request, Route

MEMBERS: Final = "members"
ALL: Final = "all"


class NodeRoutes:
    """Answers for this node, and for the cluster as it sees it."""

    def __init__(
        self,
        cluster: Cluster,
        guests: Guests,
        peers: Peers,
        events: EventRing,
        *,
        target: Target,
        exports: Exports,
        version: str,
        disks: SharedDisks,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._cluster = cluster
        self._guests = guests
        self._peers = peers
        self._events = events
        self._target = target
        self._exports = exports
        self._version = version
        self._disks = disks
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
            Route(
                "GET",
                "/v1/sessions",
                self._sessions,
                "The iSCSI sessions of this node; with nodes=all those of the others, too.",
                query=("nodes",),
            ),
            Route("GET", "/v1/statistics", self._statistics, "What the commands of this node came to."),
            self.metrics_route(),
            Route(
                "GET", "/v1/events", self._list_events, "What happened at this node after event N.", query=("after",)
            ),
        )

    def metrics_route(self) -> Route:
        """The row that may be served beside the others."""
        return Route("GET", "/metrics", self._metrics, "What this node counts, in Prometheus' text format.")

    async def _status(self, request: Request) -> Answer:
        detail = request.query.get("detail", "")
        if detail not in ("", MEMBERS):
            raise BadRequest(f"there is no detail {detail[:60]!r}", where=request.path, hint=f"detail={MEMBERS}")
        facts = {self._cluster.node: await self._facts()}
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
                "disks": self._disks.list_disks(),
                "guests": list_guests(self._guests, self._cluster),
            },
        )

    async def _node(self, request: Request) -> Answer:
        return Answer(200, await self._facts())

    async def _facts(self) -> Json:
        await self._target.refresh()
        targets = self._exports.targets()
        return {
            "node": self._cluster.node,
            "version": self._version,
            "process_id": os.getpid(),
            "uptime_s": self._now_s() - self._began_s,
            "targets": [{"name": face["name"], "portal_group_tag": face["portal_group_tag"]} for face in targets],
            "units": [unit for unit in self._exports.luns() if unit["size_bytes"] is not None],
            "troubles": self._exports.troubles(),
            "portals": self._target.portals,
            "sessions": len(self._target.sessions()),
            "workers": self._target.workers(),
        }

    async def _sessions(self, request: Request) -> Answer:
        nodes = request.query.get("nodes", "")
        if nodes not in ("", ALL):
            raise BadRequest(f"there are no nodes {nodes[:60]!r}", where=request.path, hint=f"nodes={ALL}, or nothing")
        await self._target.refresh()
        sessions = [{**session, "node": self._cluster.node} for session in self._target.sessions()]
        if nodes and not request.forwarded_by:
            for body in (await self._peers.gather(Request("GET", "/v1/sessions"))).values():
                sessions.extend(body.get("sessions", ()))
        return Answer(200, {"sessions": sessions})

    async def _statistics(self, request: Request) -> Answer:
        await self._target.refresh()
        return Answer(200, self._target.statistics())

    async def _metrics(self, request: Request) -> Answer:
        facts = {
            **await self._facts(),
            "sessions": self._target.sessions(),
            "statistics": self._target.statistics(),
            "events": dict(self._events.counts),
            "cluster": self._cluster.status(),
            "process": {"resident_bytes": resident_bytes(), "open_files": open_files()},
        }
        return Answer(200, {}, metrics.text_of(facts), metrics.CONTENT_TYPE)

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
