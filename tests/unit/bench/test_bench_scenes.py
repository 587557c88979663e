from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.loads import LoadFailed
from tests.bench.scenes import Client, apart, read_bytes
from tests.bench.targets import Target, TargetFailed, children, memory_mib, parse_kib


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    process = subprocess.Popen(["sleep", "60"])
    with Target("sleep", process, ["iscsi://127.0.0.1:1/iqn.a/0"], tmp_path / "log", process.terminate) as running:
        yield running


def python(script: str) -> list[str]:
    return [sys.executable, "-c", script]


def test_target_and_clients_share_no_processor_and_have_all_of_them_again(target: Target) -> None:
    before = os.sched_getaffinity(0)

    with apart(target):
        theirs = os.sched_getaffinity(target.pid)
        done = subprocess.run(python("import os; print(*os.sched_getaffinity(0))"), capture_output=True, check=True)
        clients = set(map(int, done.stdout.split()))
        assert clients | theirs == before
        assert not clients & theirs or len(before) == 1
    assert os.sched_getaffinity(0) == os.sched_getaffinity(target.pid) == before


def test_processors_are_given_back_after_a_failure(target: Target) -> None:
    before = os.sched_getaffinity(0)

    with pytest.raises(LoadFailed), apart(target):
        raise LoadFailed
    assert os.sched_getaffinity(0) == os.sched_getaffinity(target.pid) == before


def test_a_client_in_the_background_ends_when_its_figures_are_asked_for() -> None:
    script = "import sys; print('running', flush=True); sys.stdin.read(); print('{\"requests\": 3}')"

    with Client(python(script)) as client:
        client.wait_until_it_runs()
        assert client.running
        assert client.figures() == {"requests": 3}


def test_a_client_that_fails_is_reported_with_its_words() -> None:
    failing = Client(python("import sys; sys.exit('no route')"))
    with failing as client, pytest.raises(LoadFailed, match="exit status 1: no route"):
        client.wait_until_it_runs()


def test_a_client_that_is_not_asked_is_ended() -> None:
    with Client(python("print('running', flush=True); import time; time.sleep(60)")) as client:
        client.wait_until_it_runs()

    assert not client.running


def test_memory_is_read_of_the_process_and_its_children() -> None:
    child = "import time; data = bytes(40 << 20); print(flush=True); time.sleep(60)"
    script = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    with subprocess.Popen(python(script), stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            own = parse_kib(Path(f"/proc/{process.pid}/status").read_text(), "VmRSS") / 1024
            assert memory_mib(process.pid, "VmRSS") - own > 3
            assert memory_mib(process.pid, "VmHWM") >= memory_mib(process.pid, "VmRSS") * 0.9
        finally:
            for pid in children(process.pid):
                os.kill(pid, signal.SIGKILL)


def test_a_status_without_the_field_is_of_a_process_that_is_gone() -> None:
    assert parse_kib("Name:\tx\nVmRSS:\t   2048 kB\n", "VmRSS") == 2048
    with pytest.raises(TargetFailed, match="no VmRSS"):
        parse_kib("Name:\tx\nState:\tZ (zombie)\n", "VmRSS")


def test_what_a_process_read_from_drives_is_known() -> None:
    assert read_bytes(os.getpid()) >= 0
