"""Disks that grow and come while the Linux kernel uses them, by commands to a running daemon."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.daemon_rig import TARGET, DaemonNode, Daemons
from tests.interop.guest.open_iscsi import Node, OpenIscsi

pytestmark = pytest.mark.interop

GROWN_MIB = 96


@pytest.fixture
def daemon() -> Iterator[DaemonNode]:
    """`csvd run` with one disk of 16 MiB."""
    daemons = Daemons()
    try:
        yield daemons.node().start().ready()
    finally:
        daemons.close()


def csvd(daemon: DaemonNode, *words: str) -> None:
    done = daemon.csvd(*words)
    assert done.returncode == 0, done


def test_a_disk_that_grows_is_larger_after_a_rescan(daemon: DaemonNode, initiator: OpenIscsi) -> None:
    guest, node = initiator.guest, Node(TARGET, daemon.portal)
    device = initiator.login(node)
    guest.succeed(
        f"""
        mkfs.ext4 -q {device}
        mount {device} /mnt/disk
        dd if=/dev/urandom of=/mnt/disk/small bs=1M count=4
        cksum /mnt/disk/small >/tmp/sum
        """
    )

    csvd(daemon, "lun", "resize", "0", f"{GROWN_MIB}M")
    guest.succeed(f"{node.record} --rescan")

    assert guest.succeed(f"blockdev --getsize64 {device}") == str(GROWN_MIB << 20)
    assert "capacity data has changed" in guest.succeed("dmesg").lower()
    guest.succeed(
        f"""
        resize2fs {device}
        dd if=/dev/urandom of=/mnt/disk/large bs=1M count=60 conv=fsync
        cksum /mnt/disk/small | cmp - /tmp/sum
        umount /mnt/disk
        e2fsck -f -n {device}
        """,
        timeout_s=120,
    )
    assert not guest.complaints()


def test_a_disk_that_is_added_is_there_after_a_rescan(daemon: DaemonNode, initiator: OpenIscsi, scratch: Path) -> None:
    guest, node = initiator.guest, Node(TARGET, daemon.portal)
    initiator.login(node)

    csvd(daemon, "lun", "add", str(scratch / "b.img"), "--create", "32M", "--lun", "5")
    guest.succeed(f"{node.record} --rescan; udevadm settle")

    assert guest.succeed(f"blockdev --getsize64 {node.device(5)}") == str(32 << 20)
