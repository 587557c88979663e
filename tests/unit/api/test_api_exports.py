"""The routes of targets, logical units and access lists: each asks the node for what its path and body say."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.api.small_cluster import SmallCluster

TARGET = "iqn.2026-11.org.example:x"
QUOTED = "iqn.2026-11.org.example%3Ax"
HOST = "iqn.2026-11.org.example:h"


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "asked"),
    [
        ("POST", "/v1/targets", {"name": TARGET}, 201, ("create_target", TARGET, {})),
        ("GET", f"/v1/targets/{QUOTED}", {}, 200, ("target", TARGET)),
        ("PATCH", f"/v1/targets/{QUOTED}", {"keys": {"alias": None}}, 200, ("set_target", TARGET, {"alias": None})),
        ("DELETE", f"/v1/targets/{QUOTED}", {}, 200, ("remove_target", TARGET, False)),
        ("POST", f"/v1/targets/{QUOTED}/luns", {"keys": {"disk": "a"}}, 201, ("add_lun", TARGET, {"disk": "a"})),
        ("GET", f"/v1/targets/{QUOTED}/luns/7", {}, 200, ("lun", TARGET, 7)),
        ("PATCH", f"/v1/targets/{QUOTED}/luns/7", {}, 200, ("set_lun", TARGET, 7, {})),
        ("DELETE", f"/v1/targets/{QUOTED}/luns/7", {}, 200, ("remove_lun", TARGET, 7)),
        ("POST", f"/v1/targets/{QUOTED}/luns/7/resize", {}, 200, ("resize_lun", TARGET, 7, None, False)),
        (
            "POST",
            f"/v1/targets/{QUOTED}/luns/7/resize",
            {"size_bytes": 512, "force": True},
            200,
            ("resize_lun", TARGET, 7, 512, True),
        ),
        (
            "POST",
            f"/v1/targets/{QUOTED}/acl",
            {"name": HOST, "keys": {"luns": [1]}},
            201,
            ("add_acl", TARGET, HOST, {"luns": [1]}),
        ),
        (
            "PATCH",
            f"/v1/targets/{QUOTED}/acl/{HOST}",
            {"keys": {"luns": None}},
            200,
            ("set_acl", TARGET, HOST, {"luns": None}),
        ),
        ("DELETE", f"/v1/targets/{QUOTED}/acl/{HOST}", {}, 200, ("remove_acl", TARGET, HOST)),
        ("DELETE", f"/v1/targets/{QUOTED}/sessions/3", {}, 200, ("drop_session", TARGET, 3, 0)),
    ],
)
def test_a_route_asks_for_what_its_path_and_body_say(
    method: str, path: str, body: dict[str, Any], status: int, asked: tuple[Any, ...]
) -> None:
    node = SmallCluster()[1]
    answer = node.ask(method, path, body)
    assert (answer.status, node.exports.asked) == (status, [asked])
    assert answer.body == {"asked": list(asked)}


def test_a_target_is_made_in_the_scope_that_is_said() -> None:
    node = SmallCluster()[1]
    node.ask("POST", "/v1/targets", {"name": TARGET}, scope="node")
    assert node.exports.asked == [("create_target", TARGET, {}, "node")]


def test_a_session_is_dropped_at_the_node_that_has_it() -> None:
    cluster = SmallCluster()
    path = f"/v1/targets/{QUOTED}/sessions/3"
    assert cluster[1].ask("DELETE", path, node="node2", grace_s="9").status == 200
    assert cluster[1].ask("DELETE", path, node="node1").status == 200
    assert (cluster[1].exports.asked, cluster[2].exports.asked) == (
        [("drop_session", TARGET, 3, 0)],
        [("drop_session", TARGET, 3, 9)],
    )


def test_lists_are_answered() -> None:
    node = SmallCluster()[1]
    assert node.ask("GET", "/v1/targets").body == {"targets": node.exports.targets()}
    assert node.ask("GET", "/v1/luns").body == {"luns": [{"number": 0, "target": None, "size_bytes": 512}]}
    assert node.ask("GET", f"/v1/targets/{QUOTED}/luns").body == {
        "luns": [{"number": 0, "target": TARGET, "size_bytes": 512}]
    }
    assert node.ask("GET", f"/v1/targets/{QUOTED}/acl").body == {"acl": [{"asked": ["acl", TARGET]}]}
    assert node.ask("POST", "/v1/key").body == {"asked": ["rotate_key", ""]}
    assert node.ask("POST", "/v1/key", {"without": "node2"}).status == 400
    assert node.ask("GET", "/v1/portals").body == {"portals": [{"portal": "127.0.0.1:0"}]}
    assert node.ask("GET", "/v1/config").body == {"file": "csvd.toml"}


def test_a_target_is_removed_with_its_sessions_only_when_that_is_said() -> None:
    node = SmallCluster()[1]
    node.ask("DELETE", f"/v1/targets/{QUOTED}", force="true")
    assert node.exports.asked == [("remove_target", TARGET, True)]
    assert node.ask("DELETE", f"/v1/targets/{QUOTED}", force="yes").status == 400


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/v1/targets", {}),
        ("POST", "/v1/targets", {"name": TARGET, "key": {}}),
        ("GET", f"/v1/targets/{QUOTED}/luns/x", {}),
        ("GET", f"/v1/targets/{QUOTED}/luns/-1", {}),
        ("GET", f"/v1/targets/{QUOTED}/luns/9999999999", {}),
        ("DELETE", f"/v1/targets/{QUOTED}/luns/1", {"force": True}),
        ("POST", f"/v1/targets/{QUOTED}/luns/1/resize", {"size_bytes": "1G"}),
        ("DELETE", f"/v1/targets/{QUOTED}/sessions/x", {}),
    ],
)
def test_a_malformed_request_is_refused_before_anything_is_asked(method: str, path: str, body: dict[str, Any]) -> None:
    node = SmallCluster()[1]
    assert node.ask(method, path, body).status == 400
    assert node.exports.asked == []


def test_a_session_may_be_given_time_to_log_out() -> None:
    node = SmallCluster()[1]
    node.ask("DELETE", f"/v1/targets/{QUOTED}/sessions/3", grace_s="10")
    assert node.exports.asked == [("drop_session", TARGET, 3, 10)]
    for wrong in ("x", "-1", "3601", "99999"):
        assert node.ask("DELETE", f"/v1/targets/{QUOTED}/sessions/3", grace_s=wrong).status == 400
