"""The target behind an exported LUN dies and comes back, or does not: QEMU waits, or gets an error in time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench.targets import Export, Target, start_csvd
from tests.interop.qemu import QemuIoSession, qemu_io

pytestmark = pytest.mark.interop

MIB = 1 << 20


class Pair:
    """A target, and a csvd that serves its LUN."""

    def __init__(self, folder: Path, port: int) -> None:
        self._folder = folder
        self._port = port
        self.disk = folder / "disk.img"
        for name in ("backing", "export"):
            (folder / name).mkdir()
        self.backing = self.start_backing()
        self.export: Target | None = None

    def start_backing(self) -> Target:
        export = Export((self.disk,), create="64M", port=self._port)
        self.backing = start_csvd(export, self._folder / "backing")
        return self.backing

    def start_export(self, *options: str) -> str:
        self.export = start_csvd(Export((), urls=(self.backing.url,), options=options), self._folder / "export")
        return self.export.url

    def end(self) -> None:
        for target in (self.export, self.backing):
            if target is not None and target.running:
                target.kill()


@pytest.fixture
def pair(scratch: Path, port: int) -> Iterator[Pair]:
    pair = Pair(scratch, port)
    yield pair
    pair.end()


def test_who_uses_the_export_waits_while_the_target_behind_it_is_started_anew(pair: Pair) -> None:
    url = pair.start_export()
    with QemuIoSession(url) as qemu:
        qemu.do("write -P 0x11 0 4M")
        qemu.do("flush")
        for pattern in (0x22, 0x33, 0x44):
            pair.backing.kill()
            command = f"write -P {pattern} 1M 8M"
            qemu.send(command)
            time.sleep(0.5)
            pair.start_backing()
            qemu.finish(command)
            qemu.do(f"read -P {pattern} 1M 8M")
        qemu.do("flush")
    assert pair.disk.read_bytes()[: 9 * MIB] == b"\x11" * MIB + b"\x44" * 8 * MIB
    assert pair.export is not None
    assert pair.export.stop() == 0
    assert "Traceback" not in pair.export.log()


def test_who_uses_the_export_gets_an_error_when_the_target_behind_it_stays_away(pair: Pair) -> None:
    url = pair.start_export("--disk-timeout-s", "3")
    qemu_io(url, "write -P 0x11 0 4M", "flush")
    pair.backing.kill()
    with QemuIoSession(url) as qemu:
        for command in ("read 0 4k", "write -P 0x22 0 4k"):
            qemu.send(command)
            with pytest.raises(AssertionError, match="failed"):
                qemu.finish(command)
    assert pair.export is not None
    # It can not flush, and says so, and ends.
    assert pair.export.stop() in (0, 1)
    assert "Traceback" not in pair.export.log()
