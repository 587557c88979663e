"""The whole thing under one fault after another, with initiators that verify through every node all the time: nothing
that was acknowledged is lost or torn, and I/O goes on."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.integration.daemon_rig import DaemonNode, eventually
from tests.integration.faults.hosts import HostCluster, host_cluster
from tests.integration.shared_target import disk_of

pytestmark = pytest.mark.timeout(300)

STOPPED_S = 30.0
CUT_S = 8.0
STATE_BYTES = 4 << 20


@pytest.fixture(scope="module")
def cluster() -> Iterator[HostCluster]:
    """One for all tests of this module; in the end every block is read through every node."""
    with host_cluster(small_state_bytes=STATE_BYTES) as made:
        made.load_every_node()
        yield made
        made.end_loads()


@pytest.fixture(autouse=True)
def all_well(cluster: HostCluster) -> Iterator[None]:
    """Each fault finds all nodes there, and I/O through all of them; and so does it leave them."""
    for node in cluster.nodes:
        if node.process.poll() is not None:
            cluster.restart(node)
    cluster.wait_live()
    yield
    cluster.world.heal()


def go_on(cluster: HostCluster, *but: DaemonNode) -> None:
    """I/O goes on through every node but these, and through all nodes together."""
    for node, load in zip([*cluster.nodes, None], cluster.loads, strict=True):
        if node not in but:
            load.goes_on(20)


def fails_over(cluster: HostCluster, break_it: Callable[[DaemonNode], object]) -> DaemonNode:
    """Break the coordinator; another takes its office, and I/O through the others goes on. Gives the one broken."""
    victim = cluster.disk_coordinator()
    epoch = victim.client.disk("system")["epoch"]
    break_it(victim)
    go_on(cluster, victim)
    successor = cluster.disk_coordinator(*cluster.others(victim), above_epoch=epoch)
    cluster.epochs += [epoch, successor.client.disk("system")["epoch"]]
    go_on(cluster, victim)
    return victim


def test_a_coordinator_that_is_killed(cluster: HostCluster) -> None:
    victim = fails_over(cluster, cluster.kill)
    cluster.restart(victim)
    cluster.wait_live()
    go_on(cluster)


def test_a_coordinator_that_is_stopped_for_long_is_killed_by_the_kernel(cluster: HostCluster) -> None:
    stopped_s = time.monotonic()
    victim = fails_over(cluster, cluster.stop)
    time.sleep(max(0.0, stopped_s + STOPPED_S - time.monotonic()))
    # What would have gone on with the writes that it was at is not there any more.
    assert victim.process.poll() == -signal.SIGKILL
    cluster.restart(victim)
    cluster.wait_live()
    go_on(cluster)


@pytest.mark.parametrize("how", ["both ways", "hears nothing", "says nothing"])
def test_a_coordinator_that_is_cut_off(cluster: HostCluster, how: str) -> None:
    def cut(victim: DaemonNode) -> None:
        host, hosts = cluster.host(victim), cluster.world.hosts
        if how != "says nothing":
            host.deafen(*hosts)
        if how != "hears nothing":
            host.mute(*hosts)

    cut_s = time.monotonic()
    victim = fails_over(cluster, cut)
    time.sleep(max(0.0, cut_s + CUT_S - time.monotonic()))
    cluster.world.heal()
    cluster.wait_live()
    assert victim.process.poll() is None
    go_on(cluster)


def test_a_node_whose_state_disk_is_full_leaves_the_work_to_the_others(cluster: HostCluster) -> None:
    small, other = cluster.nodes[-1], cluster.nodes[0]
    filling = cluster.states[small.name] / "filling"
    fill(filling)

    def takes_no_part() -> bool | None:
        # Something to write down: it comes to the node with the others' answers.
        token = other.client.create_token(life_s=60)
        other.client.revoke_token(token["id"])
        return any("takes no part" in line for line in small.log) or None

    eventually(takes_no_part, 60)
    go_on(cluster, small)
    filling.unlink()
    cluster.kill(small)
    cluster.restart(small)
    cluster.wait_live()
    go_on(cluster)


def fill(path: Path) -> None:
    """Take all the room that is there."""
    with path.open("wb", buffering=0) as file:
        for length in (65536, 4096, 512, 1):
            try:
                while True:
                    file.write(b"x" * length)
            except OSError:
                continue


def test_a_journal_that_is_damaged_in_its_middle_is_refused_and_a_torn_tail_is_cut(cluster: HostCluster) -> None:
    victim = cluster.nodes[0]
    cluster.kill(victim)
    journal = cluster.states[victim.name] / "cluster" / "journal"
    good = journal.read_bytes()

    middle = bytearray(good)
    middle[len(good) // 2] ^= 0x55
    journal.write_bytes(middle)
    status, _, log = victim.start().end_of_process()
    assert status == 1
    assert [line for line in log if "csvd run: " in line and "journal" in line], log
    assert not any("Traceback" in line for line in log), log

    # Half of a record, as a power cut in the middle of a write leaves it.
    journal.write_bytes(good + good[-40:-20])
    cluster.restart(victim)
    cluster.wait_live()
    go_on(cluster)


def test_epochs_have_only_grown(cluster: HostCluster) -> None:
    """At each takeover, from one to the next, and until now; by how much depends on where the coordinators were."""
    before, after = cluster.epochs[::2], cluster.epochs[1::2]
    assert all(old < new for old, new in zip(before, after, strict=True)), cluster.epochs
    assert cluster.epochs == sorted(cluster.epochs)

    def agreed() -> int | None:
        found = {disk["epoch"] if (disk := disk_of(node)) else None for node in cluster.nodes}
        return found.pop() if len(found) == 1 else None

    assert eventually(agreed, 60) >= max(cluster.epochs, default=1)
