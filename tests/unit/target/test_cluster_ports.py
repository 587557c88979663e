"""Targets that all nodes of a cluster serve, as their initiators see them at one node."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from twisted.internet.defer import Deferred

from csvd.iscsi.portals import GROUPS_PER_NODE, PortalGroup, portal_group_tag
from csvd.scsi.logical_unit import Identity, LogicalUnit
from csvd.scsi.reservation_store import LocalReservations
from csvd.scsi.target_ports import AccessState
from csvd.storage.memory import MemoryDisk
from csvd.target.cluster_ports import ClusterPort
from csvd.target.export import Export
from csvd.target.service import TargetService
from tests.unit.target.fake_reactor import FakeReactor

SHARED = "iqn.2026-11.test:shared"
OWN = "iqn.2026-11.test:own"
OPTIMIZED = AccessState.ACTIVE_OPTIMIZED


@pytest.fixture
def service() -> Iterator[TargetService]:
    reactor = FakeReactor()
    made = TargetService(reactor, [])
    made.start([PortalGroup(1, ("127.0.0.1:0",)), PortalGroup(17, ("127.0.0.1:0",))])
    yield made
    stopped = Deferred.fromCoroutine(made.stop(drain_s=0.0))
    reactor.pump([0.1] * 20)
    assert stopped.called


def states(service: TargetService, name: str) -> dict[int, AccessState]:
    return {tag: group.state for tag, group in service.device(name).ports.groups.items()}


def test_no_two_nodes_have_a_tag_in_common_and_the_first_sixteen_are_left_to_the_nodes() -> None:
    tags = [portal_group_tag(number, place) for number in range(1, 33) for place in range(GROUPS_PER_NODE)]
    assert len(set(tags)) == len(tags)
    assert (min(tags), max(tags)) == (17, 527)


def test_ports_of_other_nodes_are_told_by_the_targets_of_the_cluster_alone(service: TargetService) -> None:
    service.add_target(Export(SHARED, [], portal_group_tags=frozenset({17}), is_clustered=True))
    service.add_target(Export(OWN, []))
    service.set_cluster_ports(
        {
            17: ClusterPort(("192.0.2.1:3260",), OPTIMIZED),
            33: ClusterPort(("192.0.2.2:3260",), AccessState.UNAVAILABLE),
        }
    )
    assert states(service, SHARED) == {17: OPTIMIZED, 33: AccessState.UNAVAILABLE}
    assert service.entity.targets[SHARED].elsewhere == {33: ("192.0.2.2:3260",)}
    assert states(service, OWN) == {1: OPTIMIZED, 17: OPTIMIZED}
    assert service.entity.targets[OWN].elsewhere == {}


def test_a_target_that_comes_later_knows_the_ports_and_the_state_of_its_own_node(service: TargetService) -> None:
    service.set_cluster_ports({17: ClusterPort((), AccessState.STANDBY), 33: ClusterPort((), OPTIMIZED)})
    service.add_target(Export(SHARED, [], portal_group_tags=frozenset({17}), is_clustered=True))
    assert states(service, SHARED) == {17: AccessState.STANDBY, 33: OPTIMIZED}
    service.set_cluster_ports({17: ClusterPort((), OPTIMIZED)})
    assert states(service, SHARED) == {17: OPTIMIZED}


def test_the_reservations_of_a_target_of_the_cluster_are_the_clusters() -> None:
    cluster: dict[bytes, LocalReservations] = {}

    def of(unit: LogicalUnit) -> LocalReservations:
        return cluster.setdefault(unit.identity.naa, LocalReservations(unit))

    def a_unit(serial: str) -> LogicalUnit:
        return LogicalUnit(0, MemoryDisk(1 << 20), 512, 2048, Identity(serial=serial))

    shared, own = a_unit("shared"), a_unit("own")
    service = TargetService(FakeReactor(), [], cluster_reservations=of)
    service.add_target(Export(SHARED, [shared], is_clustered=True))
    service.add_target(Export(OWN, [own]))
    assert service.device(SHARED).servers[0].reservations is cluster[shared.identity.naa]
    assert list(cluster) == [shared.identity.naa]
