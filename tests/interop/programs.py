"""Run the peers' programs: each with a time limit, each ended by its own process id and never by name."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass

from csvd.storage.rbd.library import is_installed

TIMEOUT_S = 60
SHOWN_CHARACTERS = 300
# Debian's package of each program that the tests start.
PACKAGES: Mapping[str, str] = {
    "ceph-mon": "ceph-mon",
    "ceph-osd": "ceph-osd",
    "e2fsck": "e2fsprogs",
    "fio": "fio",
    "fusermount3": "fuse3",
    "ip": "iproute2",
    "iscsi-inq": "libiscsi-bin",
    "iscsi-ls": "libiscsi-bin",
    "iscsi-perf": "libiscsi-bin",
    "iscsi-readcapacity16": "libiscsi-bin",
    "iscsi-test-cu": "libiscsi-bin",
    "mkfs.ext4": "e2fsprogs",
    "nft": "nftables",
    "qemu-img": "qemu-utils",
    "qemu-io": "qemu-utils",
    "qemu-system-x86_64": "qemu-system-x86",
    "sg_inq": "sg3-utils",
    "sg_logs": "sg3-utils",
    "sg_vpd": "sg3-utils",
    "tgtadm": "tgt",
    "tgtd": "tgt",
}
# Debian has daemons where an ordinary user does not look.
SEARCH_PATH = os.environ.get("PATH", os.defpath) + ":/usr/sbin:/sbin"


@dataclass(frozen=True, slots=True)
class Done:
    """A program that has ended; `command` as a shell would take it, cut where it is long."""

    command: str
    status: int
    stdout: str
    stderr: str

    def __str__(self) -> str:
        return f"{self.command}\nexit status {self.status}\n{self.stdout}{self.stderr}"


def run(*command: str, timeout_s: float = TIMEOUT_S, environment: Mapping[str, str] | None = None) -> Done:
    """Run a program to its end, without input; SIGKILL after `timeout_s`, for iscsi-perf takes SIGTERM as a wish.

    Raises:
        AssertionError: it did not end in time.
    """
    shown = shlex.join(command)
    if len(shown) > SHOWN_CHARACTERS:
        shown = f"{shown[:SHOWN_CHARACTERS]} … {command[-1]}"
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout_s,
            env={**os.environ, **(environment or {})},
        )
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"{shown}: not done after {timeout_s} s: {late.stdout!r} {late.stderr!r}") from None
    return Done(shown, done.returncode, done.stdout, done.stderr)


def succeed(*command: str, timeout_s: float = TIMEOUT_S, environment: Mapping[str, str] | None = None) -> str:
    """What a program that must exit with 0 printed to stdout."""
    done = run(*command, timeout_s=timeout_s, environment=environment)
    assert done.status == 0, str(done)
    return done.stdout


def refuse(*command: str, timeout_s: float = TIMEOUT_S, environment: Mapping[str, str] | None = None) -> str:
    """What a program that must exit with an error printed, stdout and stderr."""
    done = run(*command, timeout_s=timeout_s, environment=environment)
    assert done.status != 0, str(done)
    return done.stdout + done.stderr


def missing_packages() -> list[str]:
    """The packages that have to be installed before the tests can run."""
    missing = {package for program, package in PACKAGES.items() if shutil.which(program, path=SEARCH_PATH) is None}
    # QEMU's iSCSI driver is a module in a package of its own.
    if "qemu-utils" in missing or "iscsi" not in succeed("qemu-img", "--help").rpartition("formats:")[2].split():
        missing.add("qemu-block-extra")
    for module in ("rados", "rbd"):
        if not is_installed(module):
            missing.add(f"python3-{module}")
    return sorted(missing)
