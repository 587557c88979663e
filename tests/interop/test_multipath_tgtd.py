"""One disk of tgtd over two portals: both are used, and a connection that it drops costs no call."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import initiator
from initiator import AccessState, MultipathOptions
from initiator.multipath import Multipath
from tests.bench.targets import TARGETS, Export, Target
from tests.integration.daemon_rig import free_ports
from tests.integration.multipath_load import QUICK, Load, until
from tests.own_reactor import run

pytestmark = pytest.mark.interop

ACTIVE = AccessState.ACTIVE_OPTIMIZED.words
OPTIONS = MultipathOptions(paths=QUICK, check_timeout_s=1.0, login_timeout_s=1.0)


@pytest.fixture
def target(scratch: Path) -> Iterator[Target]:
    target = TARGETS["tgtd"](Export((scratch / "disk.img",), create="64M"), scratch)
    yield target
    target.kill()


def tgtadm(scratch: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["tgtadm", "-C", "1", "--lld", "iscsi", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "TGT_IPC_SOCKET": str(scratch / "tgtd.socket")},
        check=True,
    )
    return done.stdout


def sessions_at(scratch: Path) -> list[tuple[str, str]]:
    """Session and connection numbers."""
    shown = tgtadm(scratch, "--op", "show", "--mode", "conn", "--tid", "1")
    found, session = [], ""
    for line in shown.splitlines():
        if match := re.match(r"Session: (\d+)", line.strip()):
            session = match[1]
        elif match := re.match(r"Connection: (\d+)", line.strip()):
            found.append((session, match[1]))
    return found


def test_two_portals_of_tgtd_carry_a_load_and_a_connection_that_it_drops_costs_no_call(
    target: Target, scratch: Path
) -> None:
    (port,) = free_ports(1)
    tgtadm(scratch, "--op", "new", "--mode", "portal", "--param", f"portal=127.0.0.1:{port}")

    place = initiator.parse_url(target.url)
    # Discovery at a portal of tgtd names that portal alone.
    places = [place, replace(place, portal=initiator.Portal("127.0.0.1", port))]

    async def work(reactor: Any) -> None:
        async with await initiator.connect(places, reactor=reactor, multipath=OPTIONS) as disk:
            assert [path.words for path in disk.paths] == [ACTIVE] * 2
            load = Load(disk, reactor).start()
            await load.goes_on(3)
            for _ in range(4):
                session, connection = sessions_at(scratch)[0]
                numbers = ("--tid", "1", "--sid", session, "--cid", connection)
                tgtadm(scratch, "--op", "delete", "--mode", "conn", *numbers)
                await load.goes_on(5)
            for index in range(2):
                await until(reactor, disk, index, ACTIVE)
            assert isinstance(disk.road, Multipath)
            assert disk.road.stale_write_count == 0
            await load.end()

    run(work)
