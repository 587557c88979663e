"""Portal groups, redirected logins and rights by initiator, as libiscsi's and QEMU's programs and our own meet them."""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import pytest

from tests.integration.daemon_rig import TARGET, DaemonNode, Daemons
from tests.interop.libiscsi import capacity_bytes
from tests.interop.programs import refuse, run, succeed
from tests.interop.qemu import qemu_io

pytestmark = pytest.mark.interop

GROUP = 101
# iscsi-ls has a name of its own, whatever program asks.
LISTER = "iqn.2007-10.com.github:sahlberg:libiscsi:iscsi-ls"


def start(daemons: Daemons, more: str) -> DaemonNode:
    return daemons.node(more=more).start().ready()


def end(node: DaemonNode) -> None:
    assert node.terminate() == 0
    assert not [line for line in node.log if "Traceback" in line or " error " in line]


def second_group() -> tuple[str, str]:
    """Another portal group on another address: the portal and its section."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.2", 0))
        portal = f"127.0.0.2:{sock.getsockname()[1]}"
    return portal, f'[[target.portal_group]]\ntag = {GROUP}\nportals = ["{portal}"]\n'


def test_discovery_finds_every_portal_of_every_group_and_all_of_them_serve(daemons: Daemons) -> None:
    portal, section = second_group()
    node = start(daemons, section)

    printed = succeed("iscsi-ls", f"iscsi://{node.portal}")

    assert sorted(printed.split()) == sorted(
        [f"Target:{TARGET}", f"Portal:{node.portal},1", f"Target:{TARGET}", f"Portal:{portal},{GROUP}"]
    )
    for address in (node.portal, portal):
        assert capacity_bytes(f"iscsi://{address}/{TARGET}/0") == 16 << 20
    end(node)


def test_a_login_is_sent_on_to_another_portal_and_everybody_follows(daemons: Daemons) -> None:
    portal, section = second_group()
    node = start(daemons, section + f'[target.redirect]\naddress = "{portal}"\n')
    url = f"iscsi://{node.portal}/{TARGET}/0"

    assert capacity_bytes(url) == 16 << 20
    qemu_io(url, "write -P 0x5e 0 64k", "read -P 0x5e 0 64k")
    shown = succeed(str(Path(sys.executable).with_name("csv-initiator")), "info", url)
    assert f"{portal}, portal group {GROUP}" in shown
    end(node)


def test_an_initiator_sees_its_luns_and_another_one_nothing_at_all(daemons: Daemons) -> None:
    disk = f'[[target.lun]]\nnumber = 3\ndisk = "{daemons.folder}/b.img"\ncreate = "32M"\n'
    node = start(daemons, disk + f'[[target.acl]]\ninitiator = "{LISTER}"\nnetworks = ["127.0.0.0/8"]\nluns = [3]\n')

    printed = succeed("iscsi-ls", "-s", f"iscsi://{node.portal}")

    assert [line.split()[0] for line in printed.splitlines() if line.startswith("Lun:")] == ["Lun:3"]
    # iscsi-readcapacity16 goes by another name: it is not let in (class 02h, detail 02h), nor told of the target.
    assert "(514)" in refuse("iscsi-readcapacity16", f"iscsi://{node.portal}/{TARGET}/3")
    end(node)


def test_an_initiator_from_another_network_is_not_let_in(daemons: Daemons) -> None:
    node = start(daemons, f'[[target.acl]]\ninitiator = "{LISTER}"\nnetworks = ["192.0.2.0/24"]\n')

    assert run("iscsi-ls", f"iscsi://{node.portal}").stdout == ""
    end(node)
