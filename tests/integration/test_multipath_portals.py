"""One disk over several paths to real daemons: portals cut, nodes stopped and killed, access states changed."""

from __future__ import annotations

import os
import signal
import socket
import threading
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

import initiator
from initiator import MultipathOptions, Policy
from initiator.multipath import Multipath
from tests.integration.daemon_rig import TARGET, DaemonNode, Daemons, free_ports
from tests.integration.multipath_load import ACTIVE, BLOCK_BYTES, QUICK, Load, until
from tests.own_reactor import run

AREA_BLOCKS = 2048
OPTIONS = MultipathOptions(paths=QUICK, check_timeout_s=1.0, login_timeout_s=1.0)


def url_of(portal: str) -> str:
    return f"iscsi://{portal}/{TARGET}/0"


def with_two_portals(daemons: Daemons) -> tuple[DaemonNode, list[str]]:
    """One daemon: two portals of one group."""
    ports = free_ports(2)
    portals = [f"127.0.0.1:{port}" for port in ports]
    node = daemons.node(portal=f'{portals[0]}", "{portals[1]}')
    return node.start().ready(), [url_of(portal) for portal in portals]


def with_two_groups(daemons: Daemons) -> tuple[DaemonNode, list[str]]:
    """One daemon: two portals, each a group of its own."""
    first, second = (f"127.0.0.1:{port}" for port in free_ports(2))
    more = f'[[target.portal_group]]\ntag = 2\nportals = ["{second}"]\n'
    node = daemons.node(portal=first, more=more)
    return node.start().ready(), [url_of(first), url_of(second)]


def two_nodes(daemons: Daemons) -> tuple[list[DaemonNode], list[str]]:
    """Two daemons over one file, at portals that stay theirs over a restart."""
    portals = [f"127.0.0.1:{port}" for port in free_ports(2)]
    nodes = [daemons.node(f"node{n}", portal=portal) for n, portal in enumerate(portals)]
    return [node.start().ready() for node in nodes], [url_of(portal) for portal in portals]


class CutProxy:
    """A port before a portal, whose connections can be cut and refused; in threads."""

    def __init__(self, portal: str) -> None:
        host, _, port = portal.rpartition(":")
        self._to = host, int(port)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.portal = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._pairs: list[socket.socket] = []
        self.refusing = False
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            if self.refusing:
                near.close()
                continue
            far = socket.create_connection(self._to)
            self._pairs += [near, far]
            for one, other in ((near, far), (far, near)):
                threading.Thread(target=self._carry, args=(one, other), daemon=True).start()

    @staticmethod
    def _carry(one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                other.sendall(data)
        for each in (one, other):
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def cut(self, *, refuse: bool) -> None:
        self.refusing = refuse
        pairs, self._pairs = self._pairs, []
        for each in pairs:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()
        self.cut(refuse=True)


def test_one_url_finds_the_other_portals_and_both_carry_commands(daemons: Daemons) -> None:
    _, urls = with_two_groups(daemons)

    async def work(reactor: Any) -> None:
        async with await initiator.connect(urls[0], reactor=reactor, multipath=OPTIONS) as disk:
            assert [path.url for path in disk.paths] == urls
            assert [path.words for path in disk.paths] == [ACTIVE] * 2
            load = Load(disk, reactor).start()
            await load.goes_on(5)
            await load.end()

    run(work)


def test_the_load_goes_on_while_a_portal_is_cut_and_it_is_used_again_when_it_is_back(
    daemons: Daemons,
) -> None:
    _, urls = with_two_portals(daemons)
    proxy = CutProxy(urls[0].split("/")[2])
    seen: list[str] = []

    async def work(reactor: Any) -> None:
        paths = [url_of(proxy.portal), urls[1]]
        on_path = lambda status: seen.append(f"{status.url.split('/')[2]} {status.words}")  # noqa: E731
        async with await initiator.connect(paths, reactor=reactor, multipath=OPTIONS, on_path=on_path) as disk:
            load = Load(disk, reactor).start()
            await load.goes_on(3)
            for _ in range(5):
                proxy.cut(refuse=False)
                await load.goes_on(3)
            proxy.cut(refuse=True)
            await until(reactor, disk, 0, "down")
            proxy.refusing = False
            await until(reactor, disk, 0, ACTIVE)
            await load.goes_on(3)
            await load.end()

    run(work)
    assert f"{proxy.portal} down" in seen
    proxy.close()


def test_access_states_that_are_changed_by_the_cli_are_followed(daemons: Daemons) -> None:
    node, urls = with_two_groups(daemons)

    async def work(reactor: Any) -> None:
        async with await initiator.connect(urls, reactor=reactor, multipath=OPTIONS) as disk:
            load = Load(disk, reactor).start()
            await load.goes_on(3)
            for state, words in (
                ("standby", "standby"),
                ("active-non-optimized", "active/non-optimized"),
                ("unavailable", "unavailable"),
                ("active-optimized", ACTIVE),
            ):
                done = node.csvd("target", "set", TARGET, "--access-state", state)
                assert done.returncode == 0, done.stderr
                await until(reactor, disk, 0, words)
                await load.goes_on(3)
            await load.end()

    run(work)


@pytest.mark.parametrize("policy", [Policy.ALUA, Policy.LEAST_QUEUE_DEPTH])
def test_a_node_that_is_killed_costs_no_call_and_is_used_again_when_it_is_back(
    daemons: Daemons,
    policy: Policy,
) -> None:
    nodes, urls = two_nodes(daemons)
    how = MultipathOptions(
        paths=replace(QUICK, policy=policy),
        check_timeout_s=1.0,
        login_timeout_s=1.0,
    )

    async def work(reactor: Any) -> None:
        async with await initiator.connect(urls, reactor=reactor, multipath=how) as disk:
            load = Load(disk, reactor).start()
            await load.goes_on(3)
            nodes[0].kill()
            await until(reactor, disk, 0, "down")
            nodes[0].start().ready()
            await until(reactor, disk, 0, ACTIVE)
            await load.goes_on(3)
            await load.end()

    run(work)


def test_a_node_that_was_stopped_and_goes_on_undoes_no_write(daemons: Daemons) -> None:
    """What it had received when it was stopped is executed when it goes on, after the path was left for long."""
    nodes, urls = two_nodes(daemons)

    async def work(reactor: Any) -> None:
        async with await initiator.connect(urls, reactor=reactor, multipath=OPTIONS) as disk:
            load = Load(disk, reactor).start()
            road = disk.road
            assert isinstance(road, Multipath)
            for _ in range(3):
                await load.goes_on(3)
                os.kill(nodes[0].process.pid, signal.SIGSTOP)
                try:
                    await until(reactor, disk, 0, "down")
                    # Reads go on, and writes to blocks that nothing was left behind for.
                    await disk.read(AREA_BLOCKS, 1, timeout_s=5)
                    await disk.write(AREA_BLOCKS, bytes(BLOCK_BYTES), timeout_s=5)
                finally:
                    os.kill(nodes[0].process.pid, signal.SIGCONT)
                await until(reactor, disk, 0, ACTIVE)
                assert not road.stale_write_count
            await load.goes_on(3)
            await load.end()

    run(work)


def test_a_path_to_another_disk_is_refused(daemons: Daemons) -> None:
    first = daemons.node("node1").start().ready()
    second = daemons.node("node2", disk="other.img")
    second.config.write_text(second.config.read_text().replace('serial = "test"', 'serial = "other"'))
    second.start().ready()

    async def work(reactor: Any) -> None:
        urls = [url_of(first.portal), url_of(second.portal)]
        with pytest.raises(initiator.DifferentDisk, match="another disk"):
            await initiator.connect(urls, reactor=reactor, multipath=OPTIONS)

    run(work)
