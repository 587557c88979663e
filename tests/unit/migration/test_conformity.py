"""The real cluster and the real guests have the shapes that migration and the VM role ask for.

mypy checks the types in this file; the tests check that nothing is left out at run time.
"""

from __future__ import annotations

from pathlib import Path

from twisted.internet.defer import Deferred
from twisted.internet.task import Clock

from csvd.cluster.assembly import open_node
from csvd.cluster.cluster import Cluster
from csvd.cluster.stream import StreamLink
from csvd.migration import interfaces as migration
from csvd.vm import interfaces as vm
from csvd.vm.handover import ArrivingGuest, DepartingGuest, GuestHost
from csvd.vm.process import GuestProcess


def for_migration(cluster: Cluster) -> migration.Cluster:
    return cluster


def for_vm(cluster: Cluster) -> vm.Cluster:
    return cluster


def stream_for_migration(link: StreamLink) -> migration.StreamLink:
    return link


def host_for_migration(host: GuestHost) -> migration.GuestHost:
    return host


def source_guest_for_migration(guest: DepartingGuest) -> migration.SourceGuest:
    return guest


def incoming_guest_for_migration(guest: ArrivingGuest) -> migration.IncomingGuest:
    return guest


def driver_for_vm(driver: GuestProcess) -> vm.GuestDriver:
    return driver


def missing(of: object, protocol: type) -> set[str]:
    """The public names of a protocol that an object or class does not have."""
    return {name for name in vars(protocol) if not name.startswith("_") and not hasattr(of, name)}


def test_the_cluster_can_be_used_by_both(tmp_path: Path) -> None:
    cluster = open_node(
        node="node1",
        directory=tmp_path,
        listen=("127.0.0.1", 0),
        advertise="127.0.0.1:1",
        reactor=Clock(),  # type: ignore[arg-type]
    ).cluster
    assert not missing(for_migration(cluster), migration.Cluster)
    assert not missing(for_vm(cluster), vm.Cluster)
    assert not missing(cluster.register, migration.Register)
    assert not missing(cluster.register, vm.Register)
    Deferred.fromCoroutine(cluster.stop())


def test_streams_guests_and_drivers_have_all_that_is_asked_for() -> None:
    assert not missing(StreamLink, migration.StreamLink) - {"transport"}
    assert not missing(GuestHost, migration.GuestHost)
    assert not missing(ArrivingGuest, migration.IncomingGuest)
    assert not missing(DepartingGuest, migration.SourceGuest) - {"epoch", "is_running"}
    assert not missing(GuestProcess, vm.GuestDriver)
