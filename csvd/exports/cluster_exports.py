"""The exports of the cluster at one node, put together: the service, what is served, and how it is changed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from csvd.cluster.coordination.faces import Coordination, Service
from csvd.cluster.data_keys import DataKeys
from csvd.cluster.reactor import Clock
from csvd.exports.cluster_administration import ClusterAdministration
from csvd.exports.cluster_targets import ClusterTargets
from csvd.exports.coordinator import ExportsService
from csvd.exports.joined import JoinedServing
from csvd.exports.local import Run
from csvd.exports.node_ports import Member
from csvd.exports.sealing import Sealing
from csvd.iscsi.portals import split_address


class ExportingMember(Member, Protocol):
    """A member of the cluster, as far as exports go."""

    @property
    def is_witness(self) -> bool:
        """Whether it exports nothing."""

    @property
    def address(self) -> str:
        """Where the others reach it, ``host:port``; empty where none does."""


class ClusterExports:
    """Makes a node take part in what its cluster exports.

    Args:
        coordination: not started yet.
        members: gives the members of the cluster by id, as the register has them now.
        on_members: calls back after each change of the register; gives what ends it.
        serving: serves the node's own targets, too.
        keys: the cluster's, for secrets; None on a node of no cluster.
        portals: where this node listens for the targets of the cluster; with none it serves none of them.
        run: for what blocks.
        entropy: gives unpredictable bytes.
        tell: told what happened: a word, a sentence, whom it is about.
        on_current: see ClusterTargets.
    """

    def __init__(
        self,
        coordination: Coordination,
        *,
        members: Callable[[], Mapping[str, ExportingMember]],
        on_members: Callable[[Callable[..., None]], Callable[[], None]],
        serving: JoinedServing,
        keys: DataKeys | None,
        portals: Sequence[str],
        clock: Clock,
        run: Run,
        entropy: Callable[[int], bytes],
        tell: Callable[[str, str, str], None],
        on_current: Callable[[], None] = lambda: None,
    ) -> None:
        self._node = coordination.node
        self._members = members
        self._on_members = on_members
        self._services: list[ExportsService] = []
        self._end: Callable[[], None] | None = None
        self._last_number: int | None = None
        self._serves = bool(portals)
        sealing = Sealing(keys, entropy)

        def make(disk: str, *, is_system: bool) -> Service | None:
            if not is_system:
                return None
            service = ExportsService(sealing, members, entropy, tell)
            self._services.append(service)
            return service

        coordination.add_service(make)
        self.targets = ClusterTargets(
            coordination,
            serving,
            sealing,
            number=self._number,
            portals=portals,
            host=self._host,
            clock=clock,
            tell=tell,
            on_current=on_current,
            is_member=lambda node: node in members(),
        )
        self.administration = ClusterAdministration(self.targets, serving, sealing, run)

    def _number(self) -> int | None:
        """This node's number; None while it is no member, and of one that serves nothing."""
        member = self._members().get(self._node)
        return None if member is None or member.is_witness or not self._serves else member.number

    def _host(self) -> str:
        member = self._members().get(self._node)
        return "" if member is None or not member.address else split_address(member.address)[0]

    def start(self) -> None:
        """Serve what the cluster exports from now on; after the node's own targets are served."""
        self._end = self._on_members(self._members_changed)
        self._last_number = self._number()
        self.targets.start()

    def stop(self) -> None:
        """Begin nothing any more."""
        if self._end is not None:
            self._end()
        self.targets.stop()

    def _members_changed(self, *_: object) -> None:
        for service in self._services:
            service.members_changed()
        number = self._number()
        if number != self._last_number:
            self._last_number = number
            self.targets.number_changed()
