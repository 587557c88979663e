"""iscsi-perf, and several clients at once."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.bench.loads import parse_iscsi_perf
from tests.interop.conftest import Serve
from tests.interop.programs import succeed
from tests.interop.qemu import QemuIoSession, qemu_io

pytestmark = pytest.mark.interop

MIB = 1 << 20


@pytest.mark.parametrize("blocks_per_request", [8, 512])
def test_iscsi_perf_runs_five_seconds_without_an_error(serve: Serve, blocks_per_request: int) -> None:
    url = serve("a.img", create="256M").url

    printed = succeed("iscsi-perf", "-r", "-m", "32", "-b", str(blocks_per_request), "-t", "5", url)

    assert parse_iscsi_perf(printed) > 0
    assert "busy 0 " in printed


def test_sessions_at_once_each_keep_their_data(serve: Serve) -> None:
    target = serve("a.img", create="256M")

    def work(number: int) -> None:
        first = number * 32 * MIB
        parts = [(first + part * MIB, 16 * number + part + 1) for part in range(8)]
        writes = [f"aio_write -P {pattern} {offset} 1M" for offset, pattern in parts]
        reads = [f"aio_read -P {pattern} {offset} 1M" for offset, pattern in parts]
        for _ in range(3):
            qemu_io(target.url, *writes, "aio_flush", "flush", *reads, "aio_flush")

    with ThreadPoolExecutor(5) as pool:
        load = pool.submit(succeed, "iscsi-perf", "-r", "-m", "16", "-b", "8", "-t", "3", target.url)
        for worker in [pool.submit(work, number) for number in range(4)]:
            worker.result()
        assert parse_iscsi_perf(load.result()) > 0


def test_a_write_of_one_session_is_read_by_another(serve: Serve) -> None:
    url = serve("a.img", create="64M").url

    with QemuIoSession(url) as writer, QemuIoSession(url) as reader:
        for pattern in range(1, 17):
            writer.do(f"write -P {pattern} 0 64k")
            reader.do(f"read -P {pattern} 0 64k")


def test_disks_of_a_target_do_not_share_data(serve: Serve) -> None:
    first, second = serve("a.img", "b.img", create="64M").urls

    qemu_io(first, "write -P 0x0a 0 1M", "flush")
    qemu_io(second, "read -P 0 0 1M", "write -P 0x0b 0 512k", "flush")
    qemu_io(first, "read -P 0x0a 0 1M")
    qemu_io(second, "read -P 0x0b 0 512k", "read -P 0 512k 512k")
