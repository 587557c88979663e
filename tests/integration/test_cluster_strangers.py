"""Who has no valid certificate of the cluster gets nothing; a node does not start on a state not its own or damaged."""

from __future__ import annotations

import pickle
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from OpenSSL import SSL

from csvd.cluster.at_once import make_members
from csvd.cluster.framing import Kind, Purpose, encode_hello, frame_header
from csvd.cluster.identity.certificate import CLOCK_SLACK_S, NODE_LIFE_S, NodeIdentity, make_cluster, self_signed
from csvd.cluster.tls import TlsChannel, node_context, tls_context
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


class Stranger:
    """A dialer with an identity of its own choice, over a blocking socket."""

    def __init__(self, cluster: ClusterProcesses, node: str, context: SSL.Context) -> None:
        self.channel = TlsChannel(context, lambda chain: None, is_dialer=True)
        self._socket = socket.create_connection(cluster.members[node], timeout=10)
        self._socket.sendall(self.channel.start())

    def shake_hands(self) -> None:
        while not self.channel.is_established:
            data = self._socket.recv(65536)
            assert data, "closed"
            answer, _ = self.channel.receive(data)
            self._socket.sendall(answer)

    def say(self, kind: Kind, body: bytes) -> None:
        self.say_bytes(self.channel.seal(frame_header(kind, len(body)), body))

    def say_bytes(self, data: bytes) -> None:
        with suppress(ConnectionResetError, BrokenPipeError):
            self._socket.sendall(data)

    def hear(self) -> bytes:
        """What it is told, until the connection is closed."""
        heard = b""
        with suppress(ConnectionResetError, BrokenPipeError):
            while data := self._socket.recv(65536):
                heard += b"".join(self.channel.receive(data)[1])
        self._socket.close()
        return heard

    def hear_first(self) -> bytes:
        """The first that it is told."""
        while True:
            data = self._socket.recv(65536)
            assert data, "closed"
            _, pieces = self.channel.receive(data)
            if pieces:
                return pieces[0]

    def close(self) -> None:
        self._socket.close()


def identity(cluster: ClusterProcesses, node: str = "n1", *, now_s: float | None = None) -> NodeIdentity:
    own = cluster.identities[node]
    if now_s is None:
        return own
    return replace(own, certificate=own.authority.certify(node, own.key.public_key(), now_s=now_s))


def told(cluster: ClusterProcesses, context: SSL.Context) -> bytes:
    """What a stranger is told by n2 when it behaves as a member does."""
    stranger = Stranger(cluster, "n2", context)
    stranger.shake_hands()
    stranger.say(Kind.HELLO, encode_hello(Purpose.CONTROL))
    return stranger.hear()


def of_another_cluster(cluster: ClusterProcesses) -> SSL.Context:
    return node_context(make_cluster("secret", ["n1"], now_s=time.time())["n1"])


def not_registered(cluster: ClusterProcesses) -> SSL.Context:
    return node_context(identity(cluster).renewed(now_s=time.time()))


def expired(cluster: ClusterProcesses) -> SSL.Context:
    return node_context(identity(cluster, now_s=time.time() - NODE_LIFE_S - 60))


def not_valid_yet(cluster: ClusterProcesses) -> SSL.Context:
    return node_context(identity(cluster, now_s=time.time() + 2 * CLOCK_SLACK_S))


def in_another_name(cluster: ClusterProcesses) -> SSL.Context:
    own = identity(cluster, "n3")
    return tls_context(own.authority.certify("n1", own.key.public_key(), now_s=time.time()), own.key)


def of_a_token(cluster: ClusterProcesses) -> SSL.Context:
    key = Ed25519PrivateKey.generate()
    return tls_context(self_signed("joining", key, now_s=time.time()), key)


def none_at_all(cluster: ClusterProcesses) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_verify(SSL.VERIFY_NONE)
    return context


def of_tls_1_2(cluster: ClusterProcesses) -> SSL.Context:
    context = SSL.Context(SSL.TLS_METHOD)
    context.set_max_proto_version(SSL.TLS1_2_VERSION)
    context.set_verify(SSL.VERIFY_NONE)
    context.use_certificate(identity(cluster).certificate)
    context.use_privatekey(identity(cluster).key)
    return context


@pytest.mark.parametrize(
    ("shown", "log"),
    [
        (of_another_cluster, "its certificate is not by this cluster's authority"),
        (not_registered, "its certificate is not a member's: it is for n1, or was revoked"),
        (expired, "its certificate expired at"),
        (not_valid_yet, "its certificate is not valid before"),
        (in_another_name, "its certificate is in another node's name: it is n3, not n1"),
        (of_a_token, "it shows a join token that is used, expired, revoked or of another cluster"),
        (none_at_all, "peer did not return a certificate"),
    ],
)
def test_a_stranger_gets_nothing_but_a_closed_connection_and_a_line_in_the_log(
    cluster: ClusterProcesses, shown: Callable[[ClusterProcesses], SSL.Context], log: str
) -> None:
    def is_refused_and_logged() -> bool:
        # Not each of many at once gets a line of its own.
        assert told(cluster, shown(cluster)) == b""
        return any("from 127.0.0.1 was refused: " in line and log in line for line in cluster.log("n2").splitlines())

    wait_until(is_refused_and_logged)


def test_tls_1_2_gets_nothing_but_a_closed_connection(cluster: ClusterProcesses) -> None:
    stranger = Stranger(cluster, "n2", of_tls_1_2(cluster))
    assert stranger.hear() == b""
    assert not stranger.channel.is_established
    wait_until(lambda: "unsupported protocol" in cluster.log("n2"))


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(510),
        b"\x80\x04\x95\x10\x00\x00\x00\x00\x00\x00\x00" + bytes(100),
        frame_header(Kind.RAFT, 600) + bytes(600),
        bytes(100_000),
    ],
)
def test_other_protocols_raft_without_tls_and_garbage_get_nothing_but_a_closed_connection(
    cluster: ClusterProcesses, data: bytes
) -> None:
    before = cluster.log("n2").count("the TLS handshake failed")

    def is_refused_and_logged() -> bool:
        assert said_to(cluster, "n2", data) == b""
        return cluster.log("n2").count("the TLS handshake failed") > before

    wait_until(is_refused_and_logged)


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
    member = Stranger(cluster, "n2", node_context(identity(cluster)))
    member.shake_hands()
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
    silent = [socket.create_connection(cluster.members["n2"], timeout=10) for _ in range(200)]
    began_s = time.monotonic()
    # A member's own handshake gets through while they are there.
    member = Stranger(cluster, "n2", node_context(identity(cluster)))
    member.shake_hands()
    member.say(Kind.HELLO, encode_hello(Purpose.CONTROL))
    assert member.hear_first() == frame_header(Kind.PING, 0)
    member.close()
    for connection in silent:
        with suppress(ConnectionResetError):
            assert connection.recv(1) == b""
        connection.close()
    assert time.monotonic() - began_s < 6
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
