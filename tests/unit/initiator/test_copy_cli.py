"""``csv-initiator copy`` and ``verify`` on files, pipes and a small target that knows no more than it must."""

from __future__ import annotations

import hashlib
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.initiator.test_initiator_cli import PROGRAM, ROOT, call, usage
from tests.unit.initiator.tiny_target import NAME, TinyTarget

MIB = 1 << 20


def image(seed: int, length: int = 3 * MIB + 1000) -> bytes:
    """Data, zeros and data."""
    chance = random.Random(seed)
    return chance.randbytes(MIB + 70_000) + bytes(MIB + 5000) + chance.randbytes(length - 2 * MIB - 75_000)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source.img"
    path.write_bytes(image(1))
    return path


def test_a_file_is_copied_to_a_lun_and_what_follows_stays(target: TinyTarget, source: Path) -> None:
    target.disk[:] = os.urandom(len(target.disk))
    rest = bytes(target.disk[source.stat().st_size :])
    done = call("copy", source, target.url, "--json")
    assert done.returncode == 0, done.stderr
    assert target.disk[: source.stat().st_size] == source.read_bytes()
    assert target.disk[source.stat().st_size :] == rest
    report = json.loads(done.stdout)
    assert (report["length_bytes"], report["begun_at_bytes"]) == (source.stat().st_size, 0)
    assert target.commands[-1][0] == 0x35  # SYNCHRONIZE CACHE(10)


def test_a_lun_is_copied_to_a_file_that_has_holes_where_it_has_zeros(target: TinyTarget, tmp_path: Path) -> None:
    target.disk[:] = bytes(len(target.disk))
    target.disk[MIB : MIB + 5000] = os.urandom(5000)
    copy = tmp_path / "copy.img"
    copy.write_bytes(b"longer than the LUN" * MIB)
    assert call("copy", target.url, copy).returncode == 0
    assert copy.read_bytes() == target.disk
    assert copy.stat().st_blocks * 512 <= 128 << 10


def test_a_file_is_copied_to_a_file_with_its_holes(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    with source.open("wb") as file:
        file.truncate(64 * MIB + 17)
        file.seek(40 * MIB)
        file.write(os.urandom(100_000))
    done = call("copy", source, copy, "--json")
    assert json.loads(done.stdout)["moved_bytes"] <= 2 * MIB
    assert copy.stat().st_blocks * 512 <= 256 << 10
    assert call("verify", source, copy).returncode == 0
    assert subprocess.run(["cmp", source, copy], check=False).returncode == 0


def test_a_part_goes_where_it_is_told_and_a_file_keeps_the_rest(tmp_path: Path, source: Path) -> None:
    copy = tmp_path / "copy"
    copy.write_bytes(b"\1" * MIB)
    arguments = ["--source-offset", "1M", "--offset", "4096", "--length", str(MIB + 100_001)]
    assert call("copy", source, copy, *arguments).returncode == 0
    want = source.read_bytes()[MIB : 2 * MIB + 100_001]
    assert copy.read_bytes() == b"\1" * 4096 + want


def test_holes_are_punched_where_a_file_holds_data(tmp_path: Path) -> None:
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(bytes(4 * MIB))
    copy.write_bytes(b"\1" * 5 * MIB)
    assert call("copy", source, copy, "--offset", "64K").returncode == 0
    assert copy.read_bytes() == b"\1" * 65536 + bytes(4 * MIB) + b"\1" * (MIB - 65536)
    assert copy.stat().st_blocks * 512 <= MIB + 65536


def test_a_pipe_is_copied_from_and_to(target: TinyTarget, source: Path) -> None:
    assert call("copy", "-", target.url, data=source.read_bytes()).returncode == 0
    assert target.disk[: source.stat().st_size] == source.read_bytes()
    done = call("copy", target.url, "-", "--length", str(source.stat().st_size))
    assert done.stdout == source.read_bytes()


def test_a_pipe_into_a_file_ends_with_its_zeros(tmp_path: Path) -> None:
    data = os.urandom(1000) + bytes(2 * MIB + 7)
    assert call("copy", "-", tmp_path / "copy", data=data).returncode == 0
    assert (tmp_path / "copy").read_bytes() == data


def test_without_sparse_zeros_are_written(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(bytes(2 * MIB))
    assert call("copy", tmp_path / "source", tmp_path / "copy", "--no-sparse").returncode == 0
    assert (tmp_path / "copy").stat().st_blocks * 512 >= 2 * MIB


# --- what is refused


def failure(*arguments: str | Path, data: bytes | None = None) -> str:
    done = call(*arguments, data=data)
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.decode().splitlines()
    return line


def test_a_target_that_is_too_small_is_told_before_anything_is_written(target: TinyTarget, tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(b"\1" * (len(target.disk) + 1))
    before = bytes(target.disk)
    assert "the target is too small" in failure("copy", tmp_path / "source", target.url)
    assert "the target is too small" in failure("copy", target.url, target.url.replace("/0", "/1"), "--offset", "512")
    assert target.disk == before


def test_a_pipe_that_is_too_long_is_told(target: TinyTarget) -> None:
    assert "the target is too small" in failure("copy", "-", target.url, data=b"\1" * (len(target.disk) + 1))
    assert call("copy", "-", target.url, data=b"\2" * len(target.disk)).returncode == 0
    assert target.disk == b"\2" * len(target.disk)


def test_a_file_is_not_copied_onto_itself(tmp_path: Path, source: Path) -> None:
    before = source.read_bytes()
    os.link(source, tmp_path / "other")
    assert "source and target are the same" in failure("copy", source, tmp_path / "other")
    assert source.read_bytes() == before


def test_a_lun_is_not_copied_onto_itself(target: TinyTarget) -> None:
    assert "source and target are the same" in failure("copy", target.url, target.url)


def test_ranges_that_are_not_there_are_refused(target: TinyTarget, source: Path, tmp_path: Path) -> None:
    assert "the source ends before that" in failure("copy", source, target.url, "--length", "1G")
    assert "not of whole blocks" in failure("copy", source, target.url, "--offset", "100")
    assert "No such file" in failure("copy", tmp_path / "nothing", target.url)
    assert "neither a file nor a block device" in failure("copy", "/dev/null", target.url)


@pytest.mark.parametrize(
    "arguments",
    [
        ["copy", "a"],
        ["copy", "-", "b", "--resume", "state"],
        ["copy", "a", "-", "--json"],
        ["copy", "a", "b", "--chunk", "0"],
        ["copy", "a", "http://host/b"],
        ["verify", "a"],
        ["verify", "a", "b", "--digest", "sha256"],
        ["verify", "a", "-"],
        ["verify", "a", "--digest", "crc"],
        ["bench", f"iscsi://host/{NAME}/0", "--write"],
        ["bench", f"iscsi://host/{NAME}/0", "--mix", "50"],
        ["bench", f"iscsi://host/{NAME}/0", "--block-size", "0"],
    ],
)
def test_wrong_usage_of_the_tools_exits_with_2(arguments: list[str]) -> None:
    usage(*arguments)


# --- going on


def test_a_copy_that_was_broken_off_goes_on_from_its_state(target: TinyTarget, source: Path, tmp_path: Path) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy"
    assert call("copy", source, copy, "--resume", state).returncode == 0
    assert not state.exists()
    status, made = source.stat(), copy.stat()
    state.write_text(
        json.dumps(
            {
                "version": 1,
                "source": {
                    "kind": "file",
                    "device": status.st_dev,
                    "inode": status.st_ino,
                    "size": status.st_size,
                    "modified_ns": status.st_mtime_ns,
                },
                "target": {"kind": "file", "device": made.st_dev, "inode": made.st_ino},
                "source_offset_bytes": 0,
                "target_offset_bytes": 0,
                "length_bytes": status.st_size,
                "durable_bytes": MIB,
            }
        )
    )
    with copy.open("r+b") as file:
        file.seek(MIB)
        file.write(b"\1" * MIB)
    done = call("copy", source, copy, "--resume", state, "--json")
    assert json.loads(done.stdout)["begun_at_bytes"] == MIB
    assert copy.read_bytes() == source.read_bytes()
    assert not state.exists()


def test_a_state_of_another_copy_is_refused_and_kept(source: Path, tmp_path: Path) -> None:
    state, copy = tmp_path / "state", tmp_path / "copy"
    state.write_text("{}")
    assert "no state of a copy" in failure("copy", source, copy, "--resume", state)
    assert state.exists()
    assert not copy.exists()


def test_an_interrupted_copy_keeps_its_state(target: TinyTarget, source: Path, tmp_path: Path) -> None:
    target.disk[:] = os.urandom(len(target.disk))
    state, copy, program = tmp_path / "state", tmp_path / "copy", [*PROGRAM]
    code = (
        "import os, signal, sys\n"
        "from initiator.images.file import FileEnd\n"
        "write, count = FileEnd.write, 0\n"
        "async def slow(self, offset, view):\n"
        "    global count\n"
        "    await write(self, offset, view)\n"
        "    count += 1\n"
        "    if count == 3:\n"
        "        os.kill(os.getpid(), signal.SIGINT)\n"
        "FileEnd.write = slow\n"
        "from initiator.cli import main\n"
        "main()\n"
    )
    program = [sys.executable, "-c", code, "copy", target.url, str(copy), "--resume", str(state)]
    done = subprocess.run(
        [*program, "--queue-depth", "1", "--chunk", "64K"], capture_output=True, timeout=60, check=False, cwd=ROOT
    )
    assert done.returncode == 130, done.stderr
    assert b"are copied and kept in" in done.stderr
    assert 0 < json.loads(state.read_text())["durable_bytes"] < len(target.disk)
    assert target.logouts == 1
    done = call("copy", target.url, copy, "--resume", state, "--json")
    assert json.loads(done.stdout)["begun_at_bytes"] > 0
    assert copy.read_bytes() == target.disk


# --- verify


def test_equal_ones_are_told_equal_and_the_first_difference_is_shown(target: TinyTarget, source: Path) -> None:
    data = source.read_bytes()
    target.disk[: len(data)] = data
    assert call("verify", source, target.url).returncode == 0
    for at in (len(data) - 1, 2 * MIB + 5, 1_200_000, 0):
        target.disk[at] ^= 0xFF
        line = failure("verify", source, target.url)
        assert f"they differ from byte {at} of" in line
        assert f"{data[at : at + 16].hex()} and {bytes(target.disk[at : at + min(16, len(data) - at)]).hex()}" in line
    found = call("verify", source, target.url, "--json")
    assert found.returncode == 1
    report = json.loads(found.stdout)
    assert report["equal"] is False
    assert report["difference"]["offset_bytes"] == 0


def test_one_that_is_too_short_is_not_equal(target: TinyTarget, source: Path, tmp_path: Path) -> None:
    assert "too short" in failure("verify", target.url, source)
    assert call("verify", source, source, "--offset", "0", "--length", "100").returncode == 0


def test_digests_are_those_of_other_tools_and_are_checked(target: TinyTarget, source: Path, tmp_path: Path) -> None:
    data = source.read_bytes()
    whole = call("verify", source, "--digest", "sha256", "--range", "0").stdout.decode()
    assert whole.split()[0] == hashlib.sha256(data).hexdigest()
    ranges = call("verify", source, "--digest", "sha256", "--range", "1M").stdout.decode().splitlines()
    assert ranges[1] == f"{hashlib.sha256(data[MIB : 2 * MIB]).hexdigest()}  {MIB}-{2 * MIB - 1}"
    manifest = tmp_path / "manifest"
    manifest.write_bytes(call("verify", source, "--digest", "sha256", "--range", "1M", "--json").stdout)
    target.disk[: len(data)] = data
    assert call("verify", target.url, "--manifest", manifest).returncode == 0
    target.disk[2 * MIB + 1] ^= 1
    line = failure("verify", target.url, "--manifest", manifest)
    assert f"in the bytes from {2 * MIB} to {3 * MIB - 1}" in line
    manifest.write_text("{}")
    assert "no manifest" in failure("verify", target.url, "--manifest", manifest)
