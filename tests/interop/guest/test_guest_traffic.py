"""A minute of mixed traffic from the guest, every block of it checked."""

from __future__ import annotations

import pytest

from tests.bench.targets import IQN
from tests.interop.conftest import Serve
from tests.interop.guest.open_iscsi import Node, OpenIscsi

pytestmark = pytest.mark.interop

RUNTIME_S = 60


def test_fio_finds_every_block_that_it_wrote(serve: Serve, initiator: OpenIscsi) -> None:
    guest, node = initiator.guest, Node(IQN, serve("a.img", create="256M").portal)
    device = initiator.login(node)

    printed = guest.succeed(
        f"""
        fio --name=mixed --filename=$(readlink -f {device}) --size=128M --direct=1 --ioengine=libaio --iodepth=16 \
            --rw=randwrite --bssplit=4k/60:32k/30:256k/10 --verify=crc32c --verify_fatal=1 --verify_backlog=512 \
            --time_based --runtime={RUNTIME_S} --randseed=7 --output-format=terse --terse-version=3
        """,
        timeout_s=RUNTIME_S + 90,
    )

    fields = next(line for line in printed.splitlines() if line.startswith("3;")).split(";")
    error, read_kib, written_kib = int(fields[4]), int(fields[5]), int(fields[46])
    assert error == 0, printed
    assert read_kib > 0
    assert written_kib > 0
    assert guest.complaints() == []
