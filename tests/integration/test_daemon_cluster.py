"""Three daemons: any of them answers for all of the cluster, and guests move between them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from csvd.api.client import AnswerUnavailable
from tests.integration.daemon_rig import TARGET, DaemonNode, Daemons, coordinator_of, eventually

GUEST = {"memory_bytes": 32 << 20, "pages_per_s": 1000}


@pytest.fixture
def nodes(daemons: Daemons) -> list[DaemonNode]:
    return daemons.cluster()


def test_every_node_tells_the_same_of_the_cluster(nodes: list[DaemonNode]) -> None:
    def linked() -> bool | None:
        answers = [node.status() for node in nodes]
        return True if all(a and all(m["connected"] for m in a["members"].values()) for a in answers) else None

    eventually(linked)
    statuses = [node.client.status(detail=True) for node in nodes]
    assert [status["node"] for status in statuses] == ["node1", "node2", "node3"]
    assert len({str(status["coordinator"]) for status in statuses}) == 1
    for status in statuses:
        portals = [member["facts"]["portals"] for member in status["members"].values()]
        assert portals == [[node.portal] for node in nodes]
        tags = [member["facts"]["targets"][0]["portal_group_tag"] for member in status["members"].values()]
        assert tags == [1, 2, 3]
        designators = {member["facts"]["units"][0]["naa"] for member in status["members"].values()}
        assert len(designators) == 1
    page = nodes[0].csvd("status").stdout
    assert "3 of 3 members here" in page
    for node in nodes:
        assert node.portal in page


def test_a_guest_is_made_moved_checked_and_removed_by_nodes_that_do_not_have_it(nodes: list[DaemonNode]) -> None:
    first, _, third = nodes
    made = third.csvd("vm", "create", "g", "--memory", "32M", "--pages-per-s", "1000", "--node", "node1", "--json")
    assert json.loads(made.stdout)["owner"] == "node1", made.stderr
    eventually(lambda: (third.client.guest("g")["counter"] or 0) > 5 or None)
    before = third.client.guest("g")["counter"]

    moved = third.csvd("migrate", "g", "--to", "node2")
    assert moved.returncode == 0, moved.stdout + moved.stderr
    assert moved.stdout.startswith("guest g  node1 -> node2  completed in ")
    assert "g -> node2  round 1" in moved.stderr

    for node in nodes:
        guest = node.client.guest("g")
        assert (guest["owner"], guest["epoch"], guest["state"]) == ("node2", 2, "running")
        assert guest["counter"] > before
        assert guest["migration"]["report"]["state"] == "completed"
        assert node.client.migration("g")["report"]["downtime_ms"] > 0
    assert first.csvd("vm", "verify", "g").stdout.startswith("guest g is intact: ")
    assert not list((first.folder / "state" / "guests").glob("g*"))

    texts = [event["text"] for event in first.client.events()["events"]]
    assert any(text.startswith("guest g leaves node1 for node2") for text in texts)
    assert any(text.startswith("guest g to node2: completed, downtime ") for text in texts)
    assert "guest g moved from node1 to node2, epoch 2" in [event["text"] for event in third.client.events()["events"]]

    assert third.csvd("vm", "stop", "g").stdout == "guest g is stopped on node2\n"
    assert third.csvd("vm", "rm", "g").stdout == "guest g is removed\n"
    eventually(lambda: True if not first.client.guests() else None)


def test_a_migration_is_called_off_from_another_node(nodes: list[DaemonNode]) -> None:
    first, second, third = nodes
    first.client.create_guest("g", {"memory_bytes": 512 << 20, "pages_per_s": 20000})
    begun = second.client.migrate("g", "node3")
    assert begun["report"] is None
    assert third.client.cancel_migration("g")["migration_id"] == begun["migration_id"]

    def over() -> dict[str, object] | None:
        report: dict[str, object] | None = second.client.migration("g")["report"]
        return report

    assert eventually(over)["state"] == "cancelled"
    guest = third.client.guest("g")
    assert (guest["owner"], guest["epoch"], guest["state"]) == ("node1", 1, "running")
    outcome = third.csvd("vm", "cancel", "g")
    assert (outcome.returncode, outcome.stderr) == (1, "csvd: guest g: no migration of the guest is under way\n")


def test_a_command_that_watches_a_cancelled_migration_is_exit_1(nodes: list[DaemonNode]) -> None:
    first, second, _ = nodes
    first.client.create_guest("g", {"memory_bytes": 512 << 20, "pages_per_s": 20000})
    watching = subprocess.Popen(
        [sys.executable, "-m", "csvd", "--socket", str(second.socket), "migrate", "g", "--to", "node3"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    eventually(lambda: True if second.client.guest("g")["migration"] else None)
    first.client.cancel_migration("g")
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 1
    assert "cancelled" in out
    assert err.splitlines()[-1].startswith("csvd: guest g: the migration was not completed")


def test_a_guest_whose_node_is_gone_is_unavailable_and_everything_else_goes_on(nodes: list[DaemonNode]) -> None:
    first, second, third = nodes
    third.client.create_guest("g", GUEST)
    third.kill()
    coordinator_of([first, second])
    eventually(lambda: True if not first.client.status()["members"]["node3"]["connected"] else None)
    with pytest.raises(AnswerUnavailable, match="node3"):
        first.client.stop_guest("g")
    assert first.client.create_guest("h", GUEST, node="node2")["owner"] == "node2"
    assert [guest["name"] for guest in second.client.guests()] == ["g", "h"]
    third.start().ready()
    coordinator_of(nodes)
    assert eventually(lambda: third.client.guest("g") if third.client.guests() else None)["state"] == "stopped"


def test_a_node_that_hangs_does_not_hang_the_status_of_the_others(nodes: list[DaemonNode]) -> None:
    first, _, third = nodes
    os.kill(third.process.pid, signal.SIGSTOP)
    try:
        status = first.client.status(detail=True)
        assert status["members"]["node3"]["facts"] is None
        assert status["members"]["node2"]["facts"] is not None
    finally:
        os.kill(third.process.pid, signal.SIGCONT)


def test_an_initiators_session_is_shown_while_it_lasts(nodes: list[DaemonNode], tmp_path: Path) -> None:
    first, second, _ = nodes
    writing = subprocess.Popen(
        [sys.executable, "-m", "initiator", "write", f"iscsi://{first.portal}/{TARGET}/0", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        (session,) = eventually(lambda: first.client.sessions() or None)
        assert session["target"] == TARGET
        assert second.client.status(detail=True)["members"]["node1"]["facts"]["sessions"] == 1
        assert session["initiator"] in first.csvd("session", "ls").stdout
    finally:
        writing.communicate(input=b"x" * 512, timeout=30)
    eventually(lambda: None if first.client.sessions() else True)
