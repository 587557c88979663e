"""Targets of a node and of its cluster, changed through the one face that both have."""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, succeed
from twisted.python.failure import Failure

from csvd.api.errors import BadRequest, NotFound, Refused, Unavailable
from csvd.api.events import EventRing
from csvd.cluster.data_keys import DataKeys
from csvd.cluster.errors import RemoteError
from csvd.config.load import Source
from csvd.errors import ConfigError, CsvdError
from csvd.exports.administration import Administration
from csvd.exports.cluster_administration import ClusterAdministration
from csvd.exports.scopes import Scopes
from csvd.exports.sealing import Sealing
from tests.unit.exports.exporting_cluster import HOST, KEY, ONE, TWO, ExportingCluster

SECRET = b"a secret of sixteen"


class Administered:
    """A cluster of three, each administered as a daemon does."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = ExportingCluster(start=False)
        self.scopes = {name: self._scopes(name) for name in self.cluster.nodes}
        for scopes in self.scopes.values():
            self.run(scopes.start())
        self.cluster.start()

    def _scopes(self, name: str) -> Scopes:
        node = self.cluster[name]
        state = self.folder / name
        state.mkdir()
        source = Source({"node": {"name": name, "state_directory": str(state)}}, "csvd.toml", self.folder)
        own = Administration(source, state, serving=node.joined, run=self._run, events=EventRing())
        sealing = Sealing(DataKeys([KEY]), os.urandom)
        return Scopes(own, ClusterAdministration(node.targets, node.joined, sealing, self._run, lambda _path: SECRET))

    @staticmethod
    def _run(job: Callable[[], Any]) -> Deferred[Any]:
        return succeed(job())

    def __getitem__(self, name: str) -> Scopes:
        return self.scopes[name]

    @staticmethod
    def run(awaitable: Awaitable[Any]) -> Any:
        async def go() -> Any:
            return await awaitable

        found: list[Any] = []
        Deferred.fromCoroutine(go()).addBoth(found.append)
        if isinstance(found[0], Failure):
            found[0].raiseException()
        return found[0]


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Administered]:
    made = Administered(tmp_path)
    yield made
    made.cluster.stop()


def test_a_target_is_made_through_one_node_and_changed_through_another(nodes: Administered) -> None:
    made = nodes.run(nodes["n2"].create_target(ONE, {"alias": "shared"}))
    assert (made["scope"], made["origin"], made["alias"]) == ("cluster", "cluster", "shared")
    lun = nodes.run(nodes["n3"].add_lun(ONE, {"disk": "/srv/a.img"}))
    assert (lun["number"], lun["scope"], lun["trouble"]) == (0, "cluster", "")
    assert nodes["n1"].lun(ONE, 0)["naa"] == lun["naa"]
    assert nodes.run(nodes["n1"].set_target(ONE, {"queue_depth": 7}))["queue_depth"] == 7
    assert nodes.run(nodes["n1"].set_lun(ONE, 0, {"read_only": True}))["read_only"]
    entry = nodes.run(nodes["n1"].add_acl(ONE, HOST, {"chap": {"user": "h", "secret_file": "/h"}}))
    assert entry["chap"]["user"] == "h"
    assert nodes.run(nodes["n2"].set_acl(ONE, HOST, {"luns": [0]}))["luns"] == [0]
    assert [each["initiator"] for each in nodes["n3"].acl(ONE)] == [HOST]
    nodes.run(nodes["n3"].remove_acl(ONE, HOST))
    assert nodes["n1"].target(ONE)["initiators"] == []
    assert nodes.run(nodes["n1"].remove_lun(ONE, 0))["number"] == 0
    nodes.run(nodes["n2"].remove_target(ONE, force=False))
    assert [nodes[name].targets() for name in nodes.scopes] == [[], [], []]


def test_what_each_node_serves_is_shown(nodes: Administered) -> None:
    nodes.cluster["n3"].serving.missing = {"/srv/a.img"}
    nodes.run(nodes["n1"].create_target(ONE, {}))
    nodes.run(nodes["n1"].add_lun(ONE, {"disk": "/srv/a.img"}))
    nodes.run(nodes.cluster.loopback.kill("n2"))
    nodes.run(nodes["n1"].refresh())
    face = nodes["n1"].target(ONE)
    assert face["portal_group_tag"] == 17
    assert face["addresses"] == ["192.0.2.1:3261", "192.0.2.2:3262", "192.0.2.3:3263"]
    assert face["nodes"] == {
        "n1": {"state": "active-optimized", "serves": True, "troubles": {}},
        "n2": {"state": "unavailable", "serves": False, "troubles": {}},
        "n3": {
            "state": "active-optimized",
            "serves": True,
            "troubles": {f"{ONE} LUN 0": "/srv/a.img: is not there"},
        },
    }
    assert nodes["n3"].troubles() == {f"{ONE} LUN 0": "/srv/a.img: is not there"}
    lun = nodes["n3"].lun(ONE, 0)
    assert (lun["size_bytes"], lun["trouble"]) == (None, "/srv/a.img: is not there")
    assert [(row["node"], row["state"]) for row in nodes["n3"].portals() if "node" in row] == [
        ("n1", "active-optimized"),
        ("n2", "unavailable"),
    ]
    (own,) = [row for row in nodes["n3"].portals() if "node" not in row]
    assert (own["portal_group_tag"], own["state"], own["targets"]) == (49, "active-optimized", [ONE])


def test_a_disk_that_can_not_be_opened_here_is_refused_before_it_is_kept(nodes: Administered) -> None:
    nodes.run(nodes["n1"].create_target(ONE, {}))
    nodes.cluster["n2"].serving.missing = {"/srv/a.img"}
    with pytest.raises(ConfigError, match="is not there"):
        nodes.run(nodes["n2"].add_lun(ONE, {"disk": "/srv/a.img"}))
    assert nodes["n1"].luns(ONE) == []
    nodes.run(nodes["n1"].add_lun(ONE, {"disk": "/srv/a.img"}))
    with pytest.raises(ConfigError, match="is not there"):
        nodes.run(nodes["n2"].set_lun(ONE, 0, {"read_only": True}))


def test_a_disk_is_made_once_by_the_node_that_is_asked(nodes: Administered, tmp_path: Path) -> None:
    nodes.run(nodes["n1"].create_target(ONE, {}))
    disk = tmp_path / "new.img"
    with pytest.raises(RemoteError, match="frob"):
        nodes.run(nodes["n2"].add_lun(ONE, {"disk": str(disk), "create": "1M", "frob": 1}))
    assert not disk.exists(), "what would be refused makes no file"
    for wrong in ("x", 0, 1000):
        with pytest.raises(BadRequest):
            nodes.run(nodes["n2"].add_lun(ONE, {"disk": str(disk), "create": wrong}))
    nodes.run(nodes["n2"].add_lun(ONE, {"disk": str(disk), "create": "1M"}))
    assert disk.stat().st_size == 1 << 20
    assert all(node.serving.section(ONE).lun[0].create is None for node in nodes.cluster.nodes.values())
    with pytest.raises(Refused, match="is there already"):
        nodes.run(nodes["n2"].add_lun(ONE, {"disk": str(disk), "create": "1M"}))


def test_secrets_leave_the_node_sealed(nodes: Administered) -> None:
    keys = {"chap": {"user": "joe", "secret_file": "/etc/joe.secret"}}
    face = nodes.run(nodes["n2"].create_target(ONE, keys))
    assert face["chap"]["user"] == "joe"
    kept = str(nodes.cluster.loopback.records)
    assert "joe" in kept
    assert "/etc/joe.secret" not in kept
    assert SECRET.decode() not in kept
    assert all(SECRET in node.serving.plan.secrets.values() for node in nodes.cluster.nodes.values())


def test_a_target_of_one_node_stays_its_own(nodes: Administered) -> None:
    keys = {"portals": ["127.0.0.1:3300"]}
    own = nodes.run(nodes["n2"].create_target(TWO, keys, scope="node"))
    assert own["scope"] == "node"
    nodes.run(nodes["n2"].create_target(ONE, {}))
    assert [(face["name"], face["scope"]) for face in nodes["n2"].targets()] == [(TWO, "node"), (ONE, "cluster")]
    assert [face["name"] for face in nodes["n1"].targets()] == [ONE]
    assert nodes.run(nodes["n2"].set_target(TWO, {"alias": "mine"}))["alias"] == "mine"
    with pytest.raises(Refused, match="the cluster has a target of that name"):
        nodes.run(nodes["n3"].create_target(ONE, keys, scope="node"))
    with pytest.raises(BadRequest, match="no scope"):
        nodes.run(nodes["n3"].create_target(TWO, keys, scope="moon"))
    with pytest.raises(RemoteError, match="each node's own"):
        nodes.run(nodes["n2"].set_target(ONE, keys))


def test_the_clusters_refusals_are_the_persons(nodes: Administered) -> None:
    nodes.run(nodes["n1"].create_target(ONE, {}))
    with pytest.raises(RemoteError, match="already") as caught:
        nodes.run(nodes["n2"].create_target(ONE, {}))
    assert caught.value.kind == "Refused"
    with pytest.raises(NotFound):
        nodes.run(nodes["n2"].add_lun(TWO, {"disk": "/srv/a.img"}))
    with pytest.raises(NotFound, match="no LUN 4"):
        nodes.run(nodes["n2"].remove_lun(ONE, 4))
    with pytest.raises(NotFound):
        nodes.run(nodes["n2"].remove_acl(ONE, HOST))
    with pytest.raises(CsvdError, match="no session 9"):
        nodes.run(nodes["n2"].drop_session(ONE, 9))


def test_a_disk_of_all_nodes_gets_larger_and_never_smaller(
    nodes: Administered, monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes.run(nodes["n1"].create_target(ONE, {}))
    nodes.run(nodes["n1"].add_lun(ONE, {"disk": "/srv/a.img"}))
    for node in nodes.cluster.nodes.values():
        monkeypatch.setattr(node.serving, "unit_face", lambda *_: {"number": 0, "size_bytes": 1 << 20})
    nodes.run(nodes["n2"].resize_lun(ONE, 0, 2 << 20, force=False))
    resized = {name: node.serving.resized for name, node in nodes.cluster.nodes.items()}
    assert resized == {"n1": [(ONE, 0, None)], "n2": [(ONE, 0, 2 << 20)], "n3": [(ONE, 0, None)]}
    with pytest.raises(Refused, match="more than"):
        nodes.run(nodes["n2"].resize_lun(ONE, 0, 512, force=True))


def test_a_node_of_no_cluster_makes_targets_of_its_own(nodes: Administered, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes.cluster["n1"].targets, "_session", None)
    face = nodes.run(nodes["n1"].create_target(TWO, {"portals": ["127.0.0.1:3300"]}))
    assert face["scope"] == "node"
    with pytest.raises(Unavailable, match="no system disk"):
        nodes.run(nodes["n1"].create_target(ONE, {}, scope="cluster"))
