"""File systems of the Linux kernel on csvd's disks."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.bench.targets import IQN
from tests.interop.conftest import Serve
from tests.interop.guest.open_iscsi import Node, OpenIscsi

pytestmark = pytest.mark.interop

SIZE = "512M"
FILES = 24


def used_bytes(disk: Path) -> int:
    """What a sparse file takes on the host."""
    return disk.stat().st_blocks * 512


@pytest.mark.parametrize(
    ("make", "check"),
    [("mkfs.ext4 -q", "e2fsck -f -n"), ("mkfs.xfs -q", "xfs_repair -n")],
    ids=["ext4", "xfs"],
)
def test_files_are_there_after_a_logout(serve: Serve, initiator: OpenIscsi, make: str, check: str) -> None:
    guest, node = initiator.guest, Node(IQN, serve("a.img", create=SIZE).portal)
    device = initiator.login(node)
    guest.succeed(
        f"""
        {make} {device}
        mount {device} /mnt/disk
        for number in $(seq {FILES}); do
            dd if=/dev/urandom of=/mnt/disk/file-$number bs=50000 count=$number 2>/dev/null
        done
        cksum /mnt/disk/file-* >/tmp/sums
        umount /mnt/disk
        """,
        timeout_s=120,
    )

    initiator.logout(node)
    assert guest.run(f"test -e {device}").status != 0
    initiator.login(node)

    guest.succeed(
        f"""
        {check} {device}
        mount {device} /mnt/disk
        cksum /mnt/disk/file-* >/tmp/sums-now
        cmp /tmp/sums-now /tmp/sums
        """,
        timeout_s=120,
    )
    assert guest.complaints() == []


@pytest.mark.parametrize("make", ["mkfs.ext4 -q", "mkfs.xfs -q"], ids=["ext4", "xfs"])
def test_fstrim_gives_the_space_back(serve: Serve, initiator: OpenIscsi, scratch: Path, make: str) -> None:
    guest, node = initiator.guest, Node(IQN, serve("a.img", create=SIZE).portal)
    device = initiator.login(node)
    guest.succeed(
        f"""
        {make} {device}
        mount {device} /mnt/disk
        dd if=/dev/urandom of=/mnt/disk/kept bs=1M count=4
        cksum /mnt/disk/kept >/tmp/sum
        sync
        """,
        timeout_s=120,
    )
    before = used_bytes(scratch / "a.img")

    guest.succeed("dd if=/dev/urandom of=/mnt/disk/large bs=1M count=64 conv=fsync", timeout_s=120)
    filled = used_bytes(scratch / "a.img")
    guest.succeed("rm /mnt/disk/large; sync; fstrim -v /mnt/disk", timeout_s=120)

    assert filled > before + (60 << 20)
    assert used_bytes(scratch / "a.img") < before + (4 << 20)
    guest.succeed("echo 3 >/proc/sys/vm/drop_caches; cksum /mnt/disk/kept | cmp - /tmp/sum")
