"""csvd node against prepared answers."""

from __future__ import annotations

import json
from typing import Any

from tests.unit.api.fake_daemon import FakeDaemon, error
from tests.unit.cli.conftest import Shell


def face(name: str = "node2", **changes: Any) -> dict[str, Any]:
    return {
        "id": "node2",
        "name": name,
        "number": 2,
        "address": "10.0.0.2:7001",
        "fingerprints": ["ab" * 32],
        "is_voter": True,
        "is_witness": False,
        "is_draining": False,
        "link": "up",
        "trouble": "",
        "is_coordinator": False,
        **changes,
    }


def test_nodes_are_listed(csvd: Shell, daemon: FakeDaemon) -> None:
    nodes = [
        face(is_coordinator=True),
        face("w", is_witness=True, is_draining=True),
        face("new", is_voter=False, link="down"),
    ]
    daemon.answers["GET /v1/nodes"] = (200, {"nodes": nodes})
    header, *rows = csvd("node", "ls").out.splitlines()
    assert header.split() == ["NODE", "ID", "NUMBER", "ADDRESS", "ROLE", "LINK", "STATE"]
    assert "node, leads" in rows[0]
    assert "witness" in rows[1]
    assert rows[1].endswith("draining")
    assert "node, learns" in rows[2]
    assert json.loads(csvd("node", "ls", "--json").out) == {"nodes": nodes}


def test_a_node_is_shown(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["GET /v1/nodes/left"] = (200, face("left", trouble="no answer\x1b"))
    lines = csvd("node", "show", "left").out.splitlines()
    assert lines[0] == "name            left"
    assert "certificate key " + "ab" * 32 in lines
    assert "\x1b" not in "".join(lines)
    assert json.loads(csvd("node", "show", "left", "--json").out)["id"] == "node2"


def evicted(**changes: Any) -> dict[str, Any]:
    return {"id": "node2", "name": "node2", "guests": [], "key": "ab12", "secrets": [], "trouble": "", **changes}


SECRETS = [
    {"target": "iqn.x", "what": "secret", "user": "joe", "initiator": "", "lun": ""},
    {"target": "iqn.x", "what": "mutual_secret", "user": "us", "initiator": "iqn.host", "lun": ""},
    {"target": "iqn.y", "what": "disk_secret", "user": "", "initiator": "", "lun": "3"},
]
NAMED = [
    "  iqn.x: CHAP secret of user joe",
    "  iqn.x: secret by which the target proves itself of user us, for iqn.host",
    "  iqn.y: secret for the disk of LUN 3",
]


def test_the_secrets_that_an_evicted_node_may_know_are_named(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["DELETE /v1/nodes/node2"] = (200, evicted(secrets=SECRETS))
    *_, hint, first, second, third = csvd("node", "evict", "node2").out.splitlines()
    assert "give them anew" in hint
    assert [first, second, third] == NAMED
    assert json.loads(csvd("node", "evict", "node2", "--json").out)["secrets"] == SECRETS


def test_a_key_that_an_evicted_node_still_has_is_told_of(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["DELETE /v1/nodes/node2"] = (200, evicted(key=None, trouble="there is no system disk"))
    outcome = csvd("node", "evict", "node2")
    assert (outcome.status, outcome.out) == (0, "node node2 is not of the cluster any more\n")
    assert outcome.err == (
        "it has the key of the cluster's secrets still: there is no system disk "
        "(csvd key rotate, once that is mended)\n"
    )


def test_a_key_is_rotated(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["POST /v1/key"] = (200, {"key": "ab12", "secrets": SECRETS})
    first, second, *rest = csvd("key", "rotate").out.splitlines()
    assert first == "all secrets are sealed with the new key ab12"
    assert "give them anew" in second
    assert rest == NAMED
    assert json.loads(csvd("key", "rotate", "--json").out)["key"] == "ab12"
    daemon.answers["POST /v1/key"] = (503, error("there is no system disk"))
    outcome = csvd("key", "rotate")
    assert (outcome.status, outcome.out, outcome.err) == (1, "", "csvd: there is no system disk\n")


def test_a_node_is_renamed_drained_undrained_and_evicted(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["PATCH /v1/nodes/node2"] = (200, face())
    daemon.answers["DELETE /v1/nodes/node2"] = (200, evicted())
    assert csvd("node", "rename", "node2", "left").out == "node node2 is called left now\n"
    assert daemon.bodies[-1] == {"name": "left"}
    assert csvd("node", "drain", "node2").out == "node node2 is being drained\n"
    assert daemon.bodies[-1] == {"is_draining": True}
    assert csvd("node", "undrain", "node2").out == "node node2 is not drained any more\n"
    assert daemon.bodies[-1] == {"is_draining": False}
    assert csvd("node", "evict", "node2").out.splitlines() == [
        "node node2 is not of the cluster any more",
        "secrets are sealed with the new key ab12, which it does not have",
    ]
    assert json.loads(csvd("node", "evict", "node2", "--json").out)["id"] == "node2"


def test_what_is_refused_is_one_line(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["DELETE /v1/nodes/node2"] = (409, error("node node2 has guests: vm"))
    outcome = csvd("node", "evict", "node2")
    assert (outcome.status, outcome.out, outcome.err) == (1, "", "csvd: node node2 has guests: vm\n")
