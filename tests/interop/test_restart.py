"""A target that ends and comes back under an initiator that stays."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.bench.targets import Target
from tests.interop.conftest import Serve
from tests.interop.qemu import QemuIoSession, qemu_io

pytestmark = pytest.mark.interop

# libiscsi waits longer and longer between two tries to reconnect.
RECONNECT_S = 120


def drained(target: Target) -> None:
    assert target.stop() == 0, target.log()


@pytest.mark.parametrize("end", [drained, Target.kill], ids=["SIGTERM", "SIGKILL"])
def test_what_was_flushed_is_there_after_a_restart(serve: Serve, port: int, end: Callable[[Target], None]) -> None:
    target = serve("a.img", create="64M", port=port)

    with QemuIoSession(target.url) as session:
        session.do("write -P 0x71 0 1M")
        session.do("flush")
        end(target)
        target = serve("a.img", port=port)
        session.do("read -P 0x71 0 1M", RECONNECT_S)
        session.do("write -P 0x72 1M 1M")
        session.do("flush")

    qemu_io(target.url, "read -P 0x71 0 1M", "read -P 0x72 1M 1M", "read -P 0 2M 1M")


def test_a_write_sent_while_the_target_is_away_arrives_when_it_is_back(serve: Serve, port: int) -> None:
    target = serve("a.img", create="64M", port=port)

    with QemuIoSession(target.url) as session:
        session.do("write -P 0x73 0 4k")
        target.kill()
        session.send("write -P 0x74 4k 4k")
        target = serve("a.img", port=port)
        session.finish("write -P 0x74 4k 4k", RECONNECT_S)
        session.do("flush")

    qemu_io(target.url, "read -P 0x73 0 4k", "read -P 0x74 4k 4k")


def test_a_session_that_vanishes_leaves_the_others_alone(serve: Serve) -> None:
    url = serve("a.img", create="64M").url

    with QemuIoSession(url) as staying:
        for pattern in range(1, 6):
            # Leaving the context kills qemu-io: its connection ends without a logout.
            with QemuIoSession(url) as leaving:
                leaving.do(f"write -P {pattern} 0 64k")
            staying.do(f"read -P {pattern} 0 64k")
