"""Two nodes in one process: an in-memory cluster, real guest processes, real images, the real services."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from csvd.migration.destination import MigrationDestination
from csvd.migration.outgoing import Surroundings
from csvd.migration.source import MigrationSource
from csvd.vm.files import GuestFiles
from csvd.vm.handover import GuestHost
from csvd.vm.ownership import NodeGuests
from csvd.vm.process import GuestProcess
from tests.unit.migration.fakes import Fabric
from tests.unit.migration.real_reactor import threads_of


class Node:
    """One node."""

    def __init__(self, reactor: Any, fabric: Fabric, name: str, directory: Path) -> None:
        run_in_thread = threads_of(reactor)
        self.name = name
        self.cluster = fabric.nodes.get(name) or fabric.node(name)
        self.files = GuestFiles(directory / name)
        self.guests = NodeGuests(
            self.cluster,
            self.files,
            run_in_thread,
            make_driver=lambda guest, image, spec: GuestProcess(reactor, guest, image, spec, timeout_s=5.0),
        )
        surroundings = Surroundings(self.cluster, reactor, run_in_thread, silence_timeout_s=5.0)
        host = GuestHost(self.guests, self.files, run_in_thread)
        self.source = MigrationSource(surroundings, host)
        self.destination = MigrationDestination(surroundings, host)

    async def kill(self) -> None:
        """As SIGKILL of the daemon: links break, and the processes of its guests die with it."""
        self.cluster.go_down()
        for description in self.guests.list_guests():
            guest = self.guests.held(description["name"])
            if guest is not None and guest.driver is not None:
                await guest.driver.kill()

    async def stop(self) -> None:
        await self.source.stop()
        await self.destination.stop()
        await self.guests.close()


async def two_nodes(reactor: Any, directory: Path) -> tuple[Fabric, Node, Node]:
    """A cluster of node1 and node2, begun."""
    fabric = Fabric(reactor)
    nodes = [Node(reactor, fabric, name, directory) for name in ("node1", "node2")]
    for node in nodes:
        await node.guests.begin()
    return fabric, nodes[0], nodes[1]
