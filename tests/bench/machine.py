"""What the figures were measured on: the machine, and the version of every program that took part."""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

ROOT = Path(__file__).parents[2]


def machine(folder: Path) -> dict[str, str]:
    """Processor, memory, kernel, distribution, and the file system under the disk."""
    return {
        "processor": f"{os.cpu_count()} x {_field(Path('/proc/cpuinfo'), 'model name') or platform.machine()}",
        "memory": f"{int((_field(Path('/proc/meminfo'), 'MemTotal') or '0').split()[0]) / 2**20:.1f} GiB",
        "kernel": platform.release(),
        "system": platform.freedesktop_os_release().get("PRETTY_NAME", platform.system()),
        "file system": _first_line("findmnt", "-n", "-o", "FSTYPE", "-T", str(folder)),
        "load average before": f"{os.getloadavg()[0]:.2f}",
    }


def versions() -> dict[str, str]:
    """Versions of csvd and of what it stands on, of the peer, and of the clients."""
    return {
        "csvd": f"{_distribution('csvd')} ({_commit()})",
        "Python": platform.python_version(),
        "Twisted": _distribution("twisted"),
        "uvloop": _distribution("uvloop"),
        "tgtd": _first_line(shutil.which("tgtd", path=os.environ.get("PATH", "") + ":/usr/sbin") or "tgtd", "-V"),
        "libiscsi (iscsi-perf)": _package("libiscsi-bin"),
        "QEMU (qemu-img)": _first_line("qemu-img", "--version").removeprefix("qemu-img version "),
    }


def facts(folder: Path) -> dict[str, str]:
    """What is to be known of figures of csvd alone: the day, the machine, and csvd and what it stands on."""
    own = {name: value for name, value in versions().items() if name in ("csvd", "Python", "Twisted", "uvloop")}
    return {"date": f"{datetime.now(UTC):%Y-%m-%d}", **machine(folder), **own}


def _distribution(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    commit = _first_line("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD")
    changed = _first_line("git", "-C", str(ROOT), "status", "--porcelain")
    return commit + (" with changes" if changed != "unknown" else "")


def _package(name: str) -> str:
    return _first_line("dpkg-query", "-W", "-f", "${Version}", name)


def _first_line(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    except OSError:
        return "unknown"
    lines = done.stdout.split("\n")
    return lines[0].strip() if done.returncode == 0 and lines[0].strip() else "unknown"


def _field(file: Path, name: str) -> str | None:
    for line in file.read_text().splitlines():
        key, colon, value = line.partition(":")
        if colon and key.strip() == name:
            return value.strip()
    return None
