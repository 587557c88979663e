"""Reservations over a killed and restarted `csvd serve`: what APTPL promised is there, and nothing else is."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Coroutine, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred

from initiator.client import DEFAULTS
from initiator.dial import dial
from initiator.disk import Disk
from initiator.engine.connection import InitiatorConnection
from initiator.engine.login import LoginSettings
from initiator.engine.session import SessionState
from initiator.errors import CommandFailed
from initiator.link import Link
from initiator.session import Session
from initiator.url import parse_url
from tests.integration.test_serve import Serving, refused
from tests.unit.storage.reactor_loop import run_in_reactor

CONFLICT = 0x18
EA_RO = 0x6
APTPL = 0x01


class Host:
    """An initiator port that is the same at every login."""

    def __init__(self, name: str) -> None:
        self.name = f"iqn.2026-11.test:{name}"
        self.isid = b"\x80\0\0\0\0\1"
        self.disk: Any = None

    async def log_in(self, url: str, reactor: Any) -> None:
        place = parse_url(url)
        sock = await dial(place.portal, reactor=reactor, timeout_s=DEFAULTS.timeout_s)
        session = Session(place.portal, place.target_name, DEFAULTS, reactor=reactor)
        settings = LoginSettings(initiator_name=self.name, target_name=place.target_name)
        engine = InitiatorConnection(SessionState(self.isid), settings)
        await session.attach(engine, Link(sock, engine, session, reactor=reactor))
        self.disk = await Disk.open(session, place.lun)

    async def out(self, action: int, key: int, new_key: int = 0, *, kind: int = 0, flags: int = 0) -> None:
        data = key.to_bytes(8) + new_key.to_bytes(8) + bytes((0, 0, 0, 0, flags, 0, 0, 0))
        await self.disk.command(bytes((0x5F, action, kind, 0, 0, 0, 0, 0, 24, 0)), data_out=data)

    async def read(self, action: int) -> bytes:
        data: bytes = await self.disk.command(bytes((0x5E, action, 0, 0, 0, 0, 0, 0x10, 0, 0)), data_in_bytes=4096)
        return data

    async def keys(self) -> list[int]:
        data = await self.read(0)
        return [int.from_bytes(data[at : at + 8]) for at in range(8, len(data), 8)]

    async def is_kept_out(self) -> bool:
        await self.disk.test_unit_ready()
        try:
            await self.disk.command(bytes.fromhex("2a 00 00 00 00 00 00 00 01 00"), data_out=bytes(512))
        except CommandFailed as failure:
            if failure.status != CONFLICT:
                raise
            return True
        return False


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Serving]]:
    running: list[Serving] = []

    def start(*arguments: str | Path) -> Serving:
        running.append(Serving(tmp_path / "disk.img", "--create", "16M", *arguments))
        return running[-1]

    yield start
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


def run(main: Callable[[Any], Coroutine[Deferred[Any], Any, None]]) -> None:
    run_in_reactor(main)


def test_what_aptpl_keeps_is_there_after_kill_9(serve: Callable[..., Serving], tmp_path: Path) -> None:
    a, b, c = Host("a"), Host("b"), Host("c")
    state = tmp_path / "state"
    serving = serve("--state-directory", state)
    url = serving.url()

    async def reserve(reactor: Any) -> None:
        await a.log_in(url, reactor)
        await b.log_in(url, reactor)
        await a.out(0x00, 0, 0xA, flags=APTPL)
        await b.out(0x06, 0, 0xB, flags=APTPL)
        await a.out(0x01, 0xA, kind=EA_RO)
        serving.process.kill()

    run(reserve)
    serving.process.communicate()
    again = serve("--state-directory", state).url()

    async def look(reactor: Any) -> None:
        for host in (a, b, c):
            await host.log_in(again, reactor)
        assert await c.keys() == [0xA, 0xB]
        reservation = await c.read(1)
        assert (int.from_bytes(reservation[8:16]), reservation[21]) == (0xA, EA_RO)
        assert (await c.read(2))[2:4] == bytes((0x1D, 0xC1)), "PTPL_C and PTPL_A"
        assert [await host.is_kept_out() for host in (a, b, c)] == [False, False, True]
        await b.out(0x05, 0xB, 0xA, kind=EA_RO)
        assert await a.is_kept_out()

    run(look)


def test_what_was_changed_last_is_what_is_there(serve: Callable[..., Serving], tmp_path: Path) -> None:
    """Each change is killed right behind its GOOD."""
    host = Host("a")

    async def change(reactor: Any, serving: Serving, key: int, new_key: int) -> None:
        await host.log_in(serving.url(), reactor)
        assert await host.keys() == ([key] if key else [])
        await host.out(0x00, key, new_key, flags=APTPL)
        serving.process.kill()

    for key in range(3):
        serving = serve("--state-directory", tmp_path / "state")
        run(partial(change, serving=serving, key=key, new_key=key + 1))
        serving.process.communicate()


def test_without_aptpl_or_a_state_directory_a_restart_forgets(serve: Callable[..., Serving], tmp_path: Path) -> None:
    host = Host("a")
    for options in ((), ("--state-directory", tmp_path / "state")):
        for _ in range(2):
            serving = serve(*options)
            url = serving.url()

            async def register(reactor: Any, url: str = url, keeps: bool = bool(options)) -> None:
                await host.log_in(url, reactor)
                assert await host.keys() == []
                assert (await host.read(2))[2] & 1 == keeps
                if not keeps:
                    with pytest.raises(CommandFailed, match=r"[Ii]nvalid field in parameter list|26"):
                        await host.out(0x00, 0, 0x1, flags=APTPL)
                await host.out(0x00, 0, 0x1)
                await host.out(0x01, 0x1, kind=EA_RO)

            run(register)
            serving.end(signal.SIGKILL)


def test_a_damaged_state_ends_the_start_in_one_line(serve: Callable[..., Serving], tmp_path: Path) -> None:
    host = Host("a")
    state = tmp_path / "state"
    serving = serve("--state-directory", state)
    url = serving.url()

    async def register(reactor: Any) -> None:
        await host.log_in(url, reactor)
        await host.out(0x00, 0, 0x1, flags=APTPL)

    run(register)
    line = refused(tmp_path / "disk.img", "--state-directory", state, "--portal", "127.0.0.1:0")
    assert "another process" in line
    serving.end(signal.SIGKILL)
    (file,) = state.iterdir()
    os.truncate(file, file.stat().st_size - 1)
    line = refused(tmp_path / "disk.img", "--state-directory", state, "--portal", "127.0.0.1:0")
    assert str(file) in line
    assert "damaged" in line
