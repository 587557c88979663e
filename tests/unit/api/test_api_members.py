"""The routes of the nodes of the cluster, and the events of what becomes of them."""

from __future__ import annotations

from typing import Any, cast

import pytest
from twisted.internet.defer import Deferred

from csvd.api.errors import Unavailable
from csvd.api.events import EventRing
from csvd.api.interfaces import Cluster
from csvd.api.members import MemberRoutes
from csvd.api.routes import Answer, Request, Router
from csvd.api.watch import Watch
from csvd.cluster.errors import CommandRefused
from csvd.cluster.register import Register
from csvd.errors import CsvdError
from tests.unit.cluster.registers import register_of


class OneNode:
    """The membership of n1, which leads: commands are carried out at once."""

    def __init__(self, register: Register) -> None:
        self.node = "n1"
        self.register = register
        self.listeners: list[Any] = []

    def status(self) -> dict[str, Any]:
        members = [
            {"node": "n1", "address": "h:1", "link": "self", "trouble": ""},
            {"node": "n2", "address": "h:2", "link": "down", "trouble": "refused"},
        ]
        return {"members": members, "coordinator": "n1"}

    async def submit(self, command: dict[str, Any], *, timeout_s: float) -> dict[str, Any]:
        answer = self.register.apply(command)
        if not answer["ok"]:
            raise CommandRefused("it was refused", why=answer["reason"])
        for listener in self.listeners:
            listener(self.register)
        return answer

    def on_change(self, callback: Any) -> Any:
        self.listeners.append(callback)
        return lambda: self.listeners.remove(callback)


class Stage:
    def __init__(self) -> None:
        self.cluster = OneNode(register_of("n1", "n2"))
        self.rotated: list[str] = []
        self.not_rotated: CsvdError | None = None
        self.router = Router(MemberRoutes(self.cluster, self.rotate).routes())
        self.events = EventRing()
        self.watch = Watch(self.events, cast(Cluster, self.cluster))
        self.watch.start()

    def ask(
        self, method: str, path: str, body: dict[str, Any] | None = None, query: dict[str, str] | None = None
    ) -> Answer:
        answers: list[Answer] = []
        request = Request(method, path, query or {}, body or {})
        Deferred.fromCoroutine(self.router.dispatch(request)).addCallback(answers.append)
        return answers[0]

    async def rotate(self, *, without: str, timeout_s: float) -> dict[str, Any]:
        assert without not in self.cluster.register.members
        self.rotated.append(without)
        if self.not_rotated is not None:
            raise self.not_rotated
        return {"key": "ab12", "secrets": [{"target": "t"}]}

    def told(self) -> list[str]:
        return [event["text"] for event in self.events.after(0)["events"] if event["kind"] == "node"]


def test_nodes_are_listed_with_their_links_and_shown_by_id_or_name() -> None:
    stage = Stage()
    first, second = stage.ask("GET", "/v1/nodes").body["nodes"]
    assert (first["id"], first["number"], first["link"], first["is_coordinator"]) == ("n1", 1, "self", True)
    assert (second["id"], second["link"], second["trouble"], second["is_voter"]) == ("n2", "down", "refused", True)
    stage.ask("PATCH", "/v1/nodes/n2", {"name": "left"})
    assert stage.ask("GET", "/v1/nodes/left").body["id"] == "n2"
    assert stage.ask("GET", "/v1/nodes/n2").body["name"] == "left"
    assert stage.ask("GET", "/v1/nodes/n9").status == 404


def test_a_node_is_renamed_drained_and_undrained_and_that_is_told() -> None:
    stage = Stage()
    assert stage.ask("PATCH", "/v1/nodes/n2", {"name": "left"}).body["name"] == "left"
    assert stage.ask("PATCH", "/v1/nodes/left", {"is_draining": True}).body["is_draining"] is True
    assert stage.ask("PATCH", "/v1/nodes/left", {"is_draining": False}).body["is_draining"] is False
    assert stage.told() == ["n2 is called left now", "left is drained", "left is not drained any more"]
    assert stage.ask("PATCH", "/v1/nodes/n1", {"name": "left"}).status == 409
    assert stage.ask("PATCH", "/v1/nodes/n1", {"number": 3}).status == 400


def test_a_node_is_evicted_and_the_last_is_not() -> None:
    stage = Stage()
    rotated = {"key": "ab12", "secrets": [{"target": "t"}], "trouble": ""}
    assert stage.ask("DELETE", "/v1/nodes/n2").body == {"id": "n2", "name": "n2", "guests": [], **rotated}
    assert stage.rotated == ["n2"]
    assert list(stage.cluster.register.members) == ["n1"]
    assert stage.told() == ["n2 was removed from the cluster"]
    refused = stage.ask("DELETE", "/v1/nodes/n1")
    assert refused.status == 409
    assert "last voter" in refused.body["error"]["why"]


def test_a_node_is_evicted_also_where_the_key_that_it_has_can_not_be_replaced_now() -> None:
    stage = Stage()
    stage.not_rotated = Unavailable("there is no system disk")
    body = stage.ask("DELETE", "/v1/nodes/n2").body
    assert list(stage.cluster.register.members) == ["n1"]
    assert (body["key"], body["secrets"], body["trouble"]) == (None, [], "there is no system disk")


def test_a_node_with_guests_is_evicted_by_force_only() -> None:
    stage = Stage()
    stage.cluster.register.apply({"op": "guest_create", "name": "vm", "owner": "n2", "spec": {}})
    refused = stage.ask("DELETE", "/v1/nodes/n2")
    assert refused.status == 409
    assert "has guests: vm" in refused.body["error"]["what"]
    assert stage.ask("DELETE", "/v1/nodes/n2", query={"force": "true"}).body["guests"] == ["vm"]


@pytest.mark.parametrize("word", ["1", "yes", "True", "false"])
def test_a_node_is_not_evicted_by_a_word_that_nobody_knows(word: str) -> None:
    stage = Stage()
    refused = stage.ask("DELETE", "/v1/nodes/n2", query={"force": word})
    assert refused.status == 400
    assert f"force is '{word}'" in refused.body["error"]["what"]
    assert list(stage.cluster.register.members) == ["n1", "n2"]


def test_a_node_that_there_is_not_is_answered_by_the_names_that_there_are() -> None:
    stage = Stage()
    stage.ask("PATCH", "/v1/nodes/n1", {"name": "x"})
    missing = stage.ask("GET", "/v1/nodes/n9").body["error"]
    assert (missing["what"], missing["hint"]) == ("there is no node 'n9' in the cluster", "nodes: x, n2")


def test_a_node_that_joins_and_is_made_a_voter_is_told() -> None:
    stage = Stage()
    join = {"token": "a" * 64, "id": "n3", "address": "h:3", "fingerprint": "b" * 64, "at_s": 1}
    token = {"id": "a" * 64, "expires_at_s": 10, "is_witness": False, "at_s": 1}
    moved = {"op": "member_set", "id": "n3", "address": "h:4"}
    for command in (
        {"op": "token_add", **token},
        {"op": "member_join", **join},
        {"op": "member_promote", "id": "n3"},
        moved,
    ):
        Deferred.fromCoroutine(stage.cluster.submit(command, timeout_s=1))
    assert stage.told() == [
        "n3 has joined the cluster at h:3",
        "n3 has caught up, and votes",
        "n3 is at h:4 now",
    ]
    stage.watch.stop()
    assert stage.cluster.listeners == []


def test_a_node_that_hears_of_the_cluster_for_the_first_time_tells_of_nobody() -> None:
    cluster = OneNode(Register())
    events = EventRing()
    Watch(events, cast(Cluster, cluster)).start()
    cluster.register.restore(register_of("n1", "n2").snapshot())
    for listener in cluster.listeners:
        listener(cluster.register)
    assert events.after(0)["events"] == []
