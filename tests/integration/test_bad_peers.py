"""Bad peers against a real daemon: each attempt gets what docs/security.md says, and the good ones notice nothing."""

from __future__ import annotations

import contextlib
import itertools
import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bad_peers.attempts import ATTEMPTS, Attempt
from tests.bad_peers.peer import Peer
from tests.bench.targets import IQN, Chap, Export, Target, start_csvd

ROOT = Path(__file__).parents[2]
SLOW_LOGINS = 100_000
MOST_GROWTH_KIB = 48 << 10
READ_256_KIB = struct.pack(">BBIBHB", 0x28, 0, 0, 0, 512, 0)


@pytest.fixture(scope="module")
def targets() -> Iterator[dict[bool, Target]]:
    """One daemon without CHAP, one with."""
    with tempfile.TemporaryDirectory(prefix="csvd-bad-") as folder, contextlib.ExitStack() as running:
        started = {}
        for chap in (False, True):
            scratch = Path(folder, str(chap))
            scratch.mkdir()
            export = Export(
                (scratch / "a.img",), create="64M", chap=Chap("joe", "a secret of 20 bytes") if chap else None
            )
            started[chap] = running.enter_context(start_csvd(export, scratch))
        yield started
        for target in started.values():
            assert target.stop() == 0
            assert "Traceback" not in target.log()


def portal_of(target: Target) -> tuple[str, int]:
    host, _, port = target.portal.rpartition(":")
    return host, int(port)


def memory_kib(target: Target) -> int:
    status = Path(f"/proc/{target.pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0])


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.tried.replace(" ", "-")[:60])
def test_what_a_bad_peer_tries_comes_back_as_the_table_says(targets: dict[bool, Target], attempt: Attempt) -> None:
    portal = portal_of(targets[attempt.chap])
    with Peer(portal, IQN) as peer:
        assert attempt.attempt(peer) == attempt.comes_back
    if not attempt.chap:
        with Peer(portal, IQN) as good:
            good.login()


def test_the_page_shows_the_table() -> None:
    page = (ROOT / "docs" / "security.md").read_text()
    for attempt in ATTEMPTS:
        assert f"| {attempt.tried} | {attempt.comes_back} |" in page


@pytest.mark.timeout(900)
def test_slow_logins_without_end_cost_bounded_memory_and_lock_nobody_out(targets: dict[bool, Target]) -> None:
    target = targets[False]
    host, port = portal_of(target)
    before_kib = memory_kib(target)
    before_fds = len(os.listdir(f"/proc/{target.pid}/fd"))
    held: list[socket.socket] = []
    # Many source addresses: one has too few ports for so many connections within a minute.
    sources = itertools.cycle(f"127.0.{high}.{low}" for high in range(1, 9) for low in range(1, 9))
    for number in range(SLOW_LOGINS):
        sock = socket.create_connection((host, port), timeout=10, source_address=(next(sources), 0))
        sock.send(b"\x43\x87")
        held.append(sock)
        if len(held) > 400:
            held.pop(0).close()
        if number % 20_000 == 19_999:
            with Peer((host, port), IQN) as good:
                good.login()
    assert len(os.listdir(f"/proc/{target.pid}/fd")) - before_fds <= 130
    assert memory_kib(target) - before_kib < MOST_GROWTH_KIB
    for sock in held:
        sock.close()


def test_a_reader_that_never_reads_holds_no_more_than_its_share(targets: dict[bool, Target]) -> None:
    target = targets[False]
    before_kib = memory_kib(target)
    with Peer(portal_of(target), IQN) as deaf:
        deaf.login(MaxRecvDataSegmentLength="262144")
        for _ in range(60):  # 15 MiB, and the window is 64 commands
            deaf.send(deaf.command_pdu(READ_256_KIB, flags=0xC0, expected=512 * 512))
        time.sleep(1)
        assert memory_kib(target) - before_kib < MOST_GROWTH_KIB
        with Peer(portal_of(target), IQN) as good:
            good.login()


def test_a_writer_that_never_sends_its_data_is_waited_for_alone(targets: dict[bool, Target]) -> None:
    target = targets[False]
    before_kib = memory_kib(target)
    with Peer(portal_of(target), IQN) as silent:
        silent.login(InitialR2T="Yes", ImmediateData="No")
        cdb = struct.pack(">BBQIBB", 0x8A, 0, 0, 16384, 0, 0)
        for _ in range(60):  # of 8 MiB each: one is asked for at once
            silent.send(silent.command_pdu(cdb, expected=8 << 20, flags=0xA0))
        answers = 0
        while (answer := silent.next_pdu(1.0)) is not None:
            assert answer[0].opcode & 0x3F == 0x31
            answers += 1
        assert answers == 1
        assert memory_kib(target) - before_kib < MOST_GROWTH_KIB
        with Peer(portal_of(target), IQN) as good:
            good.login()
