"""The options of several paths: two small targets that say that they are one disk."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
from collections.abc import Iterator

import pytest

from tests.unit.initiator.test_initiator_cli import PROGRAM, ROOT, call, usage
from tests.unit.initiator.tiny_target import NAME, TinyTarget


@pytest.fixture
def two() -> Iterator[tuple[TinyTarget, TinyTarget]]:
    targets = TinyTarget(), TinyTarget()
    for target in targets:
        target.disk[:] = bytes(range(256)) * (len(target.disk) // 256)
    yield targets
    for target in targets:
        target.close()


def dead_url() -> str:
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return f"iscsi://127.0.0.1:{sock.getsockname()[1]}/{NAME}/0"


def test_a_disk_is_read_over_two_paths(two: tuple[TinyTarget, TinyTarget]) -> None:
    one, other = two
    done = call("read", one.url, "--path", other.url, "--length", "4M", "-o", "-")
    assert done.returncode == 0, done.stderr
    assert done.stdout == bytes(one.disk)
    for target in two:
        assert any(command[0] == 0x28 for command in target.commands), "each has its turn"
        assert target.logouts


def test_a_path_that_is_not_there_is_no_hindrance(two: tuple[TinyTarget, TinyTarget]) -> None:
    done = call("read", dead_url(), "--path", two[0].url, "--length", "1M")
    assert done.returncode == 0, done.stderr
    assert done.stdout == bytes(two[0].disk[: 1 << 20])


def test_where_no_path_leads_to_the_disk_each_is_named_with_its_reason() -> None:
    urls = dead_url(), dead_url()
    done = call("read", urls[0], "--path", urls[1], "-o", "/dev/null")
    assert done.returncode == 1
    (line,) = done.stderr.decode().splitlines()
    for url in urls:
        assert url in line
    assert line.count("refused") == 2


def test_discovery_gives_the_paths_with_multipath(two: tuple[TinyTarget, TinyTarget]) -> None:
    done = call("read", two[0].url, "--multipath", "--path-policy", "failover", "--length", "1M")
    assert done.returncode == 0, done.stderr
    assert done.stdout == bytes(two[0].disk[: 1 << 20])


def test_a_policy_that_is_none_is_a_wrong_usage() -> None:
    assert "round-robin" in usage("read", f"iscsi://127.0.0.1/{NAME}/0", "--path-policy", "best")


def test_info_shows_the_paths(two: tuple[TinyTarget, TinyTarget]) -> None:
    one, other = two
    done = call("info", one.url, "--path", other.url)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.decode().splitlines()
    assert f"Path 1:          {one.url} active/optimized" in lines
    assert f"Path 2:          {other.url} active/optimized" in lines
    found = json.loads(call("info", one.url, "--path", dead_url(), "--json").stdout)
    assert [path["state"] for path in found["paths"]] == ["active/optimized", "down"]
    assert "refused" in found["paths"][1]["why"]
    assert json.loads(call("info", one.url, "--json").stdout)["paths"] == []


def test_watch_tells_of_paths_that_come_and_go(two: tuple[TinyTarget, TinyTarget]) -> None:
    command = [*PROGRAM, "watch", two[0].url, "--path", two[1].url, "--interval", "0.1", "--json"]
    program = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)
    assert program.stdout is not None
    seen: list[tuple[str, str]] = []
    try:
        for line in program.stdout:
            event = json.loads(line)
            if event["event"] != "path":
                continue
            seen.append((event["path"], event["state"]))
            if len({url for url, state in seen if state == "active/optimized"}) == 2:
                two[1].close()
            if event["path"] == two[1].url and event["state"] == "down":
                break
    finally:
        program.send_signal(signal.SIGINT)
        program.wait(30)
    assert (two[0].url, "active/optimized") in seen
    assert seen[-1] == (two[1].url, "down")
