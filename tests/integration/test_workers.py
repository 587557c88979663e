"""A node whose targets are served by worker processes: logins are sent on, workers die and come back, all is kept."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from collections.abc import Callable, Coroutine
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from initiator.client import connect, discover, login
from initiator.errors import InitiatorError
from tests.integration.daemon_rig import ROOT, TARGET, DaemonNode, Daemons, eventually, is_alive
from tests.integration.test_serve_reservations import APTPL, EA_RO, Host
from tests.integration.worker_rig import (
    OTHER,
    SHARING,
    count_of,
    kill_worker,
    node_with_workers,
    url_of,
    wait_until_up,
    worker_of,
    workers,
)
from tests.unit.storage.reactor_loop import run_in_reactor

Main = Callable[[Any], Coroutine[Deferred[Any], Any, None]]


@pytest.fixture
def node(daemons: Daemons) -> DaemonNode:
    return node_with_workers(daemons)


def csvd(node: DaemonNode, *arguments: str) -> Any:
    done = node.csvd(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def put(url: str, pattern: int) -> None:
    """Write 64 KiB of a byte, durably."""

    async def main(reactor: Any) -> None:
        async with await connect(url, reactor=reactor) as disk:
            await disk.write(0, bytes([pattern]) * 65536)
            await disk.flush()

    run_in_reactor(main)


def holds(url: str, pattern: int) -> bool:
    """Whether the first 64 KiB are of this byte."""
    found: list[bool] = []

    async def main(reactor: Any) -> None:
        async with await connect(url, reactor=reactor) as disk:
            found.append(bytes(await disk.read(0, 128)) == bytes([pattern]) * 65536)

    run_in_reactor(main)
    return found[0]


def test_targets_are_discovered_at_the_portal_and_served_by_their_workers(node: DaemonNode) -> None:
    async def main(reactor: Any) -> None:
        found = await discover(node.portal, reactor=reactor)
        assert {target.name: [str(address.portal) for address in target.addresses] for target in found} == {
            name: [node.portal] for name in (TARGET, OTHER, SHARING)
        }

    run_in_reactor(main)
    first, second = workers(node)
    assert (first["targets"], second["targets"]) == ([TARGET, SHARING], [OTHER])
    put(url_of(node, TARGET), 1)
    put(url_of(node, OTHER), 2)
    assert holds(url_of(node, SHARING), 1)
    assert holds(url_of(node, OTHER), 2)
    assert node.terminate() == 0
    assert not any(is_alive(worker["process_id"]) for worker in (first, second))
    assert not [line for line in node.log if "Traceback" in line or " error " in line]


def test_sessions_are_listed_and_dropped_wherever_they_are(node: DaemonNode) -> None:
    async def main(reactor: Any) -> None:
        one = await login(url_of(node, TARGET), reactor=reactor)
        other = await login(url_of(node, OTHER), reactor=reactor)
        listed = csvd(node, "session", "ls")["sessions"]
        assert [session["target"] for session in listed] == [TARGET, OTHER]
        assert [worker["sessions"] for worker in workers(node)] == [1, 1]
        csvd(node, "session", "drop", str(listed[1]["tsih"]), "--target", OTHER)
        assert [session["target"] for session in csvd(node, "session", "ls")["sessions"]] == [TARGET]
        await one.close()
        await other.close()

    run_in_reactor(main)


def test_a_person_sees_the_workers(node: DaemonNode) -> None:
    done = node.csvd("status")
    rows = [line.split() for line in done.stdout.splitlines() if line.split()[1:2] in (["1"], ["2"])]
    assert [row[:2] + row[3:4] for row in rows] == [["node1", "1", "up"], ["node1", "2", "up"]]
    assert TARGET in done.stdout


def test_targets_luns_and_rights_change_while_workers_serve(node: DaemonNode, daemons: Daemons) -> None:
    new, host = f"{TARGET}:new", "iqn.2026-11.test:host"
    csvd(node, "target", "create", new)
    csvd(node, "lun", "add", f"{daemons.folder}/new.img", "--create", "16M", "--target", new)
    assert worker_of(node, new)["worker"] == 2
    put(url_of(node, new), 7)
    (unit,) = node.client.request("GET", f"/v1/targets/{new.replace(':', '%3A')}/luns")["luns"]
    assert unit["size_bytes"] == 16 << 20
    csvd(node, "lun", "resize", "0", "32M", "--target", new)

    async def grown(reactor: Any) -> None:
        async with await connect(url_of(node, new), reactor=reactor) as disk:
            assert disk.capacity.block_count == 65536

    run_in_reactor(grown)
    csvd(node, "acl", "add", host, "--target", new)

    async def kept_out(reactor: Any) -> None:
        with pytest.raises(InitiatorError):
            await connect(url_of(node, new), reactor=reactor)
        async with await connect(url_of(node, new), reactor=reactor, initiator_name=host):
            pass

    run_in_reactor(kept_out)
    csvd(node, "target", "rm", new)

    async def gone(reactor: Any) -> None:
        with pytest.raises(InitiatorError):
            await connect(url_of(node, new), reactor=reactor, initiator_name=host)

    run_in_reactor(gone)
    refused = node.csvd("lun", "add", "/nowhere/at-all.img", "--target", OTHER)
    assert "/nowhere/at-all.img: cannot be opened" in refused.stderr
    assert holds(url_of(node, OTHER), 0)
    csvd(node, "lun", "add", f"{daemons.folder}/more.img", "--create", "16M", "--target", OTHER)
    assert holds(url_of(node, OTHER, 1), 0)
    assert node.terminate() == 0
    assert not [line for line in node.log if "Traceback" in line]
    node.start().ready()
    assert holds(url_of(node, OTHER, 1), 0)


def test_portals_come_and_go_with_the_workers_behind_them(node: DaemonNode) -> None:
    def change(keys: dict[str, Any]) -> list[str]:
        quoted = OTHER.replace(":", "%3A")
        face: dict[str, Any] = node.client.request("PATCH", f"/v1/targets/{quoted}", body={"keys": keys})
        return list(face["addresses"])

    worker = worker_of(node, OTHER)
    (address,) = change({"portals": ["127.0.0.1:0"], "portal_group_tag": 9})
    moved = f"iscsi://{address}/{OTHER}/0"
    put(moved, 3)
    with pytest.raises(InitiatorError):
        holds(url_of(node, OTHER), 3)
    kill_worker(node, OTHER)
    assert holds(moved, 3)
    assert change({"portals": ["127.0.0.1:0"], "portal_group_tag": 1}) == [node.portal]
    assert holds(url_of(node, OTHER), 3)
    with pytest.raises(InitiatorError):
        holds(moved, 3)
    assert wait_until_up(node, OTHER)["restarts"] == worker["restarts"] + 1
    # Nothing of the portal that is gone is left open, here or there.
    files = [worker["open_files"] for worker in workers(node)]
    change({"portals": ["127.0.0.1:0"], "portal_group_tag": 9})
    change({"portals": ["127.0.0.1:0"], "portal_group_tag": 1})
    assert [worker["open_files"] for worker in workers(node)] == files


def test_behind_a_portal_on_all_addresses_logins_go_on_at_the_one_they_came_to(daemons: Daemons) -> None:
    node = node_with_workers(daemons, portal="0.0.0.0:0")
    url = f"iscsi://127.0.0.1:{node.portal.rpartition(':')[2]}/{OTHER}/0"
    put(url, 8)

    async def main(reactor: Any) -> None:
        session = await login(url, reactor=reactor)
        assert session.portal.host == "127.0.0.1"
        await session.close()

    run_in_reactor(main)
    assert holds(url.replace("127.0.0.1", "127.0.0.2"), 8)


def test_secrets_hold_at_the_worker_and_are_on_no_command_line(daemons: Daemons) -> None:
    secret = daemons.folder / "joe.secret"
    secret.touch(0o600)
    secret.write_text(word := secrets.token_hex(16))
    chap = f'[target.chap]\nuser = "joe"\nsecret_file = "{secret}"\n'
    node = node_with_workers(daemons, more=chap)
    with pytest.raises(InitiatorError):
        holds(url_of(node, SHARING), 0)
    user = url_of(node, SHARING).replace("//", f"//joe%{word}@")
    assert holds(user, 0)
    for worker in workers(node):
        for name in ("cmdline", "environ"):
            with open(f"/proc/{worker['process_id']}/{name}", "rb") as file:
                assert word.encode() not in file.read()
    # A file that is gone by then is no reason not to come back.
    secret.unlink()
    kill_worker(node, SHARING)
    wait_until_up(node, SHARING)
    assert holds(user, 0)


def test_targets_that_come_to_share_a_disk_go_to_one_worker_with_what_is_kept(
    node: DaemonNode, daemons: Daemons
) -> None:
    put(url_of(node, OTHER), 5)
    counted = count_of(node, OTHER)

    csvd(node, "lun", "add", f"{daemons.folder}/disk.img", "--serial", "test", "--target", OTHER)
    assert worker_of(node, OTHER)["worker"] == worker_of(node, TARGET)["worker"] == 1
    assert holds(url_of(node, OTHER), 5)
    put(url_of(node, TARGET), 6)
    assert holds(url_of(node, OTHER, 1), 6)
    assert count_of(node, OTHER) > counted


async def _log_in(host: Host, url: str, reactor: Any) -> None:
    """As Host.log_in, which does not follow a redirect, at the place where it leads."""
    session = await login(url, reactor=reactor)
    place = session.portal
    await session.close()
    await host.log_in(f"iscsi://{place}/{url.partition('//')[2].partition('/')[2]}", reactor)


def test_a_reservation_that_is_to_persist_outlives_its_worker_and_a_move(node: DaemonNode, daemons: Daemons) -> None:
    url = url_of(node, OTHER)

    async def reserve(reactor: Any) -> None:
        holder = Host("holder")
        await _log_in(holder, url, reactor)
        await holder.out(0, 0, 0xAB, flags=APTPL)
        await holder.out(1, 0xAB, kind=EA_RO)
        await holder.disk.session.close()

    async def look(reactor: Any) -> None:
        stranger = Host("stranger")
        await _log_in(stranger, url, reactor)
        assert await stranger.keys() == [0xAB]
        assert await stranger.is_kept_out()
        await stranger.disk.session.close()

    run_in_reactor(reserve)
    run_in_reactor(look)
    kill_worker(node, OTHER)
    wait_until_up(node, OTHER)
    run_in_reactor(look)
    csvd(node, "lun", "add", f"{daemons.folder}/disk.img", "--serial", "test", "--target", OTHER)
    assert worker_of(node, OTHER)["worker"] == 1
    run_in_reactor(look)


def test_a_worker_that_is_killed_comes_back_at_its_port_and_disturbs_nobody(node: DaemonNode) -> None:
    put(url_of(node, TARGET), 3)

    async def main(reactor: Any) -> None:
        other = await connect(url_of(node, OTHER), reactor=reactor)
        mine = await login(url_of(node, TARGET), reactor=reactor)
        port = mine.portal
        killed = kill_worker(node, TARGET)
        assert (await other.read(0, 1)) is not None
        again = await login(url_of(node, TARGET), reactor=reactor)
        assert again.portal == port
        assert (await other.read(0, 1)) is not None
        worker = wait_until_up(node, TARGET)
        assert (worker["process_id"] != killed, worker["restarts"]) == (True, 1)
        assert "SIGKILL" in worker["last_end"]
        assert worker_of(node, OTHER)["restarts"] == 0
        await again.close()
        await other.close()
        await mine.close()

    run_in_reactor(main)
    assert holds(url_of(node, SHARING), 3)
    events = [event["text"] for event in csvd(node, "event", "ls")["events"] if event["kind"] == "worker"]
    assert len(events) == 2


def test_totals_never_go_back(node: DaemonNode) -> None:
    put(url_of(node, TARGET), 1)
    before = count_of(node, TARGET)
    assert before > 0
    kill_worker(node, TARGET)
    assert count_of(node, TARGET) >= before
    wait_until_up(node, TARGET)
    assert holds(url_of(node, TARGET), 1)
    assert count_of(node, TARGET) > before


def test_when_the_daemon_is_killed_its_workers_end_and_the_next_one_serves(node: DaemonNode) -> None:
    put(url_of(node, TARGET), 9)
    processes = [worker["process_id"] for worker in workers(node)]
    node.kill()
    node.start().ready()
    assert not any(is_alive(process) for process in processes)
    assert holds(url_of(node, TARGET), 9)
    assert node.terminate() == 0


def test_a_ctrl_c_that_reaches_all_of_them_is_an_end_in_good_order(daemons: Daemons) -> None:
    node = node_with_workers(daemons)
    put(url_of(node, TARGET), 4)
    for worker in workers(node):
        os.kill(worker["process_id"], 2)
        os.kill(worker["process_id"], 15)
    assert holds(url_of(node, TARGET), 4)
    assert node.terminate() == 0


def test_a_worker_that_is_started_by_hand_says_so() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "csvd.workers.worker", "--number", "1", "--channel", "77", "--log-level", "info"],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("csvd worker 1: ")


def test_a_node_of_a_cluster_has_no_workers_unless_it_serves_its_own_targets_alone(daemons: Daemons) -> None:
    node = daemons.node()
    text = node.config.read_text()
    assert csvd_of(node, "init", "--cluster", "east").returncode == 0
    node.config.write_text(text.replace("[node]\n", "[node]\nworkers = 2\n"))
    node.start()
    status, _, log = node.end_of_process()
    assert status == 1
    assert "node.workers is 2, and this node serves the targets of its cluster" in log[-1]
    assert "cluster.portals = []" in log[-1]
    node.config.write_text(node.config.read_text().replace("[cluster]\n", "[cluster]\nportals = []\n"))
    node.start().ready()
    assert [worker["state"] for worker in eventually(lambda: workers(node) or None)] == ["up", "up"]


def csvd_of(node: DaemonNode, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command that takes a node's configuration, while its daemon does not run."""
    words = [sys.executable, "-m", "csvd", *arguments, "--config", str(node.config)]
    return subprocess.run(words, capture_output=True, text=True, check=False, timeout=60)


def test_a_disk_that_a_worker_can_not_open_ends_the_start_in_one_line(daemons: Daemons) -> None:
    node = daemons.node(more='[[target.lun]]\nnumber = 1\ndisk = "/nowhere/at-all.img"\n')
    node.config.write_text(node.config.read_text().replace("[node]\n", "[node]\nworkers = 2\n"))
    status, _, log = node.start().end_of_process()
    assert status == 1
    assert log[-1].startswith("csvd run: /nowhere/at-all.img: cannot be opened")
