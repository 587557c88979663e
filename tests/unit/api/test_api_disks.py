"""The routes of shared disks."""

from __future__ import annotations

import pytest

from tests.unit.api.small_cluster import SmallCluster


def test_a_disk_is_added_with_what_the_body_says() -> None:
    node = SmallCluster()[1]
    body = {"name": "system", "url": "/srv/a.img", "create_bytes": 1 << 30}
    assert node.ask("POST", "/v1/disks", body).status == 201
    assert node.disks.asked == [("add_disk", "system", "/srv/a.img", 1 << 30, False, False)]


@pytest.mark.parametrize("body", [{}, {"name": "a"}, {"name": 1, "url": "x"}, {"name": "a", "url": "x", "more": 1}])
def test_a_body_that_is_not_right_is_refused(body: dict[str, object]) -> None:
    node = SmallCluster()[1]
    assert node.ask("POST", "/v1/disks", body).status == 400
    assert node.disks.asked == []


def test_disks_are_listed_shown_moved_and_removed() -> None:
    node = SmallCluster()[1]
    node.disks.disks = [{"name": "system"}]
    assert node.ask("GET", "/v1/disks").body == {"disks": [{"name": "system"}]}
    assert node.ask("GET", "/v1/status").body["disks"] == [{"name": "system"}]
    assert node.ask("GET", "/v1/disks/system").status == 200
    assert node.ask("POST", "/v1/disks/system/coordinator", {"node": "node2"}).status == 200
    assert node.ask("DELETE", "/v1/disks/system").status == 200
    assert node.disks.asked == [
        ("show_disk", "system"),
        ("move_coordinator", "system", "node2"),
        ("remove_disk", "system"),
    ]


def test_a_node_is_fenced() -> None:
    node = SmallCluster()[1]
    node.ask("POST", "/v1/nodes/node3/fence", {"is_powered_off": True})
    assert node.disks.asked == [("fence", "node3", False, True)]
