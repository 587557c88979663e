"""csv-initiator copy beside qemu-img: what one writes the other reads, on csvd and on tgtd."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.targets import TARGETS, Export, Target

pytestmark = pytest.mark.interop

INITIATOR = [sys.executable, "-m", "initiator"]
MIB = 1 << 20
LUN_MIB = 64
DEADLINE_S = 120


@pytest.fixture(params=["tgtd", "csvd"])
def target(request: pytest.FixtureRequest, scratch: Path) -> Iterator[Target]:
    with TARGETS[request.param](Export((scratch / "lun.img",), create=f"{LUN_MIB}M"), scratch) as running:
        yield running


@pytest.fixture
def source(scratch: Path) -> Path:
    """Data, holes, zeros that are written, and an end inside a block."""
    path, chance = scratch / "source.img", random.Random(11)
    with path.open("wb") as file:
        for begin in (0, 9 * MIB + 4096, 30 * MIB):
            file.seek(begin)
            file.write(chance.randbytes(5 * MIB + 512 * begin % 7) + bytes(MIB))
        file.truncate(LUN_MIB * MIB - 4096)
    return path


def ran(*command: object, code: int = 0) -> str:
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=DEADLINE_S)
    assert done.returncode == code, done.stderr
    return done.stdout


def test_qemu_reads_what_was_copied_to_a_lun_that_held_data(target: Target, source: Path, scratch: Path) -> None:
    (scratch / "old.img").write_bytes(random.Random(5).randbytes(LUN_MIB * MIB))
    ran("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", scratch / "old.img", target.url)
    report = json.loads(ran(*INITIATOR, "copy", source, target.url, "--json"))
    assert report["length_bytes"] == source.stat().st_size
    ran(*INITIATOR, "verify", source, target.url)
    back = scratch / "back.img"
    ran("qemu-img", "convert", "-f", "raw", "-O", "raw", target.url, back)
    assert back.read_bytes()[: source.stat().st_size] == source.read_bytes()
    assert back.read_bytes()[-4096:] == (scratch / "old.img").read_bytes()[-4096:]


def test_what_qemu_has_written_is_copied_to_a_file(target: Target, source: Path, scratch: Path) -> None:
    ran("qemu-img", "resize", "-f", "raw", source, f"{LUN_MIB}M")
    ran("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", source, target.url)
    back = scratch / "back.img"
    ran(*INITIATOR, "copy", target.url, back)
    ran("qemu-img", "compare", "-f", "raw", "-F", "raw", target.url, back)
    assert back.read_bytes() == source.read_bytes()
    assert back.stat().st_blocks * 512 < 24 * MIB


def test_one_byte_that_differs_is_found(target: Target, source: Path) -> None:
    ran(*INITIATOR, "copy", source, target.url)
    ran("qemu-io", "-f", "raw", "-c", f"write -P 0x5a {33 * MIB} 512", target.url)
    found = json.loads(ran(*INITIATOR, "verify", source, target.url, "--json", code=1))
    assert found["difference"]["offset_bytes"] in (33 * MIB, 33 * MIB + 1)
