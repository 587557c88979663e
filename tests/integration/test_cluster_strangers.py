"""Who does not know the secret gets nothing; and a node does not start on a state that is not its own or is damaged."""

from __future__ import annotations

import os
import shutil
import socket
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from csvd.cluster.authentication import Channel, ClusterKeys, Identity, Purpose
from tests.integration.cluster_processes import ClusterProcesses, running_cluster, wait_until


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ClusterProcesses]:
    with running_cluster(tmp_path_factory.mktemp("strangers")) as cluster:
        cluster.coordinator()
        yield cluster


def said_to(cluster: ClusterProcesses, node: str, data: bytes, *, timeout_s: float = 10) -> bytes:
    """What a node answers to bytes, until it closes the connection."""
    with socket.create_connection(cluster.members[node], timeout=timeout_s) as connection:
        received = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(data)
            while piece := connection.recv(65536):
                received += piece
        return received


def hello(cluster: ClusterProcesses, secret: bytes, *, node: str = "n1", peer: str = "n2") -> tuple[Channel, bytes]:
    identity = Identity(node, frozenset(cluster.members))
    keys = ClusterKeys.from_secret(secret)
    nonce = os.urandom(32)
    channel = Channel.dialing(keys, identity, peer, Purpose.CONTROL, nonce=nonce, maximum_frame_bytes=1 << 20)
    return channel, channel.start()


def test_a_wrong_secret_gets_nothing_but_a_closed_connection(cluster: ClusterProcesses) -> None:
    _, data = hello(cluster, os.urandom(32))
    assert said_to(cluster, "n2", data) == b""
    wait_until(lambda: "it does not know the secret of the cluster" in cluster.log("n2"))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500),
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00",
        b"csvdpeer" + bytes(600),
        bytes(100_000),
    ],
)
def test_other_protocols_and_garbage_get_nothing_but_a_closed_connection(
    cluster: ClusterProcesses, data: bytes
) -> None:
    assert said_to(cluster, "n2", data) == b""


def test_a_hello_that_was_recorded_gets_no_further_than_a_nonce(cluster: ClusterProcesses) -> None:
    _, data = hello(cluster, cluster.secret)
    first = said_to_part(cluster, "n2", data, 64)
    again = said_to_part(cluster, "n2", data, 64)
    assert len(first) == len(again) == 64
    assert first != again
    assert len(said_to(cluster, "n2", data + bytes(32))) in (0, 64)


def said_to_part(cluster: ClusterProcesses, node: str, data: bytes, length_bytes: int) -> bytes:
    with socket.create_connection(cluster.members[node], timeout=10) as connection:
        connection.sendall(data)
        received = b""
        while len(received) < length_bytes:
            received += connection.recv(length_bytes - len(received))
        return received


def test_connections_that_say_nothing_are_closed_in_time_and_many_of_them_keep_no_member_out(
    cluster: ClusterProcesses,
) -> None:
    silent = [socket.create_connection(cluster.members["n2"], timeout=10) for _ in range(200)]
    began_s = time.monotonic()
    channel, data = hello(cluster, cluster.secret, node="n1")
    # A member's own handshake gets through while they are there.
    assert channel.receive(said_to_part(cluster, "n2", data, 64))[0]
    for connection in silent:
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        connection.close()
    assert time.monotonic() - began_s < 6
    cluster.nodes["n2"].submit({"op": "guest_create", "name": "still-here", "owner": "n1", "spec": {}})


def test_a_node_with_another_secret_does_not_join(tmp_path: Path) -> None:
    cluster = ClusterProcesses(tmp_path, 3)
    try:
        cluster.start("n1", "n2")
        cluster.start("n3", secret=os.urandom(32))
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
