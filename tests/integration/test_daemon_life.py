"""csvd run as a person or systemd runs it: how it starts, what stands in its way, how it ends."""

from __future__ import annotations

import os
import re
import resource
import signal
import socket
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from csvd.api.client import AnswerBad, AnswerNotFound, AnswerRefused, ClientError, NoDaemon
from tests.integration.daemon_rig import TARGET, Daemons, coordinator_of, eventually, free_ports, is_alive
from tests.members_at_once import make_members

GUEST = {"memory_bytes": 1 << 22, "pages_per_s": 100}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_says_ready_answers_and_ends_in_good_order(daemons: Daemons, number: int) -> None:
    node = daemons.node().start().ready()
    assert re.fullmatch(rf"ready control={node.socket} portal=127\.0\.0\.1:\d+", node.ready_line)
    assert stat.S_IMODE(os.stat(node.socket).st_mode) == 0o600
    assert coordinator_of([node]) == ("node1", 1)
    facts = node.client.status()["members"]["node1"]["facts"]
    assert facts["portals"] == [node.portal]
    assert facts["process_id"] == node.process.pid
    (unit,) = facts["units"]
    expected = {
        "number": 0,
        "target": TARGET,
        "disk": f"{daemons.folder}/disk.img",
        "size_bytes": 16 << 20,
        "block_bytes": 512,
        "read_only": False,
        "serial": "test",
        "origin": "file",
    }
    assert expected.items() <= unit.items()
    assert node.terminate(number) == 0
    assert node.end_of_process()[1] == ""
    assert not node.socket.exists()
    with pytest.raises(NoDaemon):
        node.client.status()


def test_every_line_of_its_log_has_time_and_level(daemons: Daemons) -> None:
    node = daemons.node().start().ready()
    coordinator_of([node])
    node.terminate()
    assert node.log
    for line in node.log:
        assert re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} (info |warn ) \S+: ", line), line


def test_a_second_daemon_keeps_out_of_a_state_directory_that_is_in_use(daemons: Daemons) -> None:
    first = daemons.node().start().ready()
    second = daemons.node("node2", portal="127.0.0.1:0")
    second.config.write_text(
        second.config.read_text().replace('"state"', f'"{first.folder}/state"\n').replace("node2", "node1")
    )
    status, out, log = second.start().end_of_process()
    assert (status, out) == (1, "")
    assert len(log) == 1
    assert log[0].startswith(f"csvd run: {first.folder}/state: another daemon uses this state directory")
    assert str(first.process.pid) in log[0]
    assert first.client.status()["node"] == "node1"


def test_a_control_socket_that_is_answered_at_is_not_taken(daemons: Daemons) -> None:
    first = daemons.node().start().ready()
    second = daemons.node("node2", more=f'[control]\nsocket = "{first.socket}"\n')
    status, _, log = second.start().end_of_process()
    assert status == 1
    assert log[-1].startswith(f"csvd run: {first.socket}: can not listen at the control socket: another daemon")
    assert first.client.status()["node"] == "node1"


def test_what_a_killed_daemon_left_behind_stands_in_no_ones_way(daemons: Daemons) -> None:
    node = daemons.node().start().ready()
    coordinator_of([node])
    node.kill()
    assert node.socket.exists()
    node.start().ready()
    assert coordinator_of([node], above_epoch=1) == ("node1", 2)
    assert node.terminate() == 0


def test_a_port_in_use_is_one_line_and_nothing_is_left_behind(daemons: Daemons) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        portal = f"127.0.0.1:{taken.getsockname()[1]}"
        node = daemons.node(portal=portal)
        status, out, log = node.start().end_of_process()
    assert (status, out) == (1, "")
    assert log[-1].startswith(f"csvd run: {portal}: can not listen: Address already in use")
    assert "Traceback" not in "".join(log)
    assert not node.socket.exists()
    assert node.start().ready().terminate() == 0


def test_a_nodes_port_in_use_is_one_line(daemons: Daemons) -> None:
    node = daemons.node()
    port = int(re.findall(r'listen = "127\.0\.0\.1:(\d+)"', node.config.read_text())[0])
    make_members({"node1": node.config.parent / "state" / "cluster"}, {"node1": ("127.0.0.1", port)})
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", port))
        taken.listen()
        status, _, log = node.start().end_of_process()
    assert status == 1
    assert log[-1].startswith(f"csvd run: 127.0.0.1:{port}: ")
    assert "in use" in log[-1]


def test_a_disk_that_is_not_there_is_one_line(daemons: Daemons) -> None:
    node = daemons.node()
    node.config.write_text(node.config.read_text().replace('create = "16M"\n', ""))
    status, _, log = node.start().end_of_process()
    assert status == 1
    assert len(log) == 1
    assert f"{daemons.folder}/disk.img" in log[0]


def test_a_wrong_configuration_is_one_line(daemons: Daemons) -> None:
    node = daemons.node(more="[guest]\n")
    status, _, log = node.start().end_of_process()
    assert status == 1
    assert log == [f"csvd: {node.config}: guest: is not a known key (did you mean guests?)\n"]


def test_systemd_is_told_when_it_is_ready_and_when_it_stops(daemons: Daemons) -> None:
    path = daemons.folder / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
        notify.bind(str(path))
        notify.settimeout(20)
        node = daemons.node().start(NOTIFY_SOCKET=str(path)).ready()
        ready = notify.recv(4096).decode()
        assert ready == f"READY=1\nSTATUS={node.ready_line}"
        node.process.send_signal(signal.SIGTERM)
        assert notify.recv(4096) == b"STOPPING=1"
        assert node.end_of_process()[0] == 0


def test_systemd_that_can_not_be_told_stops_nothing(daemons: Daemons) -> None:
    node = daemons.node().start(NOTIFY_SOCKET=str(daemons.folder / "nobody")).ready()
    assert node.terminate() == 0
    assert any("systemd could not be told" in line for line in node.log)


def test_the_journal_gets_priorities_instead_of_times(daemons: Daemons) -> None:
    path = daemons.folder / "journal"
    with path.open("w") as journal:
        status = os.fstat(journal.fileno())
        node = daemons.node()
        pid = os.posix_spawn(
            "/bin/sh",
            ["sh", "-c", f'exec "$PYTHON" -m csvd run --config {node.config} 2>{path}'],
            {
                **os.environ,
                "PYTHON": sys.executable,
                "PYTHONPATH": str(Path(__file__).parents[2]),
                "JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}",
            },
        )
    try:
        coordinator_of([node])
    finally:
        os.kill(pid, signal.SIGTERM)
        assert os.waitpid(pid, 0)[1] == 0
    assert all(re.match(r"<\d>[a-z]", line) for line in path.read_text().splitlines())


def test_chap_and_the_list_of_initiators_are_what_the_configuration_says(daemons: Daemons) -> None:
    for name, content in (("right", "correct horse battery"), ("wrong", "another secret 12345")):
        (daemons.folder / name).touch(0o600)
        (daemons.folder / name).write_text(content)
    chap = f'[target.chap]\nuser = "joe"\nsecret_file = "{daemons.folder}/right"\n'
    node = daemons.node(more=chap)
    allowed = "iqn.2026-11.org.csvd:allowed"
    node.config.write_text(node.config.read_text().replace("portals =", f'initiators = ["{allowed}"]\nportals ='))
    node.start().ready()

    def info(name: str, secret: str) -> int:
        url = f"iscsi://{node.portal}/{TARGET}/0"
        login = ["--initiator-name", name, "--chap-user", "joe", "--chap-secret-file", f"{daemons.folder}/{secret}"]
        return subprocess.run(
            [sys.executable, "-m", "initiator", "info", url, *login], capture_output=True, check=False, timeout=60
        ).returncode

    assert info(allowed, "right") == 0
    assert info(allowed, "wrong") == 1
    assert info("iqn.2026-11.org.csvd:other", "right") == 1


def test_a_node_that_can_not_write_its_journal_says_so_and_its_target_goes_on(daemons: Daemons) -> None:
    node = daemons.node().start().ready()
    coordinator_of([node])
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (0, 0))
    with pytest.raises(ClientError):
        node.client.create_guest("g", GUEST)
    eventually(lambda: node.client.status()["failure"] or None)
    assert "THIS NODE TAKES NO PART IN THE CLUSTER: " in node.csvd("status").stdout
    assert any("this node takes no part any more" in event["text"] for event in node.client.events()["events"])
    url = f"iscsi://{node.portal}/{TARGET}/0"
    done = subprocess.run(
        [sys.executable, "-m", "initiator", "info", url], capture_output=True, check=False, timeout=60
    )
    assert done.returncode == 0
    assert node.terminate() == 0


# Guests of one node


def test_a_guest_ends_with_its_daemon_and_goes_on_from_its_image(daemons: Daemons) -> None:
    node = daemons.node().start().ready()
    coordinator_of([node])
    made = node.client.create_guest("g", GUEST)
    assert (made["owner"], made["state"]) == ("node1", "running")
    counted = eventually(lambda: (node.client.guest("g")["counter"] or 0) > 5 or None)
    assert counted
    process_id = node.client.guest("g")["process_id"]
    count = node.client.guest("g")["counter"]
    assert node.terminate() == 0
    assert not is_alive(process_id)

    node.start().ready()
    coordinator_of([node])
    guest = node.client.guest("g")
    assert guest["state"] == "stopped"
    assert "daemon of node1 was stopped" in guest["reason"]
    assert node.client.start_guest("g")["counter"] >= count
    assert node.client.verify_guest("g")["is_intact"]
    node.client.pause_guest("g")
    paused = node.client.guest("g")["counter"]
    assert node.client.guest("g")["counter"] == paused
    node.client.resume_guest("g")
    with pytest.raises(AnswerRefused, match="has to be stopped"):
        node.client.remove_guest("g")
    node.client.stop_guest("g")
    node.client.remove_guest("g")
    with pytest.raises(AnswerNotFound):
        node.client.guest("g")
    assert list((node.folder / "state" / "guests").iterdir()) == []


def test_a_killed_daemon_leaves_no_guest_running(daemons: Daemons) -> None:
    node = daemons.node().start().ready()
    coordinator_of([node])
    process_id = node.client.create_guest("g", GUEST)["process_id"]
    assert is_alive(process_id)
    node.kill()
    eventually(lambda: None if is_alive(process_id) else True)


def test_a_second_signal_ends_a_daemon_that_can_not_stop(daemons: Daemons) -> None:
    node = daemons.node().start().ready()
    coordinator_of([node])
    process_id = node.client.create_guest("g", GUEST)["process_id"]
    os.kill(process_id, signal.SIGSTOP)  # it will not take "quit" for a while
    node.process.send_signal(signal.SIGTERM)
    eventually(lambda: any("SIGTERM: stopping" in line for line in node.log) or None)
    time.sleep(0.2)
    assert node.process.poll() is None
    assert node.terminate(signal.SIGTERM) == 130
    eventually(lambda: None if is_alive(process_id) else True)


def test_wrong_requests_are_told_apart(daemons: Daemons) -> None:
    node = daemons.node().start().ready()
    coordinator_of([node])
    with pytest.raises(AnswerBad, match="memory_bytes must be a whole number of pages"):
        node.client.create_guest("g", {"memory_bytes": 5})
    with pytest.raises(AnswerNotFound, match="there is no node 'node9'"):
        node.client.create_guest("g", GUEST, node="node9")
    with pytest.raises(AnswerNotFound, match="there is no such guest"):
        node.client.migrate("nobody", "node1")
    node.client.create_guest("g", GUEST)
    with pytest.raises(AnswerRefused, match="the guest is on that node already"):
        node.client.migrate("g", "node1")
    with pytest.raises(AnswerRefused):
        node.client.create_guest("g", GUEST)
    assert [route["path"] for route in node.client.routes()].count("/v1/guests/{name}") == 2


def test_a_member_alone_answers_that_there_is_no_coordinator(daemons: Daemons) -> None:
    (port,) = free_ports(1)
    node = daemons.node()
    own = re.findall(r'listen = "127\.0\.0\.1:(\d+)"', node.config.read_text())[0]
    addresses = {"node1": ("127.0.0.1", int(own)), "node2": ("127.0.0.1", port)}
    make_members({"node1": node.config.parent / "state" / "cluster"}, addresses)
    node.start().ready()
    outcome = node.csvd("vm", "show", "g")
    assert outcome.returncode == 1
    assert outcome.stderr.startswith("csvd: guest g: no coordinator answers: ")
    outcome = node.csvd("status")
    assert outcome.stdout.startswith("node node1: no coordinator, ")
    assert "no link to node2: " in outcome.stdout
    assert node.terminate() == 0
