"""Who is who on an image, and keeping a node off."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable

import pytest

from csvd.storage.disk import StorageError
from csvd.storage.rbd import nodes
from csvd.storage.rbd.handle import RbdHandle, open_handle
from csvd.storage.rbd.nodes import FENCED, FENCED_FOR_S, JOINED, LEFT, NodeRecord, addresses_in, blocklisted
from csvd.storage.rbd.url import parse_rbd_url
from tests.unit.storage.rbd.fake_ceph import RADOS_ERRORS, FakeCluster


@pytest.fixture
def cluster() -> FakeCluster:
    cluster = FakeCluster()
    cluster.add_image("image", 1 << 20)
    return cluster


@pytest.fixture
def new_client(cluster: FakeCluster) -> Callable[[], RbdHandle]:
    return lambda: open_handle(
        cluster.library, parse_rbd_url("rbd:pool/image"), read_only=False, create_bytes=None, block_bytes=512
    )


def record_of(handle: RbdHandle, node: str) -> NodeRecord:
    record = nodes.read_record(handle, node)
    assert record is not None
    return record


def test_a_node_that_joins_is_written_down_with_its_client(
    cluster: FakeCluster, new_client: Callable[[], RbdHandle]
) -> None:
    client, other = new_client(), new_client()
    assert nodes.read_record(client, "one") is None
    nodes.join(client, "one")
    nodes.join(other, "two")
    assert record_of(other, "one") == NodeRecord(client.address, JOINED, 1)
    assert record_of(client, "two") == NodeRecord(other.address, JOINED, 1)
    nodes.join(client, "one")
    assert record_of(other, "one").generation == 1
    assert cluster.blocklist == {}
    assert list(cluster.omaps) == [f"csvd.nodes.{client.image_id}"]


def test_a_fence_puts_the_nodes_client_onto_the_blocklist_for_years(
    cluster: FakeCluster, new_client: Callable[[], RbdHandle]
) -> None:
    client, other = new_client(), new_client()
    nodes.join(client, "one")
    nodes.join(other, "two")
    for _ in range(2):
        nodes.fence(other, "one")
        assert cluster.blocklist == {client.address: FENCED_FOR_S}
        assert record_of(other, "one") == NodeRecord(client.address, FENCED, 1)


def test_nobody_is_fenced_who_never_joined_or_has_left(
    cluster: FakeCluster, new_client: Callable[[], RbdHandle]
) -> None:
    client, other = new_client(), new_client()
    nodes.fence(other, "one")
    nodes.join(client, "one")
    nodes.leave(client, "one", has_unknown_writes=False)
    assert record_of(other, "one").state == LEFT
    nodes.fence(other, "one")
    assert cluster.blocklist == {}


def test_a_node_does_not_fence_itself(cluster: FakeCluster, new_client: Callable[[], RbdHandle]) -> None:
    client = new_client()
    nodes.join(client, "one")
    with pytest.raises(StorageError, match="is this node"):
        nodes.fence(client, "one")
    assert cluster.blocklist == {}


def test_a_node_that_comes_back_keeps_off_its_client_of_before(
    cluster: FakeCluster, new_client: Callable[[], RbdHandle]
) -> None:
    before, after = new_client(), new_client()
    nodes.join(before, "one")
    nodes.join(after, "one")
    assert set(cluster.blocklist) == {before.address}
    assert record_of(after, "one") == NodeRecord(after.address, JOINED, 2)


def test_a_node_that_was_fenced_joins_with_a_new_client_and_never_with_the_old_one(
    new_client: Callable[[], RbdHandle],
) -> None:
    before, other, after = new_client(), new_client(), new_client()
    nodes.join(before, "one")
    nodes.fence(other, "one")
    with pytest.raises(RADOS_ERRORS["OSError"]) as refused:
        nodes.join(before, "one")
    assert refused.value.errno == errno.ESHUTDOWN
    nodes.join(after, "one")
    assert record_of(other, "one") == NodeRecord(after.address, JOINED, 2)


def test_who_joins_while_he_is_fenced_is_fenced_with_his_new_client(
    cluster: FakeCluster, new_client: Callable[[], RbdHandle]
) -> None:
    before, other, after = new_client(), new_client(), new_client()
    nodes.join(before, "one")
    raced: list[bool] = []

    def race(name: str) -> None:
        if name == "osd blocklist ls" and not raced:
            raced.append(True)
            nodes.join(after, "one")

    cluster.fail = race
    nodes.fence(other, "one")
    assert set(cluster.blocklist) == {before.address, after.address}
    assert record_of(other, "one") == NodeRecord(after.address, FENCED, 2)


def test_a_record_that_changes_all_the_time_is_an_error_in_the_end(
    cluster: FakeCluster, new_client: Callable[[], RbdHandle]
) -> None:
    client = new_client()

    def change(name: str) -> None:
        if name == "write omap":
            omap = cluster.omaps.setdefault(f"csvd.nodes.{client.image_id}", {})
            omap["one"] = NodeRecord("9.9.9.9:0/1", LEFT, len(omap.get("one", b""))).to_json().encode() + b" "

    cluster.fail = change
    with pytest.raises(StorageError) as failed:
        nodes.join(client, "one")
    assert failed.value.errno == errno.EBUSY


def test_a_client_with_writes_of_unknown_outcome_keeps_itself_off_when_it_leaves(
    cluster: FakeCluster, new_client: Callable[[], RbdHandle]
) -> None:
    client = new_client()
    nodes.join(client, "one")
    nodes.leave(client, "one", has_unknown_writes=True)
    assert set(cluster.blocklist) == {client.address}


def test_who_leaves_for_a_client_that_is_not_his_changes_nothing(new_client: Callable[[], RbdHandle]) -> None:
    before, after = new_client(), new_client()
    nodes.join(before, "one")
    nodes.join(after, "one")
    nodes.leave(before, "one", has_unknown_writes=False)
    nodes.leave(before, "other", has_unknown_writes=False)
    assert record_of(after, "one") == NodeRecord(after.address, JOINED, 2)


def test_an_address_that_the_cluster_does_not_list_is_not_fenced(
    cluster: FakeCluster, new_client: Callable[[], RbdHandle]
) -> None:
    client, other = new_client(), new_client()
    nodes.join(client, "one")

    def forget(name: str) -> None:
        if name == "osd blocklist ls":
            cluster.blocklist.clear()

    cluster.fail = forget
    with pytest.raises(StorageError, match="not on the cluster's blocklist"):
        nodes.fence(other, "one")
    assert record_of(other, "one").state == JOINED


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{}",
        b"[]",
        b"\xff",
        b'{"address": "127.0.0.1", "generation": 1, "state": "joined"}',
        b'{"address": "127.0.0.1:0/5", "generation": "1", "state": "joined"}',
        b'{"address": "127.0.0.1:0/5", "generation": 1, "state": "here"}',
        b'{"address": "127.0.0.1:0/5", "generation": 1, "state": "joined"' + b" " * 5000 + b"}",
    ],
)
def test_a_record_that_is_none_is_an_error_and_not_a_node_that_never_joined(
    cluster: FakeCluster, new_client: Callable[[], RbdHandle], text: bytes
) -> None:
    client = new_client()
    cluster.omaps[f"csvd.nodes.{client.image_id}"] = {"one": text}
    for attempt in (nodes.fence, nodes.join):
        with pytest.raises(StorageError) as failed:
            attempt(client, "one")
        assert failed.value.errno == errno.EBADMSG


def test_a_record_is_read_as_it_was_written() -> None:
    record = NodeRecord("10.0.0.1:0/77", FENCED, 3)
    assert nodes.parse_record(record.to_json().encode()) == record


@pytest.mark.parametrize(
    ("text", "addresses"),
    [
        ("127.0.0.1:0/555292454", ["127.0.0.1:0/555292454"]),
        ("v2:10.1.2.3:6800/1", ["10.1.2.3:6800/1"]),
        ("[v2:10.1.2.3:0/1,v1:10.1.2.3:0/1]", ["10.1.2.3:0/1", "10.1.2.3:0/1"]),
        ("[fd00::1]:0/9", ["[fd00::1]:0/9"]),
        ("127.0.0.1", []),
        ("127.0.0.1:0", []),
        ("-", []),
    ],
)
def test_only_an_address_of_one_client_is_an_address(text: str, addresses: list[str]) -> None:
    assert addresses_in(text) == addresses


def test_the_blocklist_is_read_as_ceph_16_prints_it_and_as_json_would_have_it() -> None:
    entries = [{"addr": "127.0.0.1:0/1", "until": "x"}, {"addr": "10.0.0.1:0/2", "until": "x"}]
    wanted = {"127.0.0.1:0/1", "10.0.0.1:0/2"}
    assert blocklisted(json.dumps(entries) + "[]") == wanted
    assert blocklisted(json.dumps(entries) + "\n" + json.dumps([{"range": "10.0.0.0/8"}][:0])) == wanted
    assert blocklisted(json.dumps(entries)) == wanted
    assert blocklisted("[][]") == set()


@pytest.mark.parametrize("text", ["{}", "[", '[{"address": 1}]', "listed 1 entries"])
def test_a_blocklist_that_is_not_understood_is_an_error(text: str) -> None:
    with pytest.raises((ValueError, KeyError)):
        blocklisted(text)
