"""csvd ends and comes back while the Linux kernel writes."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from tests.bench.targets import IQN, Target
from tests.interop.conftest import Serve
from tests.interop.guest.open_iscsi import Node, OpenIscsi

pytestmark = pytest.mark.interop

FILES = 40
AWAY_S = 2.0
WRITE_TIMEOUT_S = 150


def drained(target: Target) -> None:
    assert target.stop() == 0, target.log()


@pytest.mark.parametrize("end", [drained, Target.kill], ids=["SIGTERM", "SIGKILL"])
def test_every_file_checks_that_was_written_over_a_restart(
    serve: Serve, initiator: OpenIscsi, port: int, end: Callable[[Target], None]
) -> None:
    guest, target = initiator.guest, serve("a.img", create="256M", port=port)
    node = Node(IQN, target.portal)
    device = initiator.login(node)
    guest.succeed(
        f"""
        mkfs.ext4 -q {device}
        mount {device} /mnt/disk
        dd if=/dev/urandom of=/tmp/data bs=64k count=16
        rm -f /tmp/written
        """
    )

    job = guest.start(
        f"""
        set -e
        for number in $(seq {FILES}); do
            (echo $number; cat /tmp/data) >/tmp/file
            dd if=/tmp/file of=/mnt/disk/$number bs=64k conv=fsync 2>/dev/null
            echo $number >>/tmp/written
        done
        """
    )
    guest.succeed("until [ -e /tmp/written ]; do sleep 0.1; done")
    end(target)
    time.sleep(AWAY_S)
    assert job.running
    serve("a.img", port=port)
    job.succeed(WRITE_TIMEOUT_S)

    assert initiator.session(node)["iSCSI Session State"] == "LOGGED_IN"
    guest.succeed(
        f"""
        umount /mnt/disk
        e2fsck -f -n {device}
        mount {device} /mnt/disk
        for number in $(seq {FILES}); do
            (echo $number; cat /tmp/data) | cmp - /mnt/disk/$number
        done
        """,
        timeout_s=120,
    )
    assert not [line for line in guest.complaints() if "I/O error" in line or "EXT4" in line]
