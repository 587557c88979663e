"""csv-initiator's copy, verify and bench against `csvd serve`: sparse copies, kill -9 of either side."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.bench.targets import Export, Target, start_csvd

INITIATOR = [sys.executable, "-m", "initiator"]
MIB = 1 << 20
LUN_MIB = 48
DEADLINE_S = 60


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Target]:
    with start_csvd(Export((tmp_path / "lun.img",), create=f"{LUN_MIB}M"), tmp_path) as running:
        yield running
        assert running.stop() == 0
        assert "Traceback" not in running.log()


def image(path: Path, *, mib: int = LUN_MIB, seed: int = 1) -> Path:
    """Data and holes in turns of 4 MiB."""
    chance = random.Random(seed)
    with path.open("wb") as file:
        file.truncate(mib * MIB)
        for begin in range(0, mib, 8):
            file.seek(begin * MIB)
            file.write(chance.randbytes(4 * MIB))
    return path


def call(*arguments: object, code: int = 0) -> subprocess.CompletedProcess[str]:
    command = [*INITIATOR, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=DEADLINE_S, check=False)
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done


def allocated_mib(path: Path) -> float:
    return path.stat().st_blocks * 512 / MIB


def test_a_sparse_image_stays_sparse_to_a_lun_and_back(target: Target, tmp_path: Path) -> None:
    source, back = image(tmp_path / "source.img"), tmp_path / "back.img"
    report = json.loads(call("copy", source, target.url, "--json").stdout)
    assert report["moved_bytes"] == report["skipped_bytes"] == LUN_MIB * MIB // 2
    report = json.loads(call("copy", target.url, back, "--json").stdout)
    assert report["moved_bytes"] == LUN_MIB * MIB // 2
    assert back.read_bytes() == source.read_bytes() == (tmp_path / "lun.img").read_bytes()
    for path in (back, tmp_path / "lun.img"):
        assert allocated_mib(path) < LUN_MIB / 2 + 2
    call("verify", source, target.url)


def test_holes_are_made_where_a_lun_held_data(target: Target, tmp_path: Path) -> None:
    full = tmp_path / "full.img"
    full.write_bytes(os.urandom(LUN_MIB * MIB))
    call("copy", full, target.url)
    source = image(tmp_path / "source.img")
    report = json.loads(call("copy", source, target.url, "--json").stdout)
    assert report["zeroed_bytes"] == LUN_MIB * MIB // 2
    assert (tmp_path / "lun.img").read_bytes() == source.read_bytes()
    assert allocated_mib(tmp_path / "lun.img") < LUN_MIB / 2 + 2


def test_a_copy_between_two_luns(tmp_path: Path) -> None:
    source, other = image(tmp_path / "a.img"), tmp_path / "b.img"
    with other.open("wb") as file:
        file.truncate((LUN_MIB + 1) * MIB)
    with start_csvd(Export((source, other)), tmp_path) as target:
        call("copy", *target.urls)
        call("verify", *target.urls)
        target.stop()
    assert other.read_bytes() == source.read_bytes() + bytes(MIB)


SLOW = """
import sys
from initiator.images import transfer
transfer.FLUSH_EVERY_BYTES = 4 << 20
transfer.Transfer.__init__.__kwdefaults__["flush_every"] = 4 << 20
from initiator.cli import main
main()
"""


@pytest.mark.parametrize("seed", range(2))
def test_a_copy_that_is_killed_at_any_moment_is_gone_on_with(target: Target, tmp_path: Path, seed: int) -> None:
    chance, state = random.Random(seed), tmp_path / "state"
    source = tmp_path / "source.img"
    source.write_bytes(chance.randbytes(LUN_MIB * MIB))
    (tmp_path / "old.img").write_bytes(os.urandom(LUN_MIB * MIB))
    call("copy", tmp_path / "old.img", target.url)
    command = [sys.executable, "-c", SLOW, "copy", str(source), target.url, "--resume", str(state), "--chunk", "64K"]
    durable = 0
    while True:
        process = subprocess.Popen([*command, "--queue-depth", "4", "--json"], stdout=subprocess.PIPE, text=True)
        wait_for_state(process, state, durable)
        time.sleep(chance.random() * 0.2)
        process.send_signal(signal.SIGKILL)
        output, _ = process.communicate(timeout=DEADLINE_S)
        if not state.exists():
            break  # it was complete; perhaps it was killed on its way out
        kept = json.loads(state.read_text())["durable_bytes"]
        assert kept >= durable
        with (tmp_path / "lun.img").open("rb") as lun, source.open("rb") as file:
            assert lun.read(kept) == file.read(kept)
        durable = kept
    assert process.returncode or json.loads(output)["begun_at_bytes"] >= durable
    assert (tmp_path / "lun.img").read_bytes() == source.read_bytes()


def wait_for_state(process: subprocess.Popen[Any], state: Path, durable: int) -> None:
    """Wait until the copy has kept more than before, or has ended."""
    deadline_s = time.monotonic() + DEADLINE_S
    while process.poll() is None and time.monotonic() < deadline_s:
        if state.exists() and json.loads(state.read_text())["durable_bytes"] > durable:
            return
        time.sleep(0.01)


def test_a_source_that_has_changed_is_not_gone_on_with(target: Target, tmp_path: Path) -> None:
    source, state = image(tmp_path / "source.img"), tmp_path / "state"
    command = [sys.executable, "-c", SLOW, "copy", str(source), target.url, "--resume", str(state), "--chunk", "64K"]
    process = subprocess.Popen([*command, "--queue-depth", "1"])
    wait_for_state(process, state, 0)
    process.kill()
    assert process.wait() != 0
    with source.open("r+b") as file:
        file.write(b"changed")
    refused = call("copy", source, target.url, "--resume", state, code=1)
    assert "the source is not as it was when the copy began" in refused.stderr
    assert state.exists()


def test_a_target_that_is_killed_fails_the_copy_and_the_state_stays(tmp_path: Path) -> None:
    source, state = tmp_path / "source.img", tmp_path / "state"
    source.write_bytes(os.urandom(LUN_MIB * MIB))
    export = Export((tmp_path / "lun.img",), create=f"{LUN_MIB}M")
    command = [sys.executable, "-c", SLOW, "copy", str(source)]
    with start_csvd(export, tmp_path) as target:
        arguments = [target.url, "--resume", str(state), "--chunk", "64K", "--queue-depth", "2", "--timeout", "5"]
        process = subprocess.Popen([*command, *arguments], stderr=subprocess.PIPE, text=True)
        wait_for_state(process, state, 0)
        target.kill()
        _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 1
    assert "Traceback" not in errors
    with start_csvd(export, tmp_path) as target:
        call("copy", source, target.url, "--resume", state)
        call("verify", source, target.url)
        assert target.stop() == 0


def test_bench_measures_reads_and_writes(target: Target) -> None:
    found = json.loads(call("bench", target.url, "--time", "1", "--json").stdout)
    assert found["iops"] > 100
    assert sum(bucket["count"] for bucket in found["histogram"]) == found["requests"]
    lines = call("bench", target.url, "--mix", "50", "--sessions", "2", "--time", "0.5", "--destroy-data").stdout
    for words in ("read: ", "write: ", "total: ", "p99.9", "█"):
        assert words in lines


def test_a_session_has_as_many_connections_as_the_target_allows(target: Target, tmp_path: Path) -> None:
    for asked, had in ((1, 1), (3, 3), (20, 8)):
        shown = json.loads(call("info", target.url, "--connections", asked, "--json").stdout)
        assert shown["session"]["connections"] == had
    source = image(tmp_path / "in.img")
    call("copy", source, target.url, "--connections", 3)
    call("verify", source, target.url, "--connections", 3)
