"""The node's own routes, what peers forward, and what becomes an event."""

from __future__ import annotations

import os
from typing import Any

import pytest

from csvd.api.errors import BadRequest
from csvd.api.peers import METHOD
from csvd.api.watch import Watch
from csvd.cluster.errors import RemoteError
from tests.unit.api.small_cluster import SmallCluster, result_of

INITIATOR = "iqn.2026-11.org.example:host"


def session(tsih: int, peer: str = "10.0.0.9:4711") -> dict[str, Any]:
    return {"target": "iqn.2026-11.org.example:x", "initiator": INITIATOR, "tsih": tsih, "peers": [peer], "tasks": 0}


def test_the_status_tells_members_coordinator_epoch_and_guests() -> None:
    cluster = SmallCluster().with_guest(owner=3)
    assert cluster[1].ask("GET", "/v1/status").body["coordinator"] is None
    cluster.apply(op="claim_coordinator", node="node2", expected_epoch=0)
    cluster[1].cluster.links["node3"] = "down"
    status = cluster[1].ask("GET", "/v1/status").body
    assert status["node"] == "node1"
    assert status["coordinator"] == {"node": "node2", "epoch": 1}
    assert (status["term"], status["leader"], status["is_coordinator"]) == (7, "node2", False)
    assert list(status["members"]) == ["node1", "node2", "node3"]
    assert [member["connected"] for member in status["members"].values()] == [True, True, False]
    assert status["members"]["node3"]["trouble"] == "no answer"
    assert status["members"]["node2"]["address"] == "127.0.0.1:7002"
    assert [guest["owner"] for guest in status["guests"]] == ["node3"]


def test_of_a_guest_on_a_node_that_is_not_reached_the_state_is_unknown() -> None:
    cluster = SmallCluster().with_guest(owner=3)
    (before,) = cluster[1].ask("GET", "/v1/guests").body["guests"]
    cluster[1].cluster.links["node3"] = "down"
    for path in ("/v1/guests", "/v1/status"):
        (guest,) = cluster[1].ask("GET", path).body["guests"]
        assert (guest["state"], guest["reason"]) == ("unknown", "node3 is not reached from here")
    cluster[1].cluster.links["node3"] = "up"
    assert cluster[1].ask("GET", "/v1/guests").body["guests"] == [before]


def test_the_short_status_asks_no_other_node() -> None:
    cluster = SmallCluster()
    status = cluster[1].ask("GET", "/v1/status").body
    assert cluster[1].cluster.calls == []
    assert status["members"]["node1"]["facts"]["portals"] == ["127.0.0.1:3261"]
    assert status["members"]["node2"]["facts"] is None


def test_the_status_in_detail_has_what_every_node_says_of_itself() -> None:
    cluster = SmallCluster()
    cluster[2].target.logged_in = [session(1), session(2)]
    cluster[1].cluster.links["node3"] = "down"
    members = cluster[1].ask("GET", "/v1/status", detail="members").body["members"]
    assert members["node2"]["facts"]["portals"] == ["127.0.0.1:3262"]
    assert members["node2"]["facts"]["sessions"] == 2
    assert members["node3"]["facts"] is None
    assert cluster[1].ask("GET", "/v1/status", detail="all").status == 400


def test_a_node_tells_of_its_target_process_and_version() -> None:
    facts = SmallCluster()[2].ask("GET", "/v1/node").body
    assert facts["node"] == "node2"
    assert facts["version"] == "1.2.3"
    assert facts["process_id"] == os.getpid()
    assert facts["uptime_s"] > 0
    assert facts["targets"] == [{"name": "iqn.2026-11.org.example:x", "portal_group_tag": 1}]
    assert facts["units"] == [{"number": 0, "target": None, "size_bytes": 512}]


def test_sessions_are_the_nodes_own_and_those_of_all_where_that_is_asked() -> None:
    cluster = SmallCluster()
    cluster[2].target.logged_in = [session(1)]
    there = {"sessions": [{**session(1), "node": "node2"}]}
    assert cluster[1].ask("GET", "/v1/sessions").body == {"sessions": []}
    assert cluster[2].ask("GET", "/v1/sessions").body == there
    assert cluster[1].ask("GET", "/v1/sessions", nodes="all").body == there
    assert cluster[1].ask("GET", "/v1/sessions", nodes="some").status == 400


@pytest.mark.parametrize("after", ["-1", "x", "1.5", "٣", "9" * 19])
def test_the_number_of_an_event_is_checked(after: str) -> None:
    assert SmallCluster()[1].ask("GET", "/v1/events", after=after).status == 400


def test_events_are_given_after_a_number() -> None:
    cluster = SmallCluster()
    cluster[1].events.add("k", "one")
    cluster[1].events.add("k", "two")
    assert [event["text"] for event in cluster[1].ask("GET", "/v1/events").body["events"]] == ["one", "two"]
    assert [event["text"] for event in cluster[1].ask("GET", "/v1/events", after="1").body["events"]] == ["two"]


@pytest.mark.parametrize("params", [{}, {"method": "GET"}, {"method": "GET", "path": 7}, {"method": 1, "path": "/v1"}])
def test_a_malformed_request_of_a_peer_is_refused(params: dict[str, Any]) -> None:
    cluster = SmallCluster()
    with pytest.raises(RemoteError) as caught:
        result_of(cluster[1].cluster.call("node2", METHOD, params, timeout_s=1))
    assert caught.value.kind == BadRequest.__name__


def test_a_peers_malformed_answer_is_unavailable() -> None:
    cluster = SmallCluster().with_guest(owner=2)

    async def nonsense(peer: str, params: dict[str, Any]) -> dict[str, Any]:
        return {"status": "fine"}

    cluster[2].cluster.serve(METHOD, nonsense)
    answer = cluster[1].ask("POST", "/v1/guests/g/stop")
    assert answer.status == 503
    assert answer.body["error"]["what"] == "a node's answer is malformed"
    assert cluster[1].ask("GET", "/v1/status", detail="members").body["members"]["node2"]["facts"] is None


# Events


def watched(cluster: SmallCluster) -> Watch:
    node = cluster[1]
    watch = Watch(node.events, node.cluster)
    watch.start()
    return watch


def test_elections_and_moves_become_events() -> None:
    cluster = SmallCluster().with_guest(owner=1)
    watched(cluster)
    cluster.apply(op="claim_coordinator", node="node2", expected_epoch=0)
    cluster.apply(op="guest_state", name="g", owner="node1", epoch=1, state="running")
    cluster.apply(op="guest_move", name="g", owner="node1", epoch=1, new_owner="node1")
    cluster.apply(op="guest_move", name="g", owner="node1", epoch=2, new_owner="node3")
    cluster.apply(op="claim_coordinator", node="node2", expected_epoch=1)
    assert cluster[1].event_texts() == [
        "node2 is the coordinator, epoch 1",
        "guest g moved from node1 to node3, epoch 3",
        "node2 is the coordinator, epoch 2",
    ]


def test_a_coordinator_that_is_there_at_the_start_is_an_event_and_a_guest_is_not() -> None:
    cluster = SmallCluster().with_guest()
    cluster.apply(op="claim_coordinator", node="node2", expected_epoch=0)
    watched(cluster)
    assert cluster[1].event_texts() == ["node2 is the coordinator, epoch 1"]
