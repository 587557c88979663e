"""Third-party copy between csvd's disks, asked for by sg_xcopy in the guest."""

from __future__ import annotations

import pytest

from tests.bench.targets import IQN
from tests.interop.conftest import Serve
from tests.interop.guest.open_iscsi import Node, OpenIscsi

pytestmark = pytest.mark.interop


def test_xcopy_copies_from_disk_to_disk(serve: Serve, initiator: OpenIscsi) -> None:
    guest, node = initiator.guest, Node(IQN, serve("a.img", "b.img", create="64M").portal)
    source = initiator.login(node, luns=(0, 1))
    destination = node.device(1)

    guest.succeed(
        f"""
        dd if=/dev/urandom of=/tmp/data bs=1M count=3
        dd if=/tmp/data of={source} bs=1M oflag=direct
        sg_xcopy if={source} of={destination} bs=512 count=6144 skip=0 seek=2048
        dd if={destination} of=/tmp/copy bs=1M skip=1 count=3 iflag=direct
        cmp /tmp/data /tmp/copy
        """
    )
