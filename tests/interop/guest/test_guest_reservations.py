"""Persistent reservations, asked for by sg_persist, between two initiators."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.targets import IQN, Target
from tests.interop.conftest import Serve
from tests.interop.guest.open_iscsi import Node, OpenIscsi
from tests.interop.guest.relay import Relay

pytestmark = pytest.mark.interop

SECOND_INITIATOR = "iqn.2026-11.io.csvd.guest:second"
# SPC-4 section 6.16.3: the types of a reservation.
WRITE_EXCLUSIVE = 1
EXCLUSIVE_ACCESS = 3
# sg3_utils(8), "EXIT STATUS".
RESERVATION_CONFLICT = 24
RECONNECT_S = 60


@pytest.fixture
def target(serve: Serve, scratch: Path, port: int) -> Target:
    return serve("a.img", create="64M", port=port, options=("--state-directory", str(scratch / "state")))


@pytest.fixture
def first(initiator: OpenIscsi, target: Target) -> str:
    """The disk, as the guest's own initiator sees it."""
    return initiator.login(Node(IQN, target.portal))


@pytest.fixture
def second(initiator: OpenIscsi, target: Target) -> Iterator[str]:
    """The same disk, as another initiator sees it; through a port of its own, by which udev tells them apart."""
    initiator.add_interface("second", SECOND_INITIATOR)
    with Relay(target.portal) as relay:
        node = Node(IQN, relay.portal, interface="second")
        yield initiator.login(node)
        initiator.logout(node)


def write(disk: str) -> str:
    return f"dd if=/dev/zero of={disk} bs=4096 count=1 oflag=direct"


def read(disk: str) -> str:
    return f"dd if={disk} of=/dev/null bs=4096 count=1 iflag=direct"


def persist(disk: str, *arguments: str) -> str:
    return f"sg_persist {' '.join(arguments)} {disk}"


def test_a_reservation_keeps_others_from_writing_until_it_is_preempted(
    initiator: OpenIscsi, first: str, second: str
) -> None:
    guest = initiator.guest
    guest.succeed(persist(first, "--out", "--register", "--param-sark=0xa1"))
    guest.succeed(persist(second, "--out", "--register", "--param-sark=0xb1"))
    keys = guest.succeed(persist(first, "--in", "--read-keys"))
    assert "0xa1" in keys
    assert "0xb1" in keys

    guest.succeed(persist(first, "--out", "--reserve", "--param-rk=0xa1", f"--prout-type={WRITE_EXCLUSIVE}"))

    assert "Write Exclusive" in guest.succeed(persist(second, "--in", "--read-reservation"))
    assert SECOND_INITIATOR in guest.succeed(persist(first, "--in", "--read-full-status"))
    guest.succeed(write(first))
    guest.succeed(read(second))
    assert guest.run(write(second)).status != 0
    reserve = persist(second, "--out", "--reserve", "--param-rk=0xb1", f"--prout-type={WRITE_EXCLUSIVE}")
    assert guest.run(reserve).status == RESERVATION_CONFLICT

    guest.succeed(
        persist(
            second, "--out", "--preempt", "--param-rk=0xb1", "--param-sark=0xa1", f"--prout-type={EXCLUSIVE_ACCESS}"
        )
    )

    guest.succeed(write(second))
    assert guest.run(read(first)).status != 0
    guest.succeed(persist(second, "--out", "--release", "--param-rk=0xb1", f"--prout-type={EXCLUSIVE_ACCESS}"))
    guest.succeed(write(first))
    guest.succeed(persist(second, "--out", "--clear", "--param-rk=0xb1"))
    assert "NO registered reservation keys" in guest.succeed(persist(first, "--in", "--read-keys"))


def test_a_reservation_that_is_to_outlive_a_power_loss_outlives_a_killed_daemon(
    serve: Serve, scratch: Path, initiator: OpenIscsi, target: Target, port: int, first: str, second: str
) -> None:
    guest = initiator.guest
    guest.succeed(persist(first, "--out", "--register", "--param-sark=0xa1", "--param-aptpl"))
    guest.succeed(persist(first, "--out", "--reserve", "--param-rk=0xa1", f"--prout-type={EXCLUSIVE_ACCESS}"))
    capabilities = guest.succeed(persist(first, "--in", "--report-capabilities"))
    assert "(PTPL_A): 1" in capabilities

    target.kill()
    serve("a.img", port=port, options=("--state-directory", str(scratch / "state")))

    guest.succeed(write(first), RECONNECT_S)
    assert guest.run(read(second), RECONNECT_S).status != 0
    assert "0xa1" in guest.succeed(persist(second, "--in", "--read-keys"))
    guest.succeed(persist(first, "--out", "--clear", "--param-rk=0xa1"))
