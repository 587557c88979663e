"""dm-multipath over three nodes of a cluster: reservations by mpathpersist hold on all of them, and nodes that are
killed again and again cost no error. ``GUEST_KILLS_S`` says for how long they are."""

from __future__ import annotations

import asyncio
import os
import re
import time
from collections.abc import Iterator
from itertools import cycle

import pytest

import initiator as csv
from initiator import ReservationConflict, ReservationType
from tests.integration.daemon_rig import DaemonNode, Daemons
from tests.integration.shared_target import SHARED_TARGET, share
from tests.interop.guest.machine import Guest
from tests.interop.guest.open_iscsi import Node, OpenIscsi
from tests.interop.guest.test_guest_multipath import CONFIGURATION, wait_for_paths

pytestmark = [pytest.mark.interop, pytest.mark.timeout(600)]

SIZE = 64 << 20
KILLS_S = float(os.environ.get("GUEST_KILLS_S", "120"))
EVERY_S = 10.0
DISK = "/dev/mapper/mpatha"
GUEST_KEY, HOST_KEY = 0xA, 0xB
KIND = ReservationType.WRITE_EXCLUSIVE_REGISTRANTS_ONLY


@pytest.fixture
def nodes() -> Iterator[list[DaemonNode]]:
    daemons = Daemons()
    try:
        started = daemons.cluster(3)
        share(started, daemons.folder, SIZE)
        yield started
    finally:
        daemons.close()


@pytest.fixture
def paths(guest: Guest, initiator: OpenIscsi, nodes: list[DaemonNode]) -> Iterator[list[Node]]:
    """The guest, logged in at the portals of all nodes, which one of them has named; and its multipath device."""
    configuration = CONFIGURATION.replace("defaults {", "defaults {\n    reservation_key file", 1)
    guest.succeed(f"cat >/etc/multipath.conf <<'END'\n{configuration}END\nmultipathd")
    found = [node for node in initiator.discovered(nodes[0].cluster_portal) if node.target == SHARED_TARGET]
    assert len({node.portal for node in found}) == 3, found
    try:
        for node in found:
            initiator.login(node)
        guest.succeed(f"until [ -b {DISK} ]; do sleep 0.2; done")
        wait_for_paths(guest, "A", "A", "A")
        yield found
    finally:
        if guest.usable:
            guest.run("multipath -F; multipathd shutdown; rm -rf /etc/multipath/* /etc/multipath.conf")
            initiator.forget_everything()


def persist(guest: Guest, *words: str) -> str:
    """mpathpersist on the multipath device."""
    return guest.succeed(f"mpathpersist {' '.join(words)} {DISK}")


def keys(guest: Guest) -> list[int]:
    return [int(key, 16) for key in re.findall(r"^\s*0x([0-9a-f]+)$", persist(guest, "--in", "-k"), re.MULTILINE)]


def write(guest: Guest) -> int:
    """Write a block through each path in turn; gives the exit status."""
    return guest.run(f"dd if=/dev/zero of={DISK} bs=4k count=6 oflag=direct").status


async def of_another_host(nodes: list[DaemonNode], guest: Guest) -> None:
    """Another initiator, logged in to one node alone, and the guest take the disk from one another."""
    node = nodes[1]
    async with csv.connect(f"iscsi://{node.cluster_portal}/{SHARED_TARGET}/0") as disk:
        assert (await disk.reservations.reservation()).key == GUEST_KEY
        with pytest.raises(ReservationConflict):
            await disk.write(0, bytes(512))
        await disk.reservations.register(HOST_KEY)
        await disk.write(0, bytes(512))
        await disk.reservations.preempt(GUEST_KEY, key=HOST_KEY, kind=KIND)
        assert keys(guest) == [HOST_KEY]
        assert write(guest) != 0
        persist(guest, "--out", "--register", f"--param-sark={GUEST_KEY:#x}")
        assert sorted(keys(guest)) == [GUEST_KEY] * 3 + [HOST_KEY]
        persist(
            guest, "--out", "--preempt", f"--param-rk={GUEST_KEY:#x}", f"--param-sark={HOST_KEY:#x}", "--prout-type=5"
        )
        with pytest.raises(ReservationConflict):
            await disk.write(0, bytes(512))
        assert write(guest) == 0


def test_mpathpersist_holds_a_disk_of_three_nodes(guest: Guest, nodes: list[DaemonNode], paths: list[Node]) -> None:
    persist(guest, "--out", "--register", f"--param-sark={GUEST_KEY:#x}")
    assert keys(guest) == [GUEST_KEY] * 3
    persist(guest, "--out", "--reserve", f"--param-rk={GUEST_KEY:#x}", "--prout-type=5")
    assert "Write Exclusive, registrants only" in persist(guest, "--in", "-r")
    assert write(guest) == 0

    asyncio.run(of_another_host(nodes, guest))

    persist(guest, "--out", "--release", f"--param-rk={GUEST_KEY:#x}", "--prout-type=5")
    persist(guest, "--out", "--register", f"--param-rk={GUEST_KEY:#x}", "--param-sark=0")
    assert keys(guest) == []


def test_nodes_killed_one_after_another_under_verified_writes_cost_no_error(
    guest: Guest, nodes: list[DaemonNode], paths: list[Node]
) -> None:
    job = guest.start(
        f"""
        fio --name=nodes --filename={DISK} --size=24M --direct=1 --ioengine=libaio --iodepth=8 --rw=randwrite --bs=16k \
            --verify=crc32c --verify_fatal=1 --verify_backlog=64 --do_verify=1 --time_based --runtime={KILLS_S:g} \
            --rate_iops=100
        """
    )
    guest.succeed("until [ $(awk '$3 == \"dm-0\" {print $8}' /proc/diskstats) -gt 20 ]; do sleep 0.2; done")
    end_s = time.monotonic() + KILLS_S
    killed = 0
    for victim in cycle(nodes):
        next_s = time.monotonic() + EVERY_S
        victim.kill()
        killed += 1
        victim.start().ready()
        if next_s >= end_s:
            break
        time.sleep(max(0.0, next_s - time.monotonic()))
    printed = job.succeed(KILLS_S + 120)
    assert "err= 0" in printed, printed
    assert killed >= KILLS_S // EVERY_S
    assert not re.findall(r"(?:dev|on) dm-0.*", "\n".join(guest.complaints()))
    wait_for_paths(guest, "A", "A", "A")
