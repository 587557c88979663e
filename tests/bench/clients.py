"""Our initiator beside others on the same target: libiscsi's iscsi-perf and QEMU's driver, one after the other."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from collections.abc import Callable, Sequence
from functools import partial
from typing import Final

from tests.bench.loads import (
    KIB,
    SECTOR_BYTES,
    TIMEOUT_FLOOR_S,
    LoadFailed,
    parse_iscsi_perf,
    parse_qemu_img_bench,
    scattering_step,
)
from tests.bench.machine import ROOT
from tests.bench.scenes import Stage

INITIATOR: Final = (sys.executable, "-m", "initiator")
QEMU_REQUESTS_PER_S: Final = {4 * KIB: 20_000, 256 * KIB: 3_000}
"""About what it does: qemu-img counts requests, not seconds."""


def random_reads(block_bytes: int, stage: Stage) -> dict[str, float]:
    """Random reads at depth 32: of csv-initiator, iscsi-perf and qemu-img bench, and what each spends of a processor.

    iscsi-perf begins at any sector, csv-initiator and qemu-img at multiples of the block. `to_iscsi_perf` and
    `to_qemu_img` are ratios of our rate to theirs.
    """
    url, count = stage.target.url, QEMU_REQUESTS_PER_S[block_bytes] * stage.duration_s
    size, seconds = str(block_bytes), str(stage.duration_s)
    ours, our_cpu_s = _ran([*INITIATOR, "bench", url, "--block-size", size, "--time", seconds, "--json"], _ours)
    perf = ["iscsi-perf", "-r", "-b", str(block_bytes // SECTOR_BYTES), "-m", "32", "-t", seconds, url]
    theirs, their_cpu_s = _ran(perf, partial(_per_s_of_perf, stage.duration_s))
    step = str(scattering_step(stage.disk_bytes // block_bytes) * block_bytes)
    shell = ["qemu-img", "bench", "-f", "raw", "-t", "none", "-c", str(count), "-d", "32", "-s", size, "-S", step, url]
    qemu, qemu_cpu_s = _ran(shell, parse_qemu_img_bench)
    rates = {"ours": ours, "iscsi_perf": theirs, "qemu_img": qemu}
    per_s = {name: requests / took_s for name, (requests, took_s) in rates.items()}
    spent_s = {"ours": our_cpu_s, "iscsi_perf": their_cpu_s, "qemu_img": qemu_cpu_s}
    return {
        **{f"{name}_per_s": rate for name, rate in per_s.items()},
        **{f"{name}_cpu_us": spent_s[name] / requests * 1e6 for name, (requests, _) in rates.items()},
        "to_iscsi_perf": per_s["ours"] / per_s["iscsi_perf"],
        "to_qemu_img": per_s["ours"] / per_s["qemu_img"],
    }


def _ran(command: Sequence[str], read: Callable[[str], tuple[float, float]]) -> tuple[tuple[float, float], float]:
    """Run a client; give its requests and seconds, and the processor time that it took.

    Raises:
        LoadFailed: it failed, took far too long or printed something else.
    """
    before = _children_s()
    try:
        # SIGKILL where it takes too long: iscsi-perf takes SIGTERM as "finish first".
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_FLOOR_S, cwd=ROOT)
    except subprocess.TimeoutExpired:
        raise LoadFailed(f"{' '.join(command)}: not done after {TIMEOUT_FLOOR_S:.0f} s") from None
    if done.returncode:
        raise LoadFailed(f"{' '.join(command)}: exit status {done.returncode}: {done.stderr}")
    return read(done.stdout), _children_s() - before


def _children_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _ours(printed: str) -> tuple[float, float]:
    told = json.loads(printed)
    return told["requests"], told["time_s"]


def _per_s_of_perf(duration_s: int, printed: str) -> tuple[float, float]:
    return parse_iscsi_perf(printed) * duration_s, duration_s
