from __future__ import annotations

import hashlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click import Context
from click.testing import CliRunner

from csvd.iscsi.codes import Opcode
from initiator.cli import COMMANDS, cli
from initiator.cli.options import size_text
from initiator.cli.runtime import printable
from tests.unit.initiator.target_script import Pdu
from tests.unit.initiator.tiny_target import NAME, SECRET, TinyTarget

ROOT = Path(__file__).parents[3]
PROGRAM = [sys.executable, "-m", "initiator"]


def call(*arguments: str | Path, data: bytes | None = None) -> subprocess.CompletedProcess[bytes]:
    """Run the program to its end; it never shows a traceback."""
    command = [*PROGRAM, *map(str, arguments)]
    done = subprocess.run(command, input=data, capture_output=True, timeout=60, check=False, cwd=ROOT)
    assert b"Traceback" not in done.stderr, done.stderr.decode()
    return done


def secret_file(folder: Path, secret: bytes = SECRET + b"\n", mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(secret)
    path.chmod(mode)
    return path


def usage(*arguments: str) -> str:
    """Run the program in this process; it must find the usage wrong. Give what it says."""
    result = CliRunner().invoke(cli, list(arguments))
    assert result.exit_code == 2, result.output
    return result.output


# --- discover and info


def test_discover_lists_targets_and_their_portals(target: TinyTarget) -> None:
    done = call("discover", f"127.0.0.1:{target.port}")
    assert done.returncode == 0
    assert done.stdout.decode() == f"{NAME}\n  127.0.0.1:{target.port},1\n"


def test_discover_as_json(target: TinyTarget) -> None:
    done = call("discover", f"127.0.0.1:{target.port}", "--json")
    assert json.loads(done.stdout) == {
        "portal": f"127.0.0.1:{target.port}",
        "targets": [{"name": NAME, "addresses": [{"host": "127.0.0.1", "port": target.port, "portal_group_tag": 1}]}],
    }


def test_info_shows_what_a_disk_says(target: TinyTarget) -> None:
    done = call("info", target.url)
    lines = done.stdout.decode()
    for words in (
        target.url,
        f"{NAME} tiny",
        "4194304 bytes (4.0 MiB)",
        "serial-1",
        "naa.3000000100000001",
        "TEST TINY 1",
    ):
        assert words in lines
    assert done.returncode == 0


def test_info_as_json(target: TinyTarget) -> None:
    found = json.loads(call("info", target.url, "--json").stdout)
    assert found["target"]["luns"] == [0, 1]
    assert found["disk"]["size_bytes"] == 4 << 20
    assert found["disk"]["write_cache"] is True
    assert found["disk"]["solid_state"] is True
    assert found["disk"]["designators"] == [{"of": "unit", "type": 3, "value": "naa.3000000100000001"}]
    assert found["session"]["max_burst_length"] == 65536
    assert found["session"]["connections"] == 1


def test_connections_are_asked_for_and_the_target_may_allow_fewer(target: TinyTarget) -> None:
    asked: list[str | None] = []

    def before(request: Pdu) -> None:
        if request.opcode is Opcode.LOGIN_REQUEST:
            asked.append(request.keys.get("MaxConnections"))

    target.before = before
    done = call("info", target.url, "--connections", "3")
    assert "1 connection, bursts of 64.0 KiB" in done.stdout.decode()
    assert asked == ["3"]


# --- ls


def test_ls_shows_the_units_of_a_portal_and_of_a_target(target: TinyTarget) -> None:
    for where in (f"127.0.0.1:{target.port}", f"iscsi://127.0.0.1:{target.port}", target.url, target.url[:-2]):
        done = call("ls", where)
        assert done.returncode == 0, done.stderr
        title, head, first, second = done.stdout.decode().splitlines()
        assert title == f"{NAME} at 127.0.0.1:{target.port} tiny"
        assert head.split() == ["LUN", "TYPE", "SIZE", "BLOCK", "KIND", "DEVICE", "IDENTITY"]
        assert first.split() == ["0", "disk", "4.0", "MiB", "512", "full", "TEST", "TINY", "naa.3000000100000001"]
        assert second.split()[0] == "1"


def test_ls_as_json(target: TinyTarget) -> None:
    found = json.loads(call("ls", f"127.0.0.1:{target.port}", "--json").stdout)
    (tiny,) = found["targets"]
    assert (tiny["name"], tiny["alias"], tiny["error"]) == (NAME, "tiny", None)
    assert [(unit["lun"], unit["size_bytes"]) for unit in tiny["luns"]] == [(0, 4 << 20), (1, 4 << 20)]
    assert tiny["luns"][1]["url"] == f"iscsi://127.0.0.1:{target.port}/{NAME}/1"


def test_ls_tells_of_a_target_that_lets_nobody_in() -> None:
    target = TinyTarget(chap_user="joe")
    try:
        # The tiny target wants CHAP of discovery sessions too: only a URL gets as far as its login.
        done = call("ls", target.url)
    finally:
        target.close()
    assert done.returncode == 1
    assert done.stderr.decode().startswith(f"csv-initiator: {NAME}: ")


def test_an_answer_that_says_nothing_is_one_line(target: TinyTarget) -> None:
    done = call("lba-status", target.url)
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr == b"csv-initiator: GET LBA STATUS says nothing of block 0\n"


@pytest.mark.parametrize("command", [["reserve", "show"], ["reserve", "clear", "--key", "1"]])
def test_what_a_disk_can_not_do_is_one_line(target: TinyTarget, command: list[str]) -> None:
    done = call(*command, target.url)
    assert done.returncode == 1
    assert done.stderr.decode().count("\n") == 1
    assert "invalid command operation code" in done.stderr.decode()


# --- read and write


def test_what_is_written_is_read_back(target: TinyTarget, tmp_path: Path) -> None:
    data = os.urandom(2 << 20)
    (tmp_path / "in").write_bytes(data)
    assert call("write", target.url, tmp_path / "in", "--offset", "1M").returncode == 0
    assert target.disk[1 << 20 : 3 << 20] == data
    done = call("read", target.url, "--offset", "1M", "--length", "2M", "-o", tmp_path / "out")
    assert (done.returncode, done.stdout) == (0, b"")
    assert (tmp_path / "out").read_bytes() == data
    assert any(cdb[0] == 0x35 for cdb in target.commands), "flushed"


def test_a_whole_disk_goes_to_stdout(target: TinyTarget) -> None:
    target.disk[:] = os.urandom(len(target.disk))
    assert call("read", target.url).stdout == bytes(target.disk)


def test_odd_offsets_and_lengths_are_read(target: TinyTarget) -> None:
    target.disk[:] = os.urandom(len(target.disk))
    assert call("read", target.url, "--offset", "1000", "--length", "12345").stdout == target.disk[1000:13345]
    assert call("read", target.url, "--offset", "4M", "--length", "0").stdout == b""


def test_a_file_that_ends_inside_a_block_keeps_the_rest_of_it(target: TinyTarget) -> None:
    target.disk[:] = b"\xaa" * len(target.disk)
    assert call("write", target.url, "-", "--fua", data=b"x" * 700).returncode == 0
    assert target.disk[:2048] == b"x" * 700 + b"\xaa" * 1348
    assert all(cdb[1] == 8 for cdb in target.commands if cdb[0] == 0x2A)


def test_reports_are_json_too(target: TinyTarget, tmp_path: Path) -> None:
    report = json.loads(call("read", target.url, "--length", "64K", "-o", tmp_path / "out", "--json").stdout)
    assert (report["length_bytes"], report["offset_bytes"], report["url"]) == (65536, 0, target.url)
    report = json.loads(call("write", target.url, tmp_path / "out", "--json").stdout)
    assert report["length_bytes"] == 65536


def test_a_terminal_shows_a_progress_bar(target: TinyTarget, tmp_path: Path) -> None:
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "read", target.url, "-o", str(tmp_path / "out")]
    done = subprocess.run(command, stderr=theirs, timeout=60, check=False, cwd=ROOT)
    os.close(theirs)
    shown = b""
    try:
        while part := os.read(ours, 65536):
            shown += part
    except OSError:  # Linux says EIO when the other end is closed
        os.close(ours)
    assert done.returncode == 0
    assert b"reading" in shown
    assert b"100%" in shown


# --- errors


def test_chap_by_a_secret_file(tmp_path: Path) -> None:
    target = TinyTarget(chap_user="joe")
    path = secret_file(tmp_path)
    url_with_user = target.url.replace("//", "//joe@")
    assert call("info", target.url, "--chap-user", "joe", "--chap-secret-file", path).returncode == 0
    assert call("info", url_with_user, "--chap-secret-file", path).returncode == 0
    assert call("read", target.url.replace("//", "//joe%opensesame12345@"), "--length", "1K").stdout == bytes(1024)
    secret_file(tmp_path, b"not the secret at all")
    done = call("info", target.url, "--chap-user", "joe", "--chap-secret-file", path)
    assert (done.returncode, done.stdout) == (1, b"")
    assert b"authentication failure" in done.stderr
    done = call("info", target.url)
    assert done.returncode == 1
    assert b"demands CHAP" in done.stderr
    target.close()


@pytest.mark.parametrize(
    ("secret", "mode", "words"),
    [
        (SECRET, 0o640, b"chmod 600"),
        (SECRET, 0o604, b"chmod 600"),
        (b"\n", 0o600, b"1 to 255 bytes"),
        (b"s" * 256, 0o600, b"1 to 255 bytes"),
    ],
)
def test_a_bad_secret_file_is_one_line(tmp_path: Path, secret: bytes, mode: int, words: bytes) -> None:
    path = secret_file(tmp_path, secret, mode)
    done = call("info", f"iscsi://127.0.0.1:1/{NAME}/0", "--chap-user", "joe", "--chap-secret-file", path)
    assert done.returncode == 1
    assert words in done.stderr
    assert done.stderr.count(b"\n") == 1
    assert SECRET not in done.stderr


def test_a_missing_secret_file_and_one_that_is_no_file_are_one_line(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe", 0o600)
    for name in ("missing", "pipe", "."):
        done = call("discover", "127.0.0.1:1", "--chap-user", "joe", "--chap-secret-file", tmp_path / name)
        assert done.returncode == 1
        assert done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("command", ["discover", "info", "read", "write", "ls", "lba-status"])
def test_an_unreachable_portal_is_one_line(command: str, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(512))
    arguments = {
        "discover": ["127.0.0.1:1"],
        "info": [f"iscsi://127.0.0.1:1/{NAME}/0"],
        "ls": ["127.0.0.1:1"],
        "lba-status": [f"iscsi://127.0.0.1:1/{NAME}/0"],
        "read": [f"iscsi://127.0.0.1:1/{NAME}/0", "-o", str(tmp_path / "out")],
        "write": [f"iscsi://127.0.0.1:1/{NAME}/0", str(tmp_path / "in")],
    }
    done = call(command, *arguments[command])
    assert (done.returncode, done.stdout) == (1, b"")
    assert done.stderr.startswith(b"csv-initiator: 127.0.0.1:1: no connection: Connection refused")
    assert done.stderr.count(b"\n") == 1
    assert not (tmp_path / "out").exists()


def test_a_range_beyond_the_disk_is_one_line(target: TinyTarget, tmp_path: Path) -> None:
    out = tmp_path / "out"
    for arguments in (["--offset", "5M"], ["--length", "5M"], ["--offset", "4M", "--length", "1"]):
        done = call("read", target.url, *arguments, "-o", out)
        assert done.returncode == 1
        assert b"4194304 bytes" in done.stderr
    assert not out.exists()


def test_a_file_that_does_not_fit_is_refused_before_anything_is_written(target: TinyTarget, tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(bytes(5 << 20))
    done = call("write", target.url, tmp_path / "in")
    assert done.returncode == 1
    assert b"does not fit" in done.stderr
    assert not [cdb for cdb in target.commands if cdb[0] == 0x2A]


def test_a_pipe_that_does_not_fit_fails_where_the_disk_ends(target: TinyTarget) -> None:
    done = call("write", target.url, "-", "--offset", "3M", data=bytes(2 << 20))
    assert done.returncode == 1
    assert b"does not fit" in done.stderr


def test_an_offset_inside_a_block_is_refused(target: TinyTarget) -> None:
    done = call("write", target.url, "-", "--offset", "100", data=b"x")
    assert done.returncode == 1
    assert b"whole blocks" in done.stderr


def test_files_that_can_not_be_opened_are_one_line(target: TinyTarget, tmp_path: Path) -> None:
    for words in (("write", target.url, tmp_path / "missing"), ("read", target.url, "-o", tmp_path / "no" / "out")):
        done = call(*words)
        assert done.returncode == 1
        assert b"No such file or directory" in done.stderr
        assert done.stderr.count(b"\n") == 1


def test_a_reader_that_goes_away_is_one_line(target: TinyTarget) -> None:
    process = subprocess.Popen([*PROGRAM, "read", target.url], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    assert process.stderr.read() == b"csv-initiator: Broken pipe\n"
    assert process.wait(30) == 1


# --- signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_read_logs_out_and_says_so(number: int) -> None:
    target = TinyTarget(blocks=1 << 16)
    command = [*PROGRAM, "read", target.url]
    # Nobody reads the pipe: the program waits in the middle of the disk, with a thread stuck in write().
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=ROOT)
    limit_s = time.monotonic() + 30
    while len(target.commands) < 20 and time.monotonic() < limit_s:
        time.sleep(0.02)
    process.send_signal(number)
    try:
        _, shown = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert shown.strip() == b"csv-initiator: interrupted"
    assert target.logouts == 1
    target.close()


# --- usage


@pytest.mark.parametrize(
    "arguments",
    [
        ["info"],
        ["info", "nothing"],
        ["info", f"iscsi://joe%secret12345678@ho st/{NAME}/0"],
        ["discover", "host:port"],
        ["read", f"iscsi://host/{NAME}/0", "--length", "1Q"],
        ["read", f"iscsi://host/{NAME}/0", "--offset", "-1"],
        ["read", f"iscsi://host/{NAME}/0", "--json"],
        ["write", f"iscsi://host/{NAME}/0"],
        ["info", f"iscsi://host/{NAME}/0", "--chap-user", "joe"],
        ["info", f"iscsi://host/{NAME}/0", "--chap-secret-file", "x"],
        ["info", f"iscsi://host/{NAME}/0", "--chap-target-user", "disk"],
        ["info", f"iscsi://host/{NAME}/0", "--chap-target-user", "disk", "--chap-target-secret-file", "x"],
        ["info", f"iscsi://host/{NAME}/0", "--initiator-name", "me"],
        ["info", f"iscsi://host/{NAME}/0", "--timeout", "0"],
        ["info", f"iscsi://host/{NAME}/0", "--connections", "0"],
        ["discover", "host", "--connections", "2"],
        ["ls"],
        ["ls", "ho st"],
        ["ls", "iscsi://ho st"],
        ["ls", "iscsi://host/nothing/0"],
        ["ls", "host", "--chap-user", "joe"],
        ["lba-status", f"iscsi://host/{NAME}/0", "--offset", "much"],
        ["reserve", "show"],
        ["reserve", "register", f"iscsi://host/{NAME}/0"],
        ["reserve", "register", f"iscsi://host/{NAME}/0", "--key", "joe"],
        ["reserve", "register", f"iscsi://host/{NAME}/0", "--key", "0"],
        ["reserve", "register", f"iscsi://host/{NAME}/0", "--key", "0x10000000000000000"],
        ["reserve", "register", f"iscsi://host/{NAME}/0", "--key", "1", "--isid", "123"],
        ["reserve", "register", f"iscsi://host/{NAME}/0", "--key", "1", "--old-key", "2", "--ignore-existing"],
        ["reserve", "reserve", f"iscsi://host/{NAME}/0", "--key", "1", "--type", "mine"],
        ["reserve", "preempt", f"iscsi://host/{NAME}/0", "--key", "1"],
        ["reserve", "clear", f"iscsi://host/{NAME}/0", "--key", "1", "--chap-user", "joe"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert "secret12345678" not in usage(*arguments)


@pytest.mark.parametrize(
    "command",
    [
        [],
        ["attach"],
        ["discover"],
        ["info"],
        ["read"],
        ["write"],
        ["ls"],
        ["lba-status"],
        *(["reserve", verb] for verb in ("show", "register", "unregister", "reserve", "release", "preempt", "clear")),
    ],
)
def test_help_has_examples(command: list[str]) -> None:
    result = CliRunner().invoke(cli, [*command, "--help"])
    assert result.exit_code == 0
    assert "Examples:" in result.output
    assert "csv-initiator " + (command[0] if command else "discover") in result.output


@pytest.mark.parametrize(("text", "length"), [("1000", 1000), ("1k", 1024), ("2KiB", 2048), ("1M", 1 << 20), ("0", 0)])
def test_sizes_take_units(target: TinyTarget, text: str, length: int) -> None:
    target.disk[:] = os.urandom(len(target.disk))
    want = hashlib.sha256(target.disk[:length]).digest()
    assert hashlib.sha256(call("read", target.url, "--length", text).stdout).digest() == want


def test_sizes_are_shown_for_people() -> None:
    assert [size_text(n) for n in (0, 511, 1024, 1 << 20, 3 << 29)] == [
        "0 bytes",
        "511 bytes",
        "1.0 KiB",
        "1.0 MiB",
        "1.5 GiB",
    ]


def test_what_a_target_says_can_not_command_the_terminal() -> None:
    assert printable("a\x1b[31m\nb") == "a?[31m?b"


# --- how it starts


def test_a_command_starts_without_what_only_the_others_need() -> None:
    code = (
        "import sys\n"
        "from initiator.cli import cli\n"
        "from initiator.cli.runtime import run\n"
        "async def work(reactor):\n"
        "    return reactor.seconds()\n"
        "assert run(work) >= 0\n"
        "assert cli.get_command(None, 'copy').name == 'copy'\n"
        "print(*sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, timeout=60, check=True, cwd=ROOT)
    imported = set(done.stdout.decode().split())
    assert "initiator.cli.copy" in imported
    assert not imported & {"initiator.cli.attach", "initiator.cli.bench", "twisted.internet.reactor", "OpenSSL"}


def test_every_command_is_found_by_its_name() -> None:
    for name in COMMANDS:
        command = cli.get_command(Context(cli), name)
        assert command is not None
        assert command.name == name
    assert cli.get_command(Context(cli), "runtime") is None
