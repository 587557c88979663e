"""csvd disk, coordinator and fence; the disks in csvd status."""

from __future__ import annotations

from typing import Any

from tests.unit.api.fake_daemon import FakeDaemon
from tests.unit.cli.conftest import Shell


def disk(**changes: Any) -> dict[str, Any]:
    proof = {"kind": "file lock", "node": "n1", "seen": "its lock was free", "at_s": 12.0}
    return {
        "name": "system",
        "url": "/srv/a.img",
        "uuid": "u",
        "coordinator": "n2",
        "epoch": 3,
        "is_system": True,
        "is_pinned": False,
        "attached": True,
        "trouble": "",
        "fence": "file lock",
        "session": {"state": "live", "coordinator": "n2", "epoch": 3, "lease_left_s": 4.5, "trouble": ""},
        "office": {
            "epoch": 3,
            "step": "acting",
            "lease_left_s": 1.5,
            "trouble": "",
            "proof": proof,
            "last_fence": None,
            "sessions": [{"node": "n2", "state": "live", "lease_left_s": 4.75, "trouble": ""}],
        },
        "last_office": None,
        "owner": {"epoch": 3, "node": "n2", "number": 2, "is_released": False},
        "slot": {"epoch": 3, "sequence": 9, "bytes": 400},
        **changes,
    }


def test_disks_are_listed_with_their_offices(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["GET /v1/disks"] = (200, {"disks": [disk()]})
    assert csvd("disk", "ls").out.splitlines() == [
        "DISK    URL         COORDINATOR  EPOCH  FENCE      SESSION  OFFICE",
        "system  /srv/a.img  n2               3  file lock  live     acting",
    ]
    assert "by the cluster" in csvd("coordinator", "ls").out


def test_a_disk_is_shown_with_its_fence_and_the_last_proof(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["GET /v1/disks/system"] = (200, disk())
    assert csvd("disk", "show", "system").out.splitlines() == [
        "system: system disk, /srv/a.img, uuid u",
        "coordinator  n2, epoch 3",
        "owner block  n2, epoch 3",
        "records      400 bytes, epoch 3, write 9",
        "fence        file lock",
        "session      live, lease 4.5 s",
        "office       acting, epoch 3, lease 1.5 s",
        "taken by     n1 is off by file lock: its lock was free",
        "",
        "NODE  SESSION  LEASE  TROUBLE",
        "n2    live      4.75        -",
    ]


def test_a_disk_that_the_node_does_not_have_is_shown_with_the_reason(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["GET /v1/disks/system"] = (200, disk(attached=False, trouble="no such file"))
    assert csvd("disk", "show", "system").out.endswith("this node does not have it open: no such file\n")


def test_a_disk_is_added_and_removed(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["POST /v1/disks"] = (201, disk())
    daemon.answers["DELETE /v1/disks/system"] = (200, {"name": "system"})
    assert csvd("disk", "add", "system", "/srv/a.img", "--create", "1G").out == (
        "system is the system disk of the cluster: /srv/a.img\n"
    )
    assert "stays" in csvd("disk", "remove", "system").out


def test_adopting_goes_not_with_formatting(csvd: Shell) -> None:
    assert csvd("disk", "add", "a", "/srv/a.img", "--adopt", "--force").status == 2


def test_a_coordinator_is_moved(daemon: FakeDaemon, csvd: Shell) -> None:
    daemon.answers["POST /v1/disks/system/coordinator"] = (200, {"epoch": 4})
    assert csvd("coordinator", "move", "system", "n3").out == "n3 coordinates system, epoch 4\n"


def test_a_node_is_fenced_and_the_proof_is_told(daemon: FakeDaemon, csvd: Shell) -> None:
    proof = {"kind": "file lock", "node": "n3", "seen": "its lock was free", "at_s": 1.0}
    daemon.answers["POST /v1/nodes/n3/fence"] = (200, {"node": "n3", "proofs": {"system": proof, "data": None}})
    assert csvd("fence", "n3", "--force").out.splitlines() == [
        "system: n3 is off: file lock: its lock was free",
        "data: n3 is off: it had no session there",
    ]


def test_a_fence_that_is_not_proven_is_an_error(daemon: FakeDaemon, csvd: Shell) -> None:
    error = {"kind": "ClusterError", "what": "it is not proven yet", "where": "", "why": "", "hint": ""}
    daemon.answers["POST /v1/nodes/n3/fence"] = (503, {"error": error})
    outcome = csvd("fence", "n3")
    assert outcome.status == 1
    assert "not proven" in outcome.err
