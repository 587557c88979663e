"""Real daemons that export one logical unit: its reservations and its COMPARE AND WRITE, while nodes are killed."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater

from initiator.errors import AttentionPending, CommandFailed, InitiatorError
from tests.integration.daemon_rig import DaemonNode, Daemons, eventually
from tests.integration.shared_target import SHARED_TARGET, disk_coordinator, disk_of, exporting_nodes, portals_of
from tests.integration.test_serve_reservations import Host
from tests.unit.storage.reactor_loop import run_in_reactor

T = TypeVar("T")

WE_RO = 0x5
COUNTER_LBA = 8
MISCOMPARE = 0xE
TIME_LIMIT_S = 60.0

coordinator_of = partial(disk_coordinator, timeout_s=20.0)


@pytest.fixture
def nodes(daemons: Daemons, tmp_path: Path) -> list[DaemonNode]:
    """Three nodes that export one logical unit."""
    nodes = exporting_nodes(daemons, tmp_path)
    nodes[0].asked("target", "create", SHARED_TARGET)
    nodes[0].asked("lun", "add", str(tmp_path / "a.img"), "--create", "8M")
    eventually(lambda: len(portals_of(nodes[0])) == 3 or None)
    for node in nodes:
        eventually(lambda node=node: shown(node))  # type: ignore[misc]
    return nodes


def shown(node: DaemonNode) -> Any:
    try:
        return node.asked("lun", "show", "0")
    except AssertionError:
        return None


def url_at(nodes: list[DaemonNode], node: DaemonNode) -> str:
    alive = next(each for each in nodes if each.process.poll() is None)
    return f"iscsi://{portals_of(alive)[node.name]}/{SHARED_TARGET}/0"


def test_reservations_hold_on_all_nodes_and_over_the_death_of_the_coordinator(nodes: list[DaemonNode]) -> None:
    coordinator = coordinator_of(nodes)
    epoch = (disk_of(coordinator) or {})["epoch"]
    one, other = (node for node in nodes if node is not coordinator)
    urls = {node.name: url_at(nodes, node) for node in nodes}
    a, b, c = Host("a"), Host("b"), Host("c")

    async def main(reactor: Any) -> None:
        await a.log_in(urls[one.name], reactor)
        await b.log_in(urls[other.name], reactor)
        await c.log_in(urls[coordinator.name], reactor)
        await a.out(0x06, 0, 0xA)
        await b.out(0x06, 0, 0xB)
        await b.out(0x01, 0xB, kind=WE_RO)
        assert await a.keys() == await b.keys() == await c.keys() == [0xA, 0xB]
        assert [await host.is_kept_out() for host in (a, b, c)] == [False, False, True]
        coordinator.kill()
        # Asked while nobody can answer: it waits, and is answered by the next coordinator.
        assert await told(a.keys) == [0xA, 0xB]
        await told(lambda: a.out(0x04, 0xA, 0xB, kind=WE_RO))
        assert await b.is_kept_out()
        assert not await a.is_kept_out()

    run_in_reactor(main, time_limit_s=TIME_LIMIT_S)
    coordinator_of([one, other], above_epoch=epoch)
    coordinator.start().ready()
    eventually(lambda: disk_of(coordinator))

    async def after(reactor: Any) -> None:
        await c.log_in(urls[coordinator.name], reactor)
        assert await told(c.keys) == [0xA], "what APTPL does not keep outlives a node, too"
        assert await c.is_kept_out()

    run_in_reactor(after, time_limit_s=TIME_LIMIT_S)


@pytest.mark.parametrize("victim", ["the coordinator", "a node that holds"])
def test_counters_of_two_hosts_at_two_nodes_lose_nothing_when_a_node_is_killed(
    nodes: list[DaemonNode], victim: str
) -> None:
    coordinator = coordinator_of(nodes)
    others = [node for node in nodes if node is not coordinator]
    killed = coordinator if victim == "the coordinator" else others[0]
    workers = [*nodes] if killed is not coordinator else others
    urls = {node.name: url_at(nodes, node) for node in nodes}
    good: dict[str, int] = {}
    unknown = 0

    async def increments(reactor: Any, node: DaemonNode) -> None:
        nonlocal unknown
        host = Host(node.name)
        await host.log_in(urls[node.name], reactor)
        good[node.name] = 0
        while sum(good.values()) < 300:
            try:
                data = await host.disk.command(read_cdb(), data_in_bytes=512)
                value = int.from_bytes(data[:8])
                new = (value + 1).to_bytes(8) + bytes(504)
                await host.disk.command(swap_cdb(), data_out=data + new)
            except AttentionPending:
                continue  # the access state of the other nodes' ports
            except CommandFailed as failure:
                if failure.sense is None or failure.sense.key != MISCOMPARE:
                    raise
                continue  # another host was faster
            except InitiatorError:
                assert node is killed
                unknown += 1
                return
            good[node.name] += 1

    async def main(reactor: Any) -> None:
        running = [Deferred.fromCoroutine(increments(reactor, node)) for node in workers]
        while sum(good.values()) < 100:
            await deferLater(reactor, 0.01)
        killed.kill()
        for each in running:
            await each
        host = Host("reader")
        await host.log_in(urls[next(node.name for node in workers if node is not killed)], reactor)
        data = await host.disk.command(read_cdb(), data_in_bytes=512)
        total = sum(good.values())
        # What the killed node was at may be done, or not.
        assert total <= int.from_bytes(data[:8]) <= total + unknown

    run_in_reactor(main, time_limit_s=TIME_LIMIT_S)


async def told(ask: Callable[[], Awaitable[T]]) -> T:
    """The answer to something, behind the unit attention conditions."""
    while True:
        try:
            return await ask()
        except AttentionPending:
            continue


def read_cdb() -> bytes:
    return bytes((0x88, 0)) + COUNTER_LBA.to_bytes(8) + (1).to_bytes(4) + bytes(2)


def swap_cdb() -> bytes:
    return bytes((0x89, 0)) + COUNTER_LBA.to_bytes(8) + bytes((0, 0, 0, 1, 0, 0))
