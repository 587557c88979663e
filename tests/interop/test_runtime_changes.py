"""What a person changes while the daemon runs, as libiscsi sees it: new LUNs, other sizes, rights, and a restart."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from csvd.iscsi.names import normalize
from tests.integration.daemon_rig import TARGET, DaemonNode, Daemons
from tests.interop.libiscsi import capacity_bytes, iscsi_inq, iscsi_ls
from tests.interop.libiscsi_session import LibiscsiSession
from tests.interop.programs import run

pytestmark = pytest.mark.interop

HOST = "iqn.2026-11.org.example:host"
OTHER = "iqn.2026-11.org.example:other"
BACKUP = "iqn.2026-11.org.example:backup"


@pytest.fixture
def node() -> Iterator[DaemonNode]:
    daemons = Daemons()
    node = daemons.node().start().ready()
    yield node
    assert node.terminate() == 0
    assert not [line for line in node.log if "Traceback" in line or " error " in line]
    daemons.close()


def csvd(node: DaemonNode, *arguments: str) -> Any:
    done = node.csvd(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_new_lun_is_told_to_who_is_logged_in_and_can_be_used(node: DaemonNode) -> None:
    with LibiscsiSession(node.portal, TARGET, HOST) as session:
        assert session.luns() == [0]
        assert session.test_unit_ready() == ""
        disk = str(node.folder / "b.img")
        csvd(node, "lun", "add", disk, "--create", "32M", "--lun", "5", "--vendor", "ACME", "--removable")
        told = session.test_unit_ready()
        assert "UNIT_ATTENTION" in told
        assert "3f0e" in told.lower()  # REPORTED LUNS DATA HAS CHANGED
        assert session.luns() == [0, 5]
    url = f"iscsi://{node.portal}/{TARGET}/5"
    assert capacity_bytes(url) == 32 << 20
    fields = iscsi_inq(url)
    assert fields["Vendor"] == ["ACME    "]
    assert fields["Removable"] == ["1"]


def test_a_lun_that_grows_is_told_and_one_that_goes_is_gone(node: DaemonNode) -> None:
    csvd(node, "lun", "add", str(node.folder / "b.img"), "--create", "32M")
    with LibiscsiSession(node.portal, TARGET, HOST) as session:
        assert session.test_unit_ready() == ""
        csvd(node, "lun", "resize", "0", "48M")
        told = session.test_unit_ready()
        assert "UNIT_ATTENTION" in told
        assert "2a09" in told.lower()  # CAPACITY DATA HAS CHANGED
        assert session.capacity_bytes() == 48 << 20
        csvd(node, "lun", "rm", "1")
        assert "3f0e" in session.test_unit_ready().lower()
        assert session.luns() == [0]
        assert "ILLEGAL_REQUEST" in session.test_unit_ready(1)
    refused = node.csvd("lun", "resize", "0", "1M")
    assert refused.returncode == 1
    assert "--force makes it smaller" in refused.stderr


def test_after_a_restart_everything_is_there(node: DaemonNode) -> None:
    csvd(node, "lun", "add", str(node.folder / "b.img"), "--create", "32M", "--provisioning", "full")
    csvd(node, "target", "create", BACKUP, "--alias", "backup")
    csvd(node, "lun", "add", str(node.folder / "b.img"), "--target", BACKUP, "--lun", "7", "--read-only")
    csvd(node, "acl", "add", HOST, "--target", BACKUP, "--network", "127.0.0.0/8")
    csvd(node, "lun", "resize", "0", "48M", "--target", TARGET)
    before = [csvd(node, "target", "show", name) for name in (TARGET, BACKUP)]
    node.kill()
    node.start().ready()
    after = [csvd(node, "target", "show", name) for name in (TARGET, BACKUP)]
    for face in (*before, *after):
        del face["addresses"]
    assert after == before
    assert capacity_bytes(f"iscsi://{node.portal}/{TARGET}/0") == 48 << 20
    with LibiscsiSession(node.portal, TARGET, HOST) as session:
        assert session.luns() == [0, 1]
    text = node.csvd("config", "show").stdout
    assert "[[target.lun]]  # from run time\n" in text
    assert f'name = "{normalize(BACKUP)}"' in text


def test_rights_that_are_taken_away_end_the_session_and_keep_it_out(node: DaemonNode) -> None:
    csvd(node, "acl", "add", HOST)
    assert iscsi_ls_as(node, OTHER) == ""
    assert TARGET in iscsi_ls_as(node, HOST)
    with LibiscsiSession(node.portal, TARGET, HOST):
        (seen,) = csvd(node, "session", "ls")["sessions"]
        assert (seen["initiator"], seen["target"]) == (HOST, TARGET)
        csvd(node, "acl", "rm", HOST)
        assert csvd(node, "session", "ls")["sessions"] == []
    assert iscsi_ls_as(node, HOST) == ""
    csvd(node, "target", "set", TARGET, "--any-initiator")
    assert iscsi_ls(node.portal).name == TARGET


def iscsi_ls_as(node: DaemonNode, initiator: str) -> str:
    return run("iscsi-ls", "-i", initiator, f"iscsi://{node.portal}").stdout


def test_an_initiator_sees_the_luns_of_its_mask_and_no_others(node: DaemonNode) -> None:
    csvd(node, "lun", "add", str(node.folder / "b.img"), "--create", "32M")
    csvd(node, "acl", "add", HOST, "--lun", "1")
    csvd(node, "acl", "add", OTHER)
    shown = run("iscsi-ls", "-s", "-i", HOST, f"iscsi://{node.portal}").stdout
    assert "Lun:1 " in shown
    assert "Lun:0 " not in shown
    with LibiscsiSession(node.portal, TARGET, OTHER) as session:
        assert session.luns() == [0, 1]


def test_what_a_session_did_is_counted(node: DaemonNode) -> None:
    with LibiscsiSession(node.portal, TARGET, HOST) as session:
        for _ in range(3):
            assert session.test_unit_ready() == ""
        counted = {one["command"]: one for one in csvd(node, "stats")["commands"]}
        assert counted["TEST UNIT READY"]["count"] >= 3
        assert counted["TEST UNIT READY"]["errors"]["unit_attention"] >= 1
        (seen,) = csvd(node, "session", "ls")["sessions"]
        assert seen["statistics"]["count"] >= 4
        csvd(node, "session", "drop", str(seen["tsih"]))
        assert csvd(node, "session", "ls")["sessions"] == []
    kinds = [event["kind"] for event in csvd(node, "event", "ls")["events"]]
    assert "login" in kinds
    assert "change" in kinds
