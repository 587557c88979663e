"""The targets of two scopes, shown and changed as one: this node's own, and the cluster's."""

from __future__ import annotations

from typing import Any

from csvd.api.errors import BadRequest, Refused
from csvd.exports.administration import Administration
from csvd.exports.cluster_administration import CHANGE_S, ClusterAdministration

Json = dict[str, Any]

NODE = "node"
CLUSTER = "cluster"


class Scopes:
    """Finds out which scope is meant: a name is in one of them. A new target is the cluster's, where there is one.

    Args:
        own: the targets of this node.
        cluster: those of the cluster.
    """

    def __init__(self, own: Administration, cluster: ClusterAdministration) -> None:
        self._own = own
        self._cluster = cluster

    async def start(self) -> list[str]:
        """Serve the targets of this node; see `Administration`."""
        return await self._own.start()

    def _of(self, name: str) -> Administration | ClusterAdministration:
        if self._cluster.has(name) and not self._own.has(name):
            return self._cluster
        return self._own

    # What there is

    async def refresh(self) -> None:
        """Bring what is told of sessions, logical units and other nodes up to date."""
        await self._own.refresh()
        await self._cluster.refresh()

    def targets(self) -> list[Json]:
        """All targets."""
        return [*self._own.targets(), *self._cluster.targets()]

    def target(self, name: str) -> Json:
        """One target."""
        return self._of(name).target(name)

    def luns(self, name: str | None = None) -> list[Json]:
        """The logical units of a target, or of all."""
        if name is not None:
            return self._of(name).luns(name)
        return [*self._own.luns(), *self._cluster.luns()]

    def lun(self, name: str, number: int) -> Json:
        """One logical unit."""
        return self._of(name).lun(name, number)

    def acl(self, name: str) -> list[Json]:
        """Who may log in to a target."""
        return self._of(name).acl(name)

    def troubles(self) -> dict[str, str]:
        """What of the cluster's exports this node can not serve, and why."""
        return self._cluster.troubles()

    def portals(self) -> list[Json]:
        """Where this node listens, and where the other nodes do for the cluster."""
        return [*self._cluster.own_portals(self._own.portals()), *self._cluster.portals()]

    def configuration(self) -> Json:
        """The configuration of this node."""
        return self._own.configuration()

    # Changes

    async def create_target(self, name: str, keys: Json, *, scope: str = "") -> Json:
        """Serve another target.

        Args:
            scope: NODE or CLUSTER; empty for the cluster where there is one.
        """
        if scope not in ("", NODE, CLUSTER):
            raise BadRequest(f"there is no scope {scope[:40]!r}", hint=f"known: {NODE}, {CLUSTER}")
        cluster = self._cluster
        if scope == NODE or (not scope and not cluster.is_there):
            if cluster.has(name):
                raise Refused("the cluster has a target of that name", where=name)
            return await self._own.create_target(name, keys)
        return await cluster.create_target(name, keys)

    async def set_target(self, name: str, keys: Json) -> Json:
        """Change keys of a target."""
        return await self._of(name).set_target(name, keys)

    async def remove_target(self, name: str, *, force: bool) -> Json:
        """Serve a target no more."""
        return await self._of(name).remove_target(name, force=force)

    async def add_lun(self, name: str, keys: Json) -> Json:
        """Serve another logical unit."""
        return await self._of(name).add_lun(name, keys)

    async def set_lun(self, name: str, number: int, keys: Json) -> Json:
        """Change keys of a logical unit."""
        return await self._of(name).set_lun(name, number, keys)

    async def remove_lun(self, name: str, number: int) -> Json:
        """Serve a logical unit no more."""
        return await self._of(name).remove_lun(name, number)

    async def resize_lun(self, name: str, number: int, size_bytes: int | None, *, force: bool) -> Json:
        """Give a logical unit another size."""
        return await self._of(name).resize_lun(name, number, size_bytes, force=force)

    async def add_acl(self, name: str, initiator: str, keys: Json) -> Json:
        """Let an initiator log in."""
        return await self._of(name).add_acl(name, initiator, keys)

    async def set_acl(self, name: str, initiator: str, keys: Json) -> Json:
        """Change what holds for an initiator."""
        return await self._of(name).set_acl(name, initiator, keys)

    async def remove_acl(self, name: str, initiator: str) -> Json:
        """Let an initiator log in no more."""
        return await self._of(name).remove_acl(name, initiator)

    async def rotate_key(self, *, without: str = "", timeout_s: float = CHANGE_S) -> Json:
        """Have the secrets of the cluster sealed with a new key."""
        return await self._cluster.rotate_key(without=without, timeout_s=timeout_s)

    async def drop_session(self, name: str, tsih: int, *, grace_s: int = 0) -> Json:
        """End a session of this node."""
        return await self._own.drop_session(name, tsih, grace_s=grace_s)
