"""The Linux kernel's initiator finds csvd, proves who it is, and speaks with digests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.targets import IQN, Chap, Target
from tests.interop.conftest import Serve
from tests.interop.guest.open_iscsi import (
    LOGIN_AUTHENTICATION_FAILED,
    LOGIN_FAILED_FOR_GOOD,
    Node,
    OpenIscsi,
    chap,
    mutual_chap,
)

pytestmark = pytest.mark.interop

CHAP = Chap("alice", "correct-horse-12")
TARGET = Chap("target", "battery-staple-12")


@pytest.fixture
def guarded(serve: Serve) -> Target:
    return serve("a.img", create="64M", chap=CHAP)


def test_discovery_names_the_target_and_a_login_brings_its_disks(serve: Serve, initiator: OpenIscsi) -> None:
    target = serve("a.img", "b.img", create="64M")

    (node,) = initiator.discovered(target.portal)

    assert node == Node(IQN, target.portal)
    initiator.login(node, luns=(0, 1))
    for lun in (0, 1):
        assert initiator.guest.succeed(f"blockdev --getsize64 {node.device(lun)}") == str(64 << 20)
    assert initiator.session(node)["iSCSI Connection State"] == "LOGGED IN"


def test_chap_finds_and_opens_a_guarded_target(guarded: Target, initiator: OpenIscsi) -> None:
    (found,) = initiator.discovered(guarded.portal, chap(CHAP.user, CHAP.secret, discovery=True))

    device = initiator.login(Node(found.target, found.portal, chap(CHAP.user, CHAP.secret)))

    initiator.guest.succeed(f"dd if={device} of=/dev/null bs=1M count=1 iflag=direct")


@pytest.mark.parametrize(
    ("user", "secret"), [("alice", "correct-horse-13"), ("bob", CHAP.secret)], ids=["wrong secret", "another name"]
)
def test_a_wrong_secret_is_refused(guarded: Target, initiator: OpenIscsi, user: str, secret: str) -> None:
    done = initiator.try_login(Node(IQN, guarded.portal, chap(user, secret)))

    assert done.status == LOGIN_AUTHENTICATION_FAILED, str(done)
    assert initiator.discover(guarded.portal, chap(user, secret, discovery=True)).status != 0


def test_no_secret_is_refused(guarded: Target, initiator: OpenIscsi) -> None:
    assert initiator.try_login(Node(IQN, guarded.portal)).status == LOGIN_AUTHENTICATION_FAILED


@pytest.fixture
def proving(serve: Serve, scratch: Path) -> Target:
    """A target that proves itself, too."""
    secret_file = scratch / "target-secret"
    secret_file.touch(mode=0o600)
    secret_file.write_text(TARGET.secret)
    options = ("--chap-target-user", TARGET.user, "--chap-target-secret-file", str(secret_file))
    return serve("a.img", create="64M", chap=CHAP, options=options)


def test_a_target_that_proves_itself_is_believed(proving: Target, initiator: OpenIscsi) -> None:
    settings = chap(CHAP.user, CHAP.secret) | mutual_chap(TARGET.user, TARGET.secret)

    initiator.login(Node(IQN, proving.portal, settings))


def test_a_target_that_proves_itself_with_another_secret_is_left(proving: Target, initiator: OpenIscsi) -> None:
    settings = chap(CHAP.user, CHAP.secret) | mutual_chap(TARGET.user, "another-secret-12")

    assert initiator.try_login(Node(IQN, proving.portal, settings)).status == LOGIN_FAILED_FOR_GOOD


@pytest.mark.parametrize(
    ("header", "data"), [("CRC32C", "CRC32C"), ("CRC32C", "None"), ("None", "CRC32C")], ids=["both", "header", "data"]
)
def test_what_is_written_with_digests_is_there(serve: Serve, initiator: OpenIscsi, header: str, data: str) -> None:
    guest, target = initiator.guest, serve("a.img", create="64M")
    node = Node(
        IQN,
        target.portal,
        {"node.conn[0].iscsi.HeaderDigest": header, "node.conn[0].iscsi.DataDigest": data},
    )

    device = initiator.login(node)

    session = initiator.session(node)
    assert (session["HeaderDigest"], session["DataDigest"]) == (header, data)
    guest.succeed(
        f"""
        dd if=/dev/urandom of=/tmp/data bs=1M count=4
        dd if=/tmp/data of={device} bs=1M oflag=direct
        dd if=/tmp/data of={device} bs=4k count=64 seek=4096 oflag=direct
        dd if={device} of=/tmp/again bs=1M count=4 iflag=direct
        cmp /tmp/data /tmp/again
        dd if={device} of=/tmp/again bs=4k count=64 skip=4096 iflag=direct
        cmp -n 262144 /tmp/data /tmp/again
        rm /tmp/data /tmp/again
        """
    )
    assert guest.complaints() == []
