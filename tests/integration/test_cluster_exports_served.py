"""Three nodes on coordination in memory, with real portals and disks: what an initiator sees of a target of all."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import maybeDeferred, succeed

import initiator
from csvd.cluster.data_keys import DataKeys
from csvd.exports.cluster_exports import ClusterExports
from csvd.exports.joined import JoinedServing
from csvd.exports.local import LocalServing, Portals
from csvd.exports.serving import Plan
from csvd.storage.pool import DiskPool
from csvd.target.kept_state import KeptState
from csvd.target.service import TargetService
from csvd.target.units import Units
from initiator import AccessState, Disk, LoginRefused
from tests.own_reactor import run
from tests.unit.cluster.loopback import Loopback
from tests.unit.exports.exporting_cluster import FakeMember

TARGET = "iqn.2026-11.org.csvd:shared"
HOST = "iqn.2026-11.org.example:host"
SECRET = "a secret of sixteen"
KEY = bytes(32)


class Node:
    """One of them."""

    def __init__(self, reactor: Any, loopback: Loopback, name: str, members: dict[str, FakeMember], state: Path):
        state.mkdir()
        self.pool = DiskPool(reactor)
        self.keeper = KeptState(state, self.pool)
        self.service = TargetService(reactor, [])
        local = LocalServing(
            self.service,
            Units(self.pool),
            self.keeper,
            portals=Portals(self.service),
            run=lambda job: succeed(job()),
            tell=lambda *_: None,
        )
        self.serving = JoinedServing(local, tell_ports=self.service.set_cluster_ports)
        self.exports = ClusterExports(
            loopback.coordination(name),
            members=lambda: members,
            on_members=lambda _callback: lambda: None,
            serving=self.serving,
            keys=DataKeys([KEY]),
            portals=["127.0.0.1:0"],
            clock=reactor,
            run=lambda job: succeed(job()),
            entropy=os.urandom,
            tell=lambda *_: None,
        )
        self.admin = self.exports.administration
        self.is_stopped = False

    async def stop(self) -> None:
        if not self.is_stopped:
            self.is_stopped = True
            self.exports.stop()
            await self.serving.stop()
            await maybeDeferred(self.pool.stop)
            self.keeper.close()


class Stage:
    """All three."""

    def __init__(self, reactor: Any, folder: Path) -> None:
        self.reactor = reactor
        self.folder = folder
        self.loopback = Loopback()
        members = {name: FakeMember(number) for number, name in enumerate(self.loopback.sessions, start=1)}
        self.nodes = {name: Node(reactor, self.loopback, name, members, folder / name) for name in members}
        self.secret = folder / "host.secret"
        self.secret.touch(0o600)
        self.secret.write_text(SECRET)

    async def start(self) -> None:
        for node in self.nodes.values():
            await node.serving.start(Plan())
            node.exports.start()
        await self.loopback.start()
        with (self.folder / "disk.img").open("wb") as disk:
            disk.truncate(4 << 20)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def portal(self, name: str) -> str:
        (portal,) = self[name].service.portals
        return portal

    async def connect(self, name: str, **how: Any) -> Disk:
        url = f"iscsi://joe@{self.portal(name)}/{TARGET}/0"
        return await initiator.connect(url, reactor=self.reactor, initiator_name=HOST, secret_file=self.secret, **how)

    async def a_target(self) -> None:
        chap = {"user": "joe", "secret_file": str(self.secret)}
        await self["n2"].admin.create_target(TARGET, {"chap": chap})
        await self["n3"].admin.add_acl(TARGET, HOST, {})
        await self["n2"].admin.add_lun(TARGET, {"disk": str(self.folder / "disk.img")})


def use(folder: Path, work: Callable[[Stage], Awaitable[None]]) -> None:
    async def main(reactor: Any) -> None:
        stage = Stage(reactor, folder)
        try:
            await stage.start()
            await work(stage)
        finally:
            for node in stage.nodes.values():
                await node.stop()

    run(main, time_limit_s=60.0)


async def closed(*disks: Disk) -> None:
    for disk in disks:
        await disk.close()


def test_every_node_names_the_portals_of_all_and_each_leads_to_the_same_disk(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        await stage.a_target()
        (found,) = await initiator.discover(
            f"iscsi://joe@{stage.portal('n3')}",
            reactor=stage.reactor,
            secret_file=stage.secret,
            initiator_name=HOST,
        )
        tags = {str(one.portal): one.portal_group_tag for one in found.addresses}
        assert tags == {stage.portal("n1"): 17, stage.portal("n2"): 33, stage.portal("n3"): 49}
        disks = [await stage.connect(name) for name in stage.nodes]
        await disks[0].write(0, b"x" * 512)
        pages: list[Any] = [await disk.vpd(0x83) for disk in disks]
        assert len({page.unit_identity for page in pages}) == 1
        ports = [next(d.value for d in page.designators if (d.association, d.kind) == (1, 4)) for page in pages]
        assert ports == [bytes((0, 0, 0, tag)) for tag in (17, 33, 49)]
        for disk in disks:
            assert await disk.read(0, 1) == b"x" * 512
            groups = (await disk.target_port_groups()).groups
            assert [(group.tag, group.ports) for group in groups] == [(17, (17,)), (33, (33,)), (49, (49,))]
            assert {group.state for group in groups} == {AccessState.ACTIVE_OPTIMIZED}
        await closed(*disks)

    use(tmp_path, work)


def test_one_node_gone_is_one_path_gone(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        await stage.a_target()
        heard: list[tuple[int, int]] = []
        there = await stage.connect("n3")
        there.on_unit_attention.append(lambda sense: heard.append((sense.asc, sense.ascq)))
        await there.read(0, 1)
        await stage.loopback.kill("n1")
        await stage["n1"].stop()
        await there.read(0, 1)
        assert (0x2A, 0x06) in heard, "asymmetric access state changed"
        states = {group.tag: group.state for group in (await there.target_port_groups()).groups}
        optimized = AccessState.ACTIVE_OPTIMIZED
        assert states == {17: AccessState.UNAVAILABLE, 33: optimized, 49: optimized}
        # The coordinator is another one by now, and changes go on.
        await stage["n3"].admin.add_lun(TARGET, {"disk": "null:1G"})
        assert [unit["number"] for unit in stage["n2"].admin.luns(TARGET)] == [0, 1]
        await closed(there)

    use(tmp_path, work)


def test_a_right_that_is_taken_through_one_node_is_gone_at_all(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        await stage.a_target()
        disk = await stage.connect("n3")
        assert [len(node.service.sessions()) for node in stage.nodes.values()] == [0, 0, 1]
        await stage["n1"].admin.remove_acl(TARGET, HOST)
        assert stage["n3"].service.sessions() == []
        for name in stage.nodes:
            with pytest.raises(LoginRefused):
                await stage.connect(name)
        await closed(disk)

    use(tmp_path, work)


def test_a_multipath_initiator_finds_all_paths_by_itself(tmp_path: Path) -> None:
    async def work(stage: Stage) -> None:
        await stage.a_target()
        disk: Any = await stage.connect("n2", multipath=True)
        assert len(disk.paths) == 3
        await disk.write(0, b"y" * 4096)
        assert await disk.read(0, 8) == b"y" * 4096
        await closed(disk)

    use(tmp_path, work)
