"""Real daemons that export as one: set through any node, served by all, over the death of the coordinator."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from initiator import ReservationConflict, ReservationType, connect
from tests.integration.daemon_rig import DaemonNode, Daemons, eventually
from tests.integration.shared_target import SHARED_TARGET, disk_coordinator, disk_of, exporting_nodes, portals_of
from tests.own_reactor import run

HOST = "iqn.2026-11.org.example:host"


coordinator_of = partial(disk_coordinator, timeout_s=20.0)


@pytest.fixture
def nodes(daemons: Daemons, tmp_path: Path) -> list[DaemonNode]:
    return exporting_nodes(daemons, tmp_path)


def initiator(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "initiator", *arguments], capture_output=True, text=True, check=False, timeout=60
    )


def all_told(node: DaemonNode) -> dict[str, str] | None:
    found = portals_of(node)
    return found if len(found) == 3 else None


def test_what_is_made_through_one_node_is_reached_through_another_and_outlives_the_coordinator(
    nodes: list[DaemonNode], tmp_path: Path
) -> None:
    _, two, three = nodes
    disk = str(tmp_path / "a.img")
    assert "is served at" in two.asked("target", "create", SHARED_TARGET)
    two.asked("acl", "add", HOST)
    assert "is served" in two.asked("lun", "add", disk, "--create", "8M")
    portals = eventually(lambda: all_told(three))
    url = f"iscsi://{portals['node3']}/{SHARED_TARGET}/0?initiator={HOST}"
    found = initiator("info", url)
    assert found.returncode == 0, found.stderr
    serials = {json.loads(node.asked("lun", "show", "0", "--json"))["serial"] for node in nodes}
    assert len(serials) == 1

    coordinator = coordinator_of(nodes)
    epoch = (disk_of(coordinator) or {})["epoch"]
    coordinator.kill()
    rest = [node for node in nodes if node is not coordinator]
    coordinator_of(rest, above_epoch=epoch)
    rest[0].asked("acl", "add", HOST + "2")
    rest[1].asked("acl", "rm", HOST)
    for node in rest:
        refused = initiator("info", f"iscsi://{portals[node.name]}/{SHARED_TARGET}/0?initiator={HOST}")
        assert refused.returncode == 1
        taken = initiator("info", f"iscsi://{portals[node.name]}/{SHARED_TARGET}/0?initiator={HOST}2")
        assert taken.returncode == 0, taken.stderr
    rows = json.loads(rest[0].asked("target", "show", SHARED_TARGET, "--json"))["nodes"]
    assert rows[coordinator.name]["state"] == "unavailable"
    coordinator.start().ready()
    eventually(lambda: all_told(coordinator) if disk_of(coordinator) else None)
    url = f"iscsi://{portals[coordinator.name]}/{SHARED_TARGET}/0?initiator={HOST}2"
    assert eventually(lambda: initiator("info", url).returncode == 0 or None)


def ways_to(node: DaemonNode, path: Path) -> set[bool]:
    """Whether a daemon has a file open past the page cache, as the kernel tells, for each descriptor."""
    process = Path(f"/proc/{node.process.pid}")
    found = set()
    for descriptor in process.joinpath("fd").iterdir():
        if os.path.realpath(descriptor) == str(path):
            flags = re.search(r"flags:\s+([0-7]+)", process.joinpath("fdinfo", descriptor.name).read_text())
            assert flags is not None
            found.add(bool(int(flags[1], 8) & os.O_DIRECT))
    return found


def test_no_node_has_a_disk_of_the_cluster_in_its_page_cache(nodes: list[DaemonNode], tmp_path: Path) -> None:
    one, two, _ = nodes
    one.asked("target", "create", SHARED_TARGET)
    disk = tmp_path / "a.img"
    one.asked("lun", "add", str(disk), "--create", "8M")
    for node in nodes:
        assert ways_to(node, disk) == {True}, node.name
        assert ways_to(node, tmp_path / "system.img") == {True}, node.name
    assert json.loads(two.asked("lun", "show", "0", "--json"))["direct"] is True
    refused = two.csvd("lun", "add", str(tmp_path / "b.img"), "--create", "8M", "--cached")
    assert refused.returncode == 1
    assert "never served through the page cache" in refused.stderr
    assert not (tmp_path / "b.img").exists()
    portals = eventually(lambda: all_told(two))

    async def write_and_read(reactor: Any) -> None:
        async with (
            connect(f"iscsi://{portals['node1']}/{SHARED_TARGET}/0", reactor=reactor) as first,
            connect(f"iscsi://{portals['node2']}/{SHARED_TARGET}/0", reactor=reactor) as second,
        ):
            for word in (b"old", b"new"):
                await first.write(7, word.ljust(512))
                # One block of 512 bytes, at no multiple of a page.
                assert await second.read(7, 1) == word.ljust(512)
            await second.compare_and_write(7, b"new".ljust(512), b"won".ljust(512))
            assert await first.read(7, 1) == b"won".ljust(512)

    run(write_and_read, time_limit_s=60.0)


def test_an_evicted_node_has_no_key_of_what_is_sealed_from_then_on_and_who_was_off_gets_it(
    nodes: list[DaemonNode], tmp_path: Path
) -> None:
    one, two, three = nodes
    secret = tmp_path / "chap"
    secret.write_bytes(b"a secret of sixteen")
    secret.chmod(0o600)
    one.asked("target", "create", SHARED_TARGET, "--chap-user", "joe", "--chap-secret-file", str(secret))
    one.asked("lun", "add", str(tmp_path / "a.img"), "--create", "8M")
    files = {node.name: node.config.parent / "state" / "cluster" / "identity" / "data.key" for node in nodes}
    (old,) = {path.read_bytes() for path in files.values()}
    three.terminate()
    rotated = json.loads(one.asked("key", "rotate", "--json"))
    assert rotated["secrets"] == [
        {"target": SHARED_TARGET, "what": "secret", "user": "joe", "initiator": "", "lun": ""}
    ]
    (new,) = {files[node.name].read_bytes() for node in (one, two)}
    assert len(new) == 32
    assert files["node3"].read_bytes() == old != new
    three.start().ready()
    eventually(lambda: True if files["node3"].read_bytes()[:32] == new else None)

    three.terminate()
    told = one.asked("node", "evict", "node3")
    assert f"  {SHARED_TARGET}: CHAP secret of user joe" in told
    (newest,) = {files[node.name].read_bytes() for node in (one, two)}
    assert newest not in (old, new)
    assert newest not in files["node3"].read_bytes()
    assert newest.hex().encode() not in (tmp_path / "system.img").read_bytes()
    portal = eventually(lambda: portals_of(one))["node2"]
    found = initiator("info", f"iscsi://joe%a secret of sixteen@{portal}/{SHARED_TARGET}/0".replace(" ", "%20"))
    assert found.returncode == 0, found.stderr


def test_an_office_does_not_go_to_a_node_that_is_drained_and_names_do_for_ids(nodes: list[DaemonNode]) -> None:
    one, *_ = nodes
    one.asked("node", "rename", "node2", "left")
    one.asked("node", "drain", "left")
    refused = one.csvd("coordinator", "move", "system", "left")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == ("csvd: node left is being drained, and coordinates nothing (csvd node undrain left)\n")
    one.asked("node", "undrain", "left")
    assert "coordinates system" in one.asked("coordinator", "move", "system", "left")
    assert json.loads(one.asked("coordinator", "ls", "--json"))["system"]["node"] == "node2"


def test_a_reservation_through_one_node_holds_at_all_and_outlives_the_coordinator(
    nodes: list[DaemonNode], tmp_path: Path
) -> None:
    one, _, three = nodes
    one.asked("target", "create", SHARED_TARGET)
    one.asked("lun", "add", str(tmp_path / "a.img"), "--create", "8M")
    portals = eventually(lambda: all_told(three))
    urls = {name: f"iscsi://{portal}/{SHARED_TARGET}/0" for name, portal in portals.items()}
    coordinator = coordinator_of(nodes)
    rest = [node for node in nodes if node is not coordinator]

    async def reserve(reactor: Any) -> None:
        async with connect(urls[rest[0].name], reactor=reactor, initiator_name=HOST) as disk:
            await disk.reservations.register(0x11, through_power_loss=True)
            await disk.reservations.reserve(ReservationType.WRITE_EXCLUSIVE, key=0x11)
            await disk.write(0, b"1" * 512)

    async def write(reactor: Any) -> None:
        for node in rest:
            async with connect(urls[node.name], reactor=reactor, initiator_name=HOST + "2") as disk:
                with pytest.raises(ReservationConflict):
                    await disk.write(0, b"2" * 512)
                assert await disk.read(0, 1) == b"1" * 512

    run(reserve, time_limit_s=60.0)
    run(write, time_limit_s=60.0)
    epoch = (disk_of(coordinator) or {})["epoch"]
    coordinator.kill()
    coordinator_of(rest, above_epoch=epoch)
    run(write, time_limit_s=60.0)
