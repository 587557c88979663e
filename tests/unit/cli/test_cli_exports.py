"""csvd target, lun, acl, portal, session, stats and config show against prepared answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from csvd.cli.stats import quantile_s
from tests.unit.api.fake_daemon import FakeDaemon
from tests.unit.cli.conftest import Shell

TARGET = "iqn.2026-11.org.example:x"
PATH = "/v1/targets/iqn.2026-11.org.example%3Ax"
HOST = "iqn.2026-11.org.example:h"

LUN: dict[str, Any] = {
    "target": TARGET,
    "number": 1,
    "disk": "/srv/b.img",
    "disk_kind": "file",
    "fence": "none",
    "size_bytes": 1 << 30,
    "block_bytes": 512,
    "physical_block_bytes": 4096,
    "thin": True,
    "read_only": False,
    "removable": True,
    "write_cache": True,
    "vendor": "CSVD",
    "product": "VOLUME",
    "revision": "1",
    "serial": "s",
    "naa": "60",
    "rotation_rate": 0,
    "max_transfer": 8 << 20,
    "origin": "run time",
}
FACE: dict[str, Any] = {
    "name": TARGET,
    "alias": "",
    "addresses": ["127.0.0.1:3260"],
    "portal_group_tag": 1,
    "unit_count": 1,
    "acl_count": 0,
    "initiators": None,
    "networks": None,
    "queue_depth": 64,
    "access_state": "active-optimized",
    "chap": None,
    "redirect": None,
    "sessions": [],
    "origin": "file",
    "scope": "node",
}
ENTRY: dict[str, Any] = {"initiator": HOST, "luns": [0], "networks": None, "chap": None, "origin": "run time"}


@pytest.fixture
def one_target(daemon: FakeDaemon) -> FakeDaemon:
    daemon.answers["GET /v1/targets"] = (200, {"targets": [FACE]})
    return daemon


def test_a_lun_is_added_to_the_only_target_with_what_was_said(csvd: Shell, one_target: FakeDaemon) -> None:
    one_target.answers[f"POST {PATH}/luns"] = (201, LUN)
    outcome = csvd("lun", "add", "b.img", "--create", "1G", "--block-bytes", "4096", "--read-only", "--lun", "1")
    assert (outcome.status, outcome.out) == (0, f"LUN 1 of {TARGET} is served: /srv/b.img\n")
    assert one_target.bodies[-1] == {
        "keys": {
            "create": 1 << 30,
            "block_bytes": 4096,
            "read_only": True,
            "disk": str(Path("b.img").absolute()),
            "number": 1,
        }
    }


def test_a_url_of_a_disk_is_no_path(csvd: Shell, one_target: FakeDaemon) -> None:
    one_target.answers[f"POST {PATH}/luns"] = (201, LUN)
    csvd("lun", "add", "null:1T", "--target", TARGET)
    assert one_target.bodies[-1] == {"keys": {"disk": "null:1T"}}


def test_the_target_has_to_be_named_when_there_are_several(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["GET /v1/targets"] = (200, {"targets": [FACE, {**FACE, "name": "iqn.2026-11.org.example:y"}]})
    outcome = csvd("lun", "rm", "1")
    assert outcome.status == 2
    assert f"--target is needed: there are {TARGET}, iqn.2026-11.org.example:y" in outcome.err
    daemon.answers["GET /v1/targets"] = (200, {"targets": []})
    assert "csvd target create" in csvd("acl", "ls").err


def test_keys_of_a_lun_are_changed_and_given_back_their_defaults(csvd: Shell, one_target: FakeDaemon) -> None:
    one_target.answers[f"PATCH {PATH}/luns/1"] = (200, LUN)
    assert csvd("lun", "set", "1", "--vendor", "ACME", "--writable", "--default", "serial").status == 0
    assert one_target.bodies[-1] == {"keys": {"serial": None, "vendor": "ACME", "read_only": False}}
    assert csvd("lun", "set", "1").status == 2


def test_a_lun_is_resized(csvd: Shell, one_target: FakeDaemon) -> None:
    one_target.answers[f"POST {PATH}/luns/1/resize"] = (200, LUN)
    assert "has 1.0 GiB" in csvd("lun", "resize", "1", "1G", "--force").out
    assert one_target.bodies[-1] == {"force": True, "size_bytes": 1 << 30}
    csvd("lun", "resize", "1")
    assert one_target.bodies[-1] == {"force": False}


def test_luns_are_listed_and_shown(csvd: Shell, one_target: FakeDaemon) -> None:
    one_target.answers["GET /v1/luns"] = (200, {"luns": [LUN]})
    one_target.answers[f"GET {PATH}/luns/1"] = (200, LUN)
    line = csvd("lun", "ls").out.splitlines()[1]
    assert line.split()[:4] == ["1", TARGET, "/srv/b.img", "1.0"]
    assert "thin, removable" in line
    assert "  size_bytes: 1073741824 (1.0 GiB)\n" in csvd("lun", "show", "1").out
    assert '"serial": "s"' in csvd("lun", "ls", "--json").out


def test_a_target_is_made_with_chap_by_the_names_of_files(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["POST /v1/targets"] = (201, FACE)
    outcome = csvd(
        "target", "create", TARGET, "--portal", "127.0.0.1:0", "--network", "10.0.0.0/8", "--tag", "3",
        "--chap-user", "joe", "--chap-secret-file", "joe.secret", "--mutual-user", "me", "--mutual-secret-file", "/m",
    )  # fmt: skip
    assert outcome.out == f"target {TARGET} is served at 127.0.0.1:3260\n"
    chap = {"user": "joe", "secret_file": str(Path("joe.secret").absolute())}
    assert daemon.bodies[-1] == {
        "name": TARGET,
        "keys": {
            "portals": ["127.0.0.1:0"],
            "networks": ["10.0.0.0/8"],
            "portal_group_tag": 3,
            "chap": {**chap, "mutual_user": "me", "mutual_secret_file": "/m"},
        },
    }


@pytest.mark.parametrize(
    "options",
    [
        ["--chap-user", "joe"],
        ["--chap-secret-file", "f"],
        ["--chap-user", "joe", "--chap-secret-file", "f", "--mutual-user", "x"],
        ["--mutual-user", "x", "--mutual-secret-file", "f"],
    ],
)
def test_half_of_a_name_and_its_secret_is_wrong_usage(csvd: Shell, daemon: FakeDaemon, options: list[str]) -> None:
    assert csvd("target", "create", TARGET, *options).status == 2


def test_a_target_is_changed_and_its_limits_are_lifted(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers[f"PATCH {PATH}"] = (200, FACE)
    assert csvd("target", "set", TARGET, "--any-initiator", "--no-chap", "--alias", "x").status == 0
    assert daemon.bodies[-1] == {"keys": {"alias": "x", "initiators": None, "chap": None}}
    assert csvd("target", "set", TARGET, "--access-state", "standby", "--redirect", "10.0.0.1:3260").status == 0
    assert daemon.bodies[-1] == {"keys": {"access_state": "standby", "redirect": {"address": "10.0.0.1:3260"}}}
    assert csvd("target", "set", TARGET, "--no-redirect").status == 0
    assert daemon.bodies[-1] == {"keys": {"redirect": None}}
    assert csvd("target", "set", TARGET).status == 2


def test_targets_are_listed_shown_and_removed(csvd: Shell, one_target: FakeDaemon) -> None:
    assert csvd("target", "ls").out.splitlines()[1].split() == [
        TARGET, "127.0.0.1:3260", "1", "0", "no", "all", "file", "this", "node",
    ]  # fmt: skip
    one_target.answers[f"GET {PATH}"] = (200, {**FACE, "luns": [LUN], "acl": [ENTRY]})
    shown = csvd("target", "show", TARGET).out
    assert "queue depth: 64, access state: active-optimized" in shown
    assert "/srv/b.img" in shown
    assert HOST in shown
    one_target.answers[f"DELETE {PATH}?force=true"] = (200, FACE)
    one_target.answers[f"DELETE {PATH}"] = (200, FACE)
    assert csvd("target", "rm", TARGET, "--force").out == f"target {TARGET} is removed\n"


def test_a_target_of_the_cluster_is_shown_with_the_nodes_that_serve_it(csvd: Shell, daemon: FakeDaemon) -> None:
    nodes = {
        "node1": {"state": "active-optimized", "serves": True, "troubles": {}},
        "node2": {"state": "active-optimized", "serves": True, "troubles": {f"{TARGET} LUN 1": "/srv/b.img: no"}},
        "node3": {"state": "unavailable", "serves": False, "troubles": {}},
    }
    face = {**FACE, "scope": "cluster", "origin": "cluster", "nodes": nodes}
    daemon.answers["GET /v1/targets"] = (200, {"targets": [face]})
    assert csvd("target", "ls").out.splitlines()[1].split()[-4:] == ["2", "of", "3", "nodes"]
    unit = {**LUN, "size_bytes": None, "thin": None, "trouble": "/srv/b.img: no"}
    daemon.answers[f"GET {PATH}"] = (200, {**face, "luns": [unit], "acl": []})
    shown = csvd("target", "show", TARGET).out
    assert "  node node3: unavailable, does not serve it\n" in shown
    assert f"  node node2: active-optimized\n    {TARGET} LUN 1: /srv/b.img: no\n" in shown
    assert "not served here" in shown
    daemon.answers[f"GET {PATH}/luns/1"] = (200, unit)
    assert "  not served by this node: /srv/b.img: no\n" in csvd("lun", "show", "1").out
    daemon.answers["POST /v1/targets?scope=node"] = (201, FACE)
    assert csvd("target", "create", TARGET, "--local").status == 0


def test_an_access_list_is_added_to_listed_and_taken_from(csvd: Shell, one_target: FakeDaemon) -> None:
    one_target.answers[f"POST {PATH}/acl"] = (201, ENTRY)
    assert csvd("acl", "add", HOST, "--lun", "0").out == f"{HOST} may log in to {TARGET}\n"
    assert one_target.bodies[-1] == {"name": HOST, "keys": {"luns": [0]}}
    one_target.answers[f"GET {PATH}/acl"] = (200, {"acl": [ENTRY]})
    assert csvd("acl", "ls").out.splitlines()[1].split()[:2] == [HOST, "0"]
    one_target.answers[f"PATCH {PATH}/acl/{HOST.replace(':', '%3A')}"] = (200, ENTRY)
    csvd("acl", "set", HOST, "--lun", "3", "--any-network")
    assert one_target.bodies[-1] == {"keys": {"luns": [3], "networks": None}}
    assert csvd("acl", "set", HOST).status == 2
    one_target.answers[f"DELETE {PATH}/acl/{HOST.replace(':', '%3A')}"] = (200, ENTRY)
    assert csvd("acl", "rm", HOST).out == f"{HOST} may no longer log in to {TARGET}\n"


def test_a_node_without_portals_says_so(csvd: Shell, daemon: FakeDaemon) -> None:
    daemon.answers["GET /v1/portals"] = (200, {"portals": []})
    assert csvd("portal", "ls").out == "no portals: no target is served yet\n"
    assert json.loads(csvd("portal", "ls", "--json").out) == {"portals": []}


def test_portals_are_listed(csvd: Shell, daemon: FakeDaemon) -> None:
    row = {"address": "127.0.0.1:3260", "portal_group_tag": 1, "portal": "127.0.0.1:0", "targets": [TARGET]}
    daemon.answers["GET /v1/portals"] = (200, {"portals": [row]})
    assert csvd("portal", "ls").out.splitlines()[1].split() == [
        "127.0.0.1:3260", "1", "127.0.0.1:0", "this", "node", "-", TARGET,
    ]  # fmt: skip
    other = {"address": "192.0.2.2:3260", "portal_group_tag": 33, "portal": "192.0.2.2:3260", "targets": [TARGET]}
    other |= {"node": "node2", "state": "standby"}
    daemon.answers["GET /v1/portals"] = (200, {"portals": [row, other]})
    assert csvd("portal", "ls").out.splitlines()[2].split()[3:5] == ["node2", "standby"]


def test_sessions_are_listed_and_dropped(csvd: Shell, one_target: FakeDaemon) -> None:
    session = {
        "node": "node1",
        "initiator": HOST,
        "target": TARGET,
        "tsih": 3,
        "isid": "800000000001",
        "peers": ["10.0.0.9:4711"],
        "cids": [0],
        "parameters": {"header_digest": "CRC32C", "data_digest": "None"},
        "age_s": 3725.5,
        "tasks": 2,
        "statistics": {"count": 99},
    }
    one_target.answers["GET /v1/sessions?nodes=all"] = (200, {"sessions": [session]})
    one_target.answers["GET /v1/sessions"] = (200, {"sessions": []})
    assert len(csvd("session", "ls", "--local").out.splitlines()) == 1
    assert csvd("session", "ls").out.splitlines()[1].split() == [
        "node1", HOST, TARGET, "3", "800000000001", "10.0.0.9:4711", "0", "header", "1:02:05", "2", "99",
    ]  # fmt: skip
    one_target.answers[f"DELETE {PATH}/sessions/3"] = (200, session)
    session["initiator"] = "iqn.host\x1b[2J"
    assert "iqn.host�[2J" in csvd("session", "ls").out
    session["initiator"] = HOST
    one_target.answers[f"DELETE {PATH}/sessions/3?grace_s=9"] = (200, session)
    assert "is asked to log out within 9 s" in csvd("session", "drop", "3", "--grace", "9").out
    assert csvd("session", "drop", "3").out == f"the session 3 of {HOST} is dropped\n"
    one_target.answers[f"DELETE {PATH}/sessions/3?node=node2"] = (200, session)
    assert csvd("session", "drop", "3", "--node", "node2").status == 0


def test_statistics_are_a_table(csvd: Shell, daemon: FakeDaemon) -> None:
    counted = {
        "count": 100,
        "bytes_in": 409600,
        "bytes_out": 0,
        "seconds": 0.1,
        "errors": {"medium_error": 1},
        "buckets": [98, 1, 1],
    }
    unit = {"target": TARGET, "lun": 0, **counted}
    command = {"target": TARGET, "lun": 0, "command": "READ(10)", **counted}
    session = {"target": TARGET, "initiator": HOST, "tsih": 3, **counted}
    answer = {"bounds_s": [0.0001, 0.002], "units": [unit], "commands": [command], "sessions": [session]}
    daemon.answers["GET /v1/statistics"] = (200, answer)
    line = csvd("stats").out.splitlines()[1]
    assert line.split()[:3] == [TARGET, "0", "100"]
    assert "400.0 KiB" in line
    assert "100 µs" in line
    assert "2.0 ms" in line
    assert "1 medium error" in line
    assert "READ(10)" in csvd("stats", "--by", "command").out
    assert HOST in csvd("stats", "--by", "session").out
    assert '"bounds_s"' in csvd("stats", "--json").out


@pytest.mark.parametrize(
    ("buckets", "part", "bound_s"),
    [([0, 0], 0.5, None), ([1, 0], 0.5, 1.0), ([1, 1], 0.99, 2.0), ([0, 0, 5], 0.5, None)],
)
def test_a_quantile_is_the_bound_below_which_that_part_lies(
    buckets: list[int], part: float, bound_s: float | None
) -> None:
    assert quantile_s(buckets, [1.0, 2.0], part) == bound_s


def test_the_configuration_in_force_is_toml_with_where_it_is_from(csvd: Shell, daemon: FakeDaemon) -> None:
    import tomllib

    target = {
        "name": TARGET,
        "portals": ["127.0.0.1:0"],
        "chap": {"user": "joe", "secret_file": "/s"},
        "portal_group": [{"tag": 5, "portals": ["127.0.0.1:1"]}],
        "lun": [{"number": 1, "disk": "/b", "serial": None}],
        "acl": [{"initiator": HOST, "luns": [1]}],
    }
    configuration = {"node": {"name": "n"}, "control": {"mode": 0o600}, "metrics": None, "target": [target]}
    origins = {TARGET: "file", f"{TARGET} lun 1": "run time", f"{TARGET} acl {HOST}": "run time"}
    daemon.answers["GET /v1/config"] = (
        200,
        {"file": "/c", "changes_file": "/t", "configuration": configuration, "origins": origins},
    )
    text = csvd("config", "show").out
    assert tomllib.loads(text) == {
        "node": {"name": "n"},
        "control": {"mode": "0600"},
        "target": [{**target, "lun": [{"number": 1, "disk": "/b"}]}],
    }
    assert "[[target]]  # from file\n" in text
    assert "[[target.lun]]  # from run time\n" in text
