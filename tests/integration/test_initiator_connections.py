"""Our initiator with several connections a session, to a real csvd."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from twisted.internet.defer import Deferred, DeferredList

import initiator
from csvd.iscsi.codes import TaskManagementFunction
from initiator import SessionLost, SessionOptions
from tests.integration.served import Daemon, serving
from tests.own_reactor import run

TARGET = "iqn.2026-11.test:several"
TIMEOUT_S = 30.0


def url(daemon: Daemon) -> str:
    host, port = daemon.address
    return f"iscsi://{host}:{port}/{TARGET}/0"


@pytest.mark.parametrize("asked", [2, 4, 10])
def test_reads_give_what_was_written_by_whichever_connections(tmp_path: Path, asked: int) -> None:
    chance = random.Random(asked)
    datas = [chance.randbytes(chance.choice((512, 4096, 65536, 300 * 512))) for _ in range(100)]

    async def work(reactor: Any) -> None:
        options = SessionOptions(connections=asked, queue_depth=48)
        async with await initiator.connect(url(daemon), reactor=reactor, options=options) as disk:
            assert disk.session.connections == min(asked, 8)
            writes = [Deferred.fromCoroutine(disk.write(n * 1000, data)) for n, data in enumerate(datas)]
            assert all(succeeded for succeeded, _ in await DeferredList(writes, consumeErrors=True))
            reads = [Deferred.fromCoroutine(disk.read(n * 1000, len(data) // 512)) for n, data in enumerate(datas)]
            results = await DeferredList(reads, consumeErrors=True)
            assert [data for _, data in results] == datas
            await disk.session.task_management(TaskManagementFunction.LOGICAL_UNIT_RESET)
            assert await disk.read(0, len(datas[0]) // 512) == datas[0]

    with serving(tmp_path, target=TARGET, create="64M", timeout_s=TIMEOUT_S) as daemon:
        run(work)


def test_no_call_hangs_when_the_daemon_dies(tmp_path: Path) -> None:
    async def work(reactor: Any) -> None:
        options = SessionOptions(connections=4)
        async with await initiator.connect(
            url(daemon), reactor=reactor, options=options, timeout_s=20, recover=False
        ) as disk:
            calls = [Deferred.fromCoroutine(disk.write(0, bytes(1 << 20))) for _ in range(40)]
            reactor.callLater(0, daemon.process.kill)
            failures: list[Any] = [result for ok, result in await DeferredList(calls, consumeErrors=True) if not ok]
            assert failures
            assert all(isinstance(failure.value, SessionLost) for failure in failures)

    daemon = Daemon(tmp_path, target=TARGET, create="64M", timeout_s=TIMEOUT_S)
    try:
        run(work)
    finally:
        daemon.process.kill()
        daemon.process.wait()
