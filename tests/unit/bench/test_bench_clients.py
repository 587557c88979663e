from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.bench import clients, table
from tests.bench.aims import AIMS
from tests.bench.loads import KIB, LoadFailed
from tests.bench.rows import OURS, THEIRS
from tests.bench.samples import Sample, Samples
from tests.bench.scenes import Stage

PRINTED = {
    "csv-initiator": '{"requests": 9000, "time_s": 3.0}',
    "iscsi-perf": "iops average 2000 (7 MB/s) iops current 2100 (8 MB/s) \riops average 2000 (7 MB/s)\nfinished.\n",
    "qemu-img": "Sending 60000 read requests, 4096 bytes each\nRun completed in 60.000 seconds.\n",
}


class Played:
    """Stands where processes are run, and says what they would print."""

    def __init__(self, status: int = 0) -> None:
        self.commands: list[list[str]] = []
        self.status = status

    def __call__(self, command: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        self.commands.append(command)
        name = "csv-initiator" if command[1:3] == ["-m", "initiator"] else command[0]
        return subprocess.CompletedProcess(command, self.status, PRINTED[name], "no route")


@pytest.fixture
def stage() -> Stage:
    target: Any = type("T", (), {"url": "iscsi://127.0.0.1:1/iqn.2026-11.a/0"})
    return Stage(target, (), Path(), 64 << 20, 3)


def test_the_three_read_the_same_lun_in_the_same_way(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    played = Played()
    monkeypatch.setattr(subprocess, "run", played)

    figures = clients.random_reads(4 * KIB, stage)

    assert (figures["ours_per_s"], figures["iscsi_perf_per_s"], figures["qemu_img_per_s"]) == (3000, 2000, 1000)
    assert (figures["to_iscsi_perf"], figures["to_qemu_img"]) == (1.5, 3.0)
    ours, perf, qemu = played.commands
    assert all(stage.target.url in command for command in played.commands)
    assert (ours[ours.index("--block-size") + 1], perf[perf.index("-b") + 1]) == ("4096", "8")
    assert (perf[perf.index("-m") + 1], qemu[qemu.index("-d") + 1]) == ("32", "32")


def test_a_client_that_fails_is_reported_in_its_words(monkeypatch: pytest.MonkeyPatch, stage: Stage) -> None:
    monkeypatch.setattr(subprocess, "run", Played(status=1))
    with pytest.raises(LoadFailed, match="exit status 1: no route"):
        clients.random_reads(4 * KIB, stage)


def test_the_ratio_is_told_of_both_targets_and_is_an_aim() -> None:
    samples = Samples(
        [
            Sample("initiators-4k", OURS, 0, {"to_iscsi_perf": 0.75}),
            Sample("initiators-4k", THEIRS, 0, {"to_iscsi_perf": 0.95}),
        ]
    )
    line = "| 4 KiB: **csv-initiator / iscsi-perf** | 0.75 (0.75–0.75) | 0.95 (0.95–0.95) |"
    assert line in table.initiators(samples)
    met = {aim.text: aim.is_met(value) for aim in AIMS if (value := aim.measured(samples)) is not None}
    assert met == {
        f"4 KiB random read, depth 32, on {OURS}: csv-initiator to iscsi-perf": False,
        f"4 KiB random read, depth 32, on {THEIRS}: csv-initiator to iscsi-perf": True,
    }
