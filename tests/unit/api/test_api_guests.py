"""Guests and migrations by any node: answered where the guest is, and only there."""

from __future__ import annotations

import pytest

from csvd.cluster.errors import CommandRefused
from csvd.migration.errors import MigrationRefused
from csvd.vm.errors import GuestBusy
from csvd.vm.interfaces import GuestVerification
from tests.unit.api.small_cluster import SmallCluster
from tests.unit.cluster.registers import register_of

SPEC = {"memory_bytes": 1 << 20, "pages_per_s": 10}


def test_a_guest_is_made_on_the_node_that_is_asked() -> None:
    cluster = SmallCluster()
    answer = cluster[1].ask("POST", "/v1/guests", {"name": "g", "spec": SPEC})
    assert answer.status == 201
    assert (answer.body["name"], answer.body["owner"]) == ("g", "node1")
    assert answer.body["spec"] == {"driver": "process", "memory_bytes": 1 << 20, "pages_per_s": 10, "backing": "file"}
    assert cluster[1].event_texts() == ["guest g was made on node1"]


def test_a_guest_is_made_on_the_node_that_is_named() -> None:
    cluster = SmallCluster()
    answer = cluster[1].ask("POST", "/v1/guests", {"name": "g", "spec": SPEC, "node": "node3"})
    assert answer.status == 201
    assert answer.body["owner"] == "node3"
    assert cluster[1].guests.asked == []
    assert cluster[3].guests.asked == ["create g"]


def test_no_guest_is_sent_to_a_node_that_is_drained_and_names_do_for_ids() -> None:
    cluster = SmallCluster().with_guest()
    cluster.apply(op="member_set", id="node2", name="left")
    cluster.apply(op="member_set", id="node3", is_draining=True)
    for asked in (
        cluster[1].ask("POST", "/v1/guests/g/migrations", {"to": "node3"}),
        cluster[1].ask("POST", "/v1/guests", {"name": "h", "spec": SPEC, "node": "node3"}),
        cluster[3].ask("POST", "/v1/guests", {"name": "h", "spec": SPEC}),
    ):
        assert asked.status == 409
        assert asked.body["error"]["what"] == "node node3 is being drained, and takes no guests"
        assert asked.body["error"]["hint"] == "csvd node undrain node3"
    assert cluster[3].guests.asked == []
    assert cluster[1].ask("POST", "/v1/guests/g/migrations", {"to": "left"}).body["destination"] == "node2"


def test_a_witness_runs_no_guests() -> None:
    cluster = SmallCluster().with_guest()
    token = {"id": "a" * 64, "expires_at_s": 10, "is_witness": True, "at_s": 1}
    join = {"token": "a" * 64, "id": "node4", "address": "h:4", "fingerprint": "b" * 64, "at_s": 1}
    cluster.apply(op="token_add", **token)
    cluster.apply(op="member_join", **join)
    refused = cluster[1].ask("POST", "/v1/guests/g/migrations", {"to": "node4"})
    assert (refused.status, refused.body["error"]["what"]) == (409, "node node4 is a witness, which runs no guests")


@pytest.mark.parametrize(
    ("body", "status", "what"),
    [
        ({}, 400, "body is not right"),
        ({"name": "g", "spec": SPEC, "nodes": "node1"}, 400, "body is not right"),
        ({"name": 7, "spec": SPEC}, 400, "body is not right"),
        ({"name": "a/b", "spec": SPEC}, 400, "is not the name of a guest"),
        ({"name": "g", "spec": {}}, 400, "a guest needs memory_bytes"),
        ({"name": "g", "spec": {"memory_bytes": 1}}, 400, "memory_bytes must be a whole number of pages"),
        ({"name": "g", "spec": SPEC, "node": "node9"}, 404, "there is no node 'node9'"),
    ],
)
def test_a_guest_that_can_not_be_is_refused(body: dict[str, object], status: int, what: str) -> None:
    cluster = SmallCluster()
    answer = cluster[1].ask("POST", "/v1/guests", body)
    assert answer.status == status
    assert what in answer.body["error"]["what"]
    assert cluster[1].guests.asked == []


@pytest.mark.parametrize(
    ("method", "path", "done"),
    [
        ("GET", "/v1/guests/g", "show g"),
        ("POST", "/v1/guests/g/start", "start g"),
        ("POST", "/v1/guests/g/stop", "stop g"),
        ("POST", "/v1/guests/g/pause", "pause g"),
        ("POST", "/v1/guests/g/resume", "resume g"),
        ("GET", "/v1/guests/g/verify", "verify g"),
        ("DELETE", "/v1/guests/g", "remove g"),
    ],
)
@pytest.mark.parametrize("asked_node", [1, 2])
def test_what_only_the_owner_can_do_is_done_by_the_owner(method: str, path: str, done: str, asked_node: int) -> None:
    cluster = SmallCluster().with_guest(owner=1)
    assert cluster[asked_node].ask(method, path).status == 200
    assert cluster[1].guests.asked == [done]
    assert cluster[2].guests.asked == cluster[3].guests.asked == []


def test_a_steering_request_takes_no_body() -> None:
    cluster = SmallCluster().with_guest()
    assert cluster[1].ask("POST", "/v1/guests/g/stop", {"force": True}).status == 400
    assert cluster[1].guests.asked == []


def test_the_owners_refusal_comes_back_with_its_status_and_words() -> None:
    cluster = SmallCluster().with_guest(owner=3)
    cluster[3].guests.error = GuestBusy("no stop now", where="guest g", why="migration is under way")
    answer = cluster[1].ask("POST", "/v1/guests/g/stop")
    assert answer.status == 409
    assert answer.body["error"]["kind"] == "GuestBusy"
    assert answer.body["error"]["why"] == "migration is under way"


def test_an_owner_that_can_not_be_reached_makes_it_unavailable() -> None:
    cluster = SmallCluster().with_guest(owner=3)
    cluster[1].cluster.links["node3"] = "down"
    answer = cluster[1].ask("POST", "/v1/guests/g/stop")
    assert answer.status == 503
    assert answer.body["error"]["where"] == "node3"


def test_a_refusal_because_nobody_is_there_to_agree_is_told_from_one_with_a_reason() -> None:
    cluster = SmallCluster().with_guest(owner=2)
    cluster[2].guests.error = CommandRefused("guest_move was not taken by a coordinator", why="no node leads")
    answer = cluster[1].ask("POST", "/v1/guests/g/start")
    assert (answer.status, answer.body["error"]["what"]) == (503, "no coordinator answers")
    cluster[3].guests.error = CommandRefused("guest_create was not taken by a coordinator")
    assert cluster[3].ask("POST", "/v1/guests", {"name": "h", "spec": SPEC}).status == 503
    cluster.apply(op="claim_coordinator", node="node1", expected_epoch=0)
    answer = cluster[1].ask("POST", "/v1/guests/g/start")
    assert (answer.status, answer.body["error"]["kind"]) == (409, "CommandRefused")


def test_a_guest_is_unknown_only_when_the_coordinator_says_so() -> None:
    cluster = SmallCluster()
    assert cluster[1].ask("GET", "/v1/guests/g").status == 404
    fresh = register_of("node1", "node2", "node3")
    fresh.apply({"op": "guest_create", "name": "g", "owner": "node1", "spec": {}})
    cluster[1].cluster.fresh = fresh
    assert cluster[1].ask("GET", "/v1/guests/g").status == 200


def test_no_name_of_a_guest_is_asked_of_the_coordinator() -> None:
    answer = SmallCluster()[1].ask("GET", "/v1/guests/..%2F..%2Fetc")
    assert answer.status == 404
    assert answer.body["error"]["what"] == "there is no such guest"


def moved_behind(cluster: SmallCluster) -> None:
    """node1 still believes that it is on node2; it has moved to node3."""
    for node in (2, 3):
        cluster[node].cluster.apply(op="guest_move", name="g", owner="node2", epoch=1, new_owner="node3")
    cluster[1].cluster.fresh = cluster[3].cluster.register


def test_a_guest_that_has_moved_meanwhile_is_found_where_it_is() -> None:
    cluster = SmallCluster().with_guest(owner=2)
    moved_behind(cluster)
    assert cluster[1].ask("POST", "/v1/guests/g/stop").status == 200
    assert [node for node, _ in cluster[1].cluster.calls] == ["node2", "node3"]
    assert cluster[3].guests.asked == ["stop g"]


def test_a_guest_that_came_here_meanwhile_is_answered_for_here() -> None:
    cluster = SmallCluster().with_guest(owner=2)
    for node in (2, 3):
        cluster[node].cluster.apply(op="guest_move", name="g", owner="node2", epoch=1, new_owner="node1")
    cluster[1].cluster.fresh = cluster[3].cluster.register
    assert cluster[1].ask("POST", "/v1/guests/g/stop").status == 200
    assert cluster[1].guests.asked == ["stop g"]


def test_an_owner_whose_register_lags_asks_the_coordinator_before_it_says_moved() -> None:
    cluster = SmallCluster().with_guest(owner=2)
    for node in (1, 2):
        cluster[node].cluster.apply(op="guest_move", name="g", owner="node2", epoch=1, new_owner="node3")
    cluster[3].cluster.fresh = cluster[1].cluster.register
    assert cluster[1].ask("POST", "/v1/guests/g/stop").status == 200
    assert cluster[3].guests.asked == ["stop g"]


def test_a_forwarded_request_is_not_forwarded_again() -> None:
    cluster = SmallCluster().with_guest(owner=2)
    moved_behind(cluster)
    cluster[1].cluster.fresh = cluster[1].cluster.register  # and the coordinator's word does not help
    answer = cluster[1].ask("POST", "/v1/guests/g/stop")
    assert answer.status == 503
    assert answer.body["error"]["kind"] == "GuestMoved"
    assert cluster[2].cluster.calls == []
    assert cluster[3].guests.asked == []


def test_all_guests_are_listed_by_any_node() -> None:
    cluster = SmallCluster().with_guest(owner=3)
    (guest,) = cluster[1].ask("GET", "/v1/guests").body["guests"]
    assert (guest["name"], guest["owner"], guest["epoch"]) == ("g", "node3", 1)


def test_a_verification_says_whether_all_is_intact() -> None:
    cluster = SmallCluster().with_guest()
    assert cluster[1].ask("GET", "/v1/guests/g/verify").body == {
        "pages_checked": 10,
        "pages_bad": 0,
        "missing_rewrites": 0,
        "stray_pages": 0,
        "counter": 99,
        "is_intact": True,
    }
    cluster[1].guests.verification = GuestVerification(10, 1, 0, 0, 99)
    assert cluster[2].ask("GET", "/v1/guests/g/verify").body["is_intact"] is False


# Migrations


def test_a_migration_begins_at_the_owner_with_the_owners_policy() -> None:
    cluster = SmallCluster().with_guest(owner=2)
    answer = cluster[1].ask("POST", "/v1/guests/g/migrations", {"to": "node3"})
    assert answer.status == 202
    assert (answer.body["source"], answer.body["destination"]) == ("node2", "node3")
    assert answer.body["report"] is None
    (migration,) = cluster[2].migrations.all
    assert migration.policy is cluster[2].policy
    assert cluster[2].event_texts() == ["guest g leaves node2 for node3"]


@pytest.mark.parametrize(
    ("body", "status"), [({}, 400), ({"to": "node9"}, 404), ({"to": 7}, 400), ({"to": "node2", "x": 1}, 400)]
)
def test_a_migration_to_nowhere_is_refused(body: dict[str, object], status: int) -> None:
    cluster = SmallCluster().with_guest()
    assert cluster[1].ask("POST", "/v1/guests/g/migrations", body).status == status
    assert cluster[1].migrations.all == []


def test_a_migration_that_the_owner_refuses_is_refused() -> None:
    cluster = SmallCluster().with_guest(owner=2)
    cluster[2].migrations.refusal = MigrationRefused("the guest is on that node already")
    answer = cluster[1].ask("POST", "/v1/guests/g/migrations", {"to": "node2"})
    assert answer.status == 409
    assert answer.body["error"]["kind"] == "MigrationRefused"


def test_the_report_is_found_by_any_node_after_the_guest_has_moved() -> None:
    cluster = SmallCluster().with_guest(owner=1)
    cluster[3].ask("POST", "/v1/guests/g/migrations", {"to": "node2"})
    assert cluster[3].ask("GET", "/v1/guests/g/migration").body["state"] == "round 1"
    cluster[1].migrations.all[0].finish()
    cluster.apply(op="guest_move", name="g", owner="node1", epoch=1, new_owner="node2")
    for asked in (1, 2, 3):
        answer = cluster[asked].ask("GET", "/v1/guests/g/migration")
        assert answer.status == 200
        assert answer.body["report"]["downtime_ms"] == 12.5
        assert cluster[asked].ask("GET", "/v1/guests/g").body["migration"]["report"]["state"] == "completed"
    assert cluster[1].event_texts()[-1] == "guest g to node2: completed, downtime 12.5 ms"


def test_of_several_migrations_the_latest_is_shown() -> None:
    cluster = SmallCluster().with_guest(owner=1)
    cluster[1].ask("POST", "/v1/guests/g/migrations", {"to": "node2"})
    cluster[1].migrations.all[0].finish("failed", "the destination gave up")
    cluster[1].ask("POST", "/v1/guests/g/migrations", {"to": "node2"})
    cluster[1].migrations.all[1].finish()
    cluster.apply(op="guest_move", name="g", owner="node1", epoch=1, new_owner="node2")
    assert cluster[3].ask("GET", "/v1/guests/g/migration").body["migration_id"] == "node1-1"
    cluster[2].ask("POST", "/v1/guests/g/migrations", {"to": "node3"})
    assert cluster[1].ask("GET", "/v1/guests/g/migration").body["migration_id"] == "node2-0"
    cluster[2].migrations.all[0].finish("cancelled", "cancelled on request")
    assert cluster[1].ask("GET", "/v1/guests/g/migration").body["migration_id"] == "node2-0"
    assert cluster[2].event_texts()[-1] == "guest g to node3: cancelled: cancelled on request"


def test_a_node_that_does_not_answer_hides_only_its_own_reports() -> None:
    cluster = SmallCluster().with_guest(owner=1)
    cluster[1].ask("POST", "/v1/guests/g/migrations", {"to": "node2"})
    cluster[3].cluster.links["node2"] = "down"
    assert cluster[3].ask("GET", "/v1/guests/g/migration").status == 200
    cluster[3].cluster.links["node1"] = "down"
    answer = cluster[3].ask("GET", "/v1/guests/g/migration")
    assert answer.status == 404
    assert answer.body["error"]["what"] == "no migration of the guest is known"


def test_a_migration_is_called_off_at_the_owner() -> None:
    cluster = SmallCluster().with_guest(owner=2)
    assert cluster[1].ask("DELETE", "/v1/guests/g/migration").status == 409
    cluster[1].ask("POST", "/v1/guests/g/migrations", {"to": "node3"})
    assert cluster[1].ask("DELETE", "/v1/guests/g/migration").status == 202
    assert cluster[2].migrations.all[0].is_cancelled
    cluster[2].migrations.all[0].finish("cancelled")
    assert cluster[1].ask("DELETE", "/v1/guests/g/migration").status == 409
