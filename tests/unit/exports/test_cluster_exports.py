"""Targets of the cluster: changed once, the same on every node, whatever fails between."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.python.failure import Failure

from csvd.cluster.data_keys import MAXIMUM_KEYS, DataKeys, NoDataKey
from csvd.cluster.errors import RemoteError
from csvd.config.targets import TargetSection
from csvd.exports.catalogue import AddAcl, AddLun, CreateTarget, RemoveAcl, RemoveTarget, SetLun, SetTarget
from csvd.exports.cluster_sections import sealed_keys
from csvd.exports.cluster_targets import APPLY_S, RETRY_S
from csvd.exports.coordinator import NAME
from csvd.exports.sealing import Sealing, key_of
from csvd.exports.serving import Plan
from csvd.scsi.target_ports import AccessState
from tests.unit.exports.exporting_cluster import HOST, KEY, ONE, TWO, Exporting, ExportingCluster

OPTIMIZED, STANDBY, UNAVAILABLE = AccessState.ACTIVE_OPTIMIZED, AccessState.STANDBY, AccessState.UNAVAILABLE
A, B = {"disk": "/srv/a.img"}, {"disk": "/srv/b.img"}


@pytest.fixture
def cluster() -> Iterator[ExportingCluster]:
    made = ExportingCluster()
    yield made
    made.stop()


def a_target(cluster: ExportingCluster, by: str = "n2") -> None:
    cluster.change(by, CreateTarget(ONE))
    cluster.change(by, AddLun(ONE, A))


def test_what_is_set_through_one_node_is_the_same_on_all(cluster: ExportingCluster) -> None:
    a_target(cluster)
    sections = [node.serving.section(ONE) for node in cluster.nodes.values()]
    assert len({(lun.serial, lun.naa, lun.disk) for section in sections for lun in section.lun}) == 1
    assert [dict(section.groups()) for section in sections] == [
        {17: ("0.0.0.0:3261",)},
        {33: ("0.0.0.0:3262",)},
        {49: ("0.0.0.0:3263",)},
    ]
    assert all(node.serving.plan.clustered == {ONE} for node in cluster.nodes.values())
    assert cluster.change("n3", AddLun(ONE, B))["number"] == 1
    assert [node.serving.luns for node in cluster.nodes.values()] == [{ONE: [0, 1]}] * 3


def test_every_node_tells_of_the_ports_of_all(cluster: ExportingCluster) -> None:
    a_target(cluster)
    for node in cluster.nodes.values():
        assert {tag: port.addresses for tag, port in node.ports.items()} == {
            17: ("192.0.2.1:3261",),
            33: ("192.0.2.2:3262",),
            49: ("192.0.2.3:3263",),
        }
        assert set(node.states().values()) == {OPTIMIZED}


def test_the_states_of_ports_are_those_of_their_nodes(cluster: ExportingCluster) -> None:
    a_target(cluster)
    cluster.run(cluster.loopback.kill("n3"))
    assert cluster["n1"].states() == cluster["n2"].states() == {17: OPTIMIZED, 33: OPTIMIZED, 49: UNAVAILABLE}
    cluster.drain("n2")
    assert cluster["n1"].states() == cluster["n2"].states() == {17: OPTIMIZED, 33: STANDBY, 49: UNAVAILABLE}
    cluster.drain("n2", False)
    cluster.run(cluster.loopback.come_back("n3"))
    for node in cluster.nodes.values():
        assert node.states() == {17: OPTIMIZED, 33: OPTIMIZED, 49: OPTIMIZED}


def test_a_node_that_died_with_the_office_is_unavailable_under_the_next(cluster: ExportingCluster) -> None:
    a_target(cluster)
    cluster.run(cluster.loopback.kill("n1"))
    assert cluster["n2"].states() == {17: UNAVAILABLE, 33: OPTIMIZED, 49: OPTIMIZED}
    assert cluster["n3"].ports[17].addresses == ("192.0.2.1:3261",), "it may come back"


def test_an_evicted_node_has_no_ports_any_more(cluster: ExportingCluster) -> None:
    a_target(cluster)
    cluster.run(cluster.loopback.kill("n3"))
    del cluster.members["n3"]
    cluster.members_changed()
    assert cluster["n1"].states() == {17: OPTIMIZED, 33: OPTIMIZED}
    cluster.run(cluster.loopback.come_back("n2"))
    assert "exports/ports/n3" not in cluster.loopback.records, "it is forgotten as soon as something is written"


def test_a_witness_serves_nothing_and_has_no_ports(cluster: ExportingCluster) -> None:
    cluster.members["n3"] = replace(cluster.members["n3"], is_witness=True)
    cluster.members_changed()
    a_target(cluster)
    assert (cluster["n3"].serving.luns, cluster["n3"].targets.troubles) == ({}, {})
    assert cluster["n1"].states() == {17: OPTIMIZED, 33: OPTIMIZED}
    cluster.members["n3"] = replace(cluster.members["n3"], is_witness=False)
    cluster.members_changed()
    assert cluster["n3"].serving.luns == {ONE: [0]}
    assert cluster["n1"].states() == {17: OPTIMIZED, 33: OPTIMIZED, 49: OPTIMIZED}


def test_a_node_without_portals_serves_nothing_and_that_is_no_trouble() -> None:
    cluster = ExportingCluster(without_portals=["n3"])
    a_target(cluster)
    assert (cluster["n3"].serving.luns, cluster["n3"].targets.troubles) == ({}, {})
    assert cluster["n1"].states() == {17: OPTIMIZED, 33: OPTIMIZED}
    outcome = cluster.begin(cluster["n3"].exports.administration.add_lun(ONE, {"disk": "/srv/b.img"}))
    assert "this node serves nothing for the cluster" in str(outcome[0].value)
    cluster.stop()


# Failures between keeping and telling


def test_a_change_whose_coordinator_dies_before_it_is_told_holds_under_the_next(cluster: ExportingCluster) -> None:
    a_target(cluster)
    before = cluster["n2"].targets.revision
    cluster.loopback.hold_keeps()
    asked = cluster.asking("n2", AddAcl(ONE, initiator=HOST))
    assert asked == []
    # Durable, and the coordinator is gone before anybody else has heard of it.
    office = cluster.loopback.office
    assert office is not None
    original, pushed = office.push, []

    async def dies(*_: Any, **__: Any) -> dict[str, Any]:
        pushed.append(True)
        await Deferred()
        return {}

    office.push = dies  # type: ignore[method-assign]
    cluster.loopback.let_keeps_go()
    assert (pushed, asked) == ([True], [])
    assert cluster["n3"].serving.section(ONE).acl == ()
    cluster.run(cluster.loopback.kill("n1"))
    assert office.push is not original
    for name in ("n2", "n3"):
        assert [entry.initiator for entry in cluster[name].serving.section(ONE).acl] == [HOST]
        assert cluster[name].targets.revision == before + 1
    assert cluster.loopback.office is not None
    cluster.change("n3", RemoveAcl(ONE, initiator=HOST))


def test_a_change_that_was_not_kept_is_made_by_the_next_coordinator(cluster: ExportingCluster) -> None:
    a_target(cluster)
    cluster.loopback.hold_keeps()
    asked = cluster.asking("n2", SetTarget(ONE, {"alias": "mine"}))
    office = cluster.loopback.office
    assert office is not None
    cluster.loopback.end_office()
    cluster.loopback.let_keeps_go()
    assert asked == []
    cluster.run(cluster.loopback.move("n3"))
    assert [each["target"] for each in asked] == [ONE]
    assert {node.serving.section(ONE).alias for node in cluster.nodes.values()} == {"mine"}


def test_a_node_that_was_away_during_changes_learns_of_all_of_them(cluster: ExportingCluster) -> None:
    a_target(cluster)
    cluster.run(cluster.loopback.declare_gone("n3"))
    cluster.change("n1", AddLun(ONE, B))
    cluster.change("n1", CreateTarget(TWO))
    assert cluster["n3"].serving.luns == {ONE: [0]}
    cluster.run(cluster.loopback.come_back("n3"))
    assert cluster["n3"].serving.luns == {ONE: [0, 1], TWO: []}


def test_a_node_that_was_away_is_current_when_it_has_done_what_was_changed_meanwhile(
    cluster: ExportingCluster,
) -> None:
    a_target(cluster)
    node = cluster["n3"]

    def is_current() -> bool:
        return node.targets.is_current

    assert is_current()
    cluster.run(cluster.loopback.declare_gone("n3"))
    assert not is_current()
    cluster.change("n1", SetTarget(ONE, {"initiators": []}))
    opening: Deferred[None] = Deferred()
    node.serving.opening = opening
    del node.current[:]
    cluster.run(cluster.loopback.come_back("n3"))
    assert (node.serving.section(ONE).initiators, is_current()) == (None, False)
    node.serving.opening = None
    opening.callback(None)
    assert (node.serving.section(ONE).initiators, is_current()) == ((), True)
    assert node.current == [True]
    cluster.run(cluster.loopback.move("n2"))
    assert is_current(), "the lease went on"


def test_a_node_whose_disk_is_slow_does_not_stop_the_others(cluster: ExportingCluster) -> None:
    a_target(cluster)
    opening: Deferred[None] = Deferred()
    cluster["n2"].serving.opening = opening
    asked = cluster.asking("n3", AddLun(ONE, B))
    assert asked == []
    assert cluster["n1"].serving.luns == cluster["n3"].serving.luns == {ONE: [0, 1]}
    also = cluster.asking("n3", SetTarget(ONE, {"alias": "x"}))
    assert cluster["n1"].serving.section(ONE).alias == "x"
    cluster.clock.advance(APPLY_S)
    assert len(asked) == len(also) == 1, "they are made; that one node is behind is no reason to wait for ever"
    cluster["n2"].serving.opening = None
    opening.callback(None)
    assert cluster["n2"].serving.luns == {ONE: [0, 1]}
    assert cluster["n2"].serving.section(ONE).alias == "x"


def test_the_revision_never_goes_back(cluster: ExportingCluster) -> None:
    a_target(cluster)
    node = cluster["n2"]
    revision, luns = node.targets.revision, node.serving.luns
    session = cluster.loopback.session("n2")
    older = {"revision": revision - 1, "targets": {}, "ports": {}}
    assert cluster.run(session._pushed(NAME, "all", older))["revision"] == revision
    change = {"base": revision - 1, "revision": revision, "target": ONE, "record": None}
    assert cluster.run(session._pushed(NAME, "change", change))["revision"] == revision
    assert (node.targets.revision, node.serving.luns) == (revision, luns)
    cluster.run(cluster.loopback.move("n3"))
    assert cluster.change("n1", AddLun(ONE, B))["revision"] == revision + 1


def test_everything_is_there_after_all_nodes_were_stopped(cluster: ExportingCluster) -> None:
    a_target(cluster)
    naa = cluster["n1"].serving.section(ONE).lun[0].naa
    again = ExportingCluster(cluster.loopback.records)
    assert {node.serving.section(ONE).lun[0].naa for node in again.nodes.values()} == {naa}
    assert again.change("n3", AddLun(ONE, B))["revision"] == cluster["n1"].targets.revision + 1
    again.stop()


# What a node can not serve


def test_a_node_without_the_disk_says_so_serves_the_rest_and_tries_again(cluster: ExportingCluster) -> None:
    cluster["n3"].serving.missing = {"/srv/b.img"}
    a_target(cluster)
    cluster.change("n1", AddLun(ONE, B))
    cluster.change("n1", AddLun(ONE, {"disk": "/srv/c.img"}))
    assert cluster["n1"].serving.luns == {ONE: [0, 1, 2]}
    assert cluster["n3"].serving.luns == {ONE: [0, 2]}
    assert cluster["n3"].targets.troubles == {f"{ONE} LUN 1": "/srv/b.img: is not there"}
    assert cluster["n3"].told == [f"{ONE} LUN 1 can not be served here: /srv/b.img: is not there"]
    status = cluster.run(cluster.loopback.session("n2").ask(NAME, "status", {}, timeout_s=1))
    assert status["nodes"]["n3"]["troubles"] == cluster["n3"].targets.troubles
    assert status["nodes"]["n1"]["troubles"] == {}
    history = cluster["n3"].serving.history
    assert all(ONE in served for served in history[history.index([ONE]) :]), "the rest is never let go"
    cluster["n3"].serving.missing.clear()
    cluster.clock.advance(RETRY_S)
    assert cluster["n3"].serving.luns == {ONE: [0, 1, 2]}
    assert cluster["n3"].told[1:] == [f"{ONE} LUN 1 is in order here again"]
    status = cluster.run(cluster.loopback.session("n2").ask(NAME, "status", {}, timeout_s=1))
    assert status["nodes"]["n3"]["troubles"] == {}


def test_a_node_that_can_serve_nothing_does_not_flood_the_coordinator(cluster: ExportingCluster) -> None:
    cluster["n3"].serving.missing = {f"/srv/{number}.img" for number in range(40)}
    cluster.change("n1", CreateTarget(ONE))
    for number in range(40):
        cluster.change("n1", AddLun(ONE, {"disk": f"/srv/{number}.img"}))
    assert len(cluster["n3"].targets.troubles) == 40
    status = cluster.run(cluster.loopback.session("n1").ask(NAME, "status", {}, timeout_s=1))
    assert len(status["nodes"]["n3"]["troubles"]) == 25
    assert status["nodes"]["n3"]["troubles"]["and more"] == "16 others"


def test_a_logical_unit_that_is_changed_to_what_a_node_has_not_is_not_served_there_as_it_was(
    cluster: ExportingCluster,
) -> None:
    a_target(cluster)
    cluster["n2"].serving.missing = {"/srv/b.img"}
    cluster.change("n1", SetLun(ONE, number=0, keys={"disk": "/srv/b.img"}))
    assert cluster["n1"].serving.section(ONE).lun[0].disk == "/srv/b.img"
    assert cluster["n2"].serving.luns == {ONE: []}


def test_a_node_that_has_such_a_target_of_its_own_serves_its_own(cluster: ExportingCluster) -> None:
    a_target(cluster)
    own = cluster["n2"].serving.section(ONE)
    node = cluster["n2"]
    cluster.change("n1", RemoveTarget(ONE))
    cluster.run(node.joined.prepare(Plan((own,))))
    cluster.run(node.joined.commit())
    a_target(cluster, "n1")
    assert cluster["n3"].serving.luns == {ONE: [0]}
    assert node.serving.plan.clustered == frozenset()
    assert "of its own" in node.targets.troubles[ONE]


@pytest.mark.parametrize("what", ["name", "disk", "portal"])
def test_a_node_is_refused_what_the_cluster_has(cluster: ExportingCluster, what: str) -> None:
    a_target(cluster)
    node = cluster["n2"]
    theirs = node.serving.section(ONE)
    assert isinstance(theirs, TargetSection)
    own = replace(theirs, name=TWO, lun=(), portal_group=(), portals=("0.0.0.0:3300",), portal_group_tag=1)
    own = {
        "name": replace(own, name=ONE),
        "disk": replace(own, lun=theirs.lun),
        "portal": replace(own, portals=("0.0.0.0:3262",)),
    }[what]
    with pytest.raises(Exception, match="the cluster"):
        cluster.run(node.joined.prepare(Plan((own,))))
    cluster.change("n1", AddLun(ONE, B))
    assert node.serving.luns == {ONE: [0, 1]}, "the other goes on"


def test_secrets_travel_and_stay_sealed(cluster: ExportingCluster) -> None:
    sealing = Sealing(DataKeys([KEY]), os.urandom)
    keys = {"chap": {"user": "joe", "secret_file": "/in"}}
    cluster.change("n2", CreateTarget(ONE, sealed_keys(keys, ONE, sealing, lambda _path: b"a secret of sixteen")))
    assert "a secret of sixteen" not in str(cluster.loopback.records)
    for node in cluster.nodes.values():
        chap = node.serving.section(ONE).chap
        assert chap is not None
        assert node.serving.plan.secret(chap.secret_file) == b"a secret of sixteen"
        demanded = node.serving.plan.discovery_access.credentials
        assert list(demanded) == ["joe"], "also for discovery"


# The key of the secrets


def a_secret(cluster: ExportingCluster) -> None:
    keys = {"chap": {"user": "joe", "secret_file": "/in"}}
    sealing = Sealing(DataKeys([KEY]), os.urandom)
    cluster.change("n2", CreateTarget(ONE, sealed_keys(keys, ONE, sealing, lambda _path: b"a secret of sixteen")))


def secret_at(node: Exporting) -> bytes:
    chap = node.serving.section(ONE).chap
    assert chap is not None
    return node.serving.plan.secret(chap.secret_file)


def rotation(cluster: ExportingCluster, by: str = "n2", without: str = "") -> list[Any]:
    """Begin one; its outcome is in the list when it is there."""
    return cluster.begin(cluster[by].exports.administration.rotate_key(without=without))


def keys_of(cluster: ExportingCluster) -> set[str]:
    """The ids of the keys that the secrets on the disk are sealed with."""
    record = cluster.loopback.records[f"exports/target/{ONE}"]
    return {key_of(record["keys"]["chap"]["secret"])}


def test_all_secrets_are_sealed_with_a_new_key_that_every_node_has_and_the_old_one_is_gone(
    cluster: ExportingCluster,
) -> None:
    a_secret(cluster)
    before = cluster["n3"].serving.section(ONE)
    old = cluster["n1"].keys.current
    (answer,) = rotation(cluster)
    new = answer["key"]
    assert answer["secrets"] == [{"target": ONE, "what": "secret", "user": "joe", "initiator": "", "lun": ""}]
    assert keys_of(cluster) == {new} != {old}
    for node in cluster.nodes.values():
        assert node.keys.ids == (new,)
        assert secret_at(node) == b"a secret of sixteen"
        key = node.keys.key(new)
        assert key is not None
        assert key.hex() not in str(cluster.loopback.records) + str(cluster.loopback.answers)
    assert cluster["n3"].serving.section(ONE) == before, "nobody's session ends for that"
    (again,) = rotation(cluster, "n1")
    assert keys_of(cluster) == {again["key"]} != {new}


def test_a_node_that_was_off_gets_the_key_when_it_is_back(cluster: ExportingCluster) -> None:
    a_secret(cluster)
    cluster.run(cluster.loopback.kill("n3"))
    (answer,) = rotation(cluster)
    assert answer["key"] not in cluster["n3"].keys.ids
    cluster.run(cluster.loopback.come_back("n3"))
    assert cluster["n3"].keys.current == answer["key"]
    assert secret_at(cluster["n3"]) == b"a secret of sixteen"


def test_a_coordinator_that_was_off_at_the_rotation_gets_it_from_who_was_not(cluster: ExportingCluster) -> None:
    a_secret(cluster)
    cluster.run(cluster.loopback.kill("n3"))
    (answer,) = rotation(cluster)
    cluster.run(cluster.loopback.come_back("n3"))
    cluster.run(cluster.loopback.move("n3"))
    cluster.change("n3", SetTarget(ONE, {"alias": "moved"}))
    assert keys_of(cluster) == {answer["key"]}
    assert [secret_at(node) for node in cluster.nodes.values()] == [b"a secret of sixteen"] * 3


def test_an_evicted_node_does_not_get_it_and_is_waited_for_until_it_is_off(cluster: ExportingCluster) -> None:
    a_secret(cluster)
    found = rotation(cluster, without="n3")
    assert found == [], "it is a member yet"
    del cluster.members["n3"]
    cluster.members_changed()
    assert found == [], "it has a session yet"
    cluster.run(cluster.loopback.declare_gone("n3"))
    (answer,) = found
    assert keys_of(cluster) == {answer["key"]}
    assert cluster["n3"].keys.key(answer["key"]) is None
    with pytest.raises(NoDataKey):
        cluster.run(cluster["n3"].keys.fetch(answer["key"]))


def test_a_node_that_can_not_store_the_key_keeps_all_at_the_old_one(cluster: ExportingCluster) -> None:
    a_secret(cluster)
    old = cluster["n1"].keys.current
    cluster["n3"].full_disk = True
    failure = refusal(rotation(cluster))
    assert "n3 has not taken the new key; the old one stays" in str(failure)
    assert keys_of(cluster) == {old}
    assert cluster["n1"].keys.current == old
    cluster["n3"].full_disk = False
    for _ in range(MAXIMUM_KEYS + 1):
        cluster["n3"].full_disk = True
        refusal(rotation(cluster))
        cluster["n3"].full_disk = False
    (answer,) = rotation(cluster)
    assert keys_of(cluster) == {answer["key"]}
    assert cluster["n1"].keys.ids == (answer["key"],), "those that were not used are gone"


def test_a_coordinator_that_dies_in_a_rotation_leaves_secrets_that_open(cluster: ExportingCluster) -> None:
    a_secret(cluster)
    cluster.loopback.hold_keeps()
    found = rotation(cluster)
    assert found == []
    cluster.loopback.end_office()
    cluster.loopback.let_keeps_go()
    cluster.run(cluster.loopback.move("n3"))
    (answer,) = found
    assert keys_of(cluster) == {answer["key"]}, "it is asked again of the next"
    assert [secret_at(node) for node in cluster.nodes.values()] == [b"a secret of sixteen"] * 3


def test_what_is_sealed_with_a_key_that_is_gone_is_refused_and_changes_nothing(cluster: ExportingCluster) -> None:
    a_secret(cluster)
    (answer,) = rotation(cluster)
    keys = {"chap": {"user": "jim", "secret_file": "/in"}}
    stale = sealed_keys(keys, ONE, Sealing(DataKeys([KEY]), os.urandom), lambda _path: b"another of sixteen")
    failure = refusal(cluster.asking("n2", SetTarget(ONE, stale)))
    assert "is not here" in str(failure)
    assert keys_of(cluster) == {answer["key"]}
    assert secret_at(cluster["n1"]) == b"a secret of sixteen"


# Refusals


def refusal(found: list[Any]) -> RemoteError:
    (failure,) = found
    assert isinstance(failure, Failure)
    assert isinstance(failure.value, RemoteError)
    return failure.value


def test_a_refused_change_changes_nothing(cluster: ExportingCluster) -> None:
    a_target(cluster)
    revision = cluster["n1"].targets.revision
    keeps = cluster.loopback.keeps
    assert refusal(cluster.asking("n2", CreateTarget(ONE))).kind == "Refused"
    assert refusal(cluster.asking("n2", AddLun(TWO, B))).kind == "NotFound"
    assert refusal(cluster.asking("n2", AddLun(ONE, {"disk": "/srv/b.img", "block_bytes": 7}))).kind == "BadRequest"
    assert cluster.change("n2", AddLun(ONE, B), only_check=True)["revision"] == revision + 1
    assert (cluster["n1"].targets.revision, cluster.loopback.keeps) == (revision, keeps)


def test_a_target_with_sessions_anywhere_goes_by_force_alone(cluster: ExportingCluster) -> None:
    a_target(cluster)
    cluster["n3"].serving.live = {ONE: 2, TWO: 5}
    assert "has 2 sessions" in str(refusal(cluster.asking("n2", RemoveTarget(ONE))))
    cluster.change("n2", RemoveTarget(ONE), force=True)
    assert [node.serving.luns for node in cluster.nodes.values()] == [{}] * 3


def test_a_peer_that_asks_nonsense_is_refused(cluster: ExportingCluster) -> None:
    session = cluster.loopback.session("n2")
    for method, params in (
        ("frob", {}),
        ("change", {}),
        ("change", {"edit": {"edit": "frob", "target": ONE}}),
        ("join", {"groups": {"17": ["192.0.2.9:3260"]}, "revision": 0}),
        ("join", {"groups": {"33": ["192.0.2.9:3260"] * 9}, "revision": 0}),
        ("join", {"groups": {"33": ["x" * 300]}, "revision": 0}),
        ("join", {"groups": {"33": ["[::"]}, "revision": 0}),
        ("join", {"groups": {str(tag): [] for tag in range(100)}, "revision": 0}),
        ("report", {"revision": 1, "troubles": {"x": "y" * 70000}}),
        ("resized", {"target": ONE}),
    ):
        (found,) = cluster.begin(session.ask(NAME, method, params, timeout_s=1))
        assert isinstance(found, Failure), method
        assert isinstance(found.value, RemoteError)


def test_a_disk_that_one_node_has_made_larger_is_larger_on_all(cluster: ExportingCluster) -> None:
    a_target(cluster)
    session = cluster.loopback.session("n2")
    cluster.run(session.ask(NAME, "resized", {"target": ONE, "number": 0}, timeout_s=1))
    assert [node.serving.resized for node in cluster.nodes.values()] == [[(ONE, 0, None)], [], [(ONE, 0, None)]]


def test_a_disk_that_was_made_larger_while_a_node_was_away_is_larger_there_when_it_is_back(
    cluster: ExportingCluster,
) -> None:
    a_target(cluster)
    cluster.run(cluster.loopback.declare_gone("n3"))
    session = cluster.loopback.session("n2")
    cluster.run(session.ask(NAME, "resized", {"target": ONE, "number": 0}, timeout_s=1))
    assert not cluster["n3"].serving.resized
    cluster.run(cluster.loopback.come_back("n3"))
    assert cluster["n3"].serving.resized == [(ONE, 0, None)]


def test_records_that_make_no_sense_are_told_of() -> None:
    made = ExportingCluster({"exports/revision": 3, f"exports/target/{ONE}": {"frob": 1}}, start=False)
    for node in made.nodes.values():
        made.run(node.joined.start(Plan()))
        node.exports.start()
    (found,) = made.begin(made.loopback.start())
    assert "makes no sense" in str(found.value)
    made.stop()
