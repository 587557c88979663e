"""The whole thing with initiators that verify on every node: kill -9, stopped processes, cut links."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.integration.faults.hosts import HostCluster, host_cluster


@pytest.fixture
def cluster() -> Iterator[HostCluster]:
    with host_cluster() as made:
        yield made


@pytest.mark.timeout(240)
def test_a_coordinator_that_is_killed_costs_no_write(cluster: HostCluster) -> None:
    loads = cluster.load_every_node()
    for _ in range(2):
        victim, epoch = cluster.leader()
        cluster.kill(victim)
        survivors = cluster.others(victim)
        cluster.leader(*survivors, above_epoch=epoch)
        for node in survivors:
            loads[cluster.nodes.index(node)].goes_on()
        loads[-1].goes_on()
        cluster.restart(victim)
        for load in loads:
            load.goes_on()
    cluster.end_loads()


@pytest.mark.timeout(240)
def test_a_coordinator_that_is_cut_off_is_followed_by_another_and_costs_no_write(cluster: HostCluster) -> None:
    loads = cluster.load_every_node()
    victim, epoch = cluster.leader()
    cluster.world.cut(cluster.host(victim))
    survivors = cluster.others(victim)
    successor, later = cluster.leader(*survivors, above_epoch=epoch)
    assert later > epoch
    loads[-1].goes_on()
    cluster.world.heal()
    assert cluster.leader(above_epoch=epoch)[0] in cluster.nodes
    for load in loads:
        load.goes_on()
    cluster.end_loads()
    assert successor is not victim
