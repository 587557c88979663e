"""A guest moved over the real cluster: its register by Raft, its calls, its authenticated streams on TCP."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import Any

from csvd.cluster.assembly import open_node
from csvd.cluster.names import text_of_address
from csvd.migration.destination import MigrationDestination
from csvd.migration.outgoing import Surroundings
from csvd.migration.source import MigrationSource
from csvd.vm.files import GuestFiles
from csvd.vm.handover import GuestHost
from csvd.vm.ownership import NodeGuests
from csvd.vm.process import GuestProcess
from csvd.vm.spec import GuestSpec
from tests.members_at_once import make_members
from tests.unit.migration.real_reactor import run_scenario, sleep, threads_of, until

NAMES = ("node1", "node2", "node3")
SPEC = GuestSpec(64 << 20, 2000.0)


class Node:
    """One node with its part of the cluster."""

    def __init__(self, reactor: Any, name: str, members: dict[str, tuple[str, int]], directory: Path) -> None:
        run_in_thread = threads_of(reactor)
        self.cluster = open_node(
            node=name,
            directory=directory / "cluster",
            listen=members[name],
            advertise=text_of_address(members[name]),
            reactor=reactor,
        ).cluster
        files = GuestFiles(directory / "guests")
        self.guests = NodeGuests(
            self.cluster,
            files,
            run_in_thread,
            make_driver=lambda guest, image, spec: GuestProcess(reactor, guest, image, spec),
        )
        surroundings = Surroundings(self.cluster, reactor, run_in_thread)
        host = GuestHost(self.guests, files, run_in_thread)
        self.source = MigrationSource(surroundings, host)
        self.destination = MigrationDestination(surroundings, host)

    async def begin(self) -> None:
        await self.cluster.start()
        await self.guests.begin()

    async def stop(self) -> None:
        await self.source.stop()
        await self.destination.stop()
        await self.guests.close()
        await self.cluster.stop()


def free_addresses() -> dict[str, tuple[str, int]]:
    """An address of this host for each node; held until all are found, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in NAMES]
    addresses = {name: ("127.0.0.1", held.getsockname()[1]) for name, held in zip(NAMES, sockets, strict=True)}
    for held in sockets:
        held.close()
    return addresses


def test_a_guest_moves_over_the_real_cluster_and_back(tmp_path: Path) -> None:
    async def scenario(reactor: Any) -> None:
        members = free_addresses()
        make_members({name: tmp_path / name / "cluster" for name in NAMES}, members)
        nodes = [Node(reactor, name, members, tmp_path / name) for name in NAMES]
        try:
            for node in nodes:
                await node.begin()
            await until(reactor, lambda: all(node.cluster.register.coordinator for node in nodes), timeout_s=30)
            near, far, third = nodes
            await near.guests.create("g", SPEC)
            counter = 0
            for source, destination in ((near, far), (far, third)):
                while not (await source.guests.show("g"))["pages_rewritten"]:
                    await sleep(reactor, 0.01)
                report = await source.source.start("g", destination.cluster.node).when_finished()
                assert report.state == "completed", report
                assert report.downtime_ms is not None
                description = await destination.guests.show("g")
                assert description["state"] == "running"
                assert description["counter"] > counter
                found = await destination.guests.verify("g")
                assert found.is_intact
                counter = found.counter
            await until(reactor, lambda: near.cluster.register.guest("g") == third.cluster.register.guest("g"))
            record = near.cluster.register.guest("g")
            assert record is not None
            assert (record.owner, record.epoch) == ("node3", 3)
        finally:
            for node in nodes:
                await node.stop()

    run_scenario(scenario, timeout_s=120)
