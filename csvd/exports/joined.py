"""One serving for two: the targets of this node's own, and those that all nodes of the cluster serve."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from twisted.internet.defer import DeferredLock

from csvd.api.errors import Refused, Unavailable
from csvd.config.targets import TargetSection, portal_groups
from csvd.exports.build import access_of, discovery_access_to
from csvd.exports.serving import Plan, Serving
from csvd.storage.open import place_of
from csvd.target.cluster_ports import ClusterPorts

Json = dict[str, Any]

_NOT_BEGUN: Final = "the node's own targets are not served yet"


class JoinedServing(Serving):
    """Serves what two are to serve, each of which knows nothing of the other; see `Serving`.

    Both change it in turn. What one has, the other is refused: a name, a portal in another group, a disk.

    Args:
        serving: serves all of it.
        tell_ports: has targets of the cluster tell of the ports of all nodes.
    """

    def __init__(self, serving: Serving, *, tell_ports: Callable[[ClusterPorts], None] | None = None) -> None:
        self._serving = serving
        self._tell_ports = tell_ports
        self._turn = DeferredLock()
        self._own = Plan()
        self._clusters = Plan()
        self._prepared = Plan()
        self._has_begun = False

    # The node's own, as Serving

    async def start(self, plan: Plan) -> list[str]:
        """See `Serving`."""
        addresses = await self._serving.start(plan)
        self._own = plan
        self._has_begun = True
        return addresses

    async def prepare(self, plan: Plan) -> None:
        """See `Serving`; whoever prepares commits or abandons, and others wait for that."""
        await self._turn.acquire()
        try:
            await self._serving.prepare(_joined(plan, self._clusters))
        except BaseException:
            self._turn.release()
            raise
        self._prepared = plan

    async def commit(self) -> None:
        """See `Serving`."""
        try:
            self._own = self._prepared
            await self._serving.commit()
        finally:
            self._turn.release()

    async def abandon(self) -> None:
        """See `Serving`."""
        try:
            await self._serving.abandon()
        finally:
            self._turn.release()

    async def note(self, targets: Sequence[TargetSection]) -> None:
        """See `Serving`."""
        self._own = replace(self._own, targets=tuple(targets))
        await self._serving.note((*self._own.targets, *self._clusters.targets))

    # The cluster's

    async def serve_for_cluster(self, targets: Sequence[TargetSection], secrets: Mapping[str, bytes]) -> None:
        """Serve these targets of the cluster, and no others of it.

        Raises:
            CsvdError: they can not be served; all is as it was.
        """
        if targets or self._clusters.targets:
            self._check()
        plan = Plan(tuple(targets), secrets, clustered=frozenset(section.name for section in targets))
        await self._turn.acquire()
        try:
            await self._serving.prepare(_joined(self._own, plan))
            self._clusters = plan
            await self._serving.commit()
        finally:
            self._turn.release()

    async def try_for_cluster(self, target: TargetSection, secrets: Mapping[str, bytes]) -> None:
        """Open what a target of the cluster would take, and close it again; nothing is changed.

        Raises:
            CsvdError: it could not be served.
        """
        others = tuple(section for section in self._clusters.targets if section.name != target.name)
        names = frozenset({*self._clusters.clustered, target.name})
        plan = Plan((*others, target), {**self._clusters.secrets, **secrets}, clustered=names)
        self._check()
        await self._turn.acquire()
        try:
            await self._serving.prepare(_joined(self._own, plan))
            await self._serving.abandon()
        finally:
            self._turn.release()

    def _check(self) -> None:
        if not self._has_begun:
            raise Unavailable(_NOT_BEGUN)

    @property
    def for_cluster(self) -> Sequence[TargetSection]:
        """What is served for the cluster."""
        return self._clusters.targets

    def set_cluster_ports(self, ports: ClusterPorts) -> None:
        """Tell initiators where all nodes are, and how."""
        if self._tell_ports is not None:
            self._tell_ports(ports)

    # Without a difference

    async def stop(self) -> None:
        """See `Serving`."""
        await self._serving.stop()

    async def refresh(self) -> None:
        """See `Serving`."""
        await self._serving.refresh()

    @property
    def portals(self) -> list[str]:
        """See `Serving`."""
        return self._serving.portals

    def groups(self) -> dict[int, dict[str, str]]:
        """See `Serving`."""
        return self._serving.groups()

    def sessions(self) -> list[Json]:
        """See `Serving`."""
        return self._serving.sessions()

    def statistics(self) -> Json:
        """See `Serving`."""
        return self._serving.statistics()

    def workers(self) -> list[Json]:
        """See `Serving`."""
        return self._serving.workers()

    def unit_face(self, target: str, number: int) -> Json | None:
        """See `Serving`."""
        return self._serving.unit_face(target, number)

    async def resize(self, target: str, number: int, size_bytes: int | None, *, full: bool) -> None:
        """See `Serving`."""
        await self._serving.resize(target, number, size_bytes, full=full)

    async def drop_session(self, target: str, tsih: int, *, grace_s: int) -> bool:
        """See `Serving`."""
        return await self._serving.drop_session(target, tsih, grace_s=grace_s)


def _joined(own: Plan, clusters: Plan) -> Plan:
    """Both plans as one.

    Raises:
        Refused: they can not be served together.
    """
    names = {section.name for section in own.targets}
    for section in clusters.targets:
        if section.name in names:
            raise Refused("this node has a target of that name of its own, and so has the cluster", where=section.name)
    _check_portals(own.targets, clusters.targets)
    _check_disks(own.targets, clusters.targets)
    targets = (*own.targets, *clusters.targets)
    joined = Plan(
        targets,
        {**own.secrets, **clusters.secrets},
        own.discovery_access,
        discovery_is_said=own.discovery_is_said,
        clustered=clusters.clustered,
    )
    if own.discovery_is_said or not clusters.targets:
        return joined
    return replace(joined, discovery_access=discovery_access_to([access_of(each, joined.secret) for each in targets]))


def _check_portals(own: Sequence[TargetSection], clusters: Sequence[TargetSection]) -> None:
    tags = {portal: tag for tag, portals in portal_groups(own).items() for portal in portals}
    for tag, portals in portal_groups(clusters).items():
        for portal in portals:
            if tags.get(portal, tag) != tag and not portal.endswith(":0"):
                raise Refused(
                    f"the portal {portal} is in group {tags[portal]} of this node's own targets, "
                    f"and in group {tag} of the cluster's",
                    hint="give one of them another port: target.portals, cluster.portals",
                )


def _check_disks(own: Sequence[TargetSection], clusters: Sequence[TargetSection]) -> None:
    """A disk that all nodes serve has its reservations in the cluster; one of the node's own would not see them."""
    places = {place_of(lun.disk): section.name for section in own for lun in section.lun}
    for section in clusters:
        for lun in section.lun:
            other = places.get(place_of(lun.disk))
            if other is not None:
                raise Refused(
                    f"{lun.disk} is the disk of a LUN of the cluster and of {other}, which is this node's own",
                    where=section.name,
                    hint="export a disk by one of the two",
                )
