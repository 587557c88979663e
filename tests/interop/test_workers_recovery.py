"""Other people's initiators at a node whose targets are served by workers: they are sent on, and come back by
themselves when a worker dies, when a target goes to another one, and when the whole daemon is killed."""

from __future__ import annotations

import re
import threading

import pytest

from tests.integration.daemon_rig import TARGET, DaemonNode, Daemons
from tests.integration.worker_rig import (
    OTHER,
    SHARING,
    kill_worker,
    node_with_workers,
    url_of,
    wait_until_up,
    worker_of,
)
from tests.interop.libiscsi import capacity_bytes, iscsi_inq
from tests.interop.programs import succeed
from tests.interop.qemu import QemuIoSession, qemu_io

pytestmark = pytest.mark.interop

# libiscsi waits longer and longer between two tries to reconnect.
RECONNECT_S = 120


@pytest.fixture
def node(daemons: Daemons, port: int) -> DaemonNode:
    return node_with_workers(daemons, portal=f"127.0.0.1:{port}")


def test_libiscsi_discovers_and_logs_in_where_it_is_sent(node: DaemonNode) -> None:
    printed = succeed("iscsi-ls", "-s", f"iscsi://{node.portal}")
    named = re.findall(r"^Target:(\S+) Portal:(\S+)$", printed, re.MULTILINE)
    assert sorted(named) == sorted((name, f"{node.portal},1") for name in (TARGET, OTHER, SHARING))
    for name in (TARGET, OTHER, SHARING):
        assert iscsi_inq(url_of(node, name))["Vendor"] == ["CSVD    "]
        assert capacity_bytes(url_of(node, name)) == 16 << 20


def test_a_session_goes_on_when_its_worker_is_killed_and_the_others_do_not_notice(node: DaemonNode) -> None:
    with QemuIoSession(url_of(node, TARGET)) as session, QemuIoSession(url_of(node, OTHER)) as other:
        session.do("write -P 0x71 0 1M")
        session.do("flush")
        other.do("write -P 0x61 0 1M")
        kill_worker(node, TARGET)
        other.do("read -P 0x61 0 1M")
        session.do("read -P 0x71 0 1M", RECONNECT_S)
        session.do("write -P 0x72 1M 1M")
        session.do("flush")
        assert worker_of(node, OTHER)["sessions"] == 1
    qemu_io(url_of(node, SHARING), "read -P 0x71 0 1M", "read -P 0x72 1M 1M")


def test_what_is_written_while_workers_die_is_what_is_read(node: DaemonNode) -> None:
    """Each round overwrites all of a disk, and reads it; in some of them its worker is killed."""
    with QemuIoSession(url_of(node, OTHER)) as session:
        for round_ in range(1, 7):
            killing = threading.Thread(target=kill_worker, args=(node, OTHER)) if round_ % 2 else None
            if killing is not None:
                wait_until_up(node, OTHER)
                killing.start()
            for part in range(16):
                session.do(f"write -P {16 * round_ + part % 16} {part}M 1M", RECONNECT_S)
            for part in range(16):
                session.do(f"read -P {16 * round_ + part % 16} {part}M 1M", RECONNECT_S)
            if killing is not None:
                killing.join()
        session.do("flush")
    assert worker_of(node, OTHER)["restarts"] == 3
    assert node.terminate() == 0


def test_a_session_follows_its_target_to_another_worker(node: DaemonNode, daemons: Daemons) -> None:
    with QemuIoSession(url_of(node, OTHER)) as session:
        session.do("write -P 0x73 0 1M")
        done = node.csvd("lun", "add", f"{daemons.folder}/disk.img", "--serial", "test", "--target", OTHER)
        assert done.returncode == 0, done.stderr
        assert worker_of(node, OTHER)["worker"] == 1
        session.do("read -P 0x73 0 1M", RECONNECT_S)


def test_a_session_goes_on_when_the_daemon_is_killed_and_started_again(node: DaemonNode) -> None:
    with QemuIoSession(url_of(node, TARGET)) as session:
        session.do("write -P 0x74 0 1M")
        session.do("flush")
        node.kill()
        node.start().ready()
        session.do("read -P 0x74 0 1M", RECONNECT_S)
    assert node.terminate() == 0
