"""The initiator's disk when everything around it fails: a daemon that is killed and started every 2 s, connections that
are cut a thousand times at any byte, a daemon that is stopped and hears nothing."""

from __future__ import annotations

import random
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.task import deferLater
from twisted.internet.threads import deferToThreadPool

from initiator import Disk, SessionOptions, connect
from initiator.events import LoggedInAgain, RoadEvent
from initiator.recovery import Recovery
from tests.integration.cutting_proxy import CuttingProxy
from tests.integration.verify_load import VerifyLoad
from tests.unit.initiator.conftest import run  # noqa: F401 - a fixture

TARGET = "iqn.2026-11.org.csvd:faults"
READY_S = 30.0
KILLED_FOR_S = 60.0
LIFE_S = 1.5
WORK_S = 0.5
CUTS = 1000
LOGINS = 5
"""At least: a slow machine starts a daemon seldom in that minute, and takes more of them."""

Run = Callable[[Callable[[Any], Coroutine[Deferred[Any], Any, Any]]], Any]

OPTIONS = SessionOptions(
    nop_interval_s=1,
    nop_timeout_s=1,
    command_timeout_s=4,
    first_backoff_s=0.02,
    last_backoff_s=0.3,
    login_timeout_s=5,
)


class Daemon:
    """A `csvd serve` at a port of its own, that is killed and comes back."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port: int = taken.getsockname()[1]
        self.process: subprocess.Popen[str]
        self.start()
        self.wait()

    def start(self) -> None:
        """Start it; it is ready a while later."""
        command = [sys.executable, "-m", "csvd", "serve", str(self.folder / "a.img"), "--create", "16M"]
        self.process = subprocess.Popen(
            [*command, "--iqn", TARGET, "--portal", f"127.0.0.1:{self.port}"],
            stdout=subprocess.PIPE,
            stderr=(self.folder / "log").open("a"),
            text=True,
        )

    def wait(self) -> None:
        """Wait until it is ready."""
        assert self.process.stdout is not None
        assert self.process.stdout.readline().startswith("ready ")

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()

    def url(self, port: int | None = None) -> str:
        return f"iscsi://127.0.0.1:{port or self.port}/{TARGET}/0"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    started = Daemon(tmp_path)
    yield started
    started.kill()
    assert "Traceback" not in (tmp_path / "log").read_text()


@pytest.fixture
def seed() -> int:
    drawn = random.SystemRandom().randrange(1 << 32)
    print(f"seed {drawn}")  # noqa: T201 - shown when the test fails
    return drawn


async def opened(url: str, reactor: Any, events: list[RoadEvent]) -> Disk:
    disk = await connect(url, reactor=reactor, options=OPTIONS)
    assert isinstance(disk.road, Recovery)
    disk.road.listen(events.append)
    return disk


def logins(events: list[RoadEvent]) -> int:
    return sum(isinstance(event, LoggedInAgain) for event in events)


def passing(time_s: float, reactor: Any) -> Deferred[None]:
    return deferLater(reactor, time_s, lambda: None)


@pytest.mark.timeout(200)
def test_a_target_killed_and_restarted_every_2_s_for_a_minute_loses_nothing(
    daemon: Daemon,
    seed: int,
    run: Run,  # noqa: F811
) -> None:
    events: list[RoadEvent] = []

    async def work(reactor: Any) -> VerifyLoad:
        disk = await opened(daemon.url(), reactor, events)
        load = VerifyLoad(disk, seed, workers=8, room_blocks=1024, timeout_s=20)
        loading = Deferred.fromCoroutine(load.run())
        began_s = reactor.seconds()
        daemon.kill()
        daemon.start()
        while reactor.seconds() - began_s < KILLED_FOR_S or logins(events) < LOGINS:
            await passing(LIFE_S, reactor)
            # It is killed in its work, not in its start, however slow the machine is.
            await deferToThreadPool(reactor, reactor.getThreadPool(), daemon.wait)
            await passing(WORK_S, reactor)
            if loading.called:
                break
            daemon.kill()
            daemon.start()
        load.stopping = True
        await loading
        await deferToThreadPool(reactor, reactor.getThreadPool(), daemon.wait)
        await load.verify_all()
        await disk.close()
        return load

    load = run(work)
    print(load.counts, load.latest_s)  # noqa: T201
    assert logins(events) >= LOGINS
    assert load.counts["write"] > 100
    assert load.counts["read"] > 100


@pytest.mark.timeout(280)
def test_a_thousand_connections_cut_at_any_byte_lose_nothing(daemon: Daemon, seed: int, run: Run) -> None:  # noqa: F811
    events: list[RoadEvent] = []
    proxy = CuttingProxy(daemon.port, seed, most_bytes=3_000_000)

    async def work(reactor: Any) -> VerifyLoad:
        proxy.calm = True
        disk = await opened(daemon.url(proxy.port), reactor, events)
        load = VerifyLoad(disk, seed, workers=4, room_blocks=1024, timeout_s=20)
        proxy.calm = False
        loading = Deferred.fromCoroutine(load.run())
        while proxy.cuts < CUTS and not loading.called:
            await passing(0.1, reactor)
        proxy.calm = True
        load.stopping = True
        await loading
        await load.verify_all()
        await disk.close()
        return load

    try:
        load = run(work)
    finally:
        proxy.close()
    print(proxy.cuts, load.counts, load.latest_s)  # noqa: T201
    assert proxy.cuts >= CUTS
    assert load.counts["write"] > 20
    assert load.counts["read"] > 20


def test_a_stopped_target_makes_no_call_late_and_its_session_is_replaced_when_it_wakes(
    daemon: Daemon,
    seed: int,
    run: Run,  # noqa: F811
) -> None:
    events: list[RoadEvent] = []

    async def work(reactor: Any) -> VerifyLoad:
        disk = await opened(daemon.url(), reactor, events)
        load = VerifyLoad(disk, seed, workers=4, room_blocks=512, timeout_s=3)
        loading = Deferred.fromCoroutine(load.run())
        await passing(0.5, reactor)
        daemon.process.send_signal(signal.SIGSTOP)
        await passing(6, reactor)
        daemon.process.send_signal(signal.SIGCONT)
        while not any(isinstance(event, LoggedInAgain) for event in events):
            await passing(0.1, reactor)
        await passing(1, reactor)
        load.stopping = True
        await loading
        await load.verify_all()
        await disk.close()
        return load

    load = run(work)
    print(load.counts, load.latest_s)  # noqa: T201
    assert sum(count for name, count in load.counts.items() if name.endswith(("unknown", "not done"))) > 0
