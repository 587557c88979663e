"""A cluster of daemons, each on a host of its own, over one shared disk; and initiators that verify it."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.integration.daemon_rig import DaemonNode, Daemons, coordinator_of, eventually
from tests.integration.namespaces import Host, World
from tests.integration.node_load import NodeLoad
from tests.integration.shared_target import SHARED_TARGET, all_live, disk_coordinator, share
from tests.members_at_once import make_members

CLUSTER_PORT = 7000
PORTAL_PORT = 3260
SHARED_BYTES = 32 << 20
LOAD_BLOCKS = 2048


def boot_s() -> float:
    """Seconds since the host was started."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class HostCluster:
    """Daemons of one cluster, which serve a logical unit of a shared file together.

    Args:
        count: of nodes.
        small_state_bytes: the state directory of the last node is on a file system of its own, of this size.
    """

    def __init__(self, count: int = 3, small_state_bytes: int = 0) -> None:
        self.world = World(count)
        self.daemons = Daemons()
        self.loads: list[NodeLoad] = []
        self.epochs: list[int] = []
        """Of the system disk, in the order in which a test has seen them: one before and one after each takeover."""
        try:
            self.nodes = [self._made(number) for number in range(1, count + 1)]
            self.states = {node.name: node.folder / "state" for node in self.nodes}
            """The state directories, as this process sees them."""
            for state in self.states.values():
                state.mkdir(0o700)
            if small_state_bytes:
                last = self.nodes[-1]
                self.states[last.name] = self.host(last).mount_small(last.folder / "state", small_state_bytes)
            make_members(
                {name: state / "cluster" for name, state in self.states.items()},
                {f"node{number}": (host.address, CLUSTER_PORT) for number, host in enumerate(self.world.hosts, 1)},
            )
        except BaseException:
            self.close()
            raise

    def _made(self, number: int) -> DaemonNode:
        host = self.world.hosts[number - 1]
        configuration = (
            f'[node]\nname = "node{number}"\nstate_directory = "state"\n'
            f'[control]\nsocket = "{self.daemons.folder}/node{number}/control.sock"\n'
            f'[cluster]\nlisten = "{host.address}:{CLUSTER_PORT}"\nportals = ["{host.address}:{PORTAL_PORT}"]\n'
        )
        node = DaemonNode(f"node{number}", self.daemons.folder, configuration, prefix=host.prefix)
        node.use_socket(node.folder / "control.sock")
        self.daemons.nodes.append(node)
        return node

    def start(self) -> None:
        """Start all nodes, and have them share a disk."""
        for node in self.nodes:
            node.start()
        for node in self.nodes:
            node.ready()
        share(self.nodes, self.daemons.folder, SHARED_BYTES)

    def host(self, node: DaemonNode) -> Host:
        """Where a node runs."""
        return self.world.hosts[self.nodes.index(node)]

    def url(self, node: DaemonNode) -> str:
        """The shared disk through one node."""
        return f"iscsi://{self.host(node).address}:{PORTAL_PORT}/{SHARED_TARGET}/0"

    @property
    def urls(self) -> list[str]:
        return [self.url(node) for node in self.nodes]

    def named(self, name: str) -> DaemonNode:
        return next(node for node in self.nodes if node.name == name)

    def others(self, *but: DaemonNode) -> list[DaemonNode]:
        return [node for node in self.nodes if node not in but]

    def leader(self, *of: DaemonNode, above_epoch: int = 0) -> tuple[DaemonNode, int]:
        """The coordinator that these nodes agree on (all, where none are named), and its epoch."""
        name, epoch = coordinator_of(list(of) or self.nodes, above_epoch)
        return self.named(name), epoch

    def disk_coordinator(self, *of: DaemonNode, above_epoch: int = 0) -> DaemonNode:
        """The node that is the coordinator of the system disk, one of these, in an epoch above the one given."""
        return disk_coordinator(of or self.nodes, above_epoch)

    def wait_live(self) -> None:
        """Wait until all nodes may use the system disk."""
        all_live(self.nodes)

    # --- loads

    def load(self, on: DaemonNode, urls: list[str], *, workers: int = 2) -> NodeLoad:
        """Start an initiator on the host of a node; each has blocks of its own."""
        plan = {
            "urls": urls,
            "all": self.urls,
            "first_block": LOAD_BLOCKS * len(self.loads),
            "blocks": LOAD_BLOCKS,
            "workers": workers,
            "seed": len(self.loads) + 1,
        }
        self.loads.append(NodeLoad(self.host(on).prefix, plan))
        return self.loads[-1]

    def load_every_node(self) -> list[NodeLoad]:
        """An initiator on every host that works through its own node, and one that works through all of them."""
        made = [self.load(node, [self.url(node)]) for node in self.nodes]
        last = self.nodes[-1]
        made.append(self.load(last, [self.url(last), *(self.url(node) for node in self.others(last))]))
        for load in made:
            load.goes_on(10)
        return made

    def end_loads(self) -> list[dict[str, Any]]:
        """End them all; gives the last line of each.

        Raises:
            AssertionError: one has found something wrong.
        """
        return [load.end() for load in self.loads]

    # --- faults

    def kill(self, node: DaemonNode) -> None:
        """SIGKILL."""
        node.kill()

    def restart(self, node: DaemonNode) -> None:
        """Start it again, as systemd would; it is ready when this returns."""
        node.start().ready()

    def stop(self, node: DaemonNode) -> None:
        """SIGSTOP."""
        node.process.send_signal(signal.SIGSTOP)

    def cont(self, node: DaemonNode) -> None:
        """SIGCONT."""
        node.process.send_signal(signal.SIGCONT)

    def close(self) -> None:
        """End everything."""
        for load in self.loads:
            load.kill()
        self.daemons.close()
        self.world.close()


@contextmanager
def host_cluster(count: int = 3, small_state_bytes: int = 0) -> Iterator[HostCluster]:
    """A running cluster, and its end."""
    made = HostCluster(count, small_state_bytes)
    try:
        made.start()
        yield made
    finally:
        made.close()


__all__ = ["HostCluster", "boot_s", "eventually", "host_cluster"]
