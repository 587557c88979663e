"""Who has no valid certificate of the cluster gets nothing; a node does not start on a state not its own or damaged."""

from __future__ import annotations

import pickle
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from OpenSSL import SSL

from csvd.cluster.framing import Kind, Purpose, encode_hello, frame_header
from csvd.cluster.tls import node_context
from tests.bad_peers import strangers
from tests.bad_peers.strangers import Stranger
from tests.integration.cluster_processes import ClusterProcesses, running_cluster, wait_until
from tests.members_at_once import make_members


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    with running_cluster(tmp_path_factory.mktemp("strangers")) as cluster:
        cluster.coordinator()
        yield cluster


def said_to(cluster: ClusterProcesses, node: str, data: bytes, *, timeout_s: float = 60) -> bytes:
    """What a node answers to bytes, until it closes the connection."""
    with socket.create_connection(cluster.members[node], timeout=timeout_s) as connection:
        received = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
            while piece := connection.recv(65536):
                received += piece
        return received


def told(cluster: ClusterProcesses, context: SSL.Context) -> bytes:
    """What a stranger is told by n2 when it behaves as a member does."""
    return strangers.told(cluster.members["n2"], context)


def refusals(cluster: ClusterProcesses, words: str) -> int:
    """How many lines of n2's log say that a connection was refused for this."""
    lines = cluster.log("n2").splitlines()
    return sum(
        "a connection to the nodes' port from 127.0.0.1 was refused: " in line and words in line for line in lines
    )


@pytest.mark.parametrize("attempt", strangers.CERTIFIED, ids=lambda attempt: attempt.tried)
def test_a_stranger_gets_nothing_but_a_closed_connection_and_a_line_in_the_log(
    cluster: ClusterProcesses, attempt: strangers.Certified
) -> None:
    before = refusals(cluster, attempt.logged)

    def is_refused_and_logged() -> bool:
        # Not each of many at once gets a line of its own.
        assert told(cluster, attempt.context(cluster.identities)) == b""
        return refusals(cluster, attempt.logged) > before

    wait_until(is_refused_and_logged)


@pytest.mark.parametrize("attempt", strangers.RAW, ids=lambda attempt: attempt.tried)
def test_what_is_not_tls_gets_nothing_but_a_closed_connection_and_a_line_in_the_log(
    cluster: ClusterProcesses, attempt: strangers.Raw
) -> None:
    before = refusals(cluster, attempt.logged)

    def is_refused_and_logged() -> bool:
        assert said_to(cluster, "n2", attempt.data) == b""
        return refusals(cluster, attempt.logged) > before

    wait_until(is_refused_and_logged)


def test_the_docs_have_these_attempts() -> None:
    page = (Path(__file__).parents[2] / "docs" / "security.md").read_text()
    assert strangers.table() in page


class Pickled:
    """What runs code when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return (Path.touch, (self.path,))


@pytest.mark.parametrize("protocol", [0, 2, 5])
def test_pickled_garbage_in_a_valid_frame_of_a_member_is_refused_and_runs_nothing(
    cluster: ClusterProcesses, tmp_path: Path, protocol: int
) -> None:
    trap = tmp_path / "ran"
    member = Stranger(cluster.members["n2"], node_context(cluster.identities["n1"]))
    assert member.shake_hands()
    member.say(Kind.HELLO, encode_hello(Purpose.CONTROL))
    assert member.hear_first() == frame_header(Kind.PING, 0)
    before = cluster.log("n2").count("no link to n1: ")
    member.say(Kind.RAFT, pickle.dumps(Pickled(trap), protocol=protocol))
    member.hear()
    wait_until(lambda: cluster.log("n2").count("no link to n1: ") > before)
    assert not trap.exists()
    cluster.coordinator()


def test_connections_that_say_nothing_are_closed_in_time_and_many_of_them_keep_no_member_out(
    cluster: ClusterProcesses,
) -> None:
    silent = [socket.create_connection(cluster.members["n2"], timeout=60) for _ in range(200)]
    began_s = time.monotonic()
    # A member's own handshake gets through while they are there.
    member = Stranger(cluster.members["n2"], node_context(cluster.identities["n1"]))
    assert member.shake_hands()
    member.say(Kind.HELLO, encode_hello(Purpose.CONTROL))
    assert member.hear_first() == frame_header(Kind.PING, 0)
    member.close()
    for connection in silent:
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        connection.close()
    # They have a few seconds each, all at the same time; one after another it would be many minutes.
    assert time.monotonic() - began_s < 60
    cluster.nodes["n2"].submit({"op": "guest_create", "name": "still-here", "owner": "n1", "spec": {}})


def test_a_node_of_another_cluster_gets_no_link(tmp_path: Path) -> None:
    cluster = ClusterProcesses(tmp_path, 3)
    try:
        cluster.start("n1", "n2")
        shutil.rmtree(tmp_path / "n3")
        make_members({"n3": tmp_path / "n3"}, cluster.members)
        cluster.start("n3")
        wait_until(lambda: any(node.status()["is_coordinator"] for node in cluster.nodes.values()))
        stranger = cluster.nodes["n3"].status()
        assert [member["link"] for member in stranger["members"]] == ["down", "down", "self"]
        assert stranger["coordinator"] is None
        member = cluster.nodes["n1"].status()["members"][2]
        assert member["link"] == "down"
        assert member["trouble"]
    finally:
        for node in cluster.nodes.values():
            node.kill()


def failure_of_start(cluster: ClusterProcesses, name: str) -> str:
    with pytest.raises(AssertionError):
        cluster.start(name)
    node = cluster.nodes.pop(name)
    assert node.process.wait(timeout=10) == 1
    return str(node.events[0]["text"])


def test_a_node_does_not_start_on_a_state_that_is_in_use_or_another_nodes_or_damaged(tmp_path: Path) -> None:
    with running_cluster(tmp_path) as cluster:
        coordinator = cluster.coordinator()
        for number in range(5):
            coordinator.submit({"op": "guest_create", "name": f"vm-{number}", "owner": "n1", "spec": {}})
        running = cluster.nodes.pop("n1")
        assert "another process uses it" in failure_of_start(cluster, "n1")
        running.kill()

        journal = tmp_path / "n1" / "journal"
        good = journal.read_bytes()
        middle = good.index(b"vm-1")
        journal.write_bytes(good[:middle] + b"VM" + good[middle + 2 :])
        assert "damaged at byte" in failure_of_start(cluster, "n1")

        shutil.copy(tmp_path / "n2" / "journal", journal)
        assert "belongs to node n2, and this is node n1" in failure_of_start(cluster, "n1")

        journal.write_bytes(good + b"half a batch")
        cluster.start("n1")
        wait_until(lambda: len(cluster.nodes["n1"].status()["guests"]) == 5)
        assert "torn and cut off" in cluster.log("n1")


def test_a_port_in_use_is_one_clear_line(tmp_path: Path) -> None:
    cluster = ClusterProcesses(tmp_path, 1)
    with socket.create_server(cluster.members["n1"]):
        text = failure_of_start(cluster, "n1")
    assert text.startswith("{}:{}: the nodes' port can not be listened at".format(*cluster.members["n1"]))
    assert "\n" not in text
