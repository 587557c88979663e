"""dm-multipath over two portals, of which one goes away in the middle of writes and comes back."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator

import pytest

from tests.bench.targets import IQN
from tests.interop.conftest import Serve
from tests.interop.guest.machine import Guest
from tests.interop.guest.open_iscsi import Node, OpenIscsi
from tests.interop.guest.relay import Relay

pytestmark = pytest.mark.interop

SIZE_MIB = 48
FAIL_OVER_S = 120
POLL_S = 0.5
# Requests go to both paths in turn, so that some are always under way on the path that is cut.
CONFIGURATION = """\
defaults {
    find_multipaths no
    user_friendly_names yes
    polling_interval 1
    max_polling_interval 2
    path_grouping_policy multibus
    path_selector "round-robin 0"
    rr_min_io_rq 1
    no_path_retry 60
    fast_io_fail_tmo 3
    dev_loss_tmo 600
}
"""


@pytest.fixture
def multipathd(guest: Guest) -> Iterator[None]:
    guest.succeed(f"cat >/etc/multipath.conf <<'END'\n{CONFIGURATION}END\nmultipathd")
    yield
    if guest.usable:
        guest.run("multipath -F; multipathd shutdown; rm -rf /etc/multipath/* /etc/multipath.conf")


def path_states(guest: Guest) -> list[str]:
    """The states of the paths as the kernel has them, A active and F failed, in no order."""
    return re.findall(r"\b\d+:\d+ ([AF])\b", guest.succeed("dmsetup status --target multipath"))


def wait_for_paths(guest: Guest, *states: str) -> None:
    """Raises AssertionError when the paths are not in these states within FAIL_OVER_S."""
    deadline = time.monotonic() + FAIL_OVER_S
    while sorted(path_states(guest)) != sorted(states):
        assert time.monotonic() < deadline, guest.run("multipathd show topology")
        time.sleep(POLL_S)


def test_a_path_that_is_cut_in_the_middle_of_writes_costs_no_error(
    serve: Serve, initiator: OpenIscsi, multipathd: None
) -> None:
    guest, target = initiator.guest, serve("a.img", create="128M", options=("--portal", "127.0.0.1:0"))
    with Relay(target.portals[0]) as first, Relay(target.portals[1]) as second:
        nodes = [Node(IQN, relay.portal) for relay in (first, second)]
        for node in nodes:
            initiator.login(node)
        guest.succeed("until [ -b /dev/mapper/mpatha ]; do sleep 0.2; done")
        wait_for_paths(guest, "A", "A")

        job = guest.start(
            f"""
            fio --name=paths --filename=/dev/mapper/mpatha --size={SIZE_MIB}M --direct=1 --ioengine=libaio --iodepth=8 \
                --rw=write --bs=64k --verify=crc32c --verify_fatal=1 --do_verify=1 --rate=4m
            """
        )
        guest.succeed("until [ $(awk '$3 == \"dm-0\" {print $8}' /proc/diskstats) -gt 20 ]; do sleep 0.2; done")
        first.cut()
        wait_for_paths(guest, "A", "F")
        assert job.running
        first.mend()
        wait_for_paths(guest, "A", "A")
        printed = job.succeed(FAIL_OVER_S)

        assert "err= 0" in printed, printed
        assert not re.findall(r"(?:dev|on) dm-0.*", "\n".join(guest.complaints()))
        for node in nodes:
            assert initiator.session(node)["iSCSI Session State"] == "LOGGED_IN"
        guest.succeed("multipath -F")
        initiator.forget_everything()
