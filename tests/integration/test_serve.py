"""``csvd serve`` as a person runs it: a process, its ready lines, its errors, its end."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

SERVE = [sys.executable, "-m", "csvd", "serve"]
INITIATOR = [str(Path(sys.executable).with_name("csv-initiator"))]
TIMEOUT_S = 60.0


class Serving:
    """One `csvd serve`."""

    def __init__(self, *arguments: str | Path) -> None:
        self.process = subprocess.Popen(
            [*SERVE, "--portal", "127.0.0.1:0", *map(str, arguments)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line.startswith("ready iscsi://"), self.process.communicate()
        return line.split()[1]

    def end(self, number: int = signal.SIGTERM) -> tuple[int, str]:
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=TIMEOUT_S)
        return self.process.returncode, errors


@pytest.fixture
def served() -> Iterator[list[Serving]]:
    running: list[Serving] = []
    yield running
    for each in running:
        if each.process.poll() is None:
            each.process.kill()
            each.process.communicate()


def initiator(*arguments: str | Path, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [*INITIATOR, *map(str, arguments)], input=data, capture_output=True, timeout=TIMEOUT_S, check=False
    )


def refused(*arguments: str | Path) -> str:
    """Run a `csvd serve` that must not come up: exit 1, one line on stderr, nothing on stdout."""
    done = subprocess.run(
        [*SERVE, *map(str, arguments)], capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 1, done.stderr
    return lines[0]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_creates_serves_and_ends_with_what_was_written(tmp_path: Path, served: list[Serving], number: int) -> None:
    disk, source, copy = tmp_path / "disk.img", tmp_path / "source", tmp_path / "copy"
    source.write_bytes(os.urandom(3 << 20))
    serving = Serving(disk, "--create", "16M")
    served.append(serving)
    url = serving.url()
    assert disk.stat().st_size == 16 << 20
    done = initiator("write", url, source)
    assert done.returncode == 0, done.stderr
    done = initiator("read", url, "--length", "3M", "-o", copy)
    assert done.returncode == 0, done.stderr
    assert copy.read_bytes() == source.read_bytes()
    assert serving.end(number) == (0, "")
    with disk.open("rb") as file:
        assert hashlib.sha256(file.read(3 << 20)).digest() == hashlib.sha256(source.read_bytes()).digest()


def test_the_url_says_host_port_name_and_lun(tmp_path: Path, served: list[Serving]) -> None:
    serving = Serving(tmp_path / "Some_Disk.img", "--create", "1M")
    served.append(serving)
    url = serving.url()
    assert url.endswith("/iqn.2026-11.org.csvd:some-disk/0")
    port = int(url.split("/")[2].rpartition(":")[2])
    socket.create_connection(("127.0.0.1", port)).close()


def test_several_disks_become_several_luns(tmp_path: Path, served: list[Serving]) -> None:
    serving = Serving(tmp_path / "a.img", tmp_path / "b.img", "--create", "1M", "--iqn", "iqn.2026-11.test:ab")
    served.append(serving)
    first = serving.url()
    second = serving.url()
    assert first.endswith("/iqn.2026-11.test:ab/0")
    assert second.endswith("/iqn.2026-11.test:ab/1")
    assert initiator("info", second).returncode == 0


def test_a_disk_that_is_there_is_served_as_it_is(tmp_path: Path, served: list[Serving]) -> None:
    disk = tmp_path / "disk.img"
    disk.write_bytes(b"x" * (1 << 20))
    for arguments in ((disk,), (disk, "--create", "1M")):
        serving = Serving(*arguments)
        served.append(serving)
        done = initiator("read", serving.url(), "--length", "512", "-o", "-")
        assert done.stdout == b"x" * 512
        serving.end()


def test_chap_lets_in_only_who_has_the_secret(tmp_path: Path, served: list[Serving]) -> None:
    secret, wrong = tmp_path / "secret", tmp_path / "wrong"
    for path, text in ((secret, "the right secret!"), (wrong, "the wrong secret!")):
        path.write_text(text)
        path.chmod(0o600)
    serving = Serving(tmp_path / "d.img", "--create", "1M", "--chap-user", "joe", "--chap-secret-file", secret)
    served.append(serving)
    url = serving.url()
    assert initiator("info", url, "--chap-user", "joe", "--chap-secret-file", secret).returncode == 0
    for arguments in ((), ("--chap-user", "joe", "--chap-secret-file", wrong)):
        done = initiator("info", url, *arguments)
        assert done.returncode == 1
        assert len(done.stderr.splitlines()) == 1


def test_a_read_only_disk_refuses_writes(tmp_path: Path, served: list[Serving]) -> None:
    disk = tmp_path / "d.img"
    disk.write_bytes(bytes(1 << 20))
    disk.chmod(0o400)
    source = tmp_path / "s"
    source.write_bytes(b"y" * 4096)
    serving = Serving(disk, "--read-only")
    served.append(serving)
    done = initiator("write", serving.url(), source)
    assert done.returncode == 1
    assert disk.read_bytes() == bytes(1 << 20)


def test_a_missing_file_says_how_to_create_it(tmp_path: Path) -> None:
    assert "--create" in refused(tmp_path / "none.img")


def test_a_port_in_use_says_which(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        portal = f"127.0.0.1:{taken.getsockname()[1]}"
        line = refused(tmp_path / "d.img", "--create", "1M", "--portal", portal)
    assert portal in line


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--create", "1000"), "whole number"),
        (("--create", "1M", "--iqn", "not a name"), "iSCSI name"),
        (("--create", "1M", "--portal", "nowhere:99999"), "not a portal"),
        (("--create", "1M", "--chap-user", "joe"), "go together"),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in refused(tmp_path / "d.img", *arguments)


@pytest.mark.parametrize("arguments", [(), ("d.img", "--block-size", "1000"), ("d.img", "--create", "much")])
def test_wrong_usage_exits_2_and_says_how_to_find_help(arguments: tuple[str, ...]) -> None:
    done = subprocess.run([*SERVE, *arguments], capture_output=True, text=True, timeout=TIMEOUT_S, check=False)
    assert done.returncode == 2
    assert "--help" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_disk_of_another_size_than_asked_for_is_left_alone(tmp_path: Path) -> None:
    disk = tmp_path / "d.img"
    disk.write_bytes(bytes(1 << 20))
    assert "1048576" in refused(disk, "--create", "2M")
    assert disk.stat().st_size == 1 << 20


def test_a_secret_that_others_may_read_is_refused(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("a secret of twenty b")
    secret.chmod(0o644)
    arguments: tuple[Any, ...] = ("--create", "1M", "--chap-user", "joe", "--chap-secret-file", secret)
    assert "chmod 600" in refused(tmp_path / "d.img", *arguments)
